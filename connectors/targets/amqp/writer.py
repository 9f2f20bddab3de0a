"""Publishes units on confirmed channels of one connection; a unit is delivered when the broker has confirmed each message.

A channel is lent to one write at a time. When the broker closes a channel (a message too large, a queue deleted while
messages were under way), the write fails and the next one opens another; a write that was given up leaves its channel in
order, because messages are sent whole and their confirms are still counted.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pyarrow as pa
from typing_extensions import override

from connectors.contract import (
    CapacityError,
    Context,
    DeliveryError,
    Finding,
    Limits,
    PoolUse,
    RejectedRecords,
    TransientError,
    Writer,
)
from connectors.targets.amqp.config import AmqpConfig, vhost_of
from connectors.targets.amqp.connection import Channel, Closed, Connection, Login
from connectors.targets.amqp.encode import FrameEncoder
from connectors.targets.amqp.errors import delivery_error, largest, unroutable
from connectors.targets.amqp.hosts import first_to_take, in_clear
from connectors.targets.amqp.tls import tls_of
from connectors.targets.amqp.topology import look, prepare

_FULL: Final = "a queue is at its length (x-max-length with reject-publish), or its node has failed"


class AmqpWriter(Writer):
    """Publishes each unit; see the module."""

    def __init__(self, config: AmqpConfig, context: Context) -> None:
        own = config.provider_config
        self.limits = Limits(
            rows=config.batch_size or 10_000,
            bytes=8 * 1024**2,
            linger=0.1 if config.flush_interval is None else config.flush_interval,
            writes_in_flight=own.channels,
        )
        self._config = config
        self._context = context
        self._where = config.endpoint
        self._encoder = FrameEncoder(own)
        self._connection: Connection | None = None
        self._idle: list[Channel] = []
        self._lent = 0
        self._waiting = 0
        self._room = asyncio.Semaphore(own.channels)

    @override
    async def open(self) -> None:
        """Connect, log in, and declare what is to be declared; see `Writer.open`."""
        await self.close()
        async with self._delivery_errors():
            connection = await self._connected()
            try:
                await prepare(connection, self._config.provider_config)
            except BaseException:
                await connection.close()
                raise
            self._connection = connection

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Publish, and wait for the confirms; see `Writer.write`."""
        if not len(batch):
            return
        messages = self._encoder.messages.encode(batch)
        if messages.rejected:
            raise RejectedRecords(messages.rejected, messages.reasons)
        async with self._delivery_errors(), self._channel() as channel:
            frames = self._encoder.frames(batch, messages, channel.number, self._frame_max())
            try:
                refused = await channel.publish(frames)
            except Closed as reason:
                if (most := largest(reason)) is not None and most < self._encoder.messages.largest:
                    self._encoder.messages.largest = most
                    too_large = self._encoder.messages.encode(batch)
                    if too_large.rejected:
                        raise RejectedRecords(too_large.rejected, too_large.reasons) from reason
                raise
            if channel.returns:
                raise unroutable(channel.returned, channel.returns, self._where)
            if refused:
                count = len(messages.bodies)
                raise CapacityError(f"{self._where}: the broker refused {len(refused)} of {count} messages: {_FULL}")

    @override
    async def close(self) -> None:
        """Close the connection; see `Writer.close`."""
        connection, self._connection = self._connection, None
        self._idle.clear()
        if connection is not None:
            await connection.close()

    def pool(self) -> PoolUse:
        """How the channels are used; see `contract.Pooled`. Safe from any thread."""
        there = len(self._idle) + self._lent
        return PoolUse(size=self._config.provider_config.channels, open=there, in_use=self._lent, waiting=self._waiting)

    async def check(self) -> list[Finding]:
        """What stands between this gateway and the exchange; see `contract.Checks`. Makes and sends nothing."""
        own, connection = self._config.provider_config, None
        try:
            async with self._delivery_errors():
                connection = await self._connected()
                about = connection.server
                server = f"{about.get('product', 'a broker')} {about.get('version', '')}".strip()
                there = Finding(True, "server", f"{server}, virtual host {self._vhost}")
                return [there, *in_clear(self._where), *await look(connection, own)]
        except DeliveryError as problem:
            return [Finding(False, "connection", str(problem))]
        finally:
            if connection is not None:
                await connection.close()

    @property
    def _vhost(self) -> str:
        return self._config.provider_config.vhost or vhost_of(self._config.endpoint)

    def _frame_max(self) -> int:
        return self._connection.frame_max if self._connection is not None else 4096

    async def _connected(self) -> Connection:
        """A connection to the first host that takes one."""
        own = self._config.provider_config
        tls = await asyncio.to_thread(tls_of, self._config)
        user = own.username or "guest"
        secret = own.password.get_secret_value() if own.password else "guest" if own.username is None else ""
        plain = own.login == "plain"
        login = Login(
            "PLAIN" if plain else "EXTERNAL", f"\0{user}\0{secret}" if plain else "", self._vhost, round(own.heartbeat)
        )
        name = own.tls.server_name if own.tls else None
        return await first_to_take(
            self._config.endpoint, Connection, lambda made, host, port: made.open(host, port, tls, name, login)
        )

    @asynccontextmanager
    async def _channel(self) -> AsyncIterator[Channel]:
        """A channel for one write: one that is free, or a new one."""
        self._waiting += 1
        try:
            await self._room.acquire()
        finally:
            self._waiting -= 1
        self._lent += 1
        try:
            connection = self._connection
            if connection is None:
                raise TransientError(f"{self._where}: not open")
            while self._idle and not self._idle[-1].usable:
                self._idle.pop()
            channel = self._idle.pop() if self._idle else await connection.channel()
            try:
                yield channel
            finally:
                if channel.usable and connection is self._connection:
                    self._idle.append(channel)
        finally:
            self._lent -= 1
            self._room.release()

    @asynccontextmanager
    async def _delivery_errors(self) -> AsyncIterator[None]:
        """Bounds the time; what the connection or the operating system raises comes out as a `DeliveryError`."""
        try:
            async with asyncio.timeout(self._config.timeout):
                yield
        except TimeoutError as error:
            blocked = self._connection.blocked if self._connection is not None else ""
            if blocked:
                text = f"{self._where}: the broker takes no messages ({blocked}); it lacks memory or disk"
                raise CapacityError(text) from error
            raise TransientError(f"{self._where}: no answer in {self._config.timeout:g} s") from error
        except (Closed, OSError) as error:
            raise delivery_error(error, self._where) from error
