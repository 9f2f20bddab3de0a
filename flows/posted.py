"""Readings that are handed to the gateway, by the API or from Python, instead of read by it.

They take the way of all readings: the journal, normalizing, and the rules or the one target that was named. Whoever hands them
over is told when they are durable, and may do so again when the answer was lost: a reading with an `id` that is the same in
everything was there before and is left out. The newest `delivery.repeats.WINDOW` of them are remembered for each destination,
also across restarts and kills, because what is remembered is saved together with the readings.
"""

import asyncio
import concurrent.futures
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Protocol

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from typing_extensions import override

from config.models import POSTED
from connectors.contract import SourceState
from connectors.dry_run import Captured, CapturedError, Sample
from connectors.settings import SourceConfig
from delivery.journal import Journal
from delivery.repeats import Repeats
from flows.intake import SourceIntake
from normalization.reading import Columns, Quality, Tag, TagTable, to_json
from normalization.rules import Router

if TYPE_CHECKING:
    from config.models import Configuration

PROTOCOL: Final = "api"
MOST: Final = 10_000  # readings at once
_WAITING: Final = 20_000  # readings that are not durable yet
_TAGS: Final = 100_000
_PATIENCE: Final = 10.0  # seconds
_TEXT: Final = 64 * 1024
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class NotTakenError(Exception):
    """Readings that were not taken; none of those that came together was."""


class BusyError(NotTakenError):
    """Too much waits for the disk; try again in a second."""


class LeavingError(NotTakenError):
    """The gateway is about to end, or has; its next start takes them."""


class NotDurableError(NotTakenError):
    """The disk has not answered in time; the readings may become durable yet."""


class UnfitError(NotTakenError):
    """They can never be taken."""


def _time(given: object) -> object:
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given.upper() if len(given) >= len("2026-01-01T00:00:00") else "")
        except ValueError:
            raise ValueError("write the time as 2026-01-31T12:00:00Z") from None
    if not isinstance(given, datetime):
        return given
    aware = given.replace(tzinfo=UTC) if given.tzinfo is None else given
    if not _FIRST <= aware <= _LAST:
        raise ValueError("the time lies outside the years 1 to 9999")
    return aware


def _quality(given: object) -> object:
    if isinstance(given, str):
        name = given.upper()
        if name in Quality.__members__:
            return name
    raise ValueError(f"it is one of {', '.join(Quality.__members__)}")


def _value(given: object) -> object:
    if isinstance(given, str | bytes) and len(given) > _TEXT:
        raise ValueError(f"a text may have {_TEXT} characters")
    if isinstance(given, int) and given.bit_length() > 1024:
        raise ValueError("the number is too large")
    if given is None or isinstance(given, bool | int | float | str | bytes | list | dict | tuple):
        return given
    raise ValueError("it is a number, a text, true, false, null, an array or an object")


Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"\S")]


class CloudData(BaseModel):
    """A reading that is handed to the gateway."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    id: Annotated[str, Field(min_length=1, max_length=256)] | None = Field(
        None,
        description="name of this reading, given by who sends it: sent again with the same content it is left out. Without "
        "one, each reading that comes is a new one",
    )
    device_id: Name = Field(description="the device that it is of")
    tag_name: Name = Field(description="the tag that it is of")
    value: Annotated[Any, BeforeValidator(_value)] = Field(
        description="number, text, true, false, null, array or object; whole numbers of 64 bits stay whole"
    )
    quality: Annotated[str, BeforeValidator(_quality)] = Field(
        "GOOD",
        description="GOOD, UNCERTAIN, BAD, STALE or ALARM; small letters do as well",
        json_schema_extra={"enum": list(Quality.__members__)},
    )
    timestamp: Annotated[datetime, BeforeValidator(_time)] | None = Field(
        None, description="when it was measured, ISO 8601, UTC where it does not say; absent, only its arrival is known"
    )

    def append_to(self, rows: Columns, tag: int) -> None:
        """Add it to others, with its row of the tag table."""
        rows.add(tag, self.value, quality=Quality[self.quality], source_time=self.micros)

    @property
    def micros(self) -> int | None:
        """`timestamp` in µs since the epoch."""
        return None if self.timestamp is None else (self.timestamp - _EPOCH) // _MICROSECOND

    def digest(self) -> bytes | None:
        """What is the same of no other reading but of this one sent again; None without an id."""
        if self.id is None:
            return None
        value = self.value if isinstance(self.value, bool | int | float | str | None) else [to_json(self.value)]
        text = json.dumps([self.id, self.device_id, self.tag_name, value, self.quality, self.micros])
        return hashlib.blake2b(text.encode(), digest_size=12).digest()


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of readings that were handed over; all of them are durable.

    Attributes:
        accepted: How many were new.
        repeated: How many were there before, and were left out.
    """

    accepted: int
    repeated: int


