"""What a reader remembers from one connection to the next, and across a restart of the gateway."""

import json
import time
from dataclasses import dataclass
from typing import Any, Final

NUMBERS: Final = 0xFFFFFFFF  # of messages; behind the last one they begin at 1 again (OPC 10000-4 clause 7.7.5)


def microseconds_now() -> int:
    """Now, in µs since the epoch, UTC."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class Position:
    """Where a subscription stands, as far as it is on disk.

    Attributes:
        subscription: Id of the subscription.
        sequence: Number of the last message of it; 0 before the first.
        server: When the server was started: ids mean nothing to one that was started again.
        items: Digest of what is subscribed to, handle by handle.
    """

    subscription: int
    sequence: int
    server: str
    items: str

    @staticmethod
    def from_json(said: Any) -> "Position | None":
        """From ``[subscription, sequence, server, items]``; None when it makes no sense."""
        match said:
            case [int(subscription), int(sequence), str(server), str(items)] if (
                0 < subscription <= 0xFFFFFFFF and 0 <= sequence <= NUMBERS
            ):
                return Position(subscription, sequence, server, items)
        return None


@dataclass(frozen=True, slots=True)
class State:
    """What a reader remembers.

    Attributes:
        last_reading: When the server last said something, µs since the epoch; None when it never did.
        position: The subscription as far as it is on disk.
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
