"""What was handed over before: digests of the newest readings that came with an id, as the state of their source.

The state is saved with the readings, as one, so that neither is there without the other. It is a ring of slots that are
written one after the other: what a commit changes stands in one place, and the journal writes no more than that.
"""

from typing import Final

WINDOW: Final = 50_000
_DIGEST: Final = 12
_SLOT: Final = 16  # the digest, and how often the ring had been filled when it was written


class Repeats:
    """The newest digests.

    Args:
        state: What `to_bytes` gave; None to begin.
        window: How many are remembered.
    """

    def __init__(self, state: bytes | None = None, window: int = WINDOW) -> None:
        self._ring = bytearray(state or b"")
        self._window = max(window, len(self._ring) // _SLOT)
        rounds = [self._round_at(slot) for slot in range(len(self._ring) // _SLOT)]
        self._slots = {self._at(slot): slot for slot in range(len(rounds)) if any(self._at(slot))}
        if len(rounds) < self._window:
            self._next, self._round = len(rounds), 1
        else:
            newest = max(rounds)
            self._next = next((slot for slot, n in enumerate(rounds) if n < newest), 0)
            self._round = newest if self._next else newest + 1

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._slots

    def __len__(self) -> int:
        return len(self._slots)

    def add(self, digest: bytes) -> None:
        """Remember a digest of 12 bytes; the oldest goes when there are too many."""
        start = self._next * _SLOT
        if start == len(self._ring):
            self._ring += bytes(_SLOT)
        elif self._slots.get(old := self._at(self._next)) == self._next:
            del self._slots[old]
        self._ring[start : start + _SLOT] = digest + (self._round % 2**32).to_bytes(4, "little")
        self._slots[digest] = self._next
        self._next += 1
        if self._next == self._window:
            self._next, self._round = 0, self._round + 1

    def forget(self, digest: bytes) -> None:
        """It was not handed over after all."""
        slot = self._slots.pop(digest, None)
        if slot is not None:
            self._ring[slot * _SLOT : slot * _SLOT + _DIGEST] = bytes(_DIGEST)

    def to_bytes(self) -> bytes:
        """All of it."""
        return bytes(self._ring)

    def _at(self, slot: int) -> bytes:
        return bytes(self._ring[slot * _SLOT : slot * _SLOT + _DIGEST])

    def _round_at(self, slot: int) -> int:
        return int.from_bytes(self._ring[slot * _SLOT + _DIGEST : (slot + 1) * _SLOT], "little")
