"""Report by exception in a gateway: what passes is what the rules say, also after kills, and the account adds up."""

from collections import Counter
from pathlib import Path

import pytest
from numbered import PROTOCOLS, configuration, read
from running import OPTIONS, acknowledged, running

from bifrost.run import account, ask
from normalization.reading import Quality
from normalization.report import LATE
from tests.ports import free_port
from tests.report_model import Given, Model

TAGS = 50
RULES = {
    "deadband": {"deadband": 470, "max_interval": 0.01},
    "swinging_door": {"swinging_door": 3, "max_interval": 0.05},
}
FOLD = 1300


def drained(directory: Path, way: str, **options: object) -> dict:
    """The account of a gateway that has finished all its stores hold."""
    idle = {**options, "idle": True, "port": free_port()}
    config = configuration(directory, **idle)  # type: ignore[arg-type]
    with running(directory, way=way, **idle) as gateway:
        gateway.until(lambda: finished(ask(config, "/api/ledger")), "an end of what waits", 120)
        gateway.stop()
    return account(config)


def finished(ledger: dict | None) -> bool:
    if ledger is None:
        return False
    waiting = sum(line["waiting"] for line in ledger["sources"].values())
    return not waiting and not any(line["stored"] for of in ledger["targets"].values() for line in of.values())


def expected(rule: dict, first: int, count: int, shard: str) -> set[tuple[str, int]]:
    """The identities that pass of `count` numbers, of which the first has sequence `first`."""
    models = [Model(rule, shard) for _ in range(TAGS)]
    return {
        identity
        for n in range(1, count + 1)
        for identity in models[n % TAGS](Given(n % TAGS, n % FOLD, n, Quality.GOOD), first + n - 1)
    }


@pytest.mark.parametrize(
    ("way", "kind", "workers"),
    [
        *(("bifrost_run", kind, "1") for kind in RULES),
        *(pytest.param("bytewax_run", kind, "1", marks=pytest.mark.exhaustive) for kind in RULES),
        ("bytewax_run", "swinging_door", "2"),
    ],
)
def test_exactly_what_the_rules_say_arrives_whatever_kills_there_are(
    tmp_path: Path, way: str, kind: str, workers: str
) -> None:
    options = {"rule": RULES[kind], "fold": FOLD, "rate": 4000}
    for readings in (100, 150, 50):
        with running(tmp_path, way=way, arguments=(*OPTIONS, "-w", workers), **options) as gateway:
            gateway.opened().deliver(readings, targets=("second",))
            gateway.kill()
    found = drained(tmp_path, way, **options)
    assert found["unaccounted"] == 0, found
    arrived = [(shard, sequence) for _, shard, sequence, *_ in read(tmp_path / "second.jsonl")]
    for protocol in PROTOCOLS:
        line = found["sources"][f"{protocol}_line"]
        shard = next(s for s, _ in arrived if s.startswith(protocol) and not s.endswith(LATE))
        mine = {(s, n) for s, n in arrived if s.removesuffix(LATE) == shard}
        first = min(n for _, n in mine)
        want = expected(RULES[kind], first, line["journalled"], shard)
        assert mine == want
        assert (kind == "swinging_door") == any(s.endswith(LATE) for s, _ in want)
        left_out = sum(line["filtered"].values())
        assert line["journalled"] == left_out + line["routed"] >= acknowledged(tmp_path)[protocol]
        # One that was held back and passed in the very epoch of a kill may be counted as left out.
        assert 0 <= len(mine) - line["routed"] <= sum(s.endswith(LATE) for s, _ in mine)
        assert found["targets"]["second"][f"{protocol}_line"]["delivered"] == len(mine)


def test_what_is_left_out_is_counted_by_reason_and_what_came_late_is_not(tmp_path: Path) -> None:
    options = {"rule": RULES["swinging_door"], "fold": FOLD, "rate": 4000}
    with running(tmp_path, **options) as gateway:
        gateway.opened().deliver(300, targets=("second",))
        gateway.stop()
    found = drained(tmp_path, "bytewax_run", **options)
    assert found["unaccounted"] == 0, found
    arrived = Counter(shard.split("-")[0] for shard, _ in {(s, n) for _, s, n, *_ in read(tmp_path / "second.jsonl")})
    for protocol in PROTOCOLS:
        line = found["sources"][f"{protocol}_line"]
        assert line["filtered"] == {"swinging_door": line["journalled"] - arrived[protocol]}
        assert line["routed"] == arrived[protocol]
