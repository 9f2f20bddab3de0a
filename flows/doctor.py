"""Looks at every source and target before the gateway runs: connects, asks, writes nothing unless told to."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa

from config.certificates.used import ending, unusable
from config.models import Configuration
from connectors.contract import Checks, Context, DeliveryError, Finding, RejectedRecords, Writer
from connectors.settings import SourceConfig, TargetConfig
from flows.spools import file_name
from normalization.normalizer import Normalizer
from normalization.reading import Columns, Tag, TagTable, repeat

_PATIENCE: Final = 60.0  # seconds for one connector; each has time-outs of its own within it
_SHARD: Final = "doctor"  # no journal has this name, so that a test record has no reading's identity


@dataclass(frozen=True, slots=True)
class Examined:
    """One connector, and what was found.

    Attributes:
        kind: ``source`` or ``target``.
        name: Its name.
        type: Its protocol or type.
        findings: In the order in which they should be read.
    """

    kind: str
    name: str
    type: str
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong with it."""
        return all(finding.ok for finding in self.findings)


def examine(config: Configuration, *, write: bool, now: datetime | None = None) -> list[Examined]:
    """Look at all sources and targets at once.

    Args:
        config: The configuration.
        write: Whether each target gets one test record.
        now: The time of the test records.
    """
    return asyncio.run(_all(config, write=write, now=now or datetime.now(UTC)))


async def _all(config: Configuration, *, write: bool, now: datetime) -> list[Examined]:
    sources = (examine_source(source, config) for source in config.sources)
    targets = (examine_target(name, target, config, write=write, now=now) for name, target in config.targets.items())
    return list(await asyncio.gather(*sources, *targets))


async def examine_source(source: SourceConfig, config: Configuration) -> Examined:
    """Look at one source, as far as it can be asked without being read."""

    async def look() -> list[Finding]:
        reader = source.trial().reader(Context(config.gateway, config.directory / "sources" / source.name))
        return await reader.check() if isinstance(reader, Checks) else []

    return Examined("source", source.name, source.protocol, [*_files(source.name, config), *await _bounded(look())])


async def examine_target(
    name: str, target: TargetConfig, config: Configuration, *, write: bool, now: datetime
) -> Examined:
    """Look at one target; the rest as `examine` takes it."""

    async def look() -> list[Finding]:
        writer = target.trial().writer(Context(config.gateway, config.directory / "targets" / file_name(name)))
        found = await writer.check() if isinstance(writer, Checks) else []
        if write and all(finding.ok for finding in found):
            found.append(await _test_record(writer, test_record(config, now)))
        return found

    return Examined("target", name, target.type, [*_files(name, config), *await _bounded(look())])


def _files(owner: str, config: Configuration) -> list[Finding]:
    """What is to be known of the files of certificates and keys that a connector has."""
    wrong = [Finding(False, "certificates", said) for of, said in unusable(config) if of == owner]
    due = ending(config, datetime.now(UTC))
    return wrong + [Finding(not one.expired, "certificates", one.text) for one in due if owner in one.owners]


async def _bounded(look: Any) -> list[Finding]:
    try:
        async with asyncio.timeout(_PATIENCE):
            found: list[Finding] = await look
            return found
    except TimeoutError:
        return [Finding(False, "connection", f"no answer in {_PATIENCE:g} s; is the address right, and is it reached?")]
    except ImportError as missing:
        return [Finding(False, "installation", f"{missing}; install the extra of this connector: see the README")]
    except Exception as error:  # noqa: BLE001 - one connector must not hide what is found of the others
        return [Finding(False, "connection", f"{type(error).__name__}: {error}")]


async def _test_record(writer: Writer, record: pa.RecordBatch) -> Finding:
    subject = "test record"
    try:
        await writer.open()
        await writer.write(record, 1)
    except RejectedRecords as rejected:
        return Finding(False, subject, f"refused: {rejected.reasons[0] if rejected.reasons else rejected}")
    except DeliveryError as error:
        return Finding(False, subject, str(error))
    finally:
        await writer.close()
    return Finding(True, subject, f"written: path {record.column('path')[0].as_py()}, shard {_SHARD}")


def test_record(config: Configuration, now: datetime) -> pa.RecordBatch:
    """One reading that nobody takes for a plant's, as the flow hands readings to writers."""
    micros = int(now.timestamp() * 1_000_000)
    tags = TagTable()
    rows = Columns()
    note = json.dumps({"test": "a record of `bifrost doctor`, to be ignored"})
    tag = Tag("bifrost-doctor", "gateway", config.gateway, "doctor", "doctor", metadata=note)
    rows.add(tags.intern(tag), micros // 1_000_000, source_time=micros)
    facts = rows.to_batch(np.array([micros], np.int64), micros)
    raw = pa.RecordBatch.from_arrays(
        [*facts.columns, repeat(config.gateway, 1), repeat(_SHARD, 1)], names=[*facts.schema.names, "gateway", "shard"]
    )
    return Normalizer(tags, config.path_template)(raw)


def plain(found: Sequence[Examined]) -> list[dict[str, Any]]:
    """What was found, for programs."""
    return [
        {
            "kind": one.kind,
            "name": one.name,
            "type": one.type,
            "ok": one.ok,
            "findings": [{"ok": f.ok, "subject": f.subject, "detail": f.detail} for f in one.findings],
        }
        for one in found
    ]
