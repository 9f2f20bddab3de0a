"""Deadlines, rates by tag, and units that are busy, slow or dead."""

import asyncio
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sources.modbus.schedule import Schedule
from normalization.reading import Quality
from tests.connectors.sources.modbus.device import exception, pdu, running
from tests.connectors.sources.modbus.harness import assert_no_wrong_value, config, good, reading, table

# The schedule alone


def test_an_interval_is_due_at_its_times_whatever_reading_takes():
    schedule = Schedule([1.0], 100.0)
    for now, spent in ((100.0, 0.3), (101.0, 0.9), (102.0, 0.0)):
        assert schedule.begin(now) == [1.0]
        assert schedule.begin(now + spent) == []
        assert schedule.end(1.0, now + spent) == 0
        assert schedule.next() == now + 1.0
    assert schedule.skipped == {1.0: 0}


def test_deadlines_that_are_missed_are_counted_and_the_others_stay_where_they_were():
    schedule = Schedule([1.0], 100.0)
    schedule.begin(100.0)
    assert schedule.end(1.0, 103.4) == 2
    assert schedule.next() == 103.0
    assert schedule.begin(103.4) == [1.0]
    assert schedule.skipped == {1.0: 2}


def test_only_shorter_intervals_come_between_and_the_shortest_comes_first():
    schedule = Schedule([1.0, 5.0, 0.1], 0.0)
    assert schedule.begin(0.0) == [0.1, 1.0, 5.0]
    assert schedule.begin(0.15, below=1.0) == [0.1]
    assert schedule.end(0.1, 0.99) == 7
    assert schedule.begin(1.0, below=1.0) == [0.1]
    assert schedule.begin(1.0) == [1.0]


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.1, 0.25, 1.0, 3.0]), min_size=1), st.lists(st.floats(0, 4), min_size=1, max_size=30))
def test_every_deadline_is_begun_or_counted_as_left_out(intervals, steps):
    schedule, now, begun = Schedule(intervals, 0.0), 0.0, Counter()
    for step in steps:
        due = schedule.begin(now)
        begun.update(due)
        now += step
        for interval in due:
            schedule.end(interval, now)
        now = max(now, schedule.next())
    for interval, skipped in schedule.skipped.items():
        assert begun[interval] + skipped <= now / interval + 2
        assert begun[interval] + skipped >= (now - max(steps)) / interval - 2


# Rates


