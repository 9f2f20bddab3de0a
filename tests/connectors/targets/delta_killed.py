"""Runs a Delta writer in children that are killed at random moments; prints what it did as JSON.

`python -m tests.connectors.targets.delta_killed FOLDER SEED`: the children play the forwarder: a unit is recorded before it is
sent, settled after, and sent again unchanged by the next child when it was not settled. The parent only forks and kills.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

from connectors.contract import Context
from connectors.targets.delta import DeltaConfig
from tests.appending import Appender
from tests.contract.readings import Source

ROWS = 40
WANTED_KILLS = 20
WANTED_TAKEN = 3
MOST_KILLS = 120


def settled(folder: Path) -> int:
    try:
        return int((folder / "settled").read_text())
    except FileNotFoundError:
        return 0


def note(folder: Path, name: str, text: str) -> None:
    part = folder / f"{name}.part"
    part.write_text(text)
    part.replace(folder / name)


def already_there(folder: Path, unit: int) -> bool:
    """Whether some table has the unit, asked of the library and not of our writer."""
    from deltalake import DeltaTable

    app_id = folder / "context" / "app_id"
    tables = [p for p in (folder / "delta").glob("readings*") if DeltaTable.is_deltatable(str(p))]
    if not app_id.exists():
        return False
    return any(DeltaTable(p).transaction_version(app_id.read_text().strip()) == unit for p in tables)


async def forward(folder: Path, last: int | None) -> None:
    config = DeltaConfig.model_validate({"endpoint": str(folder / "delta"), "per": "source", "compact_every": 2})
    unit = settled(folder) + 1
    if already_there(folder, unit):
        with Appender(folder / "taken") as out:
            out.append(f"{unit}\n".encode())
    writer = config.writer(Context("gateway 1", folder / "context"))
    await writer.open()
    while last is None or unit <= last:
        source = Source()
        source.next = unit * ROWS  # the readings of a unit follow from its number: they are "recorded"
        batch = source.batch([float(unit)] * ROWS)
        with Appender(folder / "sent") as out:
            out.append(f"{unit}\n".encode())
        await writer.write(batch, unit)
        note(folder, "settled", str(unit))
        unit += 1
    await writer.close()


def child(folder: Path, last: int | None) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            asyncio.run(forward(folder, last))
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(seed)
    (folder / "context").mkdir(parents=True)
    (folder / "delta").mkdir()
    kills = 0
    taken = folder / "taken"
    while kills < MOST_KILLS:
        pid = child(folder, None)
        time.sleep(chance.uniform(0.05, 0.6))  # the moment is what is random here
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the child ended by itself"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        kills += 1
        if kills >= WANTED_KILLS and taken.exists() and len(taken.read_text().split()) >= WANTED_TAKEN:
            break
    last = settled(folder) + 3
    _, status = os.waitpid(child(folder, last), 0)
    sent = (folder / "sent").read_text().split()
    result = {
        "kills": kills,
        "units": last,
        "sent_again": len(sent) - len(set(sent)),
        "sent_again_though_there": len(taken.read_text().split()) if taken.exists() else 0,
        "last_exit": os.waitstatus_to_exitcode(status),
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
