"""Dead letters that are sent again: out of their store, into the spool of the target that refused them.

The spool takes a reading with the number that it has as a dead letter, and is durable before the dead letter goes. After a
crash between the two, the numbers that the spool remembers are those that must still go, and none is sent again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from delivery.contents import held_rows
from delivery.dead_letters import PURGED, REPLAYED, WITHDRAWN, DeadLetterStore
from delivery.intervals import Intervals
from delivery.letter import FLOW, DeadLetters
from delivery.origin import Origin
from delivery.spool import Spool

_ROWS: Final = 10_000  # moved at once


@dataclass(slots=True)
class Replayed:
    """What became of dead letters that were to be sent again.

    Attributes:
        moved: Left the store and wait for a target.
        under_way: Stay, because the target has not let go of them yet.
        no_room: Stay, because a spool is full.
        refused: Stay, because they still cannot be normalized or decoded.
        no_rule: Left the store and go nowhere, because no rule matches them.
    """

    moved: int = 0
    under_way: int = 0
    no_room: int = 0
    refused: int = 0
    no_rule: int = 0


def chunks(chosen: Iterable[DeadLetters], rows: int = _ROWS) -> Iterator[list[DeadLetters]]:
    """Dead letters by some thousand readings."""
    chunk: list[DeadLetters] = []
    for letters in chosen:
        chunk.append(letters)
        if sum(map(len, chunk)) >= rows:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def replay(store: DeadLetterStore, spool: Spool, chosen: list[DeadLetters], done: Replayed) -> None:
    """Send dead letters of one target again; call with the store's `moving` held.

    Args:
        store: Their store.
        spool: The spool of their target.
        chosen: Some of its dead letters.
        done: What became of them is added.
    """
    store.wait()
    free = [_let_go(spool, letters) for letters in chosen]
    done.under_way += sum(map(len, chosen)) - sum(map(len, free))
    with store.spared(free):
        spool.sync()  # what it knows of their rejection must not be lost behind what comes now
        for letters in free:
            if len(letters) and not spool.replay(letters.batch, Origin(store.id, letters.numbers)):
                break
        spool.sync()
        marks = spool.replayed(store.id)
        taken = [letters.take(np.flatnonzero(marks.has(letters.numbers))) for letters in free]
        moved = store.remove(taken, REPLAYED)
        store.wait()
    done.moved += moved
    done.no_room += sum(map(len, free)) - moved
    forget_marks(store, spool)


def purge(store: DeadLetterStore, spools: Mapping[str, Spool], chosen: list[DeadLetters]) -> int:
    """Delete dead letters, but for those that a target has not let go of yet; call with the store's `moving` held.

    Returns:
        How many, durable when the store's `wait` returns.
    """
    free = [_let_go(spools[letters.target], letters) if letters.target in spools else letters for letters in chosen]
    for target in {letters.target for letters in free if letters.target in spools}:
        spools[target].sync()  # else a power cut could bring them back as readings that wait
    return store.remove(free, PURGED)


def _let_go(spool: Spool, letters: DeadLetters) -> DeadLetters:
    """Those that the spool knows to be dead letters."""
    waiting = np.array([spool.waits(place) for place in letters.places], bool)
    return letters.take(np.flatnonzero(~waiting)) if len(waiting) else letters


def forget_marks(store: DeadLetterStore, spool: Spool) -> bool:
    """Have the spool forget the dead letters that it took, if all have durably left the store; whether they have."""
    left = store.have_gone(spool.replayed(store.id))
    if left:
        spool.forget_replayed(store.id)
    return left


def finish(store: DeadLetterStore, spools: Mapping[str, Spool]) -> Intervals:
    """End the moves that a crash interrupted; call when the stores are open, before anything else.

    A dead letter that its target's spool still holds goes: the target is asked again, and may refuse it again.

    Returns:
        Dead letters of the flow that not every target may have that they go to.
    """
    for chunk in chunks(store.letters(newest=True)):
        of_targets = [letters for letters in chunk if letters.target in spools]
        held = [letters.take(held_rows(spools[letters.target], letters)) for letters in of_targets]
        store.remove([letters for letters in held if len(letters)], WITHDRAWN)
    store.wait()
    open_marks = {name: spool for name, spool in spools.items() if not forget_marks(store, spool)}
    half = Intervals()
    if not open_marks:
        return half
    for chunk in chunks(store.letters()):
        of_targets = []
        for letters in chunk:
            spool = open_marks.get(letters.target)
            if letters.target == FLOW:
                for other in open_marks.values():
                    half.add_all(letters.numbers[other.replayed(store.id).has(letters.numbers)])
            elif spool is not None:
                of_targets.append(letters.take(np.flatnonzero(spool.replayed(store.id).has(letters.numbers))))
        store.remove(of_targets, REPLAYED)
    store.wait()
    for spool in open_marks.values():
        forget_marks(store, spool)
    return half
