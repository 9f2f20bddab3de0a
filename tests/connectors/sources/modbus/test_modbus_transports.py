"""Each way to a device: TCP, TLS, UDP, serial lines over a pty pair, RTU and ASCII frames."""

import asyncio
import random
import ssl
import struct
from pathlib import Path

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.framer import FramerAscii
from pymodbus.pdu import DecodePDU

from connectors.contract import SourceState
from connectors.sources.modbus.line import Line
from connectors.sources.modbus.plan import Kind
from connectors.sources.modbus.protocol import AsciiFraming, Ask, BadReplyError
from connectors.sources.modbus.serial_line import SerialFormat
from normalization.reading import Quality
from tests.connectors.sources.modbus.device import SCHEMES, exception, frame, pdu, running
from tests.connectors.sources.modbus.harness import assert_no_wrong_value, config, good, reader, reading, table
from tests.recording_intake import RecordingIntake

_WAYS = [way for way in SCHEMES if way[0] != "tls"]
WAYS = pytest.mark.parametrize(("over", "mode"), _WAYS, ids=["-".join(way) for way in _WAYS])
SERIAL = pytest.mark.parametrize("mode", ["rtu", "ascii"])


@WAYS
async def test_all_tables_are_read_and_a_dead_unit_does_not_lose_the_others(over, mode):
    async with running(over=over, mode=mode) as device:
        device.answer = lambda r: None if r.unit == 3 else exception(r, 2) if r.address >= 900 else pdu(r)
        registers = [table(1, 300, kind) for kind in ("coil", "discrete", "input", "holding")]
        registers += [table(2, 5), table(3, 5), table(1, 1, address=900)]
        settings = config(device.endpoint, registers, timeout=0.2, probe_interval=0.3)
        async with reading(settings) as (intake, _):
            await intake.until(
                lambda: good(intake, "u1_coil_299") >= 3 and good(intake, "u2_holding_4") >= 3, within=15
            )
            await intake.until(lambda: intake.last("u3_holding_0") is not None, within=15)
        assert_no_wrong_value(intake)
        assert {r.quality for r in intake.readings("u1_holding_299")} == {Quality.GOOD}
        assert {r.quality for r in intake.readings("u3_holding_0")} == {Quality.STALE}
        assert (intake.last("u1_holding_900").quality, intake.last("u1_holding_900").status) == (Quality.BAD, 2)


@WAYS
async def test_a_late_answer_never_becomes_a_value_of_something_else(over, mode):
    """Many answers come after the time-out, when something else has been asked."""
    chance = random.Random(3)
    async with running(over=over, mode=mode) as device:
        device.delay = lambda r: 0.14 if r.unit == 2 and chance.random() < 0.4 else 0.0
        registers = [table(2, 4), table(2, 4, address=100), table(2, 4, address=200), table(1, 4, address=300)]
        settings = config(device.endpoint, registers, probe_interval=0.03, timeout=0.1)
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "u2_holding_200") >= 4 and len(device.asked(2)) > 12, within=20)
        assert any(r.quality == Quality.STALE for r in intake.readings())
        assert_no_wrong_value(intake)


def authority() -> tuple[trustme.CA, ssl.SSLContext]:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return ca, context


async def test_tls_with_a_client_certificate(tmp_path):
    ca, context = authority()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    client = ca.issue_cert("gateway@plant")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    tls = {"ca_file": tmp_path / "ca.pem", "cert_file": tmp_path / "client.pem"}
    async with running(over="tls", tls=context) as device:
        async with reading(config(device.endpoint, [table(1, 200)], tls=tls)) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_199") >= 3)
        assert_no_wrong_value(intake)


async def test_a_device_whose_certificate_nobody_trusts_is_not_read(tmp_path):
    _, context = authority()
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    async with running(over="tls", tls=context) as device:
        source = reader(config(device.endpoint, [table(1, 2)], tls={"ca_file": tmp_path / "other.pem"}))
        with pytest.raises(ConnectionError, match="certificate verify failed"):
            await source.run(RecordingIntake(), None)
        assert device.requests == []


async def test_a_check_names_a_certificate_that_is_not_there(tmp_path):
    source = reader(config("tls://127.0.0.1:1", [table(1, 1)], tls={"ca_file": tmp_path / "no.pem"}))
    (found,) = await source.check()
    assert not found.ok
    assert "No such file" in found.detail


