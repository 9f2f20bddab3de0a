"""What a lane knows, and that it knows the same when it is opened again."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from delivery.disk import StoreError
from delivery.entry import pack, unpack
from delivery.ledger import LaneLedger, Numbers
from delivery.origin import Origin
from tests.delivery.stores import own

SHARD, STEP = "mqtt-0-abc", "mqtt-0-abc/step"


def new_ledger() -> LaneLedger:
    return LaneLedger(Numbers(), own)


def sequences(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def again(ledger: LaneLedger) -> LaneLedger:
    found = new_ledger()
    found.load(memoryview(ledger.to_bytes()), Path("spool"))
    return found


def lived_through() -> LaneLedger:
    """A ledger that has seen everything once."""
    ledger = new_ledger()
    ledger.enter(2, "gw", SHARD, sequences(1, 2, 3), {"s": 3})
    ledger.enter(3, "gw", SHARD, sequences(4, 5), {"s": 1, "t": 1})
    ledger.enter(4, "gw", STEP, sequences(70, 90), {"t": 2})
    ledger.enter(9, "gw", SHARD, sequences(9), {"s": 1}, Origin("letters", sequences(8, 5, 6)))
    ledger.leave_out("gw", SHARD, sequences(6, 7), {"t": 2}, "full")
    ledger.record(5, [3, 4])
    ledger.close(4, [(1, 2)], {"s": 2}, [[2, [1], {"s": 1}]], "")
    ledger.close(0, [], {}, [[3, [0], {"s": 1}]], "")
    return ledger


def facts(ledger: LaneLedger) -> dict[str, object]:
    account = ledger.account
    return {
        "account": [dict(account.routed), dict(account.delivered), dict(account.dead), account.discarded],
        "open": ledger.open,
        "next": ledger.numbers.next,
        "newest": ledger.newest,
        "settled": [number for number in range(12) if ledger.is_settled(number)],
        "waits": [(number, row) for number in range(12) for row in range(3) if ledger.waits(number, row)],
        "left": [ledger.left(number, 2).tolist() for number in range(12)],
        "dead": {number: rows.tolist() for number, rows in ledger.dead.items()},
        "dead_sources": ledger.dead_sources,
        "replayed": {store: numbers.to_list() for store, numbers in ledger.replayed.items()},
        "known": had(ledger, "gw", SHARD),
        "derived": had(ledger, "gw", STEP),
        "untrimmed": ledger.untrimmed([SHARD, "another"]),
    }


def had(ledger: LaneLedger, gateway: str, shard: str) -> list[int]:
    known = ledger.had(gateway, shard, np.arange(100))
    return [] if known is None else np.flatnonzero(known).tolist()


def test_a_ledger_tells_what_came_and_what_became_of_it() -> None:
    assert facts(lived_through()) == {
        "account": [{"s": 4, "t": 5}, {"s": 2}, {"s": 1}, {"full": Counter(t=2)}],
        "open": (5, [3, 4]),
        "next": 6,
        "newest": 9,
        "settled": [0, 1, 2],
        "waits": [(3, 1), (3, 2), *((n, row) for n in range(4, 10) for row in range(3))],
        "left": [[], [], [], [1], *([[0, 1]] * 8)],
        "dead": {3: [0]},
        "dead_sources": {3: Counter(s=1)},
        "replayed": {"letters": [(5, 6), (8, 8)]},
        "known": [1, 2, 3, 4, 5, 6, 7],
        "derived": [70, 90],
        "untrimmed": 7,
    }


def test_it_knows_the_same_when_it_is_opened_again() -> None:
    ledger = lived_through()
    assert facts(again(ledger)) == facts(ledger)
    empty = new_ledger()
    assert facts(again(empty)) == facts(empty)


def test_what_it_learns_after_it_was_opened_again_is_the_same_too() -> None:
    ledger = lived_through()
    for each in (first := ledger, second := again(ledger)):
        each.enter(10, "gw", STEP, sequences(91), {"t": 1})
        each.leave_out("gw", SHARD, sequences(20), {"s": 1}, "full")
        each.close(5, [(3, 4)], {"s": 1, "t": 2}, [], "")
        each.drop(2)
        each.forget(SHARD, 4)
    assert facts(first) == facts(second)
    assert (first.open, first.dead, first.dead_sources) == (None, {}, {})
    assert had(second, "gw", SHARD) == [5, 6, 7, 20]


def test_numbers_of_units_are_shared_and_never_go_back() -> None:
    numbers = Numbers()
    one, other = LaneLedger(numbers, own), LaneLedger(numbers, own)
    assert [one.number_unit(), other.number_unit(), one.number_unit()] == [1, 2, 3]
    one.record(2, [1])
    assert one.number_unit() == 4
    one.record(9, [1])
    assert other.number_unit() == 10
    other.close(20, [], {}, [], "")
    assert one.number_unit() == 21
    other.close(3, [], {}, [], "")
    one.load(memoryview(lived_through().to_bytes()), Path("spool"))
    assert one.number_unit() == 22


def test_closing_another_unit_leaves_the_recorded_one_open() -> None:
    ledger = lived_through()
    ledger.close(4, [], {}, [], "")
    assert ledger.open == (5, [3, 4])
    ledger.close(5, [], {}, [], "")
    assert ledger.open is None


@pytest.mark.parametrize(
    ("origin", "routed", "dead", "known"),
    [
        (Origin("letters", sequences(1, 2)), {}, {"s": -2}, []),
        (Origin("letters", sequences(1, 2), from_flow=True), {"s": 2}, {}, []),
        (Origin("letters", sequences(1, 2), untrimmed=True), {}, {"s": -2}, [5, 6]),
        (None, {"s": 2}, {}, [5, 6]),
    ],
)
def test_a_dead_letter_that_is_sent_again_counts_as_what_it_was(
    origin: Origin | None, routed: dict[str, int], dead: dict[str, int], known: list[int]
) -> None:
    ledger = new_ledger()
    ledger.enter(1, "gw", SHARD, sequences(5, 6), {"s": 2}, origin)
    assert (dict(ledger.account.routed), dict(ledger.account.dead), had(ledger, "gw", SHARD)) == (routed, dead, known)


def test_readings_of_steps_are_remembered_for_two_epochs_more() -> None:
    ledger = new_ledger()
    ledger.enter(1, "gw", STEP, sequences(1), {"s": 1})
    ledger.close_epoch()
    ledger.enter(2, "gw", STEP, sequences(2, 4), {"s": 2})
    assert had(ledger, "gw", STEP) == [1, 2, 4]
    assert had(ledger, "other", STEP) == []
    ledger.close_epoch()
    assert had(ledger, "gw", STEP) == [1, 2, 4]
    ledger.close_epoch()
    assert had(ledger, "gw", STEP) == [2, 4]
    reopened = again(ledger)
    for _ in range(2):
        reopened.close_epoch()
        assert had(reopened, "gw", STEP) == [2, 4]
    reopened.close_epoch()
    assert had(reopened, "gw", STEP) == []


def test_the_format_before_this_one_is_read_and_a_newer_one_refused() -> None:
    version, *rest = unpack(lived_through().to_bytes())
    old = new_ledger()
    old.load(memoryview(pack([2, *rest[:-1]])), Path("spool"))
    assert facts(old) | {"replayed": None} == facts(lived_through()) | {"replayed": None}
    assert old.replayed == {}
    with pytest.raises(StoreError, match="^spool was written by a newer version of Bifrost; start that version$"):
        old.load(memoryview(pack([version + 1, *rest])), Path("spool"))


def test_it_can_go_on_from_what_a_store_of_an_earlier_format_knew() -> None:
    before = lived_through()
    ledger = new_ledger()
    dead = {number: (rows, before.dead_sources[number]) for number, rows in before.dead.items()}
    ledger.succeed(6, before.open, dead, before.account, before._known, before._derived[0])
    for name in ("account", "open", "next", "dead", "dead_sources", "known", "derived", "untrimmed"):
        assert facts(ledger)[name] == facts(before)[name], name
    for _ in range(3):
        ledger.close_epoch()
    assert had(ledger, "gw", STEP) == []


def test_what_was_dropped_takes_no_room() -> None:
    ledger = lived_through()
    ledger.drop(2)
    assert (ledger.done, ledger.settled.to_list()) == (2, [])
    ledger.drop(1)
    assert ledger.done == 2
    assert ledger.is_settled(2)
    assert not ledger.is_settled(3)


def test_a_reading_of_a_step_that_was_left_out_has_come_all_the_same() -> None:
    ledger = new_ledger()
    ledger.leave_out("gw", STEP, sequences(5), {"s": 1}, "full")
    assert had(ledger, "gw", STEP) == [5]
    assert had(ledger, "other", STEP) == []
