"""Windows over several sources hold the same readings, whatever comes in which order from which member."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from bytewax.operators.windowing import EventClock
from hypothesis import given
from hypothesis import strategies as st

from flows.sources_clock import SourcesClock

START = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)


class Given(NamedTuple):
    source: str
    time: datetime
    received: datetime


def reading(source: str, second: int, received: int | None = None) -> Given:
    return Given(source, START + second * SECOND, START + (second if received is None else received) * SECOND)


def clock(*sources: str, patience: int = 1000, wait: int = 0) -> SourcesClock[Given]:
    return SourcesClock(wait * SECOND, lambda _: sources, patience * SECOND)


def played(order: Sequence[Given], made: SourcesClock[Given]) -> list[tuple[Given, datetime]]:
    """Each reading with the watermark after it, the clock's state kept and brought back in between."""
    state, found = None, []
    for one in order:
        logic = made.build(state)
        logic.before_batch()
        time, watermark = logic.on_item(one)
        assert time == one.time
        found.append((one, watermark))
        state = logic.snapshot()
    return found


@st.composite
def _orders(draw: st.DrawFn) -> list[Given]:
    """Readings of three sources, each source's own in order, and those of all in any."""
    left = {name: draw(st.lists(st.integers(0, 500), min_size=1, max_size=8).map(sorted)) for name in "abc"}
    order = []
    while left:
        name = draw(st.sampled_from(sorted(left)))
        order.append(reading(name, left[name].pop(0)))
        if not left[name]:
            del left[name]
    return order


@given(_orders())
def test_no_reading_is_late_in_any_order_and_all_orders_end_at_one_time(order: list[Given]) -> None:
    steps = played(order, clock("a", "b", "c"))
    assert all(one.time >= watermark for one, watermark in steps)
    assert [watermark for _, watermark in steps] == sorted(watermark for _, watermark in steps)
    newest = {one.source: one.time for one in order}
    assert steps[-1][1] == min(newest.values())


def test_bytewax_s_own_clock_calls_late_what_a_member_read_while_the_others_went_on() -> None:
    order = [reading("a", 0), reading("a", 60), reading("b", 1)]
    own = EventClock(lambda one: one.time, 5 * SECOND, lambda: START, lambda _: None).build(None)
    own.before_batch()
    seen = [own.on_item(one) for one in order]
    assert seen[-1][0] < seen[-1][1]
    ours = played(order, clock("a", "b", wait=5))
    assert ours[-1][0].time >= ours[-1][1]


def test_a_silent_source_is_waited_for_as_long_as_the_patience_and_again_when_it_is_back() -> None:
    order = [reading("a", 0), reading("b", 0), reading("a", 50), reading("a", 101), reading("a", 110)]
    watermarks = [watermark for _, watermark in played(order, clock("a", "b", patience=100))]
    assert watermarks[2] == START
    assert watermarks[3] == watermarks[4] - 9 * SECOND == START + 101 * SECOND
    back = played([*order, reading("b", 111), reading("a", 150)], clock("a", "b", patience=100))
    assert back[-1][1] == START + 111 * SECOND


def test_a_source_that_never_came_is_waited_for_from_the_first_reading_on() -> None:
    watermarks = [
        w for _, w in played([reading("a", 0), reading("a", 99), reading("a", 101)], clock("a", "b", patience=100))
    ]
    assert watermarks[1] < START
    assert watermarks[2] == START + 101 * SECOND


def test_a_device_whose_clock_is_ahead_moves_no_other_on() -> None:
    order = [reading("a", 0), reading("b", 10**8, received=1), reading("a", 2)]
    assert played(order, clock("a", "b"))[-1][1] == START + 2 * SECOND