async def test_values_are_read_at_their_own_intervals_and_addresses_of_two_are_not_joined():
    async with running() as device:
        registers = [table(1, 4), table(1, 4, address=4) | {"interval": 0.1}, table(2, 2, "input") | {"interval": 0.1}]
        async with reading(config(device.endpoint, registers, max_gap=8)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_7") >= 6)
        fast, slow = good(intake, "u1_holding_0"), good(intake, "u1_holding_7")
        assert 3 * slow <= fast <= 7 * slow
        assert {(r.address, r.count) for r in device.asked(1)} == {(0, 4), (4, 4)}
        assert_no_wrong_value(intake)


async def test_a_long_reading_gives_way_to_a_short_interval():
    """100 requests of 10 ms each every 10 seconds, and one value every 100 ms."""
    async with running() as device:
        device.delay = lambda r: 0.01
        registers = [table(1, 12_500) | {"interval": 10.0}, table(2, 1) | {"interval": 0.1}]
        settings = config(device.endpoint, registers, slow_share=100)
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_12499"), within=20)
        times = [at for at, r in zip(device.times, device.requests, strict=True) if r.unit == 2]
        assert len(times) >= 6, "it waited for the long reading"
        assert sorted(b - a for a, b in pairwise(times))[len(times) // 2] < 0.3
        assert len(intake.readings("u1_holding_0")) == 1


async def test_dead_units_of_one_interval_do_not_keep_those_of_another_from_being_probed():
    async with running() as device:
        dead = {2, 3}
        device.answer = lambda r: None if r.unit in dead else pdu(r)
        registers = [table(1, 1), table(2, 1) | {"interval": 0.3}, table(3, 1)]
        async with reading(config(device.endpoint, registers, timeout=0.05, probe_interval=0.1)) as (intake, _):
            await intake.until(lambda: intake.last("u2_holding_0") and intake.last("u3_holding_0"))
            await intake.until(lambda: good(intake, "u1_holding_0") >= 20)
            dead.clear()
            await intake.until(lambda: good(intake, "u2_holding_0") and good(intake, "u3_holding_0"))


async def test_blocks_that_are_split_while_shorter_intervals_come_between_are_all_read():
    async with running() as device:
        device.delay = lambda r: 0.004
        device.answer = lambda r: exception(r, 2) if r.count > 30 or r.address <= 77 < r.address + r.count else pdu(r)
        registers = [table(1, 1000) | {"interval": 0.5}, table(1, 90, "input") | {"interval": 0.05}]
        async with reading(config(device.endpoint, registers, probe_interval=0.2)) as (intake, _):
            await intake.until(
                lambda: good(intake, "u1_holding_999") >= 3 and good(intake, "u1_input_89") >= 5, within=20
            )
            await intake.until(lambda: intake.last("u1_holding_77") and good(intake, "u1_holding_0") >= 3, within=20)
        assert_no_wrong_value(intake)
        names = {r.tag.tag_name for r in intake.readings() if r.quality == Quality.GOOD}
        assert len(names) == 999 + 89


# Busy, slow and dead


async def test_a_busy_device_is_asked_again_in_the_same_cycle_and_the_others_first():
    async with running() as device:
        device.answer = lambda r: exception(r, 6) if r.unit == 1 and len(device.asked(1)) % 3 else pdu(r)
        registers = [table(1, 2), table(2, 2), table(3, 2)]
        async with reading(config(device.endpoint, registers, interval=0.3, busy_pause=0.03)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_1") >= 3)
        assert {r.quality for r in intake.readings()} == {Quality.GOOD}
        assert [r.unit for r in device.requests[:5]] == [1, 2, 3, 1, 1]
        assert device.times[3] - device.times[0] >= 0.03


async def test_a_device_that_stays_busy_is_uncertain_and_read_in_the_next_cycle():
    async with running() as device:
        device.answer = lambda r: exception(r, 5) if len(device.requests) < 9 else pdu(r)
        async with reading(config(device.endpoint, [table(1, 2)], interval=0.2, busy_pause=0.01)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_1"))
        said = [(r.quality, r.status) for r in intake.readings("u1_holding_1")]
        assert said == [(Quality.UNCERTAIN, 5), (Quality.GOOD, None)]
        assert len(device.requests) >= 9


async def test_a_gateway_that_missed_one_answer_is_asked_once_more():
    async with running() as device:
        device.answer = lambda r: exception(r, 11) if r.unit == 2 and len(device.asked(2)) % 4 == 2 else pdu(r)
        async with reading(config(device.endpoint, [table(1, 2), table(2, 2)])) as (intake, _):
            await intake.until(lambda: good(intake, "u2_holding_1") >= 8)
        assert {r.quality for r in intake.readings()} == {Quality.GOOD}


async def test_a_slow_unit_is_read_last_with_one_request_a_cycle_and_told_until_it_is_quick_again():
    async with running() as device:
        slow = {2}
        device.delay = lambda r: 0.08 if r.unit in slow else 0.0
        registers = [table(2, 1000), table(1, 2), table(3, 2)]
        async with reading(config(device.endpoint, registers, interval=0.1, timeout=1.0)) as (intake, _):
            await intake.until(lambda: any("unit 2 takes" in detail for _, detail in intake.states), within=10)
            start = len(device.requests)
            await intake.until(lambda: len(device.requests) > start + 40, within=10)
            order = [r.unit for r in device.requests[start + 6 :]]
            assert order.count(2) <= order.count(1) + 1
            addresses = [r.address for r in device.requests[start:] if r.unit == 2]
            assert len(set(addresses[:8])) == min(8, len(addresses)), "its blocks take turns"
            slow.clear()
            count = good(intake, "u2_holding_999")
            await intake.until(lambda: good(intake, "u2_holding_999") >= count + 5, within=15)
            assert intake.states[-1][1] == device.endpoint, "it is still called slow"
        assert_no_wrong_value(intake)
        assert {r.quality for r in intake.readings("u1_holding_0")} == {Quality.GOOD}


async def test_units_that_are_all_equally_slow_are_not_called_slow():
    async with running() as device:
        device.delay = lambda r: 0.03
        async with reading(config(device.endpoint, [table(1, 300), table(2, 300)])) as (intake, _):
            await intake.until(lambda: good(intake, "u2_holding_299") >= 4, within=10)
        assert not any("is read after the others" in detail for _, detail in intake.states)
        assert abs(good(intake, "u1_holding_299") - good(intake, "u1_holding_0")) <= 1


@pytest.mark.parametrize("dead", [(2,), (2, 4, 5)])
async def test_dead_units_cost_a_healthy_one_one_time_out_a_cycle_on_a_serial_line_too(dead):
    async with running(over="serial", mode="rtu") as device:
        device.answer = lambda r: None if r.unit in dead else pdu(r)
        registers = [table(unit, 200) for unit in (1, 2, 3, 4, 5)]
        async with reading(config(device.endpoint, registers, timeout=0.2)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_0") >= 2, within=10)
            start = len(device.requests)
            await intake.until(lambda: good(intake, "u1_holding_0") >= 14, within=10)
        seen = list(zip(device.times, device.requests, strict=True))[start:]
        pauses = [b - a for a, b in pairwise(t for t, r in seen if r.unit == 1 and r.address == 0)]
        assert max(pauses) < 3 * 0.2
        assert {r.quality for r in intake.readings("u3_holding_0")} == {Quality.GOOD}
        await asyncio.sleep(0)
