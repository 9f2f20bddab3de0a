"""Writers of AMQP against the shared RabbitMQ, for tests."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from connectors.contract import Context
from connectors.targets.amqp import AmqpConfig
from connectors.targets.amqp.version_1.writer import Amqp1Writer
from connectors.targets.amqp.writer import AmqpWriter
from tests.contract.writers.amqp import service
from tests.rabbitmq_server import PASSWORD, USER

_numbers = itertools.count()


def fresh() -> str:
    """A name that nothing has yet."""
    return f"test_{next(_numbers)}"


def configured(endpoint: str = "", *, timeout: float = 10, **own: Any) -> AmqpConfig:
    """A configuration with the shared server as its endpoint."""
    return AmqpConfig.model_validate(
        {
            "endpoint": endpoint or f"amqp://127.0.0.1:{service().port}",
            "timeout": timeout,
            "provider_config": {"username": USER, "password": PASSWORD} | own,
        }
    )


def writing(folder: Path, endpoint: str = "", *, timeout: float = 10, **own: Any) -> AmqpWriter:
    """A writer of 0.9.1."""
    made = configured(endpoint, timeout=timeout, **own).writer(Context("gateway 1", folder))
    assert isinstance(made, AmqpWriter)
    return made


def sending(folder: Path, endpoint: str = "", *, timeout: float = 10, **own: Any) -> Amqp1Writer:
    """A writer of 1.0; RabbitMQ 3.10 is not asked to tell what no queue takes, because it cannot."""
    own = {"version": "1.0", "mandatory": False} | own
    made = configured(endpoint, timeout=timeout, **own).writer(Context("gateway 1", folder))
    assert isinstance(made, Amqp1Writer)
    return made


@asynccontextmanager
async def opened(writer: AmqpWriter | Amqp1Writer) -> "AsyncIterator[AmqpWriter | Amqp1Writer]":
    """The writer, open, and closed in the end."""
    await writer.open()
    try:
        yield writer
    finally:
        await writer.close()


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)
