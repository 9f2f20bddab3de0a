"""The example of a user's own edit: a derived reading and a windowed average, through kills and stops.

The time of a numbered reading is its number in microseconds, so what every window must hold can be worked out.
"""

from collections import defaultdict
from datetime import timedelta

import pyarrow as pa
from numbered import PROTOCOLS, configuration, read
from numbered_flow import WAIT, WINDOW
from running import acknowledged, check_account, epochs, missing, recovery, running, settle

from connectors.settings import Mapping
from flows.examples import averages
from flows.process import Process
from normalization.reading import Columns, Quality, repeat
from tests.wall_clock import WallClock

TAGS = 50
LENGTH = WINDOW // timedelta(microseconds=1)
LATE = WAIT // timedelta(microseconds=1)


def windows_of(tag: int, newest: int) -> dict[int, float]:
    """Start and average of each window that has closed when `newest` was the last reading of a tag."""
    numbers = range(tag or TAGS, newest + 1, TAGS)
    if not numbers:
        return {}
    found = {}
    for start in range(0, numbers[-1] - LATE - LENGTH + 1, LENGTH):
        inside = [n for n in numbers if start <= n < start + LENGTH]
        if inside:
            found[start] = sum(inside) / len(inside)
    return found


def test_no_window_and_no_derived_reading_is_lost_doubled_or_closed_early(tmp_path):
    example = {"flow": "example", "celsius": True}
    clock = WallClock(tmp_path)
    for end in ("kill", "stop", "clock", "kill", "stop", "kill"):
        with running(tmp_path, environment=clock.environment, **example) as gateway:
            gateway.deliver(8000, targets=("first",))
            if end == "clock":
                before = epochs(tmp_path)[0]
                clock.set(-3600)
                gateway.until(lambda before=before: epochs(tmp_path)[0] > before, "a flow that has begun again")
                gateway.deliver(8000, targets=("first",))
            if end == "kill":
                gateway.kill()
            else:
                assert gateway.stop() < 5.0
        account = check_account(tmp_path, celsius=True)
    settle(tmp_path, flow="example")

    rows = read(tmp_path / "first.jsonl")
    newest: dict[str, int] = defaultdict(int)
    derived: dict[str, dict[int, set]] = {p: defaultdict(set) for p in PROTOCOLS}
    average: dict[tuple[str, int], dict[tuple[str, int], float]] = defaultdict(dict)
    for _, shard, sequence, value, path, number, _ in rows:
        protocol, name = path.split("/")[1], path.rsplit("/", 1)[1]
        if name.endswith("_fahrenheit"):
            assert shard.startswith(f"{protocol}-")
            assert shard.endswith("/fahrenheit")
            derived[protocol][round((number - 32) / 1.8)].add((shard, sequence))
        elif name.endswith("_average"):
            tag = int(name.split("_")[1])
            known = average[protocol, tag].setdefault((shard, sequence), number)
            assert known == number, f"{path}: one window, two averages: {known} and {number}"
        else:
            newest[protocol] = max(newest[protocol], value)

    for protocol in PROTOCOLS:
        assert set(derived[protocol]) == set(range(1, newest[protocol] + 1))
        assert all(len(identities) == 1 for identities in derived[protocol].values())
        closed = 0
        for tag in range(TAGS):
            last = newest[protocol] - (newest[protocol] - tag) % TAGS
            expected = windows_of(tag, last)
            assert sorted(average[protocol, tag].values()) == sorted(expected.values()), (protocol, tag)
            closed += len(expected)
        assert closed >= 3 * TAGS
    assert (
        missing(tmp_path, "first", acknowledged(tmp_path)) == missing(tmp_path, "second", acknowledged(tmp_path)) == {}
    )

    account = check_account(tmp_path, celsius=True)
    lines = account["targets"]["first"]
    for protocol in PROTOCOLS:
        assert account["sources"][f"{protocol}_line"]["journalled"] == newest[protocol]
        assert lines[f"{protocol}_line"]["delivered"] == newest[protocol]
        assert lines[f"{protocol}_line/fahrenheit"]["delivered"] == newest[protocol]
        assert lines[f"{protocol}_line/average"]["delivered"] == sum(len(average[protocol, t]) for t in range(TAGS))
    assert f"{PROTOCOLS[0]}_line/fahrenheit" not in account["targets"]["second"]
    assert recovery(tmp_path).exists()


def test_only_good_numbers_in_celsius_are_averaged(tmp_path):
    process = Process(configuration(tmp_path, celsius=True))
    source = process.config.sources[0]
    celsius = process.tags.intern(source.tag("dev", "a", "t"))
    bar = process.tags.intern(source.tag("dev", "b", "p", own=Mapping(unit="bar")))
    made = Columns()
    made.add(celsius, 1.5)
    made.add(celsius, None, quality=Quality.BAD)
    made.add(celsius, 2.5, quality=Quality.UNCERTAIN)
    made.add(celsius, "text")
    made.add(bar, 3.5)
    facts = made.to_batch([0] * 5, 1)
    names = [repeat("gw", 5), repeat("mqtt-0-abc", 5)]
    raw = pa.RecordBatch.from_arrays([*facts.columns, *names], names=[*facts.schema.names, "gateway", "shard"])
    assert averages.only_celsius(process.normalizer(raw)).column("value").to_pylist() == [1.5]
