"""A gateway that reads what a file lists and delivers it in every form a file can have: python lossless_gateway.py FOLDER."""

import asyncio
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from typing_extensions import override

from config.models import Configuration
from connectors.contract import Context, Intake, Reader, SourceState
from connectors.settings import SourceConfig, TargetConfig
from connectors.targets.delta import DeltaConfig
from connectors.targets.file import FileConfig
from normalization.reading import Columns, Tag
from normalization.rules import Rule

GATEWAY = "gateway, 1"
SOURCE = "listed"
FORMATS = ("jsonl", "line_protocol", "parquet")
RULES = (
    Rule("positive", "value > 0", ("delta", *FORMATS), 3),
    Rule("bad", "quality = 'BAD' OR tag_name LIKE '%a%'", ("delta", *FORMATS), -1),
)
TAGS = ["path", "source", "unit", "gateway", "shard"]
FIELDS = ["quality", "sequence", "status", "flags", "priority", "properties", "received_time"]


@dataclass(frozen=True)
class Given:
    """A reading as a reader appends it; see `Columns.add`."""

    tag: Tag
    value: Any
    unsigned: bool
    quality: int
    status: int | None
    source_time: int | None
    flags: int
    properties: str | None


def columns(intern: Any, given: list[Given]) -> Columns:
    rows = Columns()
    for one in given:
        rows.add(
            intern(one.tag),
            one.value,
            quality=one.quality,
            status=one.status,
            source_time=one.source_time,
            flags=one.flags,
            properties=one.properties,
            unsigned=one.unsigned,
        )
    return rows


class ListedConfig(SourceConfig):
    protocol: Literal["mqtt"] = "mqtt"
    file: Path = Field(description="the pickled readings")

    @override
    def reader(self, context: Context) -> Reader:
        return ListedReader(self)


class ListedReader(Reader):
    def __init__(self, config: ListedConfig) -> None:
        self._config = config

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        intake.state(SourceState.CONNECTED)
        if state is None:
            given = pickle.loads(self._config.file.read_bytes())
            await intake.append(columns(intake.tag, given), b"read")
        await asyncio.Event().wait()


def targets(folder: Path) -> dict[str, TargetConfig]:
    made: dict[str, TargetConfig] = {"delta": DeltaConfig(endpoint=str(folder / "delta"), flush_interval=0.1)}
    for form in FORMATS:
        own = {"endpoint": str(folder / form), "format": form, "flush_interval": 0.1}
        made[form] = FileConfig.model_validate(own | {"line_protocol": {"tags": TAGS, "fields": FIELDS}})
    return made


def configuration(folder: Path) -> Configuration:
    return Configuration(
        gateway=GATEWAY,
        directory=folder / "data",
        sources=(ListedConfig(name=SOURCE, file=folder / "given"),),
        targets=targets(folder),
        rules=RULES,
        default=("delta", *FORMATS),
        port=None,
        log_level="warning",
    )


if __name__ == "__main__":
    from bifrost.run import run

    os.environ.pop("BYTEWAX_RECOVERY_DIRECTORY", None)
    sys.exit(run(configuration(Path(sys.argv[1]))))
