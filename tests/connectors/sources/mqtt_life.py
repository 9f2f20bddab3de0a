"""One life of a reader and its journal, to be killed: ``python -m tests.connectors.sources.mqtt_life SETTINGS DIRECTORY``.

Prints what the journal holds at the start and, as soon as they are on disk, the values that come; a JSON array a line, among
lines of the log.
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from typing_extensions import override

from connectors.contract import Context
from connectors.sources.mqtt import MqttConfig
from delivery.journal import SHARDS, Journal, shard_of
from delivery.outcome import Outcome
from flows.intake import SourceIntake, supervise
from normalization.reading import Columns, TagTable


def tell(values: list[Any]) -> None:
    """Say that these are on disk."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


class Telling(SourceIntake):
    """Prints what is on disk."""

    @override
    def append(self, rows: Columns, state: bytes | None = None) -> "asyncio.Future[None]":
        values = list(rows.value_int)
        future = super().append(rows, state)
        future.add_done_callback(lambda _: tell(values))
        return future


async def main(settings: str, directory: Path) -> None:
    """Read until killed."""
    config, tags = MqttConfig.model_validate_json(settings), TagTable()
    journal = Journal(directory, "gw", tags)
    for shard in range(len(SHARDS)):
        journal.attach(shard, None, lambda _: Outcome())
    while entries := journal.take(shard_of("mqtt", config.name), 10_000):
        for entry in entries:
            assert entry.batch is not None
            tell(entry.batch.column("value_int").to_pylist())
    await supervise(config, Context("gw", directory), Telling(config.name, "mqtt", journal, tags), journal)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
