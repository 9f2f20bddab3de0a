"""The reader against devices on real sockets: sound ones, and ones that refuse, are silent or hang up."""

import asyncio
import json
import time
from collections import Counter
from itertools import pairwise

import pytest
from pymodbus.framer import FramerType
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from connectors.contract import SourceState
from normalization.reading import Quality
from tests.connectors.sources.modbus.device import HANG_UP, Request, exception, pdu, running, word
from tests.connectors.sources.modbus.harness import (
    FRAMINGS,
    assert_no_wrong_value,
    config,
    good,
    reader,
    reading,
    table,
)
from tests.recording_intake import RecordingIntake

# Sound devices


@FRAMINGS
async def test_values_of_all_tables_and_types_arrive_from_a_pymodbus_server(rtu):
    blocks = (
        [SimData(0, values=[True, False, True], datatype=DataType.BITS)],
        [SimData(0, values=[False, True], datatype=DataType.BITS)],
        [
            SimData(0, values=[-5], datatype=DataType.INT16),
            SimData(1, values=[-70000], datatype=DataType.INT32),
            SimData(3, values=[2**63 - 1], datatype=DataType.INT64),
            SimData(7, values=[3.25], datatype=DataType.FLOAT32),
            SimData(9, values=[-0.1], datatype=DataType.FLOAT64),
            SimData(13, values=["PUMP"], datatype=DataType.STRING),
            SimData(15, values=[2**64 - 1], datatype=DataType.UINT64),
            SimData(19, values=[0b1000], datatype=DataType.REGISTERS),
        ],
        [SimData(5, values=[65535], datatype=DataType.REGISTERS)],
    )
    framer = FramerType.RTU if rtu else FramerType.SOCKET
    server = ModbusTcpServer(SimDevice(3, blocks), framer=framer, address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    try:
        host, port = server.transport.sockets[0].getsockname()
        registers = [
            {"name": "c", "kind": "coil", "address": 0, "count": 3},
            {"name": "d", "kind": "discrete", "address": 0, "count": 2},
            {"name": "i16", "address": 0, "type": "int16"},
            {"name": "i32", "address": 1, "type": "int32"},
            {"name": "i64", "address": 3, "type": "int64"},
            {"name": "f32", "address": 7, "type": "float32"},
            {"name": "f64", "address": 9, "type": "float64"},
            {"name": "s", "address": 13, "type": "string", "length": 4},
            {"name": "u64", "address": 15, "type": "uint64"},
            {"name": "b3", "address": 19, "bit": 3},
            {"name": "b4", "address": 19, "bit": 4},
            {"name": "in", "kind": "input", "address": 5},
        ]
        endpoint = f"{'rtu+' if rtu else ''}tcp://{host}:{port}"
        async with reading(config(endpoint, registers, unit_id=3)) as (intake, _):
            await intake.until(lambda: good(intake, "in") >= 2)
        values = {r.tag.tag_name: r.value for r in intake.readings()}
        assert values == {
            "c_1": True,
            "c_2": False,
            "c_3": True,
            "d_1": False,
            "d_2": True,
            "i16": -5,
            "i32": -70000,
            "i64": 2**63 - 1,
            "f32": 3.25,
            "f64": -0.1,
            "s": "PUMP",
            "u64": 2**64 - 1,
            "b3": True,
            "b4": False,
            "in": 65535,
        }
        assert {r.quality for r in intake.readings()} == {Quality.GOOD}
        assert list(dict(intake.states)) == [SourceState.CONNECTING, SourceState.CONNECTED]
    finally:
        await server.shutdown()


async def test_an_address_that_two_tags_use_is_asked_for_once_a_cycle():
    registers = [{"name": "word", "address": 4}, {"name": "bit", "address": 4, "bit": 0}, {"name": "w", "address": 4}]
    async with running() as device, reading(config(device.endpoint, registers)) as (intake, source):
        await intake.until(lambda: good(intake, "word") >= 3)
        assert {(r.address, r.count) for r in device.requests} == {(4, 1)}
        assert len(device.requests) <= source.requests <= good(intake, "word") + 1


@pytest.mark.parametrize("setting", ["none", "received"])
async def test_the_source_time_is_empty_unless_the_time_of_the_answer_is_asked_for(setting):
    async with running() as device:
        before = time.time_ns() // 1000
        async with reading(config(device.endpoint, [table(1, 2)], source_time=setting)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_1"))
        times = [r.source_time for r in intake.readings()]
        if setting == "none":
            assert set(times) == {None}
        else:
            assert all(before <= t <= time.time_ns() // 1000 for t in times)


async def test_cycles_that_a_slow_device_costs_are_counted_and_told_and_the_schedule_is_kept():
    async with running() as device:
        device.delay = lambda request: 0.05
        async with reading(config(device.endpoint, [table(1, 1)])) as (intake, source):
            await intake.until(lambda: source.skipped_cycles >= 4)
            await intake.until(lambda: len(intake.states) > 2)
        assert "cycles left out: reading takes longer than the interval of 0.02 s" in intake.states[2][1]
        assert intake.states[2][0] == SourceState.CONNECTED


# Refusals


async def test_one_bad_address_does_not_lose_the_others_and_is_remembered():
    bad = {37}

    def answer(request: Request) -> bytes:
        asked = range(request.address, request.address + request.count)
        return exception(request, 2) if bad.intersection(asked) else pdu(request)

    async with running() as device:
        device.answer = answer
        async with reading(config(device.endpoint, [table(1, 100)], probe_interval=0.3)) as (intake, _):
            await intake.until(lambda: intake.last("u1_holding_37") and good(intake, "u1_holding_99"))
            first = {r.tag.tag_name: r for r in intake.readings()}
            assert len(first) == 100
            refused = first["u1_holding_37"]
            assert (refused.value, refused.quality, refused.status) == (None, Quality.BAD, 2)
            start, cycles = len(device.requests), good(intake, "u1_holding_0")
            await intake.until(lambda: good(intake, "u1_holding_0") >= cycles + 25)
            later = [(r.address, r.count) for r in device.requests[start + 3 :]]
            most = Counter(later).most_common(3)
            assert {block for block, times in most[:2]} == {(0, 37), (38, 62)}, "not joined to two blocks"
            assert most[2][0] == (37, 1)
            assert most[2][1] < most[0][1] / 3, "the bad address is asked for as often as the others"
            assert [r.quality for r in intake.readings("u1_holding_37")] == [Quality.BAD], "said more than once"
            bad.clear()
            await intake.until(lambda: good(intake, "u1_holding_37"))
        assert_no_wrong_value(intake)


async def test_a_device_that_gives_fewer_registers_than_the_specification_is_learnt():
    async with running() as device:
        device.answer = lambda request: exception(request, 3) if request.count > 40 else pdu(request)
        async with reading(config(device.endpoint, [table(1, 250)])) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_249") >= 10)
            last = device.requests[-30:]
        assert max(r.count for r in last) <= 40
        assert len({(r.address, r.count) for r in last}) <= 8
        assert_no_wrong_value(intake)
        assert len({r.tag.tag_name for r in intake.readings() if r.quality == Quality.GOOD}) == 250


async def test_a_gap_that_the_device_refuses_is_left_out():
    async with running() as device:
        device.answer = lambda r: exception(r, 2) if r.address <= 12 < r.address + r.count else pdu(r)
        registers = [{"name": f"t{a}", "address": a} for a in (10, 11, 14, 15)]
        async with reading(config(device.endpoint, registers, max_gap=8)) as (intake, _):
            await intake.until(lambda: good(intake, "t15") >= 3)
        assert (device.requests[0].address, device.requests[0].count) == (10, 6)
        assert {(r.address, r.count) for r in device.requests[-2:]} == {(10, 2), (14, 2)}
        assert {r.quality for r in intake.readings()} == {Quality.GOOD}


async def test_a_device_that_refuses_everything_is_not_flooded():
    async with running() as device:
        device.answer = lambda request: exception(request, 2)
        async with reading(config(device.endpoint, [table(1, 120)])) as (intake, _):
            await intake.until(lambda: len(intake.readings()) >= 120)
            start, begun = len(device.requests), time.monotonic()
            await asyncio.sleep(0.5)
            cycles = (time.monotonic() - begun) / 0.02
            assert len(device.requests) - start <= (cycles + 2) * 40
        assert Counter(r.tag.tag_name for r in intake.readings()).most_common(1)[0][1] == 1
        assert {(r.quality, r.status) for r in intake.readings()} == {(Quality.BAD, 2)}


@pytest.mark.parametrize(
    ("code", "quality"), [(1, Quality.BAD), (4, Quality.BAD), (6, Quality.UNCERTAIN), (99, Quality.BAD)]
)
async def test_an_exception_is_said_once_with_its_code_until_the_device_answers_again(code, quality):
    async with running() as device:
        device.answer = lambda r: exception(r, code) if r.function == 4 and len(device.asked(1)) < 12 else pdu(r)
        registers = [table(1, 2, "input"), table(1, 1)]
        async with reading(config(device.endpoint, registers)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_input_1"))
        before = [r for r in intake.readings("u1_input_0") if r.quality != Quality.GOOD]
        assert [(r.value, r.quality, r.status) for r in before] == [(None, quality, code)]
        assert good(intake, "u1_holding_0") > 3


# Dead units


@FRAMINGS
async def test_one_dead_unit_does_not_lose_the_others(rtu):
    async with running(rtu=rtu) as device:
        device.answer = lambda r: None if r.unit == 2 else pdu(r)
        registers = [table(unit, 3) for unit in (1, 2, 3)]
        async with reading(config(device.endpoint, registers, timeout=0.1)) as (intake, _):
            await intake.until(lambda: intake.last("u2_holding_2"))
            failed = intake.readings("u2_holding_2")
            assert [(r.value, r.quality, r.status) for r in failed] == [(None, Quality.STALE, None)]
            await intake.until(lambda: min(good(intake, f"u{u}_holding_0") for u in (1, 3)) >= 30, within=10)
            assert len(device.asked(2)) < len(device.asked(1)) / 2
            assert len(intake.readings("u2_holding_2")) == 1, "said more than once"
            device.answer = pdu
            await intake.until(lambda: good(intake, "u2_holding_2"))
        assert_no_wrong_value(intake)
        assert intake.gaps == [], "a unit that never answered has no gap"


async def test_a_dead_unit_delays_the_others_by_no_more_than_one_time_out():
    async with running() as device:
        device.answer = lambda r: None if r.unit in {2, 4, 5} else pdu(r)
        registers = [table(unit, 200) for unit in (1, 2, 3, 4, 5)]
        async with reading(config(device.endpoint, registers, timeout=0.25)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_0") >= 2)
            start = len(device.requests)
            await intake.until(lambda: good(intake, "u1_holding_0") >= 12, within=10)
        seen = list(zip(device.times, device.requests, strict=True))[start:]
        assert {r.unit for _, r in seen} >= {2, 4, 5}, "dead units were not probed"
        pauses = [b - a for a, b in pairwise(t for t, r in seen if r.unit == 1)]
        assert max(pauses) < 2 * 0.25


async def test_a_unit_that_dies_and_returns_has_its_gap_recorded():
    async with running() as device:
        async with reading(config(device.endpoint, [table(1, 2), table(2, 2)], timeout=0.1)) as (intake, _):
            await intake.until(lambda: good(intake, "u2_holding_0") >= 3)
            died = time.time_ns() // 1000
            device.answer = lambda r: None if r.unit == 2 else pdu(r)
            await intake.until(lambda: intake.last("u2_holding_0").quality == Quality.STALE)
            device.answer = pdu
            returned = time.time_ns() // 1000
            await intake.until(lambda: intake.last("u2_holding_0").quality == Quality.GOOD)
        (gap,) = [gap for gap in intake.gaps if gap.tags[0].device_id == "2"]
        assert [tag.tag_name for tag in gap.tags] == ["u2_holding_0", "u2_holding_1"]
        assert gap.start <= died + 50_000
        assert returned <= gap.end
        assert gap.reason == "unit 2: no answer within 0.1 s"


@FRAMINGS
async def test_a_device_that_is_deaf_after_a_silent_one_is_asked_once_more(rtu):
    """As on a serial line, where a device may take the request for the answer that did not come."""
    async with running(rtu=rtu) as device:
        before: list[int] = []

        def answer(request: Request) -> bytes | None:
            deaf, before[:] = before == [2], [request.unit]
            return None if deaf or request.unit == 2 else pdu(request)

        device.answer = answer
        settings = config(device.endpoint, [table(1, 2), table(2, 2)], timeout=0.05, probe_interval=0.1)
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_0") >= 30 and len(device.asked(2)) >= 4)
        assert {r.quality for r in intake.readings("u1_holding_0")} == {Quality.GOOD}
        assert intake.gaps == []


@pytest.mark.parametrize(("code", "quality"), [(10, Quality.BAD), (11, Quality.STALE)])
async def test_a_unit_that_the_gateway_does_not_reach_is_probed_with_one_request(code, quality):
    async with running() as device:
        device.answer = lambda r: exception(r, code) if r.unit == 2 else pdu(r)
        registers = [table(1, 2), table(2, 1000)]
        async with reading(config(device.endpoint, registers)) as (intake, source):
            await intake.until(lambda: good(intake, "u1_holding_0") >= 30)
        readings = intake.readings("u2_holding_999")
        assert [(r.value, r.quality, r.status) for r in readings] == [(None, quality, code)]
        assert len(device.asked(2)) <= 10
        assert source.requests >= 30


async def test_a_block_that_is_never_answered_costs_the_unit_only_that_block():
    async with running() as device:
        device.answer = lambda r: None if r.function == 3 else pdu(r)
        registers = [table(1, 2, "coil"), table(1, 2), table(1, 2, "input")]
        async with reading(config(device.endpoint, registers, timeout=0.1)) as (intake, _):
            await intake.until(lambda: min(good(intake, "u1_input_0"), good(intake, "u1_coil_0")) >= 20, within=10)
            assert {r.quality for r in intake.readings("u1_coil_0")} == {Quality.GOOD}
            assert {r.quality for r in intake.readings("u1_holding_0")} == {Quality.STALE}
            device.answer = pdu
            await intake.until(lambda: good(intake, "u1_holding_0"))


# The line


async def test_no_connection_is_an_error_that_names_the_endpoint():
    async with running() as device:
        settings = config(device.endpoint, [table(1, 1)])
    intake = RecordingIntake()
    with pytest.raises(ConnectionError, match=settings.endpoint.replace("+", r"\+")):
        await reader(settings).run(intake, None)
    assert intake.states == [(SourceState.CONNECTING, settings.endpoint)]


async def test_a_lost_connection_ends_the_reader_and_the_next_start_records_the_gap():
    async with running() as device:
        intake, source = RecordingIntake(), reader(config(device.endpoint, [table(1, 2)]))
        task = asyncio.create_task(source.run(intake, None))
        await intake.until(lambda: good(intake, "u1_holding_0") >= 3)
        device.answer = lambda r: HANG_UP
        with pytest.raises(ConnectionError, match="connection lost"):
            await asyncio.wait_for(task, 5)
        assert intake.gaps == []
        device.answer = pdu
        count = good(intake, "u1_holding_0")
        task = asyncio.create_task(source.run(intake, intake.appended[-1][1]))
        await intake.until(lambda: good(intake, "u1_holding_0") > count)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        (gap,) = intake.gaps
        assert gap.reason == "connection lost"
        assert gap.start == json.loads(intake.appended[count - 1][1])["1"]


@FRAMINGS
async def test_a_connection_that_was_closed_while_idle_is_opened_again_and_costs_nothing(rtu):
    """As devices do whose patience is shorter than the interval."""
    async with running(rtu=rtu) as device, reading(config(device.endpoint, [table(1, 2)], interval=0.2)) as (intake, _):
        for count in range(1, 5):
            await intake.until(lambda: good(intake, "u1_holding_0") >= count)  # noqa: B023  it is awaited here
            await asyncio.sleep(0.02)
            device.hang_up()
        assert device.connections >= 4
        assert {r.quality for r in intake.readings()} == {Quality.GOOD}
        assert intake.gaps == []
        assert list(dict(intake.states)) == [SourceState.CONNECTING, SourceState.CONNECTED]


async def test_the_gap_of_a_restart_begins_with_the_last_reading_of_the_run_before():
    async with running() as device:
        settings = config(device.endpoint, [table(1, 2)])
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_0") >= 3)
        assert intake.gaps == []
        state = intake.appended[-1][1]
        async with reading(settings, state=state) as (after, _):
            await after.until(lambda: good(after, "u1_holding_0"))
        (gap,) = after.gaps
        assert (gap.start, gap.reason) == (json.loads(state)["1"], "not connected")
        assert gap.start < gap.end
        async with reading(settings, state=b"not a state") as (after, _):
            await after.until(lambda: good(after, "u1_holding_0"))
        assert after.gaps == []


@FRAMINGS
async def test_a_line_without_any_answer_is_given_up_and_never_called_connected(rtu):
    async with running(rtu=rtu) as device:
        device.answer = lambda r: None
        intake, source = RecordingIntake(), reader(config(device.endpoint, [table(1, 300), table(2, 1)], timeout=0.1))
        with pytest.raises(TimeoutError, match="connected, but no unit answers"):
            await asyncio.wait_for(source.run(intake, None), 10)
        assert [state for state, _ in intake.states] == [SourceState.CONNECTING]
        assert {r.quality for r in intake.readings()} == {Quality.STALE}
        assert len(intake.readings()) == 301


async def test_a_connection_that_went_silent_is_given_up():
    async with running() as device:
        intake, source = RecordingIntake(), reader(config(device.endpoint, [table(1, 2)], timeout=0.1))
        task = asyncio.create_task(source.run(intake, None))
        await intake.until(lambda: good(intake, "u1_holding_0") >= 3)
        device.answer = lambda r: None
        with pytest.raises(TimeoutError, match="no unit answers"):
            await asyncio.wait_for(task, 10)


@FRAMINGS
async def test_a_unit_that_ends_every_connection_does_not_lose_the_others(rtu):
    async with running(rtu=rtu) as device:
        device.answer = lambda r: HANG_UP if r.unit == 1 else pdu(r)
        async with reading(config(device.endpoint, [table(1, 2), table(2, 2)])) as (intake, _):
            await intake.until(lambda: good(intake, "u2_holding_0") >= 10)
            assert {r.quality for r in intake.readings("u1_holding_0")} == {Quality.STALE}
            assert device.connections < 8, "it is asked as seldom as any unit that fails"
            device.answer = pdu
            await intake.until(lambda: good(intake, "u1_holding_0"))
        assert intake.last("u2_holding_0").quality == Quality.GOOD
        assert_no_wrong_value(intake)


async def test_a_line_that_ends_every_connection_is_given_up():
    async with running() as device:
        device.answer = lambda r: HANG_UP
        intake, source = RecordingIntake(), reader(config(device.endpoint, [table(1, 2), table(2, 2)]))
        with pytest.raises(TimeoutError, match="no unit answers"):
            await asyncio.wait_for(source.run(intake, None), 5)
        assert [state for state, _ in intake.states] == [SourceState.CONNECTING]


async def test_the_gap_of_a_unit_that_was_dead_before_a_restart_begins_with_its_own_last_reading():
    async with running() as device:
        settings = config(device.endpoint, [table(1, 1), table(2, 1)], timeout=0.05)
        async with reading(settings) as (before, _):
            await before.until(lambda: good(before, "u2_holding_0") >= 2)
            device.answer = lambda r: None if r.unit == 2 else pdu(r)
            await before.until(lambda: before.last("u2_holding_0").quality == Quality.STALE)
            died, alive = time.time_ns() // 1000, good(before, "u1_holding_0")
            await before.until(lambda: good(before, "u1_holding_0") >= alive + 5)
        device.answer = pdu
        async with reading(settings, state=before.appended[-1][1]) as (after, _):
            await after.until(lambda: good(after, "u2_holding_0"))
        gaps = {gap.tags[0].device_id: gap for gap in after.gaps}
        assert gaps["2"].start < died < gaps["1"].start


async def test_a_full_journal_stops_the_reading_and_the_gap_is_recorded():
    async with running() as device:
        async with reading(config(device.endpoint, [table(1, 2)]), hold=True) as (intake, _):
            await intake.until(lambda: len(intake.open) >= 65)
            await asyncio.sleep(0.15)
            assert len(intake.open) <= 66
            assert len(device.requests) <= 67
            intake.hold = False
            intake.release()
            await intake.until(lambda: len(intake.appended) >= 70)
        assert [gap.reason for gap in intake.gaps] == ["the journal was full"]
        assert intake.gaps[0].end - intake.gaps[0].start >= 100_000


async def test_a_journal_that_takes_its_time_costs_no_reading():
    """As on a disk whose sync takes half a second."""
    async with running() as device, reading(config(device.endpoint, [table(1, 2)]), hold=True) as (intake, source):
        for count in (20, 40, 60):
            await intake.until(lambda: len(intake.appended) >= count)  # noqa: B023  it is awaited here
            intake.release()
        await intake.until(lambda: len(intake.appended) >= 80)
        assert intake.gaps == []
        assert source.skipped_cycles < 20


async def test_many_readings_wait_in_few_appends():
    async with running() as device, reading(config(device.endpoint, [table(1, 20_000)]), hold=True) as (intake, _):
        await intake.until(lambda: sum(len(rows) for rows, _ in intake.appended) > 50_000, within=10)
        count = len(intake.appended)
        await asyncio.sleep(0.2)
        assert sum(len(rows) for rows, _ in intake.appended) <= 90_000
        assert len(intake.appended) <= count + 40
        intake.hold = False
        intake.release()


# Before it runs


async def test_a_check_says_what_it_found_of_each_unit():
    async with running() as device:
        device.answer = lambda r: {1: pdu(r), 2: exception(r, 2), 3: None}[r.unit]
        found = await reader(config(device.endpoint, [table(unit, 200) for unit in (1, 2, 3)], timeout=0.1)).check()
    assert [(f.ok, f.subject) for f in found] == [
        (True, device.endpoint),
        (True, "unit 1, holding 0"),
        (False, "unit 2, holding 0"),
        (False, "unit 3, holding 0"),
    ]
    assert "illegal data address; is the address counted from 0?" in found[2].detail
    assert "is this the unit id of the device?" in found[3].detail


async def test_a_check_of_a_device_that_is_off_says_so():
    async with running() as device:
        source = reader(config(device.endpoint, [table(1, 1)]))
    (found,) = await source.check()
    assert not found.ok
    assert "is the device on" in found.detail


def test_devices_of_these_tests_are_told_apart_by_their_values():
    held = {word(Request(0, unit, function, 0, 0), a) for unit in (1, 2) for function in (3, 4) for a in range(50)}
    assert len(held) == 200


async def test_the_device_fails_a_test_that_writes():
    async def write_a_register() -> None:
        async with running() as device:
            host, _, port = device.endpoint.removeprefix("tcp://").partition(":")
            stream, writer = await asyncio.open_connection(host, int(port))
            writer.write(bytes.fromhex("000100000006010600000001"))
            await stream.read()
            writer.close()

    with pytest.raises(AssertionError, match="could write"):
        await write_a_register()
