"""What is known of each unit and block while they are read, and what of it is kept between runs."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from connectors.sources.modbus.decode import Decoder
from connectors.sources.modbus.plan import Block, Point, halves, joined
from connectors.sources.modbus.protocol import Ask, ask

_JOINT: Final = 8  # decoders of several blocks that are kept for a unit
_WEIGHT: Final = 0.25  # of the newest answer in the mean of their times


@dataclass(slots=True, eq=False)
class Poll:
    """A block and how it fares.

    Attributes:
        block: What is asked for.
        ask: The request.
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
    ask: Ask
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
        points: The values of all units.
        tags: Their rows of the tag table.
        polls: Its blocks, in the order in which they are asked.
        due: When it is probed again after failures, on the loop's clock.
        failures: Failures in a row; 0 while it answers.
        split: Whether some of its blocks were split and not joined yet.
        pace: Seconds that an answer takes, a mean that forgets; 0 before the first.
        slow: Whether it is asked last and little, because others would wait for it.
        last_good: µs since the epoch of its last sound answer.
        outage: Why readings are missing since then; None while none are.
    """

    id: int
    points: Sequence[Point]
    tags: Sequence[int]
    polls: list[Poll] = field(default_factory=list)
    due: float = 0.0
    failures: int = 0
    split: bool = False
    pace: float = 0.0
    slow: bool = False
    last_good: int | None = None
    outage: str | None = None
    _decoders: dict[tuple[Poll, ...], Decoder] = field(default_factory=dict)

    def new_poll(self, block: Block) -> Poll:
        """A poll of a block of this unit."""
        return Poll(block, ask(block), Decoder([block], self.points, self.tags))

    def decoders(self, polls: Sequence[Poll], whole: int) -> "list[tuple[Decoder, int]]":
        """Decoders of the answers to `polls`, with the bytes of each: one for all when they are a `whole` turn."""
        if len(polls) < 2 or len(polls) != whole:
            return [(poll.decoder, poll.ask.size) for poll in polls]
        key = tuple(polls)
        found = self._decoders.get(key)
        if found is None:
            if len(self._decoders) >= _JOINT:
                self._decoders.clear()
            found = self._decoders[key] = Decoder([poll.block for poll in polls], self.points, self.tags)
        return [(found, sum(poll.ask.size for poll in polls))]

    def took(self, seconds: float) -> None:
        """Note how long an answer took."""
        self.pace = seconds if not self.pace else self.pace + _WEIGHT * (seconds - self.pace)

    def put_last(self, poll: Poll) -> None:
        """The next turn begins with the blocks behind `poll`, if it has not been split."""
        if poll in self.polls:
            at = self.polls.index(poll) + 1
            self.polls = self.polls[at:] + self.polls[:at]

    def split_up(self, poll: Poll) -> list[Poll]:
        """Replace a refused block by the pieces that it joined, or by halves; none where all values share an address."""
        pieces = poll.parts
        if not pieces:
            pieces = [self.new_poll(block) for block in halves(self.points, poll.block) or ()]
            for piece in pieces:
                piece.trial = piece.piece = True
                piece.said, piece.said_at = poll.said, poll.said_at
            self.split = self.split or bool(pieces)
        if pieces:
            at = self.polls.index(poll)
            self.polls[at : at + 1] = pieces
        return pieces

    def join(self, max_registers: int, max_bits: int) -> None:
        """Once all pieces of refused blocks have their answer, join those that are sound and touch."""
        if not self.split or any(poll.trial for poll in self.polls):
            return
        self.split = False
        self._decoders.clear()
        polls: list[Poll] = []
        for poll in sorted(self.polls, key=lambda p: (p.block.kind, p.block.interval, p.block.address)):
            block, last = None, polls[-1] if polls else None
            if last is not None and last.piece and poll.piece and not last.failures and not poll.failures:
                most = max_bits if poll.block.kind.is_bits else max_registers
                block = joined(self.points, last.block, poll.block, most)
            if last is None or block is None:
                polls.append(poll)
            else:
                polls[-1] = self.new_poll(block)
                polls[-1].piece, polls[-1].parts = True, [*(last.parts or [last]), poll]
        for poll in polls:
            poll.piece = False
            for part in poll.parts:
                part.piece = False
        self.polls = polls


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
