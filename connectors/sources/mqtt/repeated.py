"""Which messages were taken already, so that one that the broker sends again after a crash is told from a new one. Pure.

A message is known by its packet id and a checksum of topic and payload, together one number, its *entry*.
"""

from array import array
from typing import Final
from zlib import crc32

from connectors.wire.mqtt_packets import DUP, Publishes

MAX_IN_FLIGHT: Final = 65_535
_FIRST_SIZE: Final = 64
_SPARSE: Final = 4  # places for each message, above which the ring shrinks
_MOST: Final = 100_000  # topics whose checksum is kept
_ID: Final = 32  # bit of an entry from which on the packet id stands; below it the checksum


class _Checksums(dict[bytes, int]):
    """Of topics, which come again and again."""

    def __missing__(self, topic: bytes) -> int:
        if len(self) >= _MOST:
            self.clear()
        checksum = self[topic] = crc32(topic)
        return checksum


_checksums: Final = _Checksums()


def _entries(messages: Publishes) -> list[int]:
    sums = map(crc32, messages.payloads, map(_checksums.__getitem__, messages.topics))
    return [packet_id << _ID | checksum for packet_id, checksum in zip(messages.packet_ids, sums, strict=True)]


def _repeated(messages: Publishes, entries: list[int], known: dict[int, int]) -> list[int]:
    """Places of the messages that are sent again and are in `known`, by packet id; the others are in it afterwards."""
    places = []
    for place, (entry, head) in enumerate(zip(entries, messages.heads, strict=True)):
        if head & DUP and known.get(entry >> _ID) == entry:
            places.append(place)
        else:
            known[entry >> _ID] = entry
    return places


class Received:
    """QoS 1 messages that the journal has while the broker may not know it, in the order they came.

    The broker may have `receive_maximum` messages under way, so what is older than that many has been acknowledged. A
    broker that is not bound by it (3.1.1) may have more: then the older ones are kept until it is known to have worked
    off their PUBACKs. They lie in a ring where they keep their places, so that a state differs little from the one before.

    Args:
        limit: The receive maximum.
        bound: Whether the broker keeps to it.
    """

    def __init__(self, limit: int, *, bound: bool) -> None:
        self.limit, self.bound = limit, bound
        self._received = self._loaded = self._first_new = 0
        self._ring = array("Q", bytes(8 * _FIRST_SIZE))
        self._next = self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def packet_ids(self) -> list[int]:
        """Packet ids, oldest first; of two that are the same the last one counts."""
        return [entry >> _ID for entry in self._in_order()]

    def _in_order(self) -> "array[int]":
        start = self._next - self._count
        return self._ring[start : self._next] if start >= 0 else self._ring[start:] + self._ring[: self._next]

    def take(self, messages: Publishes) -> list[int]:
        """Take messages; returns the places of those that are sent again and were taken already."""
        fresh = entries = _entries(messages)
        again: list[int] = []
        resent = (
            [bool(head & DUP) for head in messages.heads] if any(head & DUP for head in set(messages.heads)) else []
        )
        if resent:
            again = _repeated(messages, entries, {entry >> _ID: entry for entry in self._in_order()})
            repeated = set(again)
            fresh = [entry for place, entry in enumerate(entries) if place not in repeated]
        if not self._first_new and not all(resent or [False]):
            self._first_new = self._received + (resent.index(False) if resent else 0) + 1
        self._received += len(entries)
        self._append(array("Q", fresh))
        return again

    def _append(self, entries: "array[int]") -> None:
        size, needed = len(self._ring), self._count + len(entries)
        while size < needed:
            size *= 2
        if size > len(self._ring):
            self._resize(size)
        first = entries[: size - self._next]
        self._ring[self._next : self._next + len(first)] = first
        self._ring[: len(entries) - len(first)] = entries[len(first) :]
        self._next = (self._next + len(entries)) % size
        self._count = needed

    def _resize(self, size: int) -> None:
        """Make the ring another one, with the oldest at its beginning."""
        self._ring = self._in_order() + array("Q", bytes(8 * (size - self._count)))
        self._next = self._count % size

    def trim(self, confirmed: int) -> None:
        """Forget what the broker will not send again.

        Args:
            confirmed: How many of this connection's messages the broker is known to have worked off the PUBACKs of.
        """
        if self._first_new and confirmed >= self._first_new:
            self._loaded = 0  # a broker repeats what is old before it sends what is new
        keep = self.limit if self.bound else max(self.limit, self._loaded + self._received - confirmed)
        gone = max(0, self._count - min(keep, MAX_IN_FLIGHT))
        start = (self._next - self._count) % len(self._ring)
        before = min(gone, len(self._ring) - start)
        self._ring[start : start + before] = array("Q", bytes(8 * before))
        self._ring[: gone - before] = array("Q", bytes(8 * (gone - before)))
        self._count -= gone
        size = len(self._ring)
        while size > max(_FIRST_SIZE, _SPARSE * self._count):
            size //= 2
        if size < len(self._ring):  # after a burst: each commit compares the whole of it with the one before
            self._resize(size)

    def dump(self) -> tuple[bytes, int]:
        """The ring, 8 bytes a place, and the place that is next."""
        return self._ring.tobytes(), self._next

    def load(self, ring: bytes, following: int) -> None:
        """Take over what `dump` returned.

        Raises:
            ValueError: Nobody dumped that.
        """
        self._ring = array("Q", ring or bytes(8 * _FIRST_SIZE))
        if not 0 <= following < len(self._ring):
            raise ValueError("a ring without its next place")
        self._next, self._count = following, len(self._ring)
        empty = next((place for place, entry in enumerate(self._in_order()) if entry), self._count)
        self._count -= empty
        self._loaded = self._count


class Unreleased:
    """QoS 2 messages that the journal has and the broker has not released: to be sent again is not to be another.

    An id is forgotten when the broker releases it (PUBREL), and PUBCOMP waits until that is on disk: the broker may use the
    id anew as soon as it has PUBCOMP.
    """

    def __init__(self, stored: bytes = b"") -> None:
        """What `dump` returned, or nothing.

        Raises:
            ValueError: Nobody dumped that.
        """
        self._known = {entry >> _ID: entry for entry in array("Q", stored)}

    @property
    def packet_ids(self) -> list[int]:
        """Packet ids, oldest first."""
        return list(self._known)

    def take(self, messages: Publishes) -> list[int]:
        """Take messages; returns the places of those that are sent again and were taken already."""
        return _repeated(messages, _entries(messages), self._known)

    def release(self, packet_id: int) -> None:
        """Forget a message."""
        self._known.pop(packet_id, None)

    def dump(self) -> bytes:
        """All of it, 8 bytes a message."""
        return array("Q", self._known.values()).tobytes()
