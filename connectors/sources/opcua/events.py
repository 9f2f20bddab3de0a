"""Events, alarms and conditions as readings (OPC 10000-4 clause 7.22.3, OPC 10000-9).

Each condition of a source, and each type of its other events, is a tag; the branches of a condition are another one. The value of a reading is the message; severity, state
and all other fields are its properties. While a condition is enabled and active, the quality is ALARM.
"""

import base64
import logging
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIdNames, ObjectIds

from connectors.sources.opcua.binary import Malformed, iso_time, microseconds, variant
from connectors.sources.opcua.config import EventConfig
from connectors.sources.opcua.connection import Connection
from connectors.sources.opcua.names import format_node_id, parse_node_id
from connectors.sources.opcua.nodes import resolve
from connectors.sources.opcua.session import node_id
from normalization.reading import Columns, Flags, Quality, to_json

_log = logging.getLogger(__name__)

EVENTS: Final = "i=916"  # encoding of an EventNotificationList
_FIRST_HANDLE: Final = 0x8000_0000  # of event items: data items begin at 0
MODEL_HANDLE: Final = 0x7FFF_FFFF  # the smallest; node-opcua gives the largest number another meaning
_DATE_TIME: Final = 13
_BASE, _CONDITION = ObjectIds.BaseEventType, ObjectIds.ConditionType
_ACKNOWLEDGEABLE, _ALARM = ObjectIds.AcknowledgeableConditionType, ObjectIds.AlarmConditionType
_FIELDS: Final = {  # name in the properties: type that has the field, and its browse path; the condition's own id has none
    "event_id": (_BASE, "EventId"),
    "event_type": (_BASE, "EventType"),
    "source_node": (_BASE, "SourceNode"),
    "source": (_BASE, "SourceName"),
    "time": (_BASE, "Time"),
    "message": (_BASE, "Message"),
    "severity": (_BASE, "Severity"),
    "condition_id": (_CONDITION, ""),
    "condition": (_CONDITION, "ConditionName"),
    "branch_id": (_CONDITION, "BranchId"),
    "retain": (_CONDITION, "Retain"),
    "enabled": (_CONDITION, "EnabledState/Id"),
    "comment": (_CONDITION, "Comment"),
    "acked": (_ACKNOWLEDGEABLE, "AckedState/Id"),
    "confirmed": (_ACKNOWLEDGEABLE, "ConfirmedState/Id"),
    "active": (_ALARM, "ActiveState/Id"),
    "state": (_ALARM, "ActiveState"),
    "suppressed": (_ALARM, "SuppressedOrShelved"),
}
_NULL_NODE: Final = "i=0"


def _type(text: str, namespaces: list[str]) -> ua.NodeId:
    """The event type that is meant: by node id, or by a name of the specification such as AlarmConditionType."""
    if "=" not in text:
        number = getattr(ObjectIds, text, None)
        found = node_id(number) if isinstance(number, int) else None
    else:
        found = resolve(text, namespaces)
    if found is None:
        msg = f"event type `{text}` is not known; write its node id, e.g. nsu=http://vendor/ns;i=1"
        raise LookupError(msg)
    return found


def _operand(type_: ua.NodeId, path: str) -> ua.SimpleAttributeOperand:
    names = []
    for name in path.split("/") if path else []:
        index, _, rest = name.partition(":")
        names.append(
            ua.QualifiedName(rest, ua.UInt16(int(index))) if rest and index.isdigit() else ua.QualifiedName(name)
        )
    attribute = AttributeIds.Value if names else AttributeIds.NodeId
    return ua.SimpleAttributeOperand(TypeDefinitionId=type_, BrowsePath=names, AttributeId=ua.IntegerId(attribute))


def _where(types: Sequence[ua.NodeId], severity: int) -> ua.ContentFilter:
    """Events of one of these types and of this severity at least; the first element is the root, and points to later ones."""
    literal = ua.LiteralOperand
    leaves = [
        ua.ContentFilterElement(ua.FilterOperator.OfType, [literal(ua.Variant(type_, ua.VariantType.NodeId))])
        for type_ in types
    ]
    elements: list[ua.ContentFilterElement] = []
    if severity > 1:
        asked = [_operand(node_id(_BASE), "Severity"), literal(ua.Variant(severity, ua.VariantType.UInt16))]
        worse = ua.ContentFilterElement(ua.FilterOperator.GreaterThanOrEqual, asked)
        if not leaves:
            return ua.ContentFilter([worse])
        both = [ua.ElementOperand(ua.UInt32(1)), ua.ElementOperand(ua.UInt32(2))]
        elements = [ua.ContentFilterElement(ua.FilterOperator.And, both), worse]
    while leaves:
        at = len(elements)
        if len(leaves) > 1:
            either = [ua.ElementOperand(ua.UInt32(at + 1)), ua.ElementOperand(ua.UInt32(at + 2))]
            elements.append(ua.ContentFilterElement(ua.FilterOperator.Or, either))
        elements.append(leaves.pop(0))
    return ua.ContentFilter(elements)


