"""What is known of each unit and block while they are read, and what of it is kept between runs."""

import json
from dataclasses import dataclass, field

from connectors.sources.modbus.decode import Decoder
from connectors.sources.modbus.plan import Block


@dataclass(slots=True, eq=False)
class Poll:
    """A block and how it fares.

    Attributes:
        block: What is asked for.
        request: The request's PDU.
        size: Bytes of data in the answer.
        decoder: Of the answer.
        due: When it is asked again after failures, on the loop's clock.
        failures: Failures in a row.
        said: Quality and status of the readings without value that were given last; None after a sound answer.
        said_at: When, on the loop's clock.
        trial: It comes from splitting a refused block and has not been answered yet.
        piece: It comes from splitting a refused block, and may be joined with its neighbors.
        parts: The sound pieces that it joins; they come back if it is refused.
    """

    block: Block
    request: bytes
    size: int
    decoder: Decoder
    due: float = 0.0
    failures: int = 0
    said: tuple[int, int | None] | None = None
    said_at: float = 0.0
    trial: bool = False
    piece: bool = False
    parts: "list[Poll]" = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Unit:
    """A device on the line.

    Attributes:
        id: Its unit id.
        polls: Its blocks, in the order in which they are asked.
        due: When it is probed again after failures, on the loop's clock.
        failures: Failures in a row; 0 while it answers.
        answered: Whether it has answered in this cycle.
        split: Whether some of its blocks were split and not joined yet.
        last_good: µs since the epoch of its last sound answer.
        outage: Why readings are missing since then; None while none are.
    """

    id: int
    polls: list[Poll]
    due: float = 0.0
    failures: int = 0
    answered: bool = False
    split: bool = False
    last_good: int | None = None
    outage: str | None = None


def last_answers(state: bytes | None, now: int) -> dict[int, int]:
    """The time of each unit's last sound answer, µs since the epoch; without what cannot be, as after a clock set back."""
    try:
        stored = json.loads(state or b"{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(stored, dict):
        return {}
    return {
        int(unit): last for unit, last in stored.items() if unit.isdecimal() and type(last) is int and 0 < last <= now
    }
