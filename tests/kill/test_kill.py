"""The whole gateway is killed at random moments, again and again, and nothing is lost and nothing is visible twice.

``KILL_RUNS`` says how often it is killed (20), ``KILL_SEED`` repeats the moments of an earlier run.
"""

import asyncio
import os
import secrets
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

from tests.evidence import conditions, record
from tests.kill.campaign import PUBLISHING_INTERVAL, Campaign, carry_out
from tests.kill.oracle import Verdict, judge, summary
from tests.mosquitto_broker import Broker, program

pytestmark = [pytest.mark.kill, pytest.mark.timeout(900)]

_FULL: Final = 20
_RATE: Final = 3000.0  # readings/s that the plant would give if it were always asked; at least 2,000 must have come
_LEAST_RATE: Final = 2000.0
_LEAST: Final = {"mqtt": 10_000, "opcua": 5_000, "modbus": 5_000}  # obligations that a full campaign must have
_RESTART: Final = 5.0  # seconds
_QUIET: Final = 0.15  # share of the processors that others may use while restarts are timed
_REPEATED: Final = 0.5  # seconds of data that ZeroBus may see twice, per kill; a backlog travels in large units
# How long a reading may be on its way to the journal on a busy machine, seconds; which ones were is decided by order.
_PATIENCE: Final = {"opcua": 2.0 + PUBLISHING_INTERVAL, "modbus": 2.0}
_PACKAGES: Final = (
    *("bifrost-gateway", "bytewax", "pyarrow", "deltalake", "databricks-zerobus-ingest-sdk"),
    *("asyncua", "paho-mqtt", "pymodbus"),
)
# Debian's mosquitto drops what is queued for an absent client beyond 1,000 messages unless told otherwise.
_BROKER: Final = ("allow_anonymous true", "max_queued_messages 0", "max_queued_bytes 0")


async def test_no_reading_is_lost_or_visible_twice_through_random_kills(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = int(os.environ.get("KILL_RUNS", _FULL))
    seed = int(os.environ.get("KILL_SEED", secrets.randbelow(2**31)))

    def say(line: str) -> None:
        with capsys.disabled():
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()

    say(f"\nkill: {kills} runs, KILL_SEED={seed}, files in {tmp_path}")
    (tmp_path / "broker").mkdir()
    async with Broker(tmp_path / "broker", _BROKER) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        found = await asyncio.to_thread(carry_out, tmp_path, url, kills=kills, seed=seed, rate=_RATE, say=say)
    runs = [start.run for start in found.starts]
    verdict = judge(found.ledgers, runs, found.stopped, found.delta, found.zerobus, _PATIENCE)
    evidence = _evidence(found, verdict, seed)
    say(_table(evidence))
    if kills >= _FULL:
        record("kill", evidence)

    assert verdict.wrong == dict.fromkeys(verdict.wrong, 0), "\n".join(verdict.examples)
    _check_account(found, verdict)
    share = min(1.0, kills / _FULL)
    for protocol, least in _LEAST.items():
        assert verdict.obligations[protocol] >= least * share, f"too few obligations: {verdict.obligations}"
    assert evidence["readings_per_s"] >= _LEAST_RATE
    assert verdict.duplicates["zerobus"] <= kills * _REPEATED * _RATE
    slowest = "max" if found.foreign < _QUIET else "median"  # who shares two cores with others cannot time anything
    assert evidence["restart_s"][slowest] < _RESTART
    assert found.exit_code == 0
    assert found.exit_seconds < _RESTART
    errors = [line for start in found.starts for line in start.errors]
    assert not errors, "\n".join(errors)


def _check_account(found: Campaign, verdict: Verdict) -> None:
    """The gateway's own account says what the oracle found."""
    account = found.account
    assert account["unaccounted"] == 0, account
    delivered: Counter[str] = Counter()
    for name, lines in account["targets"].items():
        for line in lines.values():
            assert (line["stored"], line["dead_letters"], line["discarded"]) == (0, 0, {}), (name, line)
            delivered[name.partition(":")[0]] += line["delivered"]
    journalled = sum(line["journalled"] for line in account["sources"].values())
    assert delivered == {"delta": journalled, "zerobus": journalled}
    assert len(found.delta) == journalled
    assert len(found.zerobus) - verdict.duplicates["zerobus"] == journalled


def _evidence(found: Campaign, verdict: Verdict, seed: int) -> dict[str, Any]:
    killed = found.starts[:-1]
    through = Counter(start.through for start in killed)
    restarts = [start.first_delivery for start in found.starts if start.first_delivery is not None]
    deltas = [start.first_delta for start in found.starts if start.first_delta is not None]
    given = sum(len(account.issued()) for account in found.ledgers.values())
    return {
        "runs": len(killed),
        "seed": seed,
        "through": dict(sorted(through.items())),
        **summary(verdict),
        "readings_per_s": round(given / found.seconds, 1),
        "unaccounted": found.account["unaccounted"],
        "moments": dict(sorted(Counter(str(start.moment) for start in killed).items())),
        "killed_before_first_delivery": sum(start.first_delivery is None for start in killed),
        "restart_s": _spread(restarts),
        "restart_to_delta_s": _spread(deltas),
        "cpu_share_of_others": round(found.foreign, 2),
        "sigterm_s": round(found.exit_seconds, 2),
        "conditions": conditions(_PACKAGES, mosquitto=_mosquitto()),
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    if not ordered:
        return {"measured": 0}
    return {
        "measured": len(ordered),
        "median": round(statistics.median(ordered), 2),
        "p95": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 2),
        "max": round(ordered[-1], 2),
    }


def _mosquitto() -> str:
    said = subprocess.run([program(), "-h"], capture_output=True, text=True, timeout=10, check=False).stdout
    return said.split("\n")[0].removeprefix("mosquitto version ").strip()


def _table(evidence: dict[str, Any]) -> str:
    lines = [f"  {'protocol':<10}{'obligations':>12}{'oldest excused':>18}   excluded"]
    for protocol, count in evidence["obligations"].items():
        reasons = ", ".join(f"{n} {reason}" for reason, n in evidence["excluded"][protocol].items() if n) or "none"
        oldest = f"{evidence['oldest_excused_ms'].get(protocol, 0.0):.0f} ms"
        lines.append(f"  {protocol:<10}{count:>12,}{oldest:>18}   {reasons}")
    names = (
        "lost",
        "visible_twice",
        "unaccounted",
        "unequal",
        "one_sided",
        "holes",
        "altered",
        "misnamed",
        "disordered",
    )
    lines += [
        "  " + ", ".join(f"{name} {evidence[name]}" for name in names),
        f"  {evidence['zerobus_duplicates']} repeated in ZeroBus of {evidence['rows']['zerobus']:,} rows",
        f"  {evidence['runs']} kills: {evidence['through']}, {evidence['moments']}, {evidence['readings_per_s']:,} readings/s",
        f"  restart to first delivery {evidence['restart_s']}, to Delta {evidence['restart_to_delta_s']}",
        f"  others used {100 * evidence['cpu_share_of_others']:.0f} % of the processors meanwhile",
    ]
    return "\n".join(lines)
