"""One gateway with every target there is, each of them killed once: nothing is lost, and the account of each adds up.

``python -m tests.targets_together [SECONDS] [RATE]`` starts the counterparts of the writer suite and a gateway that writes
to all of them at once, kills and restarts one after the other, and then compares what each of them has with what was read.
It prints a table, writes build/evidence/targets_together.json, and ends with exit code 1 when something is missing.
"""

import pickle
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import bifrost.run
from config.models import Configuration
from connectors.settings import TargetConfig
from tests import evidence
from tests.contract.counterpart import Counterpart, Provider, providers
from tests.paced_source import PacedSource
from tests.ports import free_port

_LEFT_OUT: Final = {"console"}  # its output is this process's own
_AWAY: Final = 2.0  # seconds


@dataclass(frozen=True)
class Target:
    """A target of the gateway and what it writes to."""

    name: str
    provider: Provider
    counterpart: Counterpart
    config: TargetConfig


def start(stack: ExitStack, folder: Path) -> list[Target]:
    """The first provider of each type, started."""
    found: dict[str, Target] = {}
    for provider in providers():
        if provider.type in found or provider.type in _LEFT_OUT:
            continue
        name = re.sub(r"\W+", "-", provider.type)
        place = folder / name
        place.mkdir()
        sys.stderr.write(f"starting {provider.name}\n")
        counterpart = stack.enter_context(provider.start(place))
        found[provider.type] = Target(name, provider, counterpart, counterpart.config(retry_delay=0.2))
    return list(found.values())


def wait(holds: Callable[[], bool], patience: float) -> bool:
    """Wait until something holds; whether it does."""
    deadline = time.monotonic() + patience
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)  # nothing tells when another process is so far
    return True


def run(seconds: float, rate: int) -> dict[str, Any]:
    """Run it.

    Returns:
        What each target has of what was read, by its name, and the account.
    """
    count = int(seconds * rate)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bifrost-together-")))
        targets = start(stack, folder)
        config = Configuration(
            gateway="together",
            directory=folder / "gateway",
            sources=(PacedSource(name="plc", rate=rate, count=count),),
            targets={target.name: target.config for target in targets},
            default=tuple(target.name for target in targets),
            port=free_port(),
            log_level="error",
            probe_interval=2.0,
        )
        plan = folder / "plan"
        plan.write_bytes(pickle.dumps(config))
        gateway = subprocess.Popen([sys.executable, "-m", "tests.targets_together", "gateway", str(plan)])
        stack.callback(gateway.kill)
        wait(lambda: bifrost.run.ask(config, "/health") is not None, 30)
        _kill_each(targets, seconds)

        def settled() -> bool:
            lines = bifrost.run.account(config)["targets"]
            return all(lines[t.name].get("plc", {}).get("delivered") == count for t in targets)

        whole = wait(settled, 120 + seconds)
        gateway.send_signal(signal.SIGTERM)
        code = gateway.wait(60)
        account = bifrost.run.account(config)
        found = {target.name: _compared(target, count, account["targets"][target.name]["plc"]) for target in targets}
    return {
        "readings": count,
        "rate": rate,
        "settled": whole,
        "exit_code": code,
        "unaccounted": account["unaccounted"],
        "targets": found,
    }


def _kill_each(targets: list[Target], seconds: float) -> None:
    """Take each away for a while, evenly over the time."""
    began = time.monotonic()
    for number, target in enumerate(targets, 1):
        wait(lambda at=began + number * seconds / (len(targets) + 1): time.monotonic() >= at, seconds)
        sys.stderr.write(f"killing {target.name}\n")
        with target.counterpart.outage():
            time.sleep(_AWAY)


def _compared(target: Target, count: int, line: dict[str, Any]) -> dict[str, Any]:
    """What a target has, beside the account."""
    there = [int(row.value) for row in target.counterpart.rows()]
    return {
        "counterpart": target.provider.counterpart or target.provider.type,
        "rows": len(there),
        "lost": len(set(range(count)) - set(there)),
        "wrong": len(set(there) - set(range(count))),
        "twice": len(there) - len(set(there)),
        "delivered": line["delivered"],
        "dead_letters": line["dead_letters"],
        "discarded": sum(line["discarded"].values()),
        "unaccounted": line["unaccounted"],
    }


def is_whole(found: dict[str, Any]) -> bool:
    """Whether nothing is lost, wrong or unexplained."""
    bad = ("lost", "wrong", "dead_letters", "discarded", "unaccounted")
    return (
        found["settled"]
        and found["exit_code"] == 0
        and found["unaccounted"] == 0
        and all(one[name] == 0 for one in found["targets"].values() for name in bad)
    )


def main() -> int:
    """The command line."""
    if sys.argv[1:2] == ["gateway"]:
        return bifrost.run.run(pickle.loads(Path(sys.argv[2]).read_bytes()))
    seconds, rate = float(sys.argv[1]) if len(sys.argv) > 1 else 120.0, int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    found = run(seconds, rate)
    for name, one in found["targets"].items():
        counts = ", ".join(f"{key} {value:,}" for key, value in one.items() if key != "counterpart")
        sys.stdout.write(f"{name:16} {counts}\n")
    sys.stdout.write(
        f"{found['readings']:,} readings, unaccounted {found['unaccounted']}, exit code {found['exit_code']}\n"
    )
    evidence.record("targets_together", found | {"conditions": evidence.conditions([])})
    return 0 if is_whole(found) else 1


if __name__ == "__main__":
    sys.exit(main())
