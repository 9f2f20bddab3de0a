"""The run of an OPC UA source: connect, find the nodes, then take notifications or poll until something fails.

Every failure is raised out of `OpcUaReader.run`, and the next run begins with a new session: asyncua's own reconnection is
not used. What happened in between is recorded as a gap, also across a restart of the gateway, because each append carries
the time of the last reading as the reader's state.
"""

import asyncio
import json
import logging
import math
import time
from collections import deque
from collections.abc import Sequence
from typing import Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from typing_extensions import override

from connectors.contract import Checks, Context, Finding, Intake, Reader, SourceState
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.datatypes import DataTypes
from connectors.sources.opcua.decode import (
    DATA_CHANGE,
    STATUS_CHANGE,
    Item,
    Notification,
    ValueDecoder,
    notification,
)
from connectors.sources.opcua.nodes import BAD_NODE_ID_UNKNOWN, Described, describe, variables
from connectors.sources.opcua.session import Session, batches
from normalization.quality import opcua_quality
from normalization.reading import Columns

_log = logging.getLogger(__name__)

_IN_FLIGHT: Final = 16  # appended messages that are not on disk yet, before we stop asking for more
_LIFETIME: Final = 60.0  # seconds that the server keeps a subscription whose client is silent
_PER_NOTIFICATION: Final = 10_000
_UNREADABLE: Final = {  # the node is wrong, not its value
    StatusCodes.BadNodeIdUnknown,
    StatusCodes.BadNodeIdInvalid,
    StatusCodes.BadAttributeIdInvalid,
    StatusCodes.BadNotReadable,
    StatusCodes.BadUserAccessDenied,
}
_WARNED: Final[set[str]] = set()  # sources whose weak security was logged; a reader is made for every attempt


def _now() -> int:
    return time.time_ns() // 1000


class OpcUaReader(Reader, Checks):
    """Reads one OPC UA server."""

    def __init__(self, config: OpcUaConfig, context: Context) -> None:
        self._config = config
        self._context = context
        if config.name not in _WARNED:
            _WARNED.add(config.name)
            if config.security_policy == "none":
                _log.warning("source %s: security_policy is none, values travel in clear", config.name)
            elif config.trust == "all":
                _log.warning("source %s: trust is all, any server is believed", config.name)

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        intake.state(SourceState.CONNECTING, self._config.endpoint)
        session = Session(self._config, self._context)
        connected: _Run | None = None
        try:
            await session.open()
            types = DataTypes(session)
            wanted = await variables(session, self._config)
            if not wanted:
                msg = "no variables are there to read; look at `browse` and at what the server's user may see"
                raise LookupError(msg)
            described = await describe(session, self._config, wanted, types)
            run = _Run(self._config, session, intake, described, types)
            last = _last_reading(state)
            await run.begin()
            intake.state(SourceState.CONNECTED, f"{len(described)} nodes")
            connected = run
            if last is not None:
                intake.gap(run.tags, last, _now(), "not connected")
            await run.until_failure()
        except Exception as error:
            if connected is not None:
                intake.state(SourceState.DOWN, str(error) or type(error).__name__)
            raise
        finally:
            if connected is not None:
                connected.remember()
            await session.close()

    @override
    async def check(self) -> list[Finding]:
        """Connect once, and say what is found."""
        session = Session(self._config, self._context)
        endpoint = self._config.endpoint
        try:
            await session.open()
            findings = [Finding(True, "connection", f"{endpoint} is {session.server_name or 'there'}")]
            described = await describe(
                session, self._config, await variables(session, self._config), DataTypes(session)
            )
            absent = [d.variable.address for d in described if d.variable.id is None]
            detail = f"{len(described)} found"
            if absent:
                detail += f"; the server has no such namespace for {', '.join(absent[:5])}"
            findings.append(Finding(bool(described) and not absent, "nodes", detail))
            named = [(d.variable.address, d.variable.id) for d in described if d.variable.config is not None]
            there = [(address, node) for address, node in named if node is not None]
            values = await session.read_attributes_of([node for _, node in there], AttributeIds.Value)
            for (address, _), value in zip(there, values, strict=True):
                status = value.StatusCode
                if status is not None and status.value in _UNREADABLE:
                    findings.append(Finding(False, f"node {address}", f"{status.name}: {status.doc}"))
            return findings
        except Exception as error:  # noqa: BLE001  whatever is wrong is the finding
            said = str(error) or type(error).__name__
            return [Finding(False, "connection", said if endpoint in said else f"{endpoint}: {said}")]
        finally:
            await session.close()


def _last_reading(state: bytes | None) -> int | None:
    if state is None:
        return None
    try:
        last = json.loads(state)["last_reading"]
    except (ValueError, LookupError, TypeError):
        return None
    return last if type(last) is int and 0 <= last <= _now() else None


