"""The two RPCs that records come by: ``EphemeralStream`` (protobuf, JSON) and Arrow Flight ``DoPut``.

Both are the same to the server: a first message that says what follows, then requests with offsets 0, 1, 2 …, each
checked, logged and, once it is on disk, acknowledged cumulatively.
"""

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

import grpc
from google.protobuf.message import DecodeError

from simulator.zerobus import wire
from simulator.zerobus.arrow_rows import schema_of
from simulator.zerobus.auth import Authority, Claims
from simulator.zerobus.errors import Refused, invalid
from simulator.zerobus.faults import Faults
from simulator.zerobus.formats import open_format
from simulator.zerobus.log import CommitLog, Declaration
from simulator.zerobus.schema import is_table_name
from simulator.zerobus.tables import Catalog, Table

MAX_RECORDS: Final = 100_000  # of one request; Arrow comes in batches of the SDK's own size
TABLE_HEADER: Final = "x-databricks-zerobus-table-name"


class _Protocol(Protocol):
    """What differs between the RPCs on the wire."""

    def opening(self, first: bytes, table: str) -> tuple[str, bytes]:
        """Record format and its description, from the first message and the table that the headers name."""
        ...

    def ready(self, stream_id: str) -> bytes:
        """The answer to the first message."""
        ...

    def ack(self, offset: int, rows: int) -> bytes:
        """Acknowledges all requests up to `offset`, in which there were `rows` records."""
        ...

    def close(self, offset: int, rows: int, milliseconds: int) -> bytes:
        """Announces that the server will close the stream; `offset` and `rows` as acknowledged until now."""
        ...


class _EphemeralStream:
    def opening(self, first: bytes, table: str) -> tuple[str, bytes]:
        try:
            message = wire.EphemeralStreamRequest.FromString(first)
        except DecodeError as error:
            raise invalid(f"not an EphemeralStreamRequest: {error}") from error
        if message.WhichOneof("payload") != "create_stream":
            raise invalid("the first message must be create_stream")
        create = message.create_stream
        if create.table_name != table:
            raise invalid(f"create_stream is for {create.table_name!r}, the header {TABLE_HEADER} says {table!r}")
        # a client that names no type sends protobuf, as the first version of the protocol did
        record_type = create.record_type or wire.RECORD_TYPE_PROTO
        if record_type == wire.RECORD_TYPE_PROTO:
            return "proto", create.descriptor_proto
        if record_type == wire.RECORD_TYPE_JSON:
            return "json", b""
        raise Refused(grpc.StatusCode.UNIMPLEMENTED, f"record type {record_type} is not supported")

    def ready(self, stream_id: str) -> bytes:
        return bytes(wire.EphemeralStreamResponse(create_stream_response={"stream_id": stream_id}).SerializeToString())

    def ack(self, offset: int, rows: int) -> bytes:  # noqa: ARG002 - acknowledgements of this RPC count requests
        response = wire.EphemeralStreamResponse(ingest_record_response={"durability_ack_up_to_offset": offset})
        return bytes(response.SerializeToString())

    def close(self, offset: int, rows: int, milliseconds: int) -> bytes:  # noqa: ARG002
        response = wire.EphemeralStreamResponse()
        response.close_stream_signal.duration.FromMilliseconds(milliseconds)
        return bytes(response.SerializeToString())


class _DoPut:
    def opening(self, first: bytes, table: str) -> tuple[str, bytes]:  # noqa: ARG002 - only the header names it
        return "arrow", schema_of(first)

    def ready(self, stream_id: str) -> bytes:  # noqa: ARG002
        return self.ack(-1, 0)

    def ack(self, offset: int, rows: int) -> bytes:
        return self._result({"ack_up_to_offset": offset, "ack_up_to_records": rows})

    def close(self, offset: int, rows: int, milliseconds: int) -> bytes:
        return self._result(
            {"ack_up_to_offset": offset, "ack_up_to_records": rows, "close_stream_duration_ms": milliseconds}
        )

    def _result(self, metadata: dict[str, int]) -> bytes:
        return bytes(wire.PutResult(app_metadata=json.dumps(metadata).encode()).SerializeToString())


class _AbortedError(Exception):
    """A fault knob ends the stream here, without settling what is under way."""

    def __init__(self, status: grpc.StatusCode) -> None:
        super().__init__(status.name)
        self.status = status