def source_of(target: str | None) -> str:
    """The source that readings for a target belong to; `api` for those that go by the rules."""
    return POSTED if target is None else f"{POSTED}/{target}"


def router_of(config: "Configuration") -> Router:
    """The router of a configuration: its rules, and what is handed over for one target alone."""
    targets = {source_of(target): target for target in config.targets}

    def refusal(source: str) -> str:
        """Rules and default never held for it, so they do not when its target is gone either."""
        posted, _, target = source.partition("/")
        if posted != POSTED or not target or source in targets:
            return ""
        return f"target removed: it was posted for {target} alone, which the configuration does not have"

    return Router(config.rules, config.default, config.source_targets, targets, refusal)


def _row(source: str, device: str, name: str) -> Tag:
    mapping = json.dumps({"equipment": device}, ensure_ascii=False)
    return Tag(source, PROTOCOL, device, name, name, mapping=mapping)


class PostedSource(SourceConfig):
    """The source of what is handed over for one destination, as far as others ask sources: its tags, and what it decodes."""

    name: str = Field(description="`api`, or `api/` and the name of a target")
    protocol: str = PROTOCOL

    @override
    def row_of(self, address: str, device: str = "", unit: str = "", tag_name: str = "") -> Tag | None:
        if not device:
            device, _, address = address.partition("/")
        return _row(self.name, device, address) if device and address else None

    @override
    def decode_sample(self, captured: Captured, intern: Callable[[Tag], int]) -> Columns:
        if not isinstance(captured, Sample):
            raise CapturedError("what is posted is given by a tag, written device/tag, and a value")
        tag, when, rows = captured.tag, captured.time, Columns()
        try:
            posted = CloudData(
                device_id=tag.device_id,
                tag_name=tag.tag_name,
                value=captured.value,
                quality=captured.quality or "GOOD",  # type: ignore[arg-type]
                timestamp=None if when is None else _EPOCH + timedelta(microseconds=when),
            )
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise CapturedError(f"such a reading would not be taken: {wrong}") from None
        posted.append_to(rows, intern(tag))
        return rows


def posted_sources(targets: Iterable[str]) -> list[PostedSource]:
    """The sources of what is handed over: by the rules, and for each target alone."""
    return [PostedSource(name=source_of(target)) for target in (None, *targets)]


class Hosting(Protocol):
    """What the readings are handed to."""

    config: "Configuration"
    draining: bool
    journal: Journal
    tags: TagTable

    @property
    def held(self) -> bool:
        """Whether nothing is taken, so that what is held can be delivered."""


class _Destination:
    """What was handed over for one destination."""

    def __init__(self, process: Hosting, source: str) -> None:
        self.source = source
        self.intake = SourceIntake(source, PROTOCOL, process.journal, process.tags)
        self.intake.state(SourceState.CONNECTED)
        self.repeats = Repeats(process.journal.state(source))
        self.under_way: dict[bytes, concurrent.futures.Future[None]] = {}
        self.tags: dict[tuple[str, str], int] = {}

    def tag(self, device: str, name: str) -> int:
        """Row of the tag table."""
        known = self.tags.get((device, name))
        if known is None:
            if len(self.tags) >= _TAGS:
                raise UnfitError(f"more than {_TAGS} tags were handed over; is there a number in the name of a tag?")
            known = self.intake.tag(_row(self.source, device, name))
            self.tags[device, name] = known
        return known


