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
_SMALL: Final = 8  # messages of a window below which each leaves as soon as it may
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
        self._slots = [0] * 65_536  # by packet id: number of the message, from 1 on; 0 when free
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
        slots, delivery, received = self._slots, self._delivery, answers.kind == PUBREC_KIND
        first = delivery.first if delivery is not None else self._numbered
        released, ended, own = [], 0, 0
        for packet_id, code in zip(answers.packet_ids, answers.codes, strict=True):
            number = slots[packet_id]
            if not number:
                continue
            if received and code < 0x80:
                released.append(PUBREL | packet_id)
                continue
            slots[packet_id] = 0
            ended += 1
            if number > first and delivery is not None:
                own += 1
                if code >= 0x80:
                    delivery.refused[number - first - 1] = code
        if released:
            self._room = self._write(acknowledgements(released)) and self._room
        self._answered += 1
        self.in_flight -= ended
        if delivery is not None and own:
            delivery.left -= own
            if not delivery.left and not delivery.done.done():
                delivery.done.set_result(None)
        self._pump()

    def _pump(self) -> None:
        """Send what may be sent."""
        delivery = self._delivery
        if delivery is None or self._failed is not None:
            return
        packets, total = delivery.packets, len(delivery.packets)
        if self._window >= _SMALL and self.in_flight > self._window // 2:
            return  # a write costs more than its messages: they go by the half window
        while self._room and delivery.sent < total and not delivery.done.done():
            at = delivery.sent
            fits = int(np.searchsorted(packets.bounds, packets.bounds[at] + _PIECE, side="right")) - 1 - at
            count = min(max(fits, 1), total - at, self._allowed(total - at))
            if delivery.qos:
                packet_ids = self._free_ids(min(count, self._window - self.in_flight))
                if not packet_ids:
                    break
                count = len(packet_ids)
                number = delivery.first + 1 + at
                self._slots[packet_ids.start : packet_ids.stop] = range(number, number + count)
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

    def _free_ids(self, count: int) -> range:
        """Up to `count` packet ids in a row that are free."""
        if self._next_id > 65_535:
            self._next_id = FIRST_ID
        start = stop = self._next_id
        if count > 0:
            stop = min(start + count, 65_536)
            if any(self._slots[start:stop]):
                stop = next(packet_id for packet_id in range(start, stop) if self._slots[packet_id])
        self._next_id = stop
        return range(start, stop)


__all__ = ["FIRST_ID", "MOST_IN_FLIGHT", "PUBACK_KIND", "QOS2_WINDOW", "Outbox"]
