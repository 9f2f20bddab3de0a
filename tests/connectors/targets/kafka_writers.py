"""Writers to topics of the shared broker, and what is in a topic."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from connectors.contract import Context
from connectors.targets.kafka import KafkaConfig
from connectors.targets.kafka.writer import KafkaWriter
from tests.contract.writers.kafka import Topic


def writing(topic: Topic, folder: Path, endpoint: str = "", /, *, timeout: float = 10, **own: Any) -> KafkaWriter:
    given = {
        "name": "events",
        "endpoint": endpoint or topic.address,
        "timeout": timeout,
        "provider_config": topic.own | own,
    }
    return KafkaWriter(KafkaConfig.model_validate(given), Context("gateway 1", folder))


@contextlib.asynccontextmanager
async def opened(topic: Topic, folder: Path, endpoint: str = "", /, **own: Any) -> AsyncIterator[KafkaWriter]:
    """A writer that is open; its settings beside those of the topic."""
    writer = writing(topic, folder, endpoint, **own)
    try:
        await writer.open()
        yield writer
    finally:
        await writer.close()


def headers(message: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in message.headers()}