class Posted:
    """Takes readings that are handed over. Safe to use from several threads and event loops.

    Args:
        process: What they are handed to.

    Attributes:
        intakes: The intakes of their sources, by name.
    """

    def __init__(self, process: Hosting) -> None:
        self.intakes: dict[str, SourceIntake] = {}
        self._process = process
        self._lock = threading.Lock()
        self._destinations: dict[str, _Destination] = {}
        self._waiting = 0

    async def take(self, readings: Sequence[CloudData], target: str | None = None) -> Taken:
        """Take readings, all or none of them; returns when they are durable.

        Args:
            readings: The readings.
            target: The target that alone gets them; None to go by the rules.

        Raises:
            NotTakenError: They were not taken, or not for certain.
        """
        if len(readings) > MOST:
            raise UnfitError(f"{len(readings)} readings at once; {MOST} are taken")
        with self._lock:
            taken, waited = self._begin(readings, target)
        try:
            async with asyncio.timeout(_PATIENCE):
                for done in waited:
                    await asyncio.shield(asyncio.wrap_future(done))
        except TimeoutError:
            again = "send them again: those with an id will not be taken twice"
            raise NotDurableError(f"the disk has not answered for {_PATIENCE:.0f} s; {again}") from None
        return taken

    def _begin(
        self, readings: Sequence[CloudData], target: str | None
    ) -> tuple[Taken, list[concurrent.futures.Future[None]]]:
        """Hand the new readings to the journal; what to wait for is durable when all are."""
        if self._process.held:
            raise LeavingError(
                "the gateway takes nothing, so that what it holds can be delivered; send them elsewhere or later"
            )
        if self._process.draining:
            raise LeavingError("the gateway is about to stop; send them again when it runs")
        destination = self._destination(source_of(target))
        new: dict[bytes, CloudData] = {}
        rows, waited, repeated = Columns(), [], 0
        for reading in readings:
            digest = reading.digest()
            if digest is not None:
                if digest in destination.repeats or digest in new:
                    repeated += 1
                    if (earlier := destination.under_way.get(digest)) is not None:
                        waited.append(earlier)
                    continue
                new[digest] = reading
            reading.append_to(rows, destination.tag(reading.device_id, reading.tag_name))
        count = len(rows)
        if self._waiting and self._waiting + count > _WAITING:
            raise BusyError(f"{self._waiting} readings wait for the disk already; send them again in a second")
        if count:
            waited.append(self._append(destination, rows, list(new)))
        return Taken(count, repeated), list(dict.fromkeys(waited))

    def _append(
        self, destination: _Destination, rows: Columns, digests: list[bytes]
    ) -> "concurrent.futures.Future[None]":
        settled: concurrent.futures.Future[None] = concurrent.futures.Future()
        settled.set_running_or_notify_cancel()  # whoever stops waiting does not cancel it for the others
        count = len(rows)
        for digest in digests:
            destination.repeats.add(digest)
        state = destination.repeats.to_bytes() if digests else None
        appended = destination.intake.append(rows, state)
        destination.under_way |= dict.fromkeys(digests, settled)
        self._waiting += count

        def finish(done: "asyncio.Future[None]") -> None:
            with self._lock:
                self._waiting -= count
                for digest in digests:
                    destination.under_way.pop(digest, None)
                error = asyncio.CancelledError() if done.cancelled() else done.exception()
                if error is not None:
                    for digest in digests:
                        destination.repeats.forget(digest)
            if error is None:
                settled.set_result(None)
            else:
                settled.set_exception(UnfitError(str(error)))

        appended.add_done_callback(finish)
        return settled

    def _destination(self, source: str) -> _Destination:
        found = self._destinations.get(source)
        if found is None:
            found = self._destinations[source] = _Destination(self._process, source)
            self.intakes = self.intakes | {
                source: found.intake
            }  # never changed in place: others look at it at any time
        return found
