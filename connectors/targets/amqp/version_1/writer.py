"""Sends units over one session of AMQP 1.0; a unit is delivered when the peer has accepted each message."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from connectors.contract import (
    CapacityError,
    ConfigError,
    Context,
    DeliveryError,
    Finding,
    Limits,
    RejectedRecords,
    TransientError,
    Writer,
)
from connectors.targets.amqp.config import AmqpConfig, AmqpSettings, vhost_of
from connectors.targets.amqp.hosts import first_to_take, in_clear
from connectors.targets.amqp.messages import Messages
from connectors.targets.amqp.tls import tls_of
from connectors.targets.amqp.version_1.connection import Connection, Ended, Link, Login
from connectors.targets.amqp.version_1.encode import SectionEncoder, transfers
from connectors.targets.amqp.version_1.errors import ended_error, judged

_CHUNK: Final = 128 * 1024
_MOST_LINKS: Final = 256
_TELLS: Final = (3, 13)  # release of RabbitMQ from which on a message that no queue takes comes back


class Amqp1Writer(Writer):
    """Sends each unit; see the module."""

    def __init__(self, config: AmqpConfig, context: Context) -> None:
        self.limits = Limits(
            rows=config.batch_size or 10_000,
            bytes=8 * 1024**2,
            linger=0.1 if config.flush_interval is None else config.flush_interval,
        )
        self._config = config
        self._context = context
        self._where = config.endpoint
        self._encoder = SectionEncoder(config.provider_config)
        self._connection: Connection | None = None
        self._hungry = ""  # the address that gives no credit just now
        self._turn = asyncio.Lock()  # a write that was given up may not have left yet

    @override
    async def open(self) -> None:
        """Connect, log in and attach a link, where there is one address; see `Writer.open`."""
        await self.close()
        async with self._delivery_errors():
            connection = await self._connected()
            try:
                if untold := _unroutable_untold(connection.server, self._config.provider_config):
                    raise ConfigError(f"{self._where}: {untold}")
                if "{" not in self._config.provider_config.address:
                    await connection.attach(self._config.provider_config.address)
            except BaseException:
                await connection.close()
                raise
            self._connection = connection

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Send, and wait for the outcomes; see `Writer.write`."""
        if not len(batch):
            return
        messages = self._encoder.messages.encode(batch)
        if messages.rejected:
            raise RejectedRecords(messages.rejected, messages.reasons)
        sections = self._encoder.sections(batch, messages)
        async with self._delivery_errors(), self._turn:
            connection = self._connection
            if connection is None:
                raise TransientError(f"{self._where}: not open")
            shares = await self._shares(connection, messages)
            _refuse_too_large(sections, messages, shares)
            connection.expect(len(messages))
            for link, rows in shares:
                await self._send(connection, link, sections if len(shares) == 1 else sections.take(pa.array(rows)))
            outcomes = await connection.outcomes()
            order = np.concatenate([rows for _, rows in shares]).tolist()
            if problem := judged(outcomes, [_readings(messages, row) for row in order], self._where):
                raise problem

    @override
    async def close(self) -> None:
        """Close the connection; see `Writer.close`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def check(self) -> list[Finding]:
        """What stands between this gateway and the address; see `contract.Checks`. Sends nothing."""
        own, connection = self._config.provider_config, None
        try:
            async with self._delivery_errors():
                connection = await self._connected()
                about = connection.server
                server = f"{about.get('product', 'a peer')} {about.get('version', '')}".strip()
                found = [Finding(True, "server", f"{server}, AMQP 1.0"), *in_clear(self._where)]
                if untold := _unroutable_untold(about, own):
                    found.append(Finding(False, "unroutable messages", untold))
                if "{" in own.address:
                    return [*found, Finding(True, "address", f"{own.address} depends on the tag and is not looked at")]
                link = await connection.attach(own.address)
                size = f", messages of {link.largest} bytes at most" if link.largest else ""
                return [*found, Finding(True, f"address `{own.address}`", f"can be sent to{size}")]
        except DeliveryError as problem:
            return [Finding(False, "connection", str(problem))]
        finally:
            if connection is not None:
                await connection.close()

    async def _connected(self) -> Connection:
        """A connection to the first host that takes one."""
        own, url = self._config.provider_config, self._config.endpoint
        tls = await asyncio.to_thread(tls_of, self._config)
        secret = own.password.get_secret_value() if own.password else ""
        response = f"\0{own.username or ''}\0{secret}".encode() if own.login == "plain" else b""
        name = own.tls.server_name if own.tls else None
        vhost = None if vhost_of(url) == "/" else f"vhost:{vhost_of(url)}"

        async def open_at(made: Connection, host: str, port: int) -> None:
            login = Login(
                own.login.upper(), response, vhost or name or host, f"bifrost {self._context.gateway}", own.heartbeat
            )
            await made.open(host, port, tls, name, login)

        return await first_to_take(url, lambda: Connection(durable=own.persistent), open_at)

    async def _shares(self, connection: Connection, messages: Messages) -> list[tuple[Link, np.ndarray]]:
        """The links, and which messages go over each, in the order in which they first appear."""
        names = messages.names[0]
        distinct, firsts, index = np.unique(names.index, return_index=True, return_inverse=True)
        if len(distinct) > _MOST_LINKS:
            text = f"`address` makes {len(distinct)} addresses in one unit, at most {_MOST_LINKS} are possible; use `subject`"
            raise ConfigError(f"{self._where}: {text}")
        return [
            (await connection.attach(names.names[distinct[at]]), np.flatnonzero(index == at))
            for at in np.argsort(firsts).tolist()
        ]

    async def _send(self, connection: Connection, link: Link, sections: pa.Array) -> None:
        """Send messages as the peer gives credit for them."""
        made = transfers(sections, link.handle, connection.next, connection.frame_max)
        at, count = 0, len(sections)
        while at < count:
            self._hungry = link.address
            credit, window = await connection.room(link, int(made.frames[at + 1] - made.frames[at]))
            self._hungry = ""
            by_window = int(np.searchsorted(made.frames, made.frames[at] + window, side="right")) - 1
            by_size = int(np.searchsorted(made.ends, made.ends[at] + _CHUNK, side="right")) - 1
            stop = min(at + credit, by_window, max(by_size, at + 1), count)
            data = made.data[made.ends[at] : made.ends[stop]]
            await connection.transfer(link, data, stop - at, int(made.frames[stop] - made.frames[at]))
            at = stop

    @asynccontextmanager
    async def _delivery_errors(self) -> AsyncIterator[None]:
        """Bounds the time; what the connection or the operating system raises comes out as a `DeliveryError`."""
        self._hungry = ""
        try:
            async with asyncio.timeout(self._config.timeout):
                yield
        except TimeoutError as error:
            if self._hungry:
                text = f"{self._where}: `{self._hungry}` gave no credit for {self._config.timeout:g} s; it is full, or slow"
                raise CapacityError(text) from error
            raise TransientError(f"{self._where}: no answer in {self._config.timeout:g} s") from error
        except (Ended, OSError) as error:
            raise ended_error(error, self._where) from error


def _unroutable_untold(server: Mapping[str, Any], own: AmqpSettings) -> str:
    """Why what is accepted may be in no queue; empty when it cannot be, or is not asked for."""
    release = str(server.get("version", ""))
    known = re.match(r"(\d+)\.(\d+)", release)
    told = server.get("product") != "RabbitMQ" or known is None or (int(known[1]), int(known[2])) >= _TELLS
    makes_queue = own.address.startswith("/queue/") or not own.address.startswith("/")
    if told or makes_queue or not own.mandatory:
        return ""
    return (
        f"RabbitMQ {release} says in AMQP 1.0 that it has accepted a message also when no queue takes it, and drops it; use "
        'version "0.9.1", an address /queue/<name>, or a RabbitMQ from 3.13 on; `mandatory: false` writes all the same'
    )


def _readings(messages: Messages, message: int) -> np.ndarray:
    return messages.rows[message] if messages.rows else np.array([message])


def _refuse_too_large(sections: pa.Array, messages: Messages, shares: Sequence[tuple[Link, np.ndarray]]) -> None:
    """Reject what a link says that it does not take, before anything is sent."""
    sizes = pc.binary_length(sections).to_numpy()
    found: dict[int, str] = {}
    for link, rows in shares:
        if link.largest:
            for message in rows[sizes[rows] > link.largest].tolist():
                reason = f"its message has {sizes[message]} bytes, `{link.address}` takes {link.largest}"
                found |= dict.fromkeys(_readings(messages, message).tolist(), reason)
    if found:
        rejected = sorted(found)
        raise RejectedRecords(rejected, [found[row] for row in rejected])
