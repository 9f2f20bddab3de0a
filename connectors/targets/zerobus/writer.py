"""The writer of one Delta table: one stream, opened with the table's columns as they are now.

Delivery is at least once: what was not acknowledged is sent again, and every row carries its reading's identity. The SDK's
own recovery is off, so that the forwarder alone decides when to try again; only a stream that the service ends in good
order, as it does from time to time, is followed by the next one within the same write.
"""

import asyncio
import contextlib
import importlib.metadata
import os
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from typing_extensions import override

from connectors.contract import Checks, ConfigError, Context, Finding, Limits, RejectedRecords, Writer
from connectors.targets.zerobus import encode
from connectors.targets.zerobus.catalog import Catalog
from connectors.targets.zerobus.config import ZeroBusConfig
from connectors.targets.zerobus.errors import HttpError, failure, grpc_status, rotated, was_dead
from connectors.targets.zerobus.schema import Plan, columns, descriptor, plan
from connectors.wire import lakehouse
from connectors.wire.protobuf import ProtobufEncoder, reading_columns

LEAVE_OUT: Final = "`schema_evolution: leave_out`"
_CLOSING: Final = 5.0  # seconds for a stream to end in good order


@dataclass(frozen=True, slots=True)
class Stream:
    """An open stream, and what its records look like.

    Attributes:
        inner: The SDK's ZerobusStream or ZerobusArrowStream.
        plan: The columns of its records.
        protobuf: Encoder of its records; None when they travel as Arrow.
    """

    inner: Any
    plan: Plan
    protobuf: ProtobufEncoder | None


@dataclass(frozen=True, slots=True)
class Request:
    """Rows that travel together.

    Attributes:
        payload: A list of bytes, or a record batch.
        done: How many readings of the batch that was cut are written when it and those before it are.
    """

    payload: Any
    done: int


@dataclass(frozen=True, slots=True)
class Access:
    """What it takes to reach the service, all there."""

    endpoint: str
    workspace_url: str
    client_id: str
    client_secret: str


def access(config: ZeroBusConfig) -> Access:
    """The settings that a connection needs.

    Raises:
        ConfigError: Some are missing; the message names all of them.
    """
    own = config.provider_config
    secret = own.client_secret.get_secret_value() if own.client_secret else ""
    given = {
        "endpoint": config.endpoint or "",
        "workspace_url": own.workspace_url or "",
        "client_id": own.client_id or "",
        "client_secret": secret,
    }
    absent = [name for name, value in given.items() if not value]
    if absent:
        msg = f"{own.table}: not configured: {', '.join(absent)}"
        raise ConfigError(msg)
    return Access(**given)


def cut(
    stream: Stream, values: dict[str, pa.Array], rows: int, ends: npt.NDArray[np.int64]
) -> tuple[list[Request], dict[int, str]]:
    """Encode rows and cut them to the service's limits; those that it would never take are told by number and reason.

    Args:
        stream: Where they go.
        values: The columns of the stream's plan.
        rows: How many rows there are.
        ends: By row, how many readings are written when it and those before it are.
    """
    refused = encode.missing(values, stream.plan.columns)
    records: Any
    if stream.protobuf is not None:
        records = stream.protobuf.encode(values, rows)
        sizes = encode.record_sizes(records)
    else:
        records = encode.to_arrow(values, stream.plan.columns, stream.plan.arrow)
        sizes = encode.arrow_sizes(records)
    refused = encode.oversized(sizes) | refused
    if refused:
        kept = np.delete(np.arange(rows), list(refused))
        records, sizes, ends = records.take(pa.array(kept)), sizes[kept], ends[kept]
    requests = []
    for start, stop in encode.requests(sizes):
        some = records.slice(start, stop - start)
        payload = some if stream.protobuf is None else some.to_numpy(zero_copy_only=False).tolist()
        requests.append(Request(payload, int(ends[stop - 1])))
    return requests, refused


