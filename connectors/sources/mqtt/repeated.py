"""Which messages were taken already, so that one that the broker sends again after a crash is told from a new one. Pure."""

from array import array
from typing import Final
from zlib import crc32

from connectors.wire.mqtt_packets import DUP, Publish

MAX_IN_FLIGHT: Final = 65_535
_FIRST_SIZE: Final = 64
_ID: Final = 32  # bit of a slot from which on the packet id stands; below it the checksum


class Received:
    """QoS 1 messages that the journal has while the broker may not know it: packet id and checksum, in the order they came.

    The broker may have `receive_maximum` messages under way, so what is older than that many has been acknowledged. A
    broker that is not bound by it (3.1.1) may have more: then the older ones are kept until it is known to have worked
    off their PUBACKs. They lie in a ring whose slots keep their places, so that a state differs little from the one before.

    Args:
        limit: The receive maximum.
        bound: Whether the broker keeps to it.
    """

    def __init__(self, limit: int, *, bound: bool) -> None:
        self.limit, self.bound = limit, bound
        self._received = self._loaded = self._first_new = 0
        self._ring = array("Q", bytes(8 * _FIRST_SIZE))
        self._next = self._oldest = 0
        self._slots: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def packet_ids(self) -> list[int]:
        """Packet ids, oldest first."""
        ring = self._ring[self._next :] + self._ring[: self._next]
        return [slot >> _ID for slot in ring if slot]

    def is_repeated(self, message: Publish) -> bool:
        """Whether this message, sent again by the broker, is one that was taken already; takes it if not."""
        self._received += 1
        packet_id = message.packet_id
        checksum = crc32(message.payload, crc32(message.topic))
        entry = packet_id << _ID | checksum
        known = self._slots.get(packet_id)
        if message.head & DUP:
            if known is not None and self._ring[known] == entry:
                return True
        elif not self._first_new:
            self._first_new = self._received
        if known is not None:
            self._ring[known] = 0
        if self._ring[self._next]:
            self._grow()
        self._ring[self._next] = entry
        self._slots[packet_id] = taken = self._next
        self._next = (taken + 1) % len(self._ring)
        if self._oldest == taken:
            self._oldest = self._next  # from here on around, the oldest comes first
        return False

    def trim(self, confirmed: int) -> None:
        """Forget what the broker will not send again.

        Args:
            confirmed: How many of this connection's messages the broker is known to have worked off the PUBACKs of.
        """
        if self._first_new and confirmed >= self._first_new:
            self._loaded = 0  # a broker repeats what is old before it sends what is new
        keep = self.limit if self.bound else max(self.limit, self._loaded + self._received - confirmed)
        while len(self._slots) > min(keep, MAX_IN_FLIGHT):
            oldest = self._ring[self._oldest]
            self._ring[self._oldest] = 0
            self._oldest = (self._oldest + 1) % len(self._ring)
            if oldest:
                del self._slots[oldest >> _ID]

    def dump(self) -> tuple[bytes, int]:
        """The ring, 8 bytes a slot, and the slot that is next."""
        return self._ring.tobytes(), self._next

    def load(self, ring: bytes, following: int) -> None:
        """Take over what `dump` returned.

        Raises:
            ValueError: Nobody dumped that.
        """
        self._ring = array("Q", ring or bytes(8 * _FIRST_SIZE))
        if not 0 <= following < len(self._ring):
            raise ValueError("a ring without its next slot")
        self._next = self._oldest = following
        self._slots = {entry >> _ID: at for at, entry in enumerate(self._ring) if entry}
        self._loaded = len(self._slots)

    def _grow(self) -> None:
        """Twice the room, the oldest at the beginning."""
        ring = self._ring[self._next :] + self._ring[: self._next]
        self._next, self._oldest = len(ring), 0
        self._ring = ring + array("Q", bytes(8 * len(ring)))
        self._slots = {entry >> _ID: at for at, entry in enumerate(self._ring) if entry}