async def test_a_lost_datagram_is_asked_for_once_more_before_the_unit_is_called_stale():
    async with running(over="udp") as device:
        device.answer = lambda r: None if len(device.requests) % 5 == 0 else pdu(r)
        settings = config(device.endpoint, [table(1, 2), table(2, 2)], timeout=0.05)
        async with reading(settings) as (intake, _):
            await intake.until(lambda: len(device.requests) >= 25, within=10)
        assert {r.quality for r in intake.readings()} == {Quality.GOOD}


async def test_a_host_without_anybody_at_the_udp_port_is_down():
    async with running(over="udp") as device:
        endpoint = device.endpoint
    source = reader(config(endpoint, [table(1, 1)], timeout=0.5))
    intake = RecordingIntake()
    with pytest.raises((ConnectionError, TimeoutError)):
        await asyncio.wait_for(source.run(intake, None), 10)
    assert [state for state, _ in intake.states] == [SourceState.CONNECTING]


# Serial lines


@SERIAL
async def test_a_serial_line_belongs_to_one_source(mode):
    async with running(over="serial", mode=mode) as device:
        settings = config(device.endpoint, [table(1, 1)])
        one, other = Line(settings), Line(settings)
        await one.open()
        with pytest.raises(ConnectionError, match="in use by another process or source"):
            await other.open()
        one.abort()
        await other.open()
        assert await other.ask(Ask(1, Kind.HOLDING, 5, 1))
        other.abort()


async def test_a_serial_line_that_is_not_there_is_named():
    source = reader(config("rtu:///dev/no-such-line", [table(1, 1)]))
    with pytest.raises(ConnectionError, match="rtu:///dev/no-such-line: No such file"):
        await source.run(RecordingIntake(), None)


async def test_a_serial_line_that_is_pulled_ends_the_reader_and_the_next_start_goes_on():
    intake = RecordingIntake()
    async with running(over="serial", mode="rtu") as device:
        source = reader(config(device.endpoint, [table(1, 2)]))
        task = asyncio.create_task(source.run(intake, None))
        await intake.until(lambda: good(intake, "u1_holding_1") >= 3)
    with pytest.raises(OSError, match=r"rtu:///.*/tty"):
        await asyncio.wait_for(task, 10)


async def test_a_speed_that_no_line_has_is_refused():
    async with running(over="serial", mode="rtu") as device:
        line = Line(config(device.endpoint, [table(1, 1)], serial={"baud_rate": 12345}))
        with pytest.raises(ConnectionError, match="12345 Bd is no speed of this system"):
            await line.open()


async def test_a_driver_that_cannot_switch_rs_485_says_so():
    async with running(over="serial", mode="rtu") as device:
        line = Line(config(device.endpoint, [table(1, 1)], serial={"rs485": "rts_high"}))
        with pytest.raises(ConnectionError, match="cannot switch RS-485"):
            await line.open()


@pytest.mark.parametrize(
    ("baud_rate", "parity", "silence"),
    [(9600, "even", 3.5 * 11 / 9600), (9600, "none", 3.5 * 10 / 9600), (115200, "even", 0.00175)],
)
async def test_rtu_frames_on_a_line_are_apart_by_the_silence_of_the_specification(baud_rate, parity, silence):
    assert SerialFormat(baud_rate, parity).silence == pytest.approx(silence)
    async with running(over="serial", mode="rtu") as device:
        settings = config(device.endpoint, [table(1, 500)], serial={"baud_rate": baud_rate, "parity": parity})
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_499") >= 2)
        pauses = [later - at for at, later in zip(device.times, device.times[1:], strict=False)]
        assert min(pauses) >= 0.9 * silence


async def test_a_pause_between_requests_is_kept_on_any_line():
    async with running() as device:
        settings = config(device.endpoint, [table(1, 500)], pause=0.03, connect_pause=0.1)
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_499") >= 2)
        pauses = [later - at for at, later in zip(device.times, device.times[1:], strict=False)]
        assert min(pauses) >= 0.029


@SERIAL
async def test_an_adapter_that_gives_back_what_is_sent_is_understood(mode):
    async with running(over="serial", mode=mode) as device:
        settings = config(device.endpoint, [table(1, 20)], serial={"echo": True}, timeout=0.3)
        line = Line(settings)

        def echoed(request):
            return line._framing.wrap(0, request.unit, struct.pack(">BHH", *request[2:])) + frame(
                request, pdu(request), mode=mode
            )

        device.raw = echoed
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_19") >= 5)
        assert_no_wrong_value(intake)
        assert {r.quality for r in intake.readings()} == {Quality.GOOD}


