"""What a reader remembers from one connection to the next, and across a restart of the gateway."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

NUMBERS: Final = 0xFFFFFFFF  # of messages; behind the last one they begin at 1 again (OPC 10000-4 clause 7.7.5)


def microseconds_now() -> int:
    """Now, in µs since the epoch, UTC."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Position:
    """Where the subscriptions of a session stand, as far as that is on disk.

    Attributes:
        subscriptions: Id of each, and the number of the last message of it; 0 before the first.
        server: When the server was started: ids mean nothing to one that was started again.
        items: Digest of what is subscribed to, handle by handle.
    """

    subscriptions: Sequence[tuple[int, int]]
    server: str
    items: str

    @staticmethod
    def from_json(said: Any) -> "Position | None":
        """From ``[subscription, sequence, server, items]``, further subscriptions behind; None when it makes no sense."""
        match said:
            case [first, number, str(server), str(items), *further] if len(further) % 2 == 0:
                numbers = [first, number, *further]
                places = list(zip(numbers[::2], numbers[1::2], strict=True))
                if all(_is_place(*place) for place in places) and len(dict(places)) == len(places):
                    return Position(places, server, items)
        return None


def _is_place(subscription: object, sequence: object) -> bool:
    if type(subscription) is not int or type(sequence) is not int:
        return False
    return 0 < subscription <= 0xFFFFFFFF and 0 <= sequence <= NUMBERS


@dataclass(frozen=True, slots=True)
class State:
    """What a reader remembers.

    Attributes:
        last_reading: When the server last said something, µs since the epoch; None when it never did.
        position: The subscriptions as far as they are on disk.
        stale: The connection was lost, and the tags were marked as stale.
    """

    last_reading: int | None = None
    position: Position | None = None
    stale: bool = False

    @staticmethod
    def from_json(state: bytes | None) -> "State":
        """What an append carried; nothing is remembered where it makes no sense."""
        try:
            said = json.loads(state or b"null")
        except ValueError:
            return State()
        if not isinstance(said, dict):
            return State()
        last = said.get("last_reading")
        sound = type(last) is int and 0 <= last <= microseconds_now()
        return State(last if sound else None, Position.from_json(said.get("subscription")), said.get("stale") is True)
