"""What a spool does when it is full: its bounds, the policies, and thinning out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from delivery.entry import Compression
from delivery.waiting import Drain


class Overflow(StrEnum):
    """What goes when a spool is full.

    ``drop_oldest``: the oldest readings of the lowest priority. ``drop_newest``: what comes. ``drop_lowest_priority``:
    what comes, unless something less urgent is stored, whose oldest readings make room. ``downsample``: from four fifths
    of the quota on, every n-th reading of a tag and every change of quality is kept; when full, as ``drop_oldest``.
    ``block``: nothing; the flow takes no readings from any source until there is room.
    """

    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    DROP_LOWEST_PRIORITY = "drop_lowest_priority"
    DOWNSAMPLE = "downsample"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class BufferPolicy:
    """How one target's spool buffers.

    Attributes:
        quota: Bytes on disk.
        rows: Readings stored; None for no bound.
        free_disk: Bytes that stay free on the disk: below it the spool does not grow.
        overflow: What goes when it is full.
        keep_every: Of how many readings of a tag one is kept when thinning out.
        expiry: Seconds after which readings are discarded, by least priority; the largest key not above a reading's
            priority holds, None for never.
        drain: In what order readings go out.
        live_share: Share of live readings while a backlog waits too, with `Drain.LIVE_FIRST`.
        compression: How what waits is compressed.
    """

    quota: int = 8 * 1024**3
    rows: int | None = None
    free_disk: int = 0
    overflow: Overflow = Overflow.DROP_OLDEST
    keep_every: int = 10
    expiry: Mapping[int, float | None] = field(default_factory=dict)
    drain: Drain = Drain.OLDEST_FIRST
    live_share: float = 0.5
    compression: Compression = Compression.ZSTD

    def expires_after(self, priority: int) -> float | None:
        """Seconds after which readings of `priority` are discarded; None for never."""
        least = max((key for key in self.expiry if key <= priority), default=None)
        return None if least is None else self.expiry[least]


class Thinner:
    """Keeps every n-th reading of a tag, and every change of its quality.

    Args:
        keep_every: n.
    """

    def __init__(self, keep_every: int) -> None:
        self._every = keep_every
        self._seen = np.zeros(0, np.int64)  # readings by tag
        self._quality = np.zeros(0, np.int8)  # the last one, by tag; -1 before the first

    def keep(self, tags: np.ndarray, quality: np.ndarray) -> np.ndarray:
        """Which readings are kept, as booleans.

        Args:
            tags: Rows of the tag table.
            quality: Qualities.
        """
        size = int(tags.max(initial=-1)) + 1
        if size > len(self._seen):
            self._seen = np.concatenate([self._seen, np.zeros(size - len(self._seen), np.int64)])
            self._quality = np.concatenate([self._quality, np.full(size - len(self._quality), -1, np.int8)])
        order = np.argsort(tags, kind="stable")
        tag, new = tags[order], quality[order].astype(np.int8)
        first = np.ones(len(tag), bool)
        first[1:] = tag[1:] != tag[:-1]
        starts = np.flatnonzero(first)
        lengths = np.diff(np.append(starts, len(tag)))
        place = np.arange(len(tag)) - np.repeat(starts, lengths)
        before = np.empty(len(tag), np.int8)
        before[1:] = new[:-1]
        before[first] = self._quality[tag[first]]
        kept = ((self._seen[tag] + place) % self._every == 0) | (new != before)
        self._seen[tag[starts]] += lengths
        self._quality[tag[starts]] = new[starts + lengths - 1]
        found = np.empty(len(tag), bool)
        found[order] = kept
        return found
