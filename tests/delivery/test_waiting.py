"""In which order entries in memory go out."""

from delivery.unit import Entry
from delivery.waiting import Drain, Queue, Waiting


def entry(number: int, rows: int = 10, size: int = 50) -> Entry:
    return Entry(number, number - 1, 1, "gw", "mqtt-0-a", rows, size, {}, float(number), [])


def filled(drain: Drain, live_share: float = 0.5, *, backlog: int = 0, live: int = 0, rows: int = 10) -> Waiting:
    """Backlog 1, 2, 3 …, live entries 101, 102, 103 …"""
    waiting = Waiting(drain, live_share)
    for n in range(backlog):
        waiting.backlog.push(entry(n + 1, rows))
    for n in range(live):
        waiting.live.push(entry(n + 101, rows))
    return waiting


def numbers(entries: list[Entry]) -> list[int]:
    return [entry.number for entry in entries]


def test_entries_are_put_in_where_they_belong_and_counted() -> None:
    queue = Queue()
    for number in (3, 6):
        queue.push(entry(number, rows=number))
    queue.insert([entry(1, rows=1), entry(4, rows=4)])
    assert numbers(list(queue.entries)) == [1, 3, 4, 6]
    assert queue.rows == 14


def test_more_is_wanted_until_the_backlog_has_a_unit() -> None:
    for drain in Drain:
        waiting = filled(drain, backlog=2, live=1)
        assert (waiting.wants(20), waiting.wants(21)) == (False, True)


def test_a_unit_has_as_many_entries_as_its_limits_allow_and_one_at_least() -> None:
    for rows, size, expected in ((20, 100, [1, 2]), (19, 100, [1]), (20, 99, [1]), (1, 1, [1]), (100, 1000, [1, 2, 3])):
        assert numbers(filled(Drain.OLDEST_FIRST, backlog=3).take(rows, size, more=False)) == expected


def test_a_unit_of_the_newest_is_in_the_order_in_which_they_came() -> None:
    waiting = filled(Drain.NEWEST_FIRST, backlog=4)
    waiting.backlog.push(entry(5, rows=20, size=100))
    assert numbers(waiting.take(40, 200, more=True)) == [3, 4, 5]
    assert numbers(waiting.take(40, 200, more=True)) == [1, 2]
    assert waiting.rows == 0


def test_live_entries_and_backlog_take_turns_by_their_share_beginning_with_what_is_live() -> None:
    waiting = filled(Drain.LIVE_FIRST, backlog=9, live=9, rows=1)
    assert [numbers(waiting.take(1, 1000, more=False))[0] for _ in range(6)] == [101, 1, 102, 2, 103, 3]
    mostly = filled(Drain.LIVE_FIRST, 0.75, backlog=9, live=9, rows=1)
    assert [numbers(mostly.take(1, 1000, more=False))[0] for _ in range(6)] == [101, 1, 102, 103, 104, 2]


def test_the_backlog_owes_nothing_for_what_it_sent_while_nothing_live_waited() -> None:
    waiting = filled(Drain.LIVE_FIRST, backlog=9)
    for number in (1, 2, 3):
        assert numbers(waiting.take(10, 1000, more=False)) == [number]
    for number in (101, 102, 103):
        waiting.live.push(entry(number))
    assert [numbers(waiting.take(10, 1000, more=False))[0] for _ in range(4)] == [101, 4, 102, 5]
