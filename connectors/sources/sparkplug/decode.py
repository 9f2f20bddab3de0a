"""The metrics of one message: what a birth says of them, and their readings. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from typing_extensions import override

from connectors.sources.sparkplug.nodes import Metric, Node, Owner
from connectors.wire.sparkplug import REBIRTH
from connectors.wire.sparkplug_values import DataType, metric_name, metric_value, properties_of, quality_of
from normalization.reading import Columns, Flags, Quality, ValueType, to_json

TagOf = Callable[[str, str, str, str, dict[str, str]], int]
"""Row of the tag table for device_id, address, tag name, unit and metadata."""

_NOT_READINGS: Final = frozenset({REBIRTH, "bdSeq"})
RETAINED: Final = 1
_SHOWN: Final = 5
_MAX_NAME: Final = 1000  # characters; what is said of a metric is kept for as long as it lives
_MAX_METADATA: Final = 4000
_YEAR_10000: Final = 253_402_300_800_000


@dataclass(slots=True)
class Broken:
    """What could not be read of a message, for people: the first few in words, the rest as a number."""

    reasons: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, reason: str) -> None:
        """Take note of one more."""
        self.count += 1
        if len(self.reasons) < _SHOWN:
            self.reasons.append(reason)

    def extend(self, other: "Broken") -> None:
        """Take note of all that `other` has."""
        self.reasons = [*self.reasons, *other.reasons][:_SHOWN]
        self.count += other.count

    @override
    def __str__(self) -> str:
        more = f" and {self.count - _SHOWN} more" if self.count > _SHOWN else ""
        return "; ".join(self.reasons) + more


@dataclass(slots=True)
class Unknown:
    """Metrics of a message that no birth has told of.

    Attributes:
        places: Where they stand in the message.
        broken: They in words.
        reason: What the edge node has to be asked for.
    """

    places: list[int] = field(default_factory=list)
    broken: Broken = field(default_factory=Broken)
    reason: str = ""


def micros(milliseconds: int) -> int | None:
    """µs since the epoch; None where the calendar ends."""
    return milliseconds * 1000 if milliseconds < _YEAR_10000 else None


def bd_seq(message: Any) -> int | None:
    """Number of the connection that a birth or death of an edge node names."""
    return next((int(m.long_value or m.int_value) for m in message.metrics if m.name == "bdSeq"), None)


def describe(
    node: Node, owner: Owner, name: str, datatype: int, unit: str, metadata: dict[str, str], tag_of: TagOf
) -> Metric:
    """Take a metric of a birth, now or when it was stored, into the table.

    Raises:
        ValueError: The source has as many tags as it may have.
    """
    device_id = "/".join(filter(None, (node.group, node.node, owner.device)))
    address = f"{owner.device}/{name}" if owner.device else name
    tag = -1 if name in _NOT_READINGS else tag_of(device_id, address, name, unit, metadata)
    metric = owner.metrics[name] = Metric(name, datatype, unit, metadata, tag)
    return metric


def read_birth(node: Node, owner: Owner, message: Any, tag_of: TagOf) -> tuple[list[tuple[Metric, Any]], Broken]:
    """Put what a birth says into the tables of `owner`, which replaces what they held.

    Returns:
        The metrics with their messages, whose values are to be read, and what is wrong.
    """
    owner.metrics, owner.aliases, owner.remembered = {}, {}, {}
    found: list[tuple[Metric, Any]] = []
    broken = Broken()
    for item in message.metrics:
        try:
            name = metric_name(item)
            if not name:
                raise ValueError("a metric of a birth has no name")
            if len(name) > _MAX_NAME:
                raise ValueError(f"a metric name of {len(name)} characters, more than {_MAX_NAME}")
            unit, metadata, reason = _unit_and_metadata(item)
            metric = describe(node, owner, name, item.datatype, unit, metadata, tag_of)
            if item.HasField("alias"):
                before = owner.aliases.get(item.alias, metric)
                owner.aliases[item.alias] = metric if before is not None and before.name == name else None
            if reason:
                raise ValueError(f"metric `{name}`: {reason}")
            found.append((metric, item))
        except ValueError as error:
            broken.add(str(error))
    return found, broken


def _unit_and_metadata(item: Any) -> tuple[str, dict[str, str], str]:
    """The unit, all else as far as it has room, and why they cannot be read; the metric has its alias all the same."""
    try:
        properties = properties_of(item)
    except ValueError as error:
        return "", {}, str(error)
    unit = properties.pop("engUnit", None)
    properties.pop("Quality", None)
    if item.HasField("metadata") and item.metadata.description:
        properties["description"] = item.metadata.description
    metadata: dict[str, str] = {}
    room = _MAX_METADATA
    for key, value in properties.items():
        if value is None or isinstance(value, bytes):
            continue
        text = value if isinstance(value, str) else to_json(value)
        room -= len(key) + len(text)
        if room < 0:
            metadata["truncated"] = "true"
            break
        metadata[key] = text
    return unit if isinstance(unit, str) and len(unit) <= _MAX_NAME else "", metadata, ""


def read_births(found: list[tuple[Metric, Any]], message: Any, head: int, rows: Columns, broken: Broken) -> None:
    """Append the values of a birth."""
    for metric, item in found:
        try:
            _read(metric, item, message, head, rows, birth=True)
        except ValueError as error:
            broken.add(str(error))


def read_data(
    owner: Owner | None, message: Any, head: int, rows: Columns, broken: Broken, places: Iterable[int] | None = None
) -> Unknown:
    """Append the values of a data message.

    Args:
        owner: Whose metrics they are; None when its birth is not known.
        message: The payload.
        head: Bits of the MQTT header.
        rows: Where readings go.
        broken: Where that goes which will never be read.
        places: Which of the message's metrics; all by default.

    Returns:
        Those that are in no birth.
    """
    unknown = Unknown()
    metrics = message.metrics
    for place in range(len(metrics)) if places is None else places:
        item = metrics[place]
        try:
            name = metric_name(item)
            metric: Metric | None = None
            if name:
                metric = owner.metrics.get(name) if owner is not None else None
            elif not item.HasField("alias"):
                raise ValueError("a metric without name and alias")
            elif owner is not None:
                metric = owner.aliases.get(item.alias)
                if metric is None and item.alias in owner.aliases:
                    raise ValueError(f"alias {item.alias} stands for two metrics")
            if metric is not None:
                _read(metric, item, message, head, rows)
                continue
            unknown.places.append(place)
            unknown.broken.add(f"metric `{name}` has no birth" if name else f"alias {item.alias} has no birth")
            unknown.reason = unknown.reason or ("unknown metric" if name else "unknown alias")
        except ValueError as error:
            broken.add(str(error))
    return unknown


def _read(metric: Metric, item: Any, message: Any, head: int, rows: Columns, *, birth: bool = False) -> None:
    if metric.tag < 0:
        return
    datatype = item.datatype or metric.datatype
    quality: int = Quality.GOOD
    status: int | None = None
    beside: dict[str, Any] = {}
    try:
        value = metric_value(item, datatype)
        if item.HasField("properties"):
            beside = properties_of(item)
            quality, status = quality_of(beside)
            if birth:  # those of a birth are the tag's metadata
                beside = {}
            beside.pop("Quality", None)
            beside.pop("engUnit", None)
    except ValueError as error:
        raise ValueError(f"metric `{metric.name}`: {error}") from None
    if value is None and quality == Quality.GOOD:
        quality = Quality.BAD  # there is no value, whatever its quality is said to be
    if item.is_transient:
        beside["is_transient"] = True
    if item.HasField("metadata"):
        fields = {field.name: value for field, value in item.metadata.ListFields() if field.name != "description"}
        if fields:
            beside["metadata"] = {
                key: part if not isinstance(part, bytes) else part.decode("utf-8", "backslashreplace")
                for key, part in fields.items()
            }
    stamp = item.timestamp or message.timestamp
    rows.add(
        metric.tag,
        value,
        quality=quality,
        status=status,
        source_time=micros(stamp) if stamp else None,
        flags=head & RETAINED | (Flags.HISTORICAL if item.is_historical else 0),
        properties=to_json(beside) if beside else None,
        unsigned=datatype == DataType.UINT64,
    )


def read_stale(tags: list[int], rows: Columns, source_time: int | None) -> None:
    """Append that these tags have no value any more."""
    rows.add_many(tags, ValueType.NULL, quality=Quality.STALE, source_time=source_time)