@dataclass(slots=True)
class Told:
    """What came besides readings.

    Attributes:
        refresh: The server wants its conditions to be asked for.
        overflow: Events were lost in the server's queue.
        model: Nodes came or went.
    """

    refresh: bool = False
    overflow: bool = False
    model: bool = False


@dataclass(slots=True)
class _Event:
    entry: EventConfig
    fields: dict[str, Any] = field(default_factory=dict)
    time: int | None = None


def _is_wanted(event: _Event) -> bool:
    """Of what the server is not asked to filter, or does not filter though it is asked."""
    entry, name = event.entry, str(event.fields.get("source") or "")
    names = {name, re.sub(r"^\d+:", "", name)}  # some servers write the namespace before it
    if entry.sources and not any(fnmatchcase(one, pattern) for pattern in entry.sources for one in names):
        return False
    return int(event.fields.get("severity") or 1) >= entry.severity_min  # some say 0


class Events:
    """The events of one connection.

    Args:
        connection: The connection.
        tags: Tags of what came in connections before; what comes in this one is added.
    """

    def __init__(self, connection: Connection, tags: set[int]) -> None:
        self._config = config = connection.config
        self._session = session = connection.session
        self._intake = connection.intake
        self._types = connection.types.types
        self._watch_model = config.browsing is not None  # hear of nodes that come and go
        self._fields = _FIELDS
        self._names: dict[str, str] = {}  # of event types
        self._refreshing = False
        self._device = session.server_name or config.endpoint
        self.tags = tags

    async def learn(self) -> None:
        """Leave out the fields of types that the server does not have: some refuse a filter that names them."""
        optional = [_CONDITION, _ACKNOWLEDGEABLE, _ALARM]
        names = await self._session.read_attributes_of([node_id(one) for one in optional], AttributeIds.BrowseName)
        absent = {one for one, name in zip(optional, names, strict=True) if name.Value is None or not name.Value.Value}
        self._fields = {name: of for name, of in _FIELDS.items() if of[0] not in absent}

    def items(self, *, filtered: bool = True) -> list[ua.MonitoredItemCreateRequest]:
        """What to subscribe to, the watch over the model last."""
        namespaces = self._session.namespaces
        out = []
        for at, entry in enumerate(self._config.events):
            types = [_type(text, namespaces) for text in entry.types]
            own = types[0] if len(types) == 1 else node_id(_BASE)
            select = [_operand(node_id(type_), path) for type_, path in self._fields.values()]
            select += [_operand(own, path) for path in entry.fields]
            where = _where(types, entry.severity_min) if filtered else ua.ContentFilter()
            node = resolve(entry.node, namespaces) or ua.NodeId()
            out.append(_item(node, _FIRST_HANDLE + at, ua.EventFilter(select, where), entry.queue_size))
        if self._watch_model:
            where = _where([node_id(ObjectIds.BaseModelChangeEventType)], 1)
            changes = ua.EventFilter([_operand(node_id(_BASE), "EventType")], where)
            out.append(_item(node_id(ObjectIds.Server), MODEL_HANDLE, changes, 10))
        return out

    def entry(self, handle: int) -> EventConfig | None:
        """What an item with this client handle is for; None when it is not for events that are read."""
        at = handle - _FIRST_HANDLE
        return self._config.events[at] if 0 <= at < len(self._config.events) else None

    async def take(self, data: bytes, rows: Columns) -> Told:
        """Append the events of an EventNotificationList, given its body."""
        told = Told()
        events = []
        try:
            events = self._decoded(data, told)
        except (Malformed, struct.error, IndexError, RecursionError) as error:
            rows.add_reject(self._tag("events", "", "events"), f"events cannot be decoded: {error}", data)
        for event in events:
            kind = str(event.fields.get("event_type"))
            match kind:
                case "i=2787":  # RefreshStartEventType
                    self._refreshing = True
                case "i=2788":  # RefreshEndEventType
                    self._refreshing = False
                case "i=2789":  # RefreshRequiredEventType
                    told.refresh = True
                case "i=3035":  # EventQueueOverflowEventType
                    told.overflow = True
                case _ if _is_wanted(event):
                    self._append(event, await self._name_of(kind), rows)
        return told

    def _decoded(self, data: bytes, told: Told) -> list[_Event]:
        (count,) = struct.unpack_from("<i", data)
        pos = 4
        events = []
        for _ in range(count):
            handle, fields = struct.unpack_from("<Ii", data, pos)
            pos += 8
            entry = self.entry(handle)
            event = _Event(entry) if entry is not None else None
            names = [*self._fields, *event.entry.fields] if event is not None else []
            for at in range(max(0, fields)):
                start = pos
                value, pos = variant(data, pos, self._types)
                if event is None or at >= len(names):
                    continue
                if names[at] == "time" and data[start] == _DATE_TIME:
                    (ticks,) = struct.unpack_from("<q", data, start + 1)
                    event.time = microseconds(ticks)
                    value = iso_time(ticks)
                event.fields[names[at]] = value
            if event is not None:
                events.append(event)
            elif handle == MODEL_HANDLE:
                told.model = True
        return events

    async def _name_of(self, kind: str) -> str:
        """Browse name of an event type."""
        if kind not in self._names:
            name = parse_node_id(kind)
            standard = isinstance(name.identifier, int) and name.namespace == 0
            self._names[kind] = ObjectIdNames.get(name.identifier, kind) if isinstance(name.identifier, int) else kind
            if not standard:
                asked = node_id(name.identifier, name.namespace if isinstance(name.namespace, int) else 0)
                (read,) = await self._session.read_attributes_of([asked], AttributeIds.BrowseName)
                said = read.Value.Value if read.Value is not None else None
                self._names[kind] = (said.Name if isinstance(said, ua.QualifiedName) else None) or kind
        return self._names[kind]

    def _append(self, event: _Event, kind: str, rows: Columns) -> None:
        fields = {name: value for name, value in event.fields.items() if value is not None and value != _NULL_NODE}
        message = fields.pop("message", "")
        fields["event_type"] = kind
        of = str(fields.get("condition") or kind)
        if "branch_id" in fields:
            of += "/branch"  # a state of before that waits to be acknowledged, and says nothing about now
        for name in ("source_node", "condition_id", "branch_id"):
            if isinstance(fields.get(name), str):
                fields[name] = self._with_uri(fields[name])
        if isinstance(fields.get("event_id"), bytes):
            fields["event_id"] = base64.b64encode(fields["event_id"]).decode()
        source = str(fields.get("source_node") or fields.get("source") or "")
        tag = self._tag(source, str(fields.get("source") or ""), of)
        active = fields.get("active") is True and fields.get("enabled") is not False
        rows.add(
            tag,
            str(message),
            quality=Quality.ALARM if active else Quality.GOOD,
            status=0,
            source_time=event.time,
            flags=Flags.RESENT if self._refreshing else 0,
            properties=to_json(fields),
        )

    def _tag(self, source: str, name: str, kind: str) -> int:
        tag_name = f"{name}.{kind}" if name else kind
        tag = self._intake.tag(self._config.tag(self._device, f"{source}/{kind}", tag_name))
        self.tags.add(tag)
        return tag

    def _with_uri(self, text: str) -> str:
        name = parse_node_id(text)
        namespaces = self._session.namespaces
        if isinstance(name.namespace, int) and 0 < name.namespace < len(namespaces):
            return format_node_id(namespaces[name.namespace], name.identifier)
        return text

    async def refresh(self, subscription: int) -> None:
        """Have the server say all conditions again that are of interest (OPC 10000-9 clause 5.5.7)."""
        if not any(entry.refresh for entry in self._config.events):
            return
        call = ua.CallMethodRequest(
            ObjectId=node_id(_CONDITION),
            MethodId=node_id(ObjectIds.ConditionType_ConditionRefresh),
            InputArguments=[ua.Variant(subscription, ua.VariantType.UInt32)],
        )
        (answer,) = await self._session.uaclient.call([call])
        if not answer.StatusCode.is_good():
            _log.info("source %s: the server refreshes no conditions: %s", self._config.name, answer.StatusCode.name)


def _item(node: ua.NodeId, handle: int, wanted: ua.EventFilter, queue: int) -> ua.MonitoredItemCreateRequest:
    return ua.MonitoredItemCreateRequest(
        ItemToMonitor=ua.ReadValueId(NodeId=node, AttributeId=AttributeIds.EventNotifier),
        MonitoringMode=ua.MonitoringMode.Reporting,
        RequestedParameters=ua.MonitoringParameters(
            ClientHandle=ua.IntegerId(handle),
            SamplingInterval=0.0,
            Filter=wanted,
            QueueSize=ua.Counter(queue),
            DiscardOldest=True,
        ),
    )
