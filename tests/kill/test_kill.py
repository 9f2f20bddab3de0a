"""The whole gateway is killed at random moments, again and again, and nothing is lost and nothing is visible twice.

``KILL_RUNS`` says how often it is killed (20), ``KILL_SEED`` repeats the moments of an earlier run.
"""

import asyncio
import os
import secrets
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.evidence import record
from tests.kill.campaign import Campaign, carry_out
from tests.kill.conduct import BROKER, PATIENCE, evidence_of, table_of
from tests.kill.oracle import Verdict, judge
from tests.mosquitto_broker import Broker

pytestmark = [pytest.mark.kill, pytest.mark.chaos, pytest.mark.timeout(900)]

_FULL: Final = 20
_RATE: Final = 3000.0  # readings/s that the plant would give if it were always asked; at least 2,000 must have come
_LEAST_RATE: Final = 2000.0
_LEAST: Final = {"mqtt": 10_000, "opcua": 5_000, "modbus": 5_000}  # obligations that a full campaign must have
_RESTART: Final = 5.0  # seconds
_QUIET: Final = 0.15  # share of the processors that others may use while restarts are timed
_REPEATED: Final = 0.5  # seconds of data that ZeroBus may see twice, per kill; a backlog travels in large units


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
    async with Broker(tmp_path / "broker", BROKER) as broker:
        url = f"mqtt://127.0.0.1:{broker.port}"
        found = await asyncio.to_thread(carry_out, tmp_path, url, kills=kills, seed=seed, rate=_RATE, say=say)
    runs = [start.run for start in found.starts]
    verdict = judge(found.ledgers, runs, found.stopped, found.delta, found.zerobus, PATIENCE)
    evidence = evidence_of(found, verdict, seed)
    say(table_of(evidence))
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
