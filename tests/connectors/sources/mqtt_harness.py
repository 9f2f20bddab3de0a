"""What tests of the MQTT reader share: its configuration, and a reader at work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from connectors.contract import Context, SourceState
from connectors.sources.mqtt import MqttConfig
from tests.mosquitto_broker import Broker
from tests.recording_intake import RecordingIntake


def config(broker: Broker, **settings: Any) -> MqttConfig:
    return MqttConfig.model_validate({"name": "plant", "endpoint": f"mqtt://127.0.0.1:{broker.port}"} | settings)


@asynccontextmanager
async def reading(
    settings: MqttConfig, intake: RecordingIntake, tmp_path: Path, state: bytes | None = None
) -> AsyncIterator[asyncio.Task[None]]:
    """The reader at work, connected."""
    task = asyncio.create_task(settings.reader(Context("gw", tmp_path)).run(intake, state))
    connected = len(intake.states)
    try:
        await intake.until(lambda: task.done() or (SourceState.CONNECTED in dict(intake.states[connected:])))
        if task.done():
            await task
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def has_readings(intake: RecordingIntake, count: int) -> bool:
    return len(intake.readings()) == count


def last_state(intake: RecordingIntake) -> bytes | None:
    return next((state for _, state in reversed(intake.appended) if state is not None), None)