# Frames


@settings(deadline=None)
@given(st.integers(1, 4), st.binary(min_size=1, max_size=250), st.integers(0, 255), st.binary(max_size=5))
def test_ascii_frames_are_those_of_pymodbus_and_found_when_they_are_whole(function, data, unit, behind):
    answer = bytes([function, len(data)]) + data
    whole = AsciiFraming().wrap(7, unit, answer)
    assert whole == FramerAscii(DecodePDU(False)).encode(answer, unit, 7)
    for end in range(len(whole)):
        assert AsciiFraming().unwrap(whole[:end]).used == 0
    assert AsciiFraming().unwrap(whole + behind) == (len(whole), 0, unit, answer)
    assert len(whole) == AsciiFraming().length(Ask(unit, Kind(3), 0, 1)) + 2 * (len(data) - 2)


@settings(deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes_are_an_ascii_frame_or_not_complete_or_refused(buffer):
    for candidate in (buffer, b":" + buffer, b":" + buffer.hex().encode() + b"\r\n"):
        try:
            found = AsciiFraming().unwrap(candidate)
        except BadReplyError:
            continue
        assert 0 <= found.used <= len(candidate)


@pytest.mark.parametrize(
    "text", [b":0 103\r\n", b":01 03 02\r\n", b":010302FFFF\r\n", b"010302\r\n", b":0103\n", b"::\r\n"]
)
def test_what_only_looks_like_an_ascii_frame_is_refused(text):
    with pytest.raises(BadReplyError):
        AsciiFraming().unwrap(text)


# Several requests at once


@pytest.mark.parametrize("in_flight", [1, 2, 16])
async def test_requests_in_flight_are_as_many_as_the_device_can_have(in_flight):
    async with running() as device:
        waiting: list[int] = []

        def delay(request):
            waiting.append(request.transaction)
            return 0.0

        device.delay = delay
        settings = config(device.endpoint, [table(1, 2000)], in_flight=in_flight)
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_1999") >= 5)
        assert_no_wrong_value(intake)
        assert {r.quality for r in intake.readings()} == {Quality.GOOD}


async def test_answers_out_of_order_find_their_requests_and_a_refused_one_costs_only_itself():
    """The device holds back each answer until the next request has come, and then gives the two in turn."""
    async with running() as device:
        held: list[bytes] = []

        def raw(request):
            answer = exception(request, 2) if request.address <= 700 < request.address + request.count else pdu(request)
            held.append(frame(request, answer))
            if len(held) < 2 and request.count == 125 and request.address < 875:
                return b""
            out = b"".join(reversed(held))
            held.clear()
            return out

        device.raw = raw
        settings = config(device.endpoint, [table(1, 1000)], in_flight=4, timeout=0.4)
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "u1_holding_999") >= 3 and intake.last("u1_holding_700"), within=20)
        assert_no_wrong_value(intake)
        assert (intake.last("u1_holding_700").quality, intake.last("u1_holding_700").status) == (Quality.BAD, 2)
        assert {r.quality for r in intake.readings("u1_holding_10")} == {Quality.GOOD}


async def test_an_answer_that_took_its_end_from_the_next_one_is_no_value():
    """A reply cut short, with another behind it that completes it."""
    async with running() as device:

        def raw(request):
            sound = frame(request, pdu(request))
            return sound[:-6] + frame(request._replace(transaction=9), pdu(request)) if request.address == 0 else sound

        device.raw = raw
        for in_flight in (1, 4):
            settings = config(device.endpoint, [table(1, 500)], in_flight=in_flight, timeout=0.2)
            async with reading(settings) as (intake, _):
                await intake.until(lambda: intake.last("u1_holding_0") is not None)
                await intake.until(lambda: good(intake, "u1_holding_400") >= 2, within=10)
            assert_no_wrong_value(intake)
            assert good(intake, "u1_holding_0") == 0


def test_no_file_descriptor_of_a_line_is_left_open():
    before = len(list(Path("/proc/self/fd").iterdir()))

    async def open_and_close() -> None:
        async with running(over="serial", mode="rtu") as device:
            line = Line(config(device.endpoint, [table(1, 1)]))
            for _ in range(5):
                await line.open()
            line.abort()

    asyncio.run(open_and_close())
    assert len(list(Path("/proc/self/fd").iterdir())) <= before
