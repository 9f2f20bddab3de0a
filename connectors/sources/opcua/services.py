"""Requests about subscriptions, their items (OPC 10000-4 clauses 5.13 and 5.14) and history, one function each."""

import datetime
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import struct_from_binary
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from connectors.sources.opcua import binary
from connectors.sources.opcua.binary import Malformed
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.notification import Notification, republished
from connectors.sources.opcua.session import Session, node_id

_EPOCH: Final = datetime.datetime.fromtimestamp(0, datetime.UTC)
_HISTORY_WAIT: Final = 60.0  # seconds for an answer: histories are slow
FULL: Final = int(StatusCodes.BadTooManyMonitoredItems)


def _parameters(config: OpcUaConfig) -> dict[str, Any]:
    interval = config.publishing_interval
    keep_alive = max(1, math.ceil(config.keep_alive_interval / interval))
    life = math.ceil(config.subscription_lifetime / interval)
    return {
        "RequestedPublishingInterval": interval * 1000,
        "RequestedMaxKeepAliveCount": ua.Counter(keep_alive),
        "RequestedLifetimeCount": ua.Counter(max(3 * keep_alive, life)),
        "MaxNotificationsPerPublish": ua.Counter(config.values_per_notification),
    }


async def create(session: Session) -> ua.CreateSubscriptionResult:
    """Create a subscription."""
    request = ua.CreateSubscriptionRequest()
    request.Parameters = ua.CreateSubscriptionParameters(**_parameters(session.config), PublishingEnabled=True)
    data, pos = await session.request(request)
    return struct_from_binary(ua.CreateSubscriptionResult, Buffer(data, pos))


async def modify(session: Session, subscription: int) -> ua.ModifySubscriptionResult:
    """Give a subscription the parameters that a new one would have."""
    request = ua.ModifySubscriptionRequest()
    request.Parameters = ua.ModifySubscriptionParameters(
        SubscriptionId=ua.IntegerId(subscription), **_parameters(session.config)
    )
    data, pos = await session.request(request)
    return struct_from_binary(ua.ModifySubscriptionResult, Buffer(data, pos))


async def transfer(session: Session, subscriptions: Sequence[int], *, initial: bool) -> list[ua.TransferResult]:
    """Have subscriptions of another session; returns what the server says to each, with the messages that can be sent again."""
    ids = [ua.IntegerId(subscription) for subscription in subscriptions]
    return await session.uaclient.transfer_subscriptions(ua.TransferSubscriptionsParameters(ids, initial))


async def add_items(
    session: Session,
    subscription: int,
    items: Sequence[ua.MonitoredItemCreateRequest],
    timestamps: ua.TimestampsToReturn,
) -> list[ua.MonitoredItemCreateResult]:
    """Create items; where the server takes no more, their status says so, whichever way the server said it."""

    async def ask(part: Sequence[ua.MonitoredItemCreateRequest]) -> list[ua.MonitoredItemCreateResult]:
        parameters = ua.CreateMonitoredItemsParameters(subscription, timestamps, list(part))
        try:
            return await session.uaclient.create_monitored_items(parameters)
        except UaStatusCodeError as error:
            if error.code != FULL:
                raise
            return [ua.MonitoredItemCreateResult(StatusCode=ua.StatusCode(ua.UInt32(FULL))) for _ in part]

    return await session.limits.ask("items", items, ask)


async def remove_items(session: Session, subscription: int, ids: Sequence[int]) -> None:
    """Delete items."""
    items = [ua.IntegerId(item) for item in ids]
    parameters = ua.DeleteMonitoredItemsParameters(ua.IntegerId(subscription), items)
    await session.uaclient.delete_monitored_items(parameters)


async def items_of(session: Session, subscription: int) -> dict[int, int] | None:
    """Ids of a subscription's items by client handle (OPC 10000-5 clause 9.1); None where the server does not say."""
    call = ua.CallMethodRequest(
        ObjectId=node_id(ObjectIds.Server),
        MethodId=node_id(ObjectIds.Server_GetMonitoredItems),
        InputArguments=[ua.Variant(subscription, ua.VariantType.UInt32)],
    )
    try:
        (answer,) = await session.uaclient.call([call])
        answer.StatusCode.check()
        ids, handles = answer.OutputArguments
        return dict(zip(handles.Value, ids.Value, strict=True))
    except (UaError, ValueError, IndexError, TypeError):
        return None


async def republish(session: Session, subscription: int, number: int) -> tuple[bytes, Notification] | None:
    """Have a message sent again; None when the server has it no more."""
    request = ua.RepublishRequest()
    request.Parameters.SubscriptionId = ua.IntegerId(subscription)
    request.Parameters.RetransmitSequenceNumber = ua.Counter(number)
    try:
        data, pos = await session.request(request)
    except UaStatusCodeError:
        return None
    return data, republished(data, pos, subscription)


@dataclass(frozen=True, slots=True)
class HistoryResult:
    """What a server says to one node: status, continuation point, and where the HistoryData begins and ends."""

    status: int
    more: bytes | None
    start: int
    end: int


def _results(data: bytes, pos: int) -> list[HistoryResult]:
    """A HistoryReadResponse behind its header (OPC 10000-4 clause 5.11.3)."""
    out = []
    try:
        (count,) = struct.unpack_from("<i", data, pos)
        pos += 4
        for _ in range(count):
            (status,) = struct.unpack_from("<I", data, pos)
            more, pos = binary.byte_string(data, pos + 4)
            _, pos = binary.node_id(data, pos)
            encoded, pos = data[pos], pos + 1
            length = 0
            if encoded:
                (length,) = struct.unpack_from("<i", data, pos)
                pos += 4
            if not 0 <= length <= len(data) - pos:
                msg = f"history of {length} bytes, of which {len(data) - pos} are there"
                raise Malformed(msg)
            out.append(HistoryResult(status, more or None, pos, pos + length))
            pos += length
    except (struct.error, IndexError) as error:
        raise Malformed(str(error)) from None
    return out


async def read_history(
    session: Session, nodes: Sequence[tuple[ua.NodeId | None, bytes | None]], start: int, end: int, most: int
) -> tuple[bytes, list[HistoryResult]]:
    """Read raw values (OPC 10000-11 clause 6.5.3).

    Args:
        session: The session.
        nodes: The nodes, each with the continuation point that it goes on from.
        start: µs since the epoch.
        end: µs since the epoch; it is read, too.
        most: Values of one node, at most.

    Returns:
        The answer, and what it says to each node.

    Raises:
        Malformed: The answer is none.
    """
    request = ua.HistoryReadRequest()
    details = ua.ReadRawModifiedDetails(
        IsReadModified=False,
        StartTime=_EPOCH + datetime.timedelta(microseconds=start),
        EndTime=_EPOCH + datetime.timedelta(microseconds=end + 1),
        NumValuesPerNode=ua.Counter(most),
        ReturnBounds=False,
    )
    request.Parameters = ua.HistoryReadParameters(
        HistoryReadDetails=details,
        TimestampsToReturn=ua.TimestampsToReturn.Source,
        ReleaseContinuationPoints=False,
        NodesToRead=[ua.HistoryReadValueId(NodeId=node, ContinuationPoint=point) for node, point in nodes],
    )
    data, pos = await session.request(request, _HISTORY_WAIT)
    results = _results(data, pos)
    if len(results) != len(nodes):
        msg = f"{len(results)} histories of {len(nodes)} nodes"
        raise Malformed(msg)
    return data, results