class _Run:
    """What one connection does."""

    def __init__(
        self, config: OpcUaConfig, session: Session, intake: Intake, described: list[Described], types: DataTypes
    ) -> None:
        self._config = config
        self._session = session
        self._intake = intake
        self._types = types
        self._described = described
        self._items = [d.item(intake.tag(d.tag)) for d in described]
        self.tags = [item.tag for item in self._items]
        self._decoder = ValueDecoder(self._items, types.types, server_time=config.timestamps == "server")
        self._timestamps = (
            ua.TimestampsToReturn.Server if config.timestamps == "server" else ua.TimestampsToReturn.Source
        )
        self._pending: deque[asyncio.Future[None]] = deque()
        self._newest: asyncio.Future[None] | None = None
        self._unacknowledged: deque[tuple[asyncio.Future[None] | None, ua.SubscriptionAcknowledgement]] = deque()
        self._sequences: dict[int, int] = {}
        self._last_message = self._committed = _now()
        self._asked: float | None = None  # since when a PublishRequest waits for its answer
        self._silence = math.inf
        self._polling: list[tuple[float, list[tuple[list[ua.ReadValueId], list[Item]]]]] = []

    async def begin(self) -> None:
        """Create the subscription, or group the polls; report the nodes that cannot be read."""
        rows = Columns()
        usable: list[int] = []
        for handle, described in enumerate(self._described):
            if described.variable.id is None:
                self._refuse(rows, handle, BAD_NODE_ID_UNKNOWN, "the server has no such namespace")
            else:
                usable.append(handle)
        if self._config.mode == "polling":
            groups: dict[float, list[int]] = {}
            for handle in usable:
                groups.setdefault(self._interval(handle) or self._config.polling_interval, []).append(handle)
            self._polling = [(interval, self._requests(groups[interval])) for interval in sorted(groups)]
        else:
            await self._subscribe(usable, rows)
        if len(rows):
            self._append(rows)

    async def until_failure(self) -> None:
        """Read until the connection fails."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_alive())
                if self._config.mode == "polling":
                    for interval, requests in self._polling:
                        tasks.create_task(self._poll(interval, requests))
                else:
                    tasks.create_task(self._publish())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def _id(self, handle: int) -> ua.NodeId:
        node = self._described[handle].variable.id
        return node if node is not None else ua.NodeId()

    def _interval(self, handle: int) -> float | None:
        node = self._described[handle].variable.config
        return node.interval if node is not None else None

    def _refuse(self, rows: Columns, handle: int, status: int, reason: str) -> None:
        _log.warning("source %s: node %s: %s", self._config.name, self._described[handle].variable.address, reason)
        rows.add(self._items[handle].tag, None, quality=opcua_quality(status), status=status)

    def _append(self, rows: Columns) -> None:
        self._last_message = self._committed = _now()
        state = b'{"last_reading":%d}' % self._last_message
        self._newest = self._intake.append(rows, state)
        self._pending.append(self._newest)

    def remember(self) -> None:
        """Commit when the server last said that there is nothing new, so that a gap does not begin with the last change."""
        if self._last_message > self._committed:
            self._intake.append(Columns(), b'{"last_reading":%d}' % self._last_message)

    async def _settle(self) -> None:
        """Wait while too much is on the way to the disk; the server's queues take the strain."""
        while self._pending and (self._pending[0].done() or len(self._pending) > _IN_FLIGHT):
            await self._pending.popleft()

    # -- subscription

    async def _subscribe(self, handles: Sequence[int], rows: Columns) -> None:
        config, session = self._config, self._session
        interval = config.publishing_interval
        keep_alive = max(1, math.ceil(config.keep_alive_interval / interval))
        request = ua.CreateSubscriptionRequest()
        request.Parameters.RequestedPublishingInterval = interval * 1000
        request.Parameters.RequestedMaxKeepAliveCount = ua.Counter(keep_alive)
        request.Parameters.RequestedLifetimeCount = ua.Counter(max(3 * keep_alive, math.ceil(_LIFETIME / interval)))
        request.Parameters.MaxNotificationsPerPublish = ua.Counter(_PER_NOTIFICATION)
        request.Parameters.PublishingEnabled = True
        data, pos = await session.request(request)
        result = ua.ua_binary.struct_from_binary(ua.CreateSubscriptionResult, Buffer(data, pos))
        # The server must say something once in each keep-alive; three times that, and an answer's time, is silence.
        self._silence = 3 * result.RevisedPublishingInterval / 1000 * result.RevisedMaxKeepAliveCount + config.timeout
        self._sequences[result.SubscriptionId] = 0
        for part in batches(handles, session.max_items_per_call):
            asked = [self._monitored(handle) for handle in part]
            results = await session.uaclient.create_monitored_items(
                ua.CreateMonitoredItemsParameters(result.SubscriptionId, self._timestamps, asked)
            )
            for handle, answer in zip(part, results, strict=True):
                if not answer.StatusCode.is_good():
                    self._refuse(rows, handle, answer.StatusCode.value, answer.StatusCode.name)

    def _monitored(self, handle: int) -> ua.MonitoredItemCreateRequest:
        config = self._config
        sampling = self._interval(handle)
        if sampling is None:
            sampling = config.sampling_interval
        return ua.MonitoredItemCreateRequest(
            ItemToMonitor=ua.ReadValueId(NodeId=self._id(handle), AttributeId=AttributeIds.Value),
            MonitoringMode=ua.MonitoringMode.Reporting,
            RequestedParameters=ua.MonitoringParameters(
                ClientHandle=ua.IntegerId(handle),
                SamplingInterval=-1.0 if sampling is None else sampling * 1000,
                QueueSize=ua.Counter(config.queue_size),
                DiscardOldest=True,
            ),
        )

    async def _publish(self) -> None:
        """Ask for notifications, one request at a time; a message that is on disk is acknowledged with the next one."""
        while True:
            request = ua.PublishRequest()
            request.Parameters.SubscriptionAcknowledgements = self._on_disk()
            self._asked = time.monotonic()
            data, pos = await self._session.request(request, 0)
            self._asked = None
            message = notification(data, pos)
            if message.parts:
                await self._take(data, message)
                acknowledgement = ua.SubscriptionAcknowledgement(
                    ua.IntegerId(message.subscription), ua.Counter(message.sequence)
                )
                self._unacknowledged.append((self._newest, acknowledgement))
            else:  # a keep-alive: nothing has changed until now
                self._last_message = _now()

    def _on_disk(self) -> list[ua.SubscriptionAcknowledgement]:
        """The acknowledgements of the messages whose readings are on disk since the last request."""
        out = []
        while self._unacknowledged:
            future, acknowledgement = self._unacknowledged[0]
            if future is not None and (not future.done() or future.cancelled() or future.exception() is not None):
                break
            self._unacknowledged.popleft()
            out.append(acknowledgement)
        return out

    async def _take(self, data: bytes, message: Notification) -> None:
        last, since = self._sequences.get(message.subscription, 0), self._last_message
        expected = last % 0xFFFFFFFF + 1  # numbers begin at 1 again (OPC 10000-4 clause 7.7.5)
        if last and message.sequence != expected:
            reason = f"notifications {expected} to {message.sequence - 1} of the subscription did not come"
            self._intake.gap(self.tags, since, _now(), reason)
        self._sequences[message.subscription] = message.sequence
        for kind, start, end in message.parts:
            body = data[start:end]
            if kind == STATUS_CHANGE:
                status = int.from_bytes(body[:4], "little")
                msg = f"the server ended the subscription with status 0x{status:08X}"
                raise ConnectionError(msg)
            if kind != DATA_CHANGE:
                continue
            rows = Columns()
            overflowed = self._decoder.data_change(body, rows)
            if self._types.types.missing and await self._types.learn_missing():
                rows = Columns()
                overflowed = self._decoder.data_change(body, rows)
            if overflowed:
                self._intake.gap(overflowed, since, _now(), "the queue in the server overflowed")
            self._append(rows)
        await self._settle()

    # -- polling

    def _requests(self, handles: list[int]) -> list[tuple[list[ua.ReadValueId], list[Item]]]:
        """What is read in one poll, in as many requests as the server's limit makes."""
        return [
            (
                [ua.ReadValueId(NodeId=self._id(handle), AttributeId=AttributeIds.Value) for handle in part],
                [self._items[handle] for handle in part],
            )
            for part in batches(handles, self._session.max_nodes_per_read)
        ]

    async def _poll(self, interval: float, requests: list[tuple[list[ua.ReadValueId], list[Item]]]) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            rows = Columns()
            for nodes, items in requests:
                rows.extend(await self._read(nodes, items))
            self._append(rows)
            before = _now()
            await self._settle()
            if _now() - before > interval * 1e6:
                tags = [item.tag for _, items in requests for item in items]
                self._intake.gap(tags, before, _now(), "the journal was full")
            due += interval
            late = clock() - due
            if late > 0:  # cycles that the server was too slow for are left out
                due += math.ceil(late / interval) * interval
            await asyncio.sleep(due - clock())

    async def _read(self, nodes: list[ua.ReadValueId], items: list[Item]) -> Columns:
        request = ua.ReadRequest()
        request.Parameters.TimestampsToReturn = self._timestamps
        request.Parameters.NodesToRead = nodes
        data, pos = await self._session.request(request)
        rows = Columns()
        self._decoder.read_results(data, pos, items, rows)
        if self._types.types.missing and await self._types.learn_missing():
            rows = Columns()
            self._decoder.read_results(data, pos, items, rows)
        return rows

    # -- health

    async def _keep_alive(self) -> None:
        """Prove the connection now and then, and that the subscription still speaks."""
        while True:
            await asyncio.sleep(self._config.keep_alive_interval)
            await self._session.prove()
            silent = time.monotonic() - self._asked if self._asked is not None else 0.0
            if silent > self._silence:
                msg = f"the subscription has been silent for {silent:.0f} s"
                raise ConnectionError(msg)
