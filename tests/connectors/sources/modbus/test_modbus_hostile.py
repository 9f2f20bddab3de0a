"""The reader against devices that are late, lie, or send garbage."""

import asyncio
import random
from collections import Counter

import pytest

from connectors.sources.modbus.line import Line
from connectors.sources.modbus.plan import Kind
from connectors.sources.modbus.protocol import Ask, BadReplyError, RefusedError
from normalization.reading import Quality
from tests.connectors.sources.modbus.device import Request, data, frame, pdu, running
from tests.connectors.sources.modbus.harness import FRAMINGS, assert_no_wrong_value, config, good, reading, table


@FRAMINGS
async def test_a_late_answer_never_becomes_the_value_of_another_request(rtu):
    async with running(rtu=rtu) as device:
        chance = random.Random(3)
        device.delay = lambda r: 0.15 if r.unit == 2 and chance.random() < 0.5 else 0.0
        registers = [table(2, 4), table(2, 4, address=100), table(2, 4, address=200), table(1, 4, address=300)]
        async with reading(config(device.endpoint, registers, probe_interval=0.05, timeout=0.1)) as (intake, _):
            await intake.until(lambda: good(intake, "u2_holding_200") >= 6, within=15)
        assert any(r.quality == Quality.STALE for r in intake.readings())
        assert_no_wrong_value(intake)


@pytest.mark.parametrize(
    "wrong",
    [
        {"transaction": 0},
        {"transaction": 1},
        {"unit": 1},
        {"function": 4},
        {"count": 3},
        {"count": 5},
    ],
    ids=lambda wrong: "-".join(map(str, *wrong.items())),
)
async def test_an_answer_that_is_not_exactly_to_the_request_is_never_a_value(wrong):
    def raw(request: Request) -> bytes | None:
        other = request._replace(**wrong)
        return frame(other, pdu(other)) if request.unit == 2 else None

    async with running() as device:
        device.raw = raw
        async with reading(config(device.endpoint, [table(1, 4), table(2, 4)], timeout=0.2)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_0") >= 8)
        assert {r.quality for r in intake.readings("u2_holding_3")} <= {Quality.BAD, Quality.STALE}
        assert intake.last("u2_holding_3") is not None
        assert {r.quality for r in intake.readings("u1_holding_3")} == {Quality.GOOD}
        assert_no_wrong_value(intake)


def lies(request: Request, chance: random.Random, *, rtu: bool) -> bytes:
    """An answer that is wrong in its frame, its header, its length or its place, but never only in its data."""
    sound = frame(request, pdu(request), rtu=rtu)
    head = 3 if rtu else 9
    octets = bytearray(sound)
    match chance.randrange(8):
        case 0:
            octets[chance.randrange(head)] = chance.randrange(256)
        case 1:
            octets[chance.randrange(head)] ^= 1 << chance.randrange(8)
        case 2:
            del octets[chance.randrange(len(octets)) :]
        case 3:
            octets += chance.randbytes(chance.randint(1, 30))
        case 4:
            octets[:0] = chance.randbytes(chance.randint(1, 12))
        case 5:
            octets = bytearray(chance.randbytes(chance.randint(1, 300)))
        case 6:
            other = request._replace(unit=request.unit ^ 1, transaction=request.transaction ^ chance.randint(1, 9))
            octets = bytearray(frame(other, pdu(other), rtu=rtu))
        case 7:
            fewer = max(1, request.count - 8 if request.function < 3 else request.count - 1)
            other = request._replace(count=fewer, address=request.address + 1)
            if len(data(other)) == len(data(request)):
                other = request._replace(function=request.function % 4 + 1)
            octets = bytearray(frame(other, pdu(other), rtu=rtu))
    return bytes(octets)


@pytest.mark.threat(15)
@FRAMINGS
async def test_10000_mutated_replies_crash_nothing_and_give_no_wrong_value(rtu):
    chance = random.Random(15)
    outcomes: Counter[str] = Counter()
    async with running(rtu=rtu) as device:
        device.answer = lambda r: None  # the answers are put into the line by hand
        line = Line(config(device.endpoint, [table(1, 1)], timeout=5))
        for n in range(10_000):
            if line.broken:
                await line.open()
            function, count = chance.randint(1, 4), chance.randint(1, 100)
            address, unit = chance.randrange(60000), chance.randint(1, 247)
            task = asyncio.ensure_future(line.ask(Ask(unit, Kind(function), address, count)))
            await asyncio.sleep(0)
            request = Request(line._transaction, unit, function, address, count)
            line.data_received(lies(request, chance, rtu=rtu))
            if n % 3 and not task.done():
                line.data_received(frame(request, pdu(request), rtu=rtu))  # the right one comes after all
            await asyncio.sleep(0)
            if not task.done():
                line._deadline = 0.0
                line._expire()
            try:
                assert await task == data(request)
                outcomes["right"] += 1
            except (TimeoutError, BadReplyError, RefusedError) as error:
                outcomes[type(error).__name__] += 1
        line.abort()
    assert outcomes["BadReplyError"] > 2000
    assert outcomes["TimeoutError"] > 300
    assert sum(outcomes.values()) == 10_000


@pytest.mark.threat(15)
@FRAMINGS
async def test_a_lying_unit_gives_rejects_and_bad_readings_and_costs_the_others_nothing(rtu):
    chance = random.Random(4)
    async with running(rtu=rtu) as device:
        device.raw = lambda r: lies(r, chance, rtu=rtu) if r.unit == 2 and chance.random() < 0.8 else None
        registers = [table(1, 30), table(2, 30), table(2, 30, "coil"), table(2, 30, "input", 500)]
        async with reading(config(device.endpoint, registers, timeout=0.15, probe_interval=0.04)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_0") >= 100, within=20)
        assert_no_wrong_value(intake)
        rejects = [r for r in intake.readings() if r.reject is not None]
        assert rejects
        assert all(r.reject.startswith("answer to ") and r.value and r.tag.device_id == "2" for r in rejects)
        assert any(r.quality == Quality.BAD and r.value is None for r in intake.readings("u2_holding_0"))
        assert {r.quality for r in intake.readings("u1_holding_0")} <= {Quality.GOOD, Quality.BAD, Quality.STALE}
        assert good(intake, "u2_holding_0")


async def test_a_flood_of_answers_that_nobody_asked_for_is_cut_off():
    async with running() as device:
        strays = b"".join(frame(Request(0, 1, 3, 0, 100), pdu(Request(0, 1, 3, 0, 100))) for _ in range(500))
        device.raw = lambda r: strays if r.unit == 2 else None
        async with reading(config(device.endpoint, [table(1, 2), table(2, 100)])) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_0") >= 10)
        assert "replies that nobody asked for" in intake.readings("u2_holding_0")[0].reject
        assert_no_wrong_value(intake)


@FRAMINGS
async def test_an_answer_that_arrives_while_the_reader_is_stopped_is_dropped(rtu):
    async with running(rtu=rtu) as device:
        device.answer = lambda r: None
        line = Line(config(device.endpoint, [table(1, 1)]))
        await line.open()
        task = asyncio.ensure_future(line.ask(Ask(1, Kind.HOLDING, 0, 1)))
        await asyncio.sleep(0)
        task.cancel()
        request = Request(1, 1, 3, 0, 1)
        line.data_received(frame(request, pdu(request), rtu=rtu))
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not line.broken or rtu
        line.abort()
