"""Messages of one MQTT connection on their way to the broker: packet ids, the window, and which of them have arrived.

A message has arrived when the broker has taken it over: with PUBACK at QoS 1, with PUBCOMP at QoS 2. What a caller gave up
stays in the window until the broker answers, so that its packet ids are not used twice, and is never mistaken for what
follows.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import numpy as np

from connectors.wire.mqtt_outgoing import PUBACK_KIND, PUBREC_KIND, PUBREL, Answers, Outgoing
from connectors.wire.mqtt_packets import acknowledgements

FIRST_ID: Final = 1024
"""The packet ids below it are those of paho, which numbers subscriptions."""
MOST_IN_FLIGHT: Final = 65_535 - FIRST_ID
QOS2_WINDOW: Final = 20
"""Brokers of the field lose their way when more messages of QoS 2 are under way at once."""
_PIECE: Final = 256 * 1024  # bytes handed to the transport at once


class _Delivery:
    """Messages that somebody waits for."""

    def __init__(self, packets: Outgoing, qos: int, first: int) -> None:
        self.packets = packets
        self.qos = qos
        self.first = first  # number of the first of them in the life of the outbox
        self.sent = 0
        self.left = len(packets)
        self.refused: dict[int, int] = {}
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Outbox:
    """Sends messages and waits for their answers.

    Attributes:
        in_flight: Messages that were sent and are not answered yet.
    """

    def __init__(self, write: Callable[[memoryview | bytes], bool]) -> None:
        """An outbox that is empty.

        Args:
            write: Sends bytes; says whether there is room for more.
        """
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._window = MOST_IN_FLIGHT
        self._slots = np.zeros(65_536, np.int64)  # by packet id: number of the message, from 1 on; 0 when free
        self._next_id = FIRST_ID
        self._numbered = 0
        self._delivery: _Delivery | None = None
        self._room = True
        self._rate: float | None = None
        self._credit = self._credited = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._answered = 0
        self._failed: Exception | None = None
        self.in_flight = 0

    def bound(self, window: int, rate: float | None = None) -> None:
        """Set how many messages may be under way at once, and how many may be sent per second."""
        self._window = max(1, min(window, MOST_IN_FLIGHT))
        self._rate = rate
        self._credit, self._credited = 1.0, self._loop.time()

    async def deliver(self, packets: Outgoing, qos: int, patience: float) -> dict[int, int]:
        """Send messages and wait until the broker has answered all of them; at QoS 0 until they are sent.

        Args:
            packets: The messages.
            qos: Their quality of service.
            patience: Seconds that the broker may be silent.

        Returns:
            The reason codes of those that it refused, by their number in `packets`.

        Raises:
            ConnectionError: The connection is lost.
            TimeoutError: Nothing was answered for `patience` seconds.
        """
        if self._failed is not None:
            raise self._failed
        if not len(packets):
            return {}
        delivery = self._delivery = _Delivery(packets, qos, self._numbered)
        try:
            self._pump()
            while not delivery.done.done():
                seen = self._answered, delivery.sent
                await asyncio.wait([delivery.done], timeout=patience)
                if not delivery.done.done() and seen == (self._answered, delivery.sent):
                    raise TimeoutError
            delivery.done.result()
            return delivery.refused
        finally:
            delivery.done.cancel()
            if self._delivery is delivery:
                self._delivery = None
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def writable(self) -> None:
        """There is room again."""
        self._room = True
        self._pump()

    def fail(self, error: Exception) -> None:
        """The connection is lost: nobody answers any more."""
        self._failed = self._failed or error
        if self._delivery is not None and not self._delivery.done.done():
            self._delivery.done.set_exception(error)

    def take(self, answers: Answers) -> None:
        """The broker has answered; what has no message is none of ours."""
        packet_ids, first = np.unique(answers.packet_ids, return_index=True)
        numbers = self._slots[packet_ids]
        known = numbers > 0
        packet_ids, numbers, codes = packet_ids[known], numbers[known], answers.codes[first][known]
        if answers.kind == PUBREC_KIND:
            taken = codes < 0x80
            if taken.any():
                self._room = self._write(acknowledgements((PUBREL | packet_ids[taken]).tolist())) and self._room
            packet_ids, numbers, codes = packet_ids[~taken], numbers[~taken], codes[~taken]
        self._answered += 1
        self._slots[packet_ids] = 0
        self.in_flight -= len(packet_ids)
        delivery = self._delivery
        if delivery is not None and len(numbers):
            own = numbers > delivery.first
            delivery.left -= int(own.sum())
            wrong = own & (codes >= 0x80)
            places = numbers[wrong] - delivery.first - 1
            delivery.refused |= dict(zip(places.tolist(), codes[wrong].tolist(), strict=True))
            if not delivery.left and not delivery.done.done():
                delivery.done.set_result(None)
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent."""
        delivery = self._delivery
        if delivery is None or self._failed is not None:
            return
        packets, total = delivery.packets, len(delivery.packets)
        while self._room and delivery.sent < total and not delivery.done.done():
            at = delivery.sent
            fits = int(np.searchsorted(packets.bounds, packets.bounds[at] + _PIECE, side="right")) - 1 - at
            count = min(max(fits, 1), total - at, self._allowed(total - at))
            if delivery.qos:
                packet_ids = self._free_ids(min(count, self._window - self.in_flight))
                if not len(packet_ids):
                    break
                count = len(packet_ids)
                self._slots[packet_ids] = delivery.first + 1 + at + np.arange(count)
                self.in_flight += count
                piece = packets.numbered(at, packet_ids)
            elif not count:
                break
            else:
                piece = packets.cut(at, at + count)
            delivery.sent += count
            self._numbered = delivery.first + delivery.sent
            if self._rate is not None:
                self._credit -= count
            self._room = self._write(piece)
        if not delivery.qos and delivery.sent == total and not delivery.done.done():
            delivery.done.set_result(None)

    def _allowed(self, wanted: int) -> int:
        """How many messages may be sent now; looks again when there may be more."""
        if self._rate is None:
            return wanted
        now = self._loop.time()
        self._credit = min(self._credit + (now - self._credited) * self._rate, max(1.0, self._rate / 10))
        self._credited = now
        if self._credit < 1.0:
            if self._timer is None:
                self._timer = self._loop.call_later((1.0 - self._credit) / self._rate + 0.001, self._look_again)
            return 0
        return min(wanted, int(self._credit))

    def _look_again(self) -> None:
        self._timer = None
        self._pump()

    def _free_ids(self, count: int) -> np.ndarray:
        """Up to `count` packet ids in a row that are free."""
        if count <= 0:
            return np.zeros(0, np.int64)
        if self._next_id > 65_535:
            self._next_id = FIRST_ID
        wanted = np.arange(self._next_id, min(self._next_id + count, 65_536))
        used = np.flatnonzero(self._slots[wanted])
        if len(used):
            wanted = wanted[: int(used[0])]
        self._next_id += len(wanted)
        return wanted


__all__ = ["FIRST_ID", "MOST_IN_FLIGHT", "PUBACK_KIND", "QOS2_WINDOW", "Outbox"]
