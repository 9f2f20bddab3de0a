"""The kill campaign of `tests.kill` as a scenario: a real plant, broker and emulator, and a gateway that is killed."""

import asyncio
import random
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.scenario import Scenario
from tests.kill.campaign import carry_out
from tests.kill.conduct import BROKER, PATIENCE, evidence_of, table_of
from tests.kill.oracle import judge
from tests.mosquitto_broker import Broker


def run(
    scenario: Scenario, load: Mapping[str, Any], directory: Path, chance: random.Random, say: Callable[[str], None]
) -> dict[str, Any]:
    """Kill the gateway `kills` times on the same stores; the figures are those of kill.json, and flat."""
    kills, seed = int(load["kills"]), chance.randrange(2**31)
    interrupted = threading.Event()

    def tell(line: str) -> None:
        if interrupted.is_set():
            raise InterruptedError  # in the campaign's thread, which nothing else ends
        say(f"  {line}")

    async def campaign() -> Any:
        (directory / "broker").mkdir()
        async with Broker(directory / "broker", BROKER) as broker:
            url = f"mqtt://127.0.0.1:{broker.port}"
            try:
                return await asyncio.to_thread(
                    carry_out, directory, url, kills=kills, seed=seed, rate=float(load["rate"]), say=tell
                )
            finally:
                interrupted.set()

    found = asyncio.run(campaign())
    runs = [start.run for start in found.starts]
    verdict = judge(found.ledgers, runs, found.stopped, found.delta, found.zerobus, PATIENCE)
    for example in verdict.examples:
        say(f"    {example}")
    evidence = evidence_of(found, verdict, seed)
    say(table_of(evidence))
    errors = [line for start in found.starts for line in start.errors]
    for line in errors[:5]:
        say(f"    {line[:300]}")
    given = evidence["readings_per_s"]
    repeated = 1000 * evidence["zerobus_duplicates"] / max(1.0, given) / max(1, kills)
    return {
        "kills": kills,
        **evidence["through"],
        "obligations": sum(evidence["obligations"].values()),
        **{name: evidence[name] for name in verdict.wrong},
        "wrong_values": evidence["altered"] + evidence["misnamed"],
        "duplicates_unkeyed": evidence["zerobus_duplicates"],
        "duplicate_ms_per_kill": round(repeated, 1),
        "needed_operator": 0,
        "restart_median_s": evidence["restart_s"].get("median", 0.0),
        "restart_s": evidence["restart_s"].get("max", 0.0),
        "bad_exits": int(found.exit_code != 0),
        "sigterm_s": round(found.exit_seconds, 2),
        "errors": len(errors),
        "readings_per_s": given,
        "unaccounted": abs(evidence["unaccounted"]),
    }
