"""What a connector is: the contracts of readers and writers, and the one tree of delivery errors.

A connector knows one system and nothing else: no Bytewax, no threads, no retries, no metrics, no clock for back-off.

Errors that a writer raises::

    DeliveryError
    ├── TransientError(retry_after)   network, time-out, 5xx: the same unit is sent again after a back-off
    ├── AuthError                     credentials or grants: retried slowly, never expires data
    ├── ConfigError                   table, topic, bucket or setting is wrong: retried slowly, never expires data
    ├── CapacityError(retry_after)    throttled, quota used up: retried when the target says so
    └── RejectedRecords(indices, …)   these readings will never be taken: dead letters, the rest goes on
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

import pyarrow as pa

from normalization.reading import Columns, Tag


class SourceState(StrEnum):
    """Where a source stands."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    DOWN = "down"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Context:
    """Where a connector lives.

    Attributes:
        gateway: Name of the gateway, unique in the plant; good for client ids.
        directory: A folder of the connector's own, for certificates and the like; kept between runs.
    """

    gateway: str
    directory: Path


class Intake(Protocol):
    """What a reader is handed. All calls come from the reader's own event loop."""

    def tag(self, tag: Tag) -> int:
        """Row of the tag table for `tag`; keep it, it holds as long as the process."""

    def append(self, rows: Columns, state: bytes | None = None) -> "asyncio.Future[None]":
        """Take readings, and the reader's state with them, as one.

        The intake owns `rows` from here on. The future is done when both are on disk: acknowledge to the device or
        broker then, not before, and never on a later connection. Futures are done in the order of the calls. When the
        journal is full, the future takes as long as that lasts: await it before reading much more.
        """

    def gap(self, tags: Sequence[int], start: int, end: int, reason: str) -> None:
        """Record that readings of `tags` between `start` and `end` (µs since the epoch, UTC) will never come."""

    def state(self, state: SourceState, detail: str = "") -> None:
        """Say how the connection stands. DOWN marks every tag of the source STALE with one reading without value."""


class Reader(Protocol):
    """Reads one source."""

    async def run(self, intake: Intake, state: bytes | None) -> None:
        """Connect and read until cancelled. Called again, after it has ended, for each further attempt.

        Args:
            intake: Where readings go.
            state: The last state committed with `Intake.append`, None at the first start.

        Raises:
            Exception: Anything; the reader is started again with jittered exponential back-off.
        """


@dataclass(frozen=True, slots=True)
class Limits:
    """What one `Writer.write` may carry, and what the target can promise.

    Attributes:
        rows: Readings in one unit.
        bytes: Approximate bytes of the readings in one unit, uncompressed Arrow.
        linger: Seconds that the oldest reading may wait for a unit to fill.
        writes_in_flight: Units that may be under way at once.
        has_key: The target drops or overwrites a reading whose identity it has already.
        remembers_units: The target knows the number of the last unit that it took; implies one write in flight.
    """

    rows: int = 10_000
    bytes: int = 8 * 1024 * 1024
    linger: float = 0.0
    writes_in_flight: int = 1
    has_key: bool = False
    remembers_units: bool = False


class Writer(Protocol):
    """Writes to one target."""

    limits: Limits

    async def open(self) -> None:
        """Connect. Called again after an error; raises a `DeliveryError`."""

    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Write one unit; return only when it is durable at the target.

        Args:
            batch: A batch of `normalization.reading.stream_schema`.
            unit: Number of the unit; ascending. A unit that is sent again has the same number and the same readings.

        Raises:
            DeliveryError: One of the tree above.
        """

    async def close(self) -> None:
        """Disconnect; never raises."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check of a connection found, in plain words.

    Attributes:
        ok: Whether it is as it should be.
        subject: What was looked at.
        detail: What was found, and what to do where it is wrong.
    """

    ok: bool
    subject: str
    detail: str


@runtime_checkable
class Checks(Protocol):
    """A connector that can look at its system before it is used."""

    async def check(self) -> list[Finding]:
        """Findings in the order in which they should be read."""


@runtime_checkable
class Counts(Protocol):
    """A reader that counts what is odd about its devices.

    Attributes:
        counts: How often each has happened, by what it is, in words that do not grow in number; read from any thread.
    """

    counts: Counter[str]


@runtime_checkable
class Measures(Protocol):
    """A reader that measures its devices.

    Attributes:
        measures: The last value of each, by names in the manner of metrics that do not grow in number; read from any thread.
    """

    measures: dict[str, float]


@dataclass(frozen=True, slots=True)
class PoolUse:
    """How a pool of connections, channels or the like is used.

    Attributes:
        size: How many there may be, at most.
        open: How many there are.
        in_use: How many are under way with a write.
        waiting: Writes that wait for one.
    """

    size: int
    open: int
    in_use: int
    waiting: int


@runtime_checkable
class Pooled(Protocol):
    """A writer that keeps a bounded pool."""

    def pool(self) -> PoolUse:
        """How it is used now; safe from any thread, also while the writer is closed."""


class DeliveryError(Exception):
    """A write that did not succeed."""


class TransientError(DeliveryError):
    """Network, time-out or a server error: send the same unit again."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class AuthError(DeliveryError):
    """Credentials or grants are refused."""


class ConfigError(DeliveryError):
    """The target says that something named in the configuration is wrong."""


class CapacityError(DeliveryError):
    """The target is throttling or full."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RejectedRecords(DeliveryError):
    """The target will never take these readings.

    Attributes:
        indices: Rows of the batch, ascending; empty when the target does not say which, and nothing was written: the
            forwarder then finds them by halving the batch.
        reasons: The target's own words, one per index; one when it does not say which.
        rest_written: Whether the other rows of the batch are durable at the target already.
    """

    def __init__(self, indices: Sequence[int], reasons: Sequence[str], *, rest_written: bool = False) -> None:
        super().__init__(f"{len(indices)} readings rejected: {reasons[0] if reasons else 'no reason given'}")
        self.indices = list(indices)
        self.reasons = list(reasons)
        self.rest_written = rest_written
