"""An intake for tests of readers: it keeps all that it is given and can be waited on."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from connectors.contract import SourceState
from normalization.reading import Columns, Quality, Tag, TagTable, ValueType


@dataclass(frozen=True, slots=True)
class Recorded:
    """A reading as it was appended; `value` is what the device meant (a bool for BOOLEAN, unsigned for UINT64)."""

    tag: Tag
    type: ValueType
    value: Any
    quality: Quality
    status: int | None
    source_time: int | None
    flags: int
    properties: str | None
    reject: str | None


@dataclass(frozen=True, slots=True)
class Gap:
    """A call of `Intake.gap`."""

    tags: list[Tag]
    start: int
    end: int
    reason: str


@dataclass
class RecordingIntake:
    """Records what a reader hands over.

    Attributes:
        hold: Futures of `append` stay open until `release`; otherwise they are done at once.
        tags: The tag table that readings refer to.
        appended: Rows and state of each append, in order.
        states: State and detail of each call of `state`.
        gaps: Each call of `gap`.
    """

    hold: bool = False
    tags: TagTable = field(default_factory=TagTable)
    appended: list[tuple[Columns, bytes | None]] = field(default_factory=list)
    states: list[tuple[SourceState, str]] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    open: list["asyncio.Future[None]"] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _read: int = 0
    _all: list[Recorded] = field(default_factory=list)
    _by_name: dict[str, list[Recorded]] = field(default_factory=dict)

    def tag(self, tag: Tag) -> int:
        return self.tags.intern(tag)

    def append(self, rows: Columns, state: bytes | None = None) -> "asyncio.Future[None]":
        assert len({len(getattr(rows, name)) for name in Columns.__slots__}) == 1, "columns differ in length"
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.appended.append((rows, state))
        if self.hold:
            self.open.append(future)
        else:
            future.set_result(None)
        self._changed.set()
        return future

    def gap(self, tags: Sequence[int], start: int, end: int, reason: str) -> None:
        self.gaps.append(Gap([self.tags[tag] for tag in tags], start, end, reason))
        self._changed.set()

    def state(self, state: SourceState, detail: str = "") -> None:
        self.states.append((state, detail))
        self._changed.set()

    def release(self, count: int | None = None) -> None:
        """Finish the oldest `count` futures that are held, or all."""
        for future in self.open[:count]:
            if not future.done():
                future.set_result(None)
        del self.open[:count]

    async def until(self, condition: Callable[[], Any], within: float = 5.0) -> None:
        """Wait until `condition` holds; it is asked again whenever the reader hands something over."""
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"not within {within} s; states {self.states}, last {self.readings()[-5:]}") from None

    def readings(self, tag_name: str | None = None) -> list[Recorded]:
        """All readings in order, or those of one tag."""
        for rows, _ in self.appended[self._read :]:
            for row in range(len(rows)):
                reading = self._recorded(rows, row)
                self._all.append(reading)
                self._by_name.setdefault(reading.tag.tag_name, []).append(reading)
        self._read = len(self.appended)
        return self._all if tag_name is None else self._by_name.get(tag_name, [])

    def last(self, tag_name: str) -> Recorded | None:
        """The newest reading of a tag that is not a reject."""
        return next((r for r in reversed(self.readings(tag_name)) if r.reject is None), None)

    def _recorded(self, rows: Columns, row: int) -> Recorded:
        kind = ValueType(rows.type[row])
        columns = (rows.value_double, rows.value_int, rows.value_text, rows.value_bytes)
        held = [column[row] for column in columns if column[row] is not None]
        assert len(held) == (kind != ValueType.NULL), f"{kind.name} with {held}"
        value: Any = held[0] if held else None
        if kind == ValueType.BOOLEAN:
            value = bool(value)
        elif kind == ValueType.UINT64:
            value %= 2**64
        return Recorded(
            self.tags[rows.tag[row]],
            kind,
            value,
            Quality(rows.quality[row]),
            rows.status[row],
            rows.source_time[row],
            rows.flags[row],
            rows.properties[row],
            rows.reject[row],
        )