class _Session:
    """One open stream."""

    def __init__(
        self, ingest: "Ingest", context: Any, protocol: _Protocol, claims: Claims, table: Table, kind: str, spec: bytes
    ) -> None:
        self.stream_id = str(uuid.uuid4())
        self.table = table
        self.ended: asyncio.Future[grpc.StatusCode | None] = asyncio.get_running_loop().create_future()
        self._log = ingest.log
        self._faults = ingest.faults
        self._authority = ingest.authority
        self._context = context
        self._protocol = protocol
        self._claims = claims
        self._writing = asyncio.Lock()
        self._changed = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._pending: deque[tuple[int, int, int]] = deque()  # LSN, offset, rows up to and with it
        self._requests = 0
        self._rows = 0
        self._acked = (-1, 0)  # offset, rows
        self._closing = False
        self._window = (time.monotonic(), 0, 0)  # start, rows and bytes in it
        self._adopt(kind, spec)

    def _adopt(self, kind: str, spec: bytes) -> None:
        """Check the stream's record description against the table as it is now."""
        self._generation = self.table.generation
        self._format = open_format(kind, spec, self.table.schema)
        declaration = Declaration(self.table.name, self.table.table_id, kind, spec)
        self._stream = self._log.stream(declaration, self._changed.set)

    async def run(self) -> None:
        """Receive and acknowledge until the client or the server ends the stream.

        Raises:
            Refused: the client did something wrong; what came before it has been acknowledged.
            _AbortedError: a fault knob says so.
        """
        await self._send(self._protocol.ready(self.stream_id))
        receiving = asyncio.create_task(self._receive())
        acknowledging = asyncio.create_task(self._acknowledge())
        closing = asyncio.create_task(self._settled.wait())
        try:
            await asyncio.wait({receiving, acknowledging, self.ended}, return_when=asyncio.FIRST_COMPLETED)
            refused: BaseException | None = None
            if acknowledging.done():
                refused = acknowledging.exception()
            elif receiving.done():
                refused = receiving.exception()
            elif (status := self.ended.result()) is not None:
                refused = _AbortedError(status)
            if not isinstance(refused, _AbortedError) and not acknowledging.done():
                receiving.cancel()
                closing.cancel()
                closing = asyncio.create_task(self._settled.wait())
                await asyncio.wait({closing, acknowledging}, return_when=asyncio.FIRST_COMPLETED)
            if refused is not None:
                raise refused
        finally:
            for task in (receiving, acknowledging, closing):
                task.cancel()

    def close(self, grace_ms: int) -> None:
        """Tell the client that the stream will be closed, and close it when the time is over."""
        if not self._closing:
            self._closing = True
            self._faults.counters["rotations"] += 1
            self._close_task = asyncio.create_task(self._close(grace_ms))

    async def _close(self, grace_ms: int) -> None:
        await self._send(self._protocol.close(*self._acked, grace_ms))
        await asyncio.sleep(grace_ms / 1000)
        if not self.ended.done():
            self.ended.set_result(None)

    async def _send(self, message: bytes) -> None:
        async with self._writing:
            await self._context.write(message)

    async def _receive(self) -> None:
        while True:
            request = await self._context.read()
            if request is grpc.aio.EOF:
                return
            await self._accept(request)

    async def _accept(self, request: bytes) -> None:
        faults, knobs = self._faults, self._faults.knobs
        status = faults.abort_now(self._requests)
        if status is not None:
            raise _AbortedError(status)
        await self.table.unfrozen.wait()
        if self.table.generation != self._generation:
            if self.table.dropped:
                raise Refused(grpc.StatusCode.NOT_FOUND, f"table {self.table.name} was dropped")
            self._adopt(self._format.kind, self._format.spec)
        if self._authority.grants.revoked:
            self._authority.check_write(self._claims, self.table.name)
        checked = self._format.check(request)
        if self._format.kind != "arrow" and checked.rows > MAX_RECORDS:
            raise invalid(f"{checked.rows} records in one request, at most {MAX_RECORDS} are allowed")
        if checked.offset != self._requests:
            raise invalid(f"offset_id is {checked.offset}, expected {self._requests}")
        if knobs.quota_rows_per_s is not None or knobs.quota_bytes_per_s is not None:
            self._charge(checked.rows, len(request))
        lsn = self._log.append(self._stream, request)
        self._requests += 1
        self._rows += checked.rows
        self._pending.append((lsn, checked.offset, self._rows))
        self._settled.clear()
        counters = faults.counters
        counters["requests"] += 1
        counters["rows"] += checked.rows
        counters["bytes"] += len(request)
        counters[f"rows:{self.table.name}"] += checked.rows
        if knobs.rotate_after_requests is not None and self._requests >= knobs.rotate_after_requests:
            self.close(knobs.rotate_grace_ms)
        await self._log.room()

    def _charge(self, rows: int, size: int) -> None:
        """Count against the quota of a window of one second."""
        start, window_rows, window_bytes = self._window
        now = time.monotonic()
        if now - start >= 1:
            start, window_rows, window_bytes = now, 0, 0
        self._window = (start, window_rows + rows, window_bytes + size)
        knobs = self._faults.knobs
        for used, allowed, what in (
            (window_rows + rows, knobs.quota_rows_per_s, "records"),
            (window_bytes + size, knobs.quota_bytes_per_s, "bytes"),
        ):
            if allowed is not None and used > allowed:
                raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {allowed:g} {what}/s on this stream")

    async def _acknowledge(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._stream.failure is not None:
                raise Refused(grpc.StatusCode.UNAVAILABLE, f"records could not be stored: {self._stream.failure}")
            latest = None
            durable = self._log.durable
            while self._pending and self._pending[0][0] <= durable:
                latest = self._pending.popleft()
            if latest is not None:
                knobs = self._faults.knobs
                if knobs.ack_delay_ms:
                    await asyncio.sleep(knobs.ack_delay_ms / 1000)
                if not knobs.drop_acks:
                    self._faults.counters["acks"] += 1
                    self._faults.counters["rows_acked"] += latest[2] - self._acked[1]
                    self._acked = latest[1:]
                    await self._send(self._protocol.ack(*self._acked))
            if not self._pending:
                self._settled.set()


class Ingest:
    """The gRPC side of the emulator."""

    def __init__(self, catalog: Catalog, log: CommitLog, authority: Authority, faults: Faults) -> None:
        self.catalog = catalog
        self.log = log
        self.authority = authority
        self.faults = faults
        self.sessions: set[_Session] = set()

    def handlers(self) -> list[grpc.GenericRpcHandler]:
        """The generic handlers of both methods."""

        def handler(protocol: _Protocol) -> Callable[[Any, Any], Any]:
            async def serve(_requests: Any, context: Any) -> None:
                await self._serve(protocol, context)

            return serve

        return [
            grpc.method_handlers_generic_handler(
                service, {method: grpc.stream_stream_rpc_method_handler(handler(protocol))}
            )
            for service, method, protocol in (
                (wire.EPHEMERAL_STREAM_SERVICE, wire.EPHEMERAL_STREAM_METHOD, _EphemeralStream()),
                (wire.FLIGHT_SERVICE, wire.DO_PUT_METHOD, _DoPut()),
            )
        ]

    def rotate(self, grace_ms: int, table: str | None = None) -> int:
        """Tell all open streams (of a table) that they will be closed; returns how many."""
        sessions = [s for s in self.sessions if table is None or s.table.name == table]
        for session in sessions:
            session.close(grace_ms)
        return len(sessions)

    def abort(self, status: grpc.StatusCode, table: str | None = None) -> int:
        """Abort all open streams (of a table); returns how many."""
        sessions = [s for s in self.sessions if (table is None or s.table.name == table) and not s.ended.done()]
        for session in sessions:
            session.ended.set_result(status)
        return len(sessions)

    async def _serve(self, protocol: _Protocol, context: Any) -> None:
        # The SDK waits for the response headers before it sends its first message
        await context.send_initial_metadata(())
        try:
            session = await self._open(protocol, context)
            self.faults.counters["streams_created"] += 1
            self.sessions.add(session)
            try:
                await session.run()
            finally:
                self.sessions.discard(session)
        except Refused as refused:
            self.faults.counters[f"refused:{refused.status.name}"] += 1
            trailers: tuple[tuple[str, bytes], ...] = ()
            if refused.causes:
                code, _ = refused.status.value
                metadata = {"table": dict(context.invocation_metadata()).get(TABLE_HEADER, "")}
                metadata["causes"] = ",".join(refused.causes)
                details = wire.error_details(code, str(refused), "SCHEMA_VALIDATION_FAILED", metadata)
                trailers = (("grpc-status-details-bin", details),)
            await context.abort(refused.status, str(refused), trailers)
        except _AbortedError as aborted:
            self.faults.counters[f"aborted:{aborted.status.name}"] += 1
            await context.abort(aborted.status, "aborted by a fault knob")

    async def _open(self, protocol: _Protocol, context: Any) -> _Session:
        # who is refused before it has sent anything may never hear the status: the SDK then only says that it could not send
        first = await context.read()
        status = self.faults.next_create_failure()
        if status is not None:
            raise Refused(status, "refused by a fault knob")
        headers = dict(context.invocation_metadata())
        claims = self.authority.verify(headers.get("authorization", ""))
        name = headers.get(TABLE_HEADER, "")
        if not is_table_name(name):
            raise invalid(f"header {TABLE_HEADER} is {name!r}, not catalog.schema.table")
        if first is grpc.aio.EOF:
            raise invalid("the stream ended before its first message")
        kind, spec = protocol.opening(first, name)
        table = self.catalog.get(name)
        if table is None:
            raise Refused(grpc.StatusCode.NOT_FOUND, f'Table "{name}" cannot be found.')
        self.authority.check_write(claims, name)
        await table.unfrozen.wait()
        return _Session(self, context, protocol, claims, table, kind, spec)