class ZeroBusWriter(Writer, Checks):
    """Writes to one Delta table through ZeroBus.

    Several writes may be under way; each waits for its own offsets.
    """

    def __init__(self, config: ZeroBusConfig, context: Context) -> None:
        self._config = config
        self._own = config.provider_config
        self._table = config.provider_config.table
        self._context = context
        self._sdk: Any = None
        self._stream: Stream | None = None
        self._opening = asyncio.Lock()
        self.limits = Limits(
            rows=config.batch_size or 10_000,
            bytes=8 * 1024 * 1024,
            linger=config.flush_interval or 0.0,
            writes_in_flight=4,
        )

    @override
    async def open(self) -> None:
        await self._forget(self._stream)
        try:
            await self._ready()
        except _raised() as error:
            raise failure(error, self._table) from error

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        done, rejected = 0, dict[int, str]()
        stream: Stream | None = None
        try:
            async with asyncio.timeout(self._own.flush_timeout):
                for last in (False, True):
                    stream = await self._ready()
                    requests, refused = self._requests(stream, batch.slice(done))
                    rejected |= {done + row: reason for row, reason in refused.items()}
                    first = done
                    try:
                        offsets = [await self._send(stream, request.payload) for request in requests]
                        for request, offset in zip(requests, offsets, strict=True):
                            await stream.inner.wait_for_offset(offset)
                            done = first + request.done
                        break
                    except _raised() as error:
                        if last or not (rotated(error) or was_dead(error)):
                            raise
                        await self._forget(stream)
        except _raised() as error:
            await self._forget(stream)
            raise failure(error, self._table) from error
        if rejected:
            rows = sorted(rejected)
            raise RejectedRecords(rows, [rejected[row] for row in rows], rest_written=True)

    @override
    async def close(self) -> None:
        await self._forget(self._stream)
        self._sdk = (
            None  # the next one asks for its token over a connection of its own, which trusts what is trusted then
        )

    @override
    async def check(self) -> list[Finding]:
        from connectors.targets.zerobus.preflight import findings

        return await findings(self._config, self._context)

    def _requests(self, stream: Stream, batch: pa.RecordBatch) -> tuple[list[Request], dict[int, str]]:
        """A batch as requests, and the readings that the service would never take."""
        if not batch.num_rows:
            return [], {}
        own = self._own
        values = reading_columns(batch, own.partition_time)
        if own.schema_evolution == "review" and (lost := lakehouse.unstored(values, stream.plan.left_out)):
            table = lakehouse.quoted(own.table)
            raise ConfigError(lakehouse.review(own.table, table, lost, batch.num_rows, LEAVE_OUT))
        return cut(stream, values, batch.num_rows, np.arange(1, batch.num_rows + 1))

    async def _ready(self) -> Stream:
        """The open stream; a new one when there is none."""
        async with self._opening:
            if self._stream is None:
                self._stream = await self._connect()
            return self._stream

    async def _forget(self, stream: Stream | None) -> None:
        """End `stream`, unless another write has done so."""
        if stream is None or self._stream is not stream:
            return
        self._stream = None
        with contextlib.suppress(*_raised()):
            async with asyncio.timeout(_CLOSING):
                await stream.inner.close()

    async def _send(self, stream: Stream, payload: Any) -> int:
        if stream.protobuf is None:
            return int(await stream.inner.ingest_batch(payload))
        return int(await stream.inner.ingest_records_offset(payload))

    async def _connect(self) -> Stream:
        """Look at the table as it is now, and open a stream that fits it."""
        where = access(self._config)
        catalog = Catalog(where.workspace_url, where.client_id, where.client_secret, self._config.timeout)
        fitting = plan(columns(await asyncio.to_thread(catalog.table, self._table)), self._own.layout)
        if fitting.problems:
            msg = f"{self._table}: {'; '.join(fitting.problems)}"
            raise ConfigError(msg)
        library = _library()
        if self._sdk is None:
            self._sdk = library.ZerobusSdk(where.endpoint, where.workspace_url, _application())
        try:
            return await self._create(where, fitting)
        except library.ZerobusException as error:
            if grpc_status(str(error)) != "UNAUTHENTICATED":
                raise
            # the token was the SDK's cached one and has been revoked; the SDK has let go of it and asks for another
            return await self._create(where, fitting)

    async def _create(self, where: Access, fitting: Plan) -> Stream:
        library = _library()
        timeout, ack = int(self._config.timeout * 1000), int(self._own.ack_timeout * 1000)
        bounds = {
            "recovery": False,
            "recovery_timeout_ms": timeout,
            "server_lack_of_ack_timeout_ms": ack,
            "flush_timeout_ms": int(self._own.flush_timeout * 1000),
        }
        if self._own.record_format == "arrow":
            from zerobus import ArrowStreamConfigurationOptions

            inner = await self._sdk.create_arrow_stream(
                self._table,
                fitting.arrow,
                where.client_id,
                where.client_secret,
                ArrowStreamConfigurationOptions(connection_timeout_ms=timeout, **bounds),
            )
            return Stream(inner, fitting, None)
        inner = await self._sdk.create_stream(
            where.client_id,
            where.client_secret,
            library.TableProperties(self._table, descriptor(fitting.columns)),
            library.StreamConfigurationOptions(**bounds),
        )
        return Stream(inner, fitting, ProtobufEncoder(fitting.columns))


def _library() -> Any:
    """The SDK, quiet: it logs in color to stdout unless told otherwise before its first import."""
    os.environ.setdefault("RUST_LOG", "off")
    try:
        import zerobus.sdk.aio as library
    except ImportError as error:
        msg = "the ZeroBus SDK is not installed: pip install 'bifrost-gateway[zerobus]'"
        raise ConfigError(msg) from error
    return library


def _raised() -> tuple[type[Exception], ...]:
    """What the SDK, HTTP and time-outs raise."""
    return (_library().ZerobusException, HttpError, OSError)


def _application() -> str:
    try:
        return f"bifrost-gateway/{importlib.metadata.version('bifrost-gateway')}"
    except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
        return "bifrost-gateway"
