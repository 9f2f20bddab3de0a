"""What tests of the Modbus reader share: a reader at work, and what its readings must be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from connectors.contract import Context
from connectors.sources.modbus import ModbusConfig
from connectors.sources.modbus.reader import ModbusReader
from normalization.reading import Quality
from tests.connectors.sources.modbus.device import Request, word
from tests.recording_intake import RecordingIntake

FRAMINGS = pytest.mark.parametrize("rtu", [False, True], ids=["tcp", "rtu"])


def config(endpoint: str, registers: list[dict], **more) -> ModbusConfig:
    given = {"name": "m", "interval": 0.02, "timeout": 2.0, "probe_interval": 0.2, "max_gap": 0}
    return ModbusConfig.model_validate({"endpoint": endpoint, "registers": registers} | given | more)


def reader(settings: ModbusConfig) -> ModbusReader:
    out = settings.reader(Context("gateway", Path()))
    assert isinstance(out, ModbusReader)
    return out


@asynccontextmanager
async def reading(
    settings: ModbusConfig, *, state: bytes | None = None, hold: bool = False
) -> AsyncIterator[tuple[RecordingIntake, ModbusReader]]:
    """A reader that runs until the end of the block; if it ends before, its error fails the test."""
    intake, source = RecordingIntake(hold=hold), reader(settings)
    task = asyncio.create_task(source.run(intake, state))
    try:
        yield intake, source
        assert not task.done(), task
    except BaseException as error:
        if task.done() and not task.cancelled():
            error.add_note(f"the reader had ended: {task.exception()!r}")
        raise
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def trying(settings: ModbusConfig) -> AsyncIterator[tuple[RecordingIntake, list[OSError]]]:
    """The same, run again whenever it ends, as the gateway does; also the errors with which it ended."""
    intake, source = RecordingIntake(), reader(settings)
    errors: list[OSError] = []

    async def attempts() -> None:
        while True:
            try:
                await source.run(intake, intake.appended[-1][1] if intake.appended else None)
            except OSError as error:
                errors.append(error)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(attempts())
    try:
        yield intake, errors
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def good(intake: RecordingIntake, name: str) -> int:
    return sum(r.quality == Quality.GOOD for r in intake.readings(name))


def table(unit: int, count: int, kind: str = "holding", address: int = 0) -> dict:
    return {"name": f"u{unit}_{kind}_{{address}}", "unit_id": unit, "kind": kind, "address": address, "count": count}


def assert_no_wrong_value(intake: RecordingIntake) -> None:
    """Every GOOD uint16 or bit is what the device holds there."""
    function = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
    for r in intake.readings():
        if r.quality == Quality.GOOD and r.reject is None:
            kind, _, address = r.tag.address.partition(":")
            request = Request(0, int(r.tag.device_id), function[kind], 0, 0)
            held = word(request, int(address))
            assert r.value == (held & 1 if function[kind] < 3 else held), r
