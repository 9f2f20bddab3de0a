"""The clock of windows over the readings of several sources: none closes before all of them are past it."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol, TypeVar

from bytewax.operators.windowing import Clock, ClockLogic
from typing_extensions import override

_NEVER: Final = datetime.min.replace(tzinfo=UTC)


class OfSource(Protocol):
    """One or more readings of a source."""

    @property
    def source(self) -> str:
        """Name of the source."""

    @property
    def time(self) -> datetime:
        """When the newest of them was measured, UTC."""

    @property
    def received(self) -> datetime:
        """When the newest of them was received, UTC."""


V = TypeVar("V", bound=OfSource)


@dataclass(slots=True)
class _State:
    """What is known of the sources of one key.

    Attributes:
        began: When its first reading was received.
        newest: When the newest reading of each source was measured, and received.
        watermark: What is older comes too late.
    """

    began: datetime | None = None
    newest: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    watermark: datetime = _NEVER


@dataclass
class SourcesClock(Clock[V, _State]):
    """A clock that goes by the source that is furthest behind.

    Only readings move it on, so that a window holds the same readings after a stop or a crash, whatever came in which order
    from which member of a cluster: with the newest of all as the clock, as Bytewax's own has it, the readings of a member
    that was away would come too late, because the others have gone on.

    Args:
        wait: How much later than a newer one a reading of the same source may come.
        sources: The sources whose readings a key will get, known beforehand; those that came are waited for too.
        patience: A source of which nothing was received for so long, while others were, is not waited for until it is back.
    """

    wait: timedelta
    sources: Callable[[V], Collection[str]]
    patience: timedelta

    @override
    def build(self, resume_state: _State | None) -> "_SourcesClockLogic[V]":
        return _SourcesClockLogic(self, _copy(resume_state or _State()))


class _SourcesClockLogic(ClockLogic[V, _State]):
    def __init__(self, clock: SourcesClock[V], state: _State) -> None:
        self._clock = clock
        self._state = state

    @override
    def before_batch(self) -> None:
        pass

    @override
    def on_item(self, value: V) -> tuple[datetime, datetime]:
        state = self._state
        time, received = state.newest.get(value.source, (_NEVER, _NEVER))
        state.newest[value.source] = max(time, value.time), max(received, value.received)
        state.began = state.began or value.received
        state.watermark = max(state.watermark, self._behind(self._clock.sources(value), state.began))
        return value.time, state.watermark

    def _behind(self, sources: Collection[str], began: datetime) -> datetime:
        """What the source furthest behind is past, less the wait."""
        newest = dict.fromkeys(sources, (_NEVER, began)) | self._state.newest
        present = max(received for _, received in newest.values()) - self._clock.patience
        time = min(time for time, received in newest.values() if received >= present)
        return time - self._clock.wait if time - _NEVER > self._clock.wait else _NEVER

    @override
    def on_notify(self) -> datetime:
        return self._state.watermark

    @override
    def on_eof(self) -> datetime:
        return self._state.watermark

    @override
    def to_system_utc(self, timestamp: datetime) -> datetime | None:
        return None

    @override
    def snapshot(self) -> _State:
        return _copy(self._state)


def _copy(state: _State) -> _State:
    return _State(state.began, dict(state.newest), state.watermark)
