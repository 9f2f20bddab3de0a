"""What goes in and comes out where nothing is connected: what was captured of a source, and what a target would be given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from connectors.contract import RejectedRecords
from normalization.reading import Tag

Table = Literal["coil", "discrete", "input", "holding"]


class CapturedError(ValueError):
    """A source can make nothing of what is said to have come from it; the message says what it could."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of one tag.

    Attributes:
        tag: The tag's row, as `SourceConfig.row_of` gives it.
        value: The value, as the device says it.
        quality: Its quality in words or as the protocol's number; empty for good.
        time: When it was measured, µs since the epoch, UTC; None where the device does not say.
        type: Type that the protocol gives the value, where it knows more than JSON, e.g. `Float`; empty for the usual one.
    """

    tag: Tag
    value: Any
    quality: str | int = ""
    time: int | None = None
    type: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a topic.

    Attributes:
        topic: Its topic.
        payload: Its payload.
        retained: Whether the broker says that it kept it.
    """

    topic: str
    payload: bytes
    retained: bool = False


@dataclass(frozen=True, slots=True)
class Registers:
    """What a device answers when it is asked for addresses that follow one another.

    Attributes:
        first: The first address, from 0 as on the wire.
        words: What stands there: registers of 16 bits, or bits.
        table: Which table they are of.
        unit_id: The device; None for the source's.
        time: When the answer came, µs since the epoch, UTC.
    """

    first: int
    words: tuple[int, ...]
    table: Table = "holding"
    unit_id: int | None = None
    time: int | None = None


Captured = Sample | Message | Registers


@dataclass(frozen=True, slots=True)
class Written:
    """What a target would be given.

    Attributes:
        place: Topic, table, file or the like.
        payload: The bytes; None where they depend on what the target says when it is connected to.
        fields: What goes beside the bytes (key, headers …), or the columns of a row.
    """

    place: str
    payload: bytes | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def refuse(wrong: Mapping[int, str]) -> NoReturn:
    """Raise what a writer raises of rows that can never be written.

    Args:
        wrong: The reasons by row.
    """
    rows = sorted(wrong)
    raise RejectedRecords(rows, [wrong[row] for row in rows], rest_written=True)


def columns_of(rows: Any, place: str) -> list[Written]:
    """Arrow rows as they would be written to a table.

    Args:
        rows: A record batch.
        place: The table.
    """
    return [Written(place, None, row) for row in rows.to_pylist()]
