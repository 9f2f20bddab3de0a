"""What is found out about devices that nobody has described, and that it is found out by reading only."""

import json
import math
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU

from connectors.sources.modbus import ModbusConfig
from connectors.sources.modbus.datatypes import order_of
from connectors.sources.modbus.draft import draft, draft_yaml, nice
from connectors.sources.modbus.plan import Kind
from connectors.sources.modbus.plausible import ORDERS, Extent, Known, floats, match, orders, runs, texts
from connectors.sources.modbus.profile import Found, Profiler, Search, known_values, unit_ids
from connectors.sources.modbus.protocol import Ask, BadReplyError, Identify, RtuFraming
from normalization.reading import Quality
from tests.connectors.sources.modbus.device import IDENTIFY, SCHEMES, Request, exception, pdu, running
from tests.connectors.sources.modbus.harness import good, reading
from tests.connectors.sources.modbus.node_devices import install, node
from tests.connectors.sources.modbus.serial_pair import serial_pair

ROOT = Path(__file__).parents[4]
VALUES = [230.1, 229.8, 231.4, 12.25, 0.87, 49.98, 1500.0, -3.5, 71.2, 0.0, 1013.25, 22.5]


def registers(values: list[float], byte_order: str, word_order: str) -> list[int]:
    """Floats as registers, written from the letters that vendors use."""
    order, found = order_of(2, byte_order, word_order), []
    for value in values:
        network = dict(zip("ABCD", struct.pack(">f", value), strict=True))
        found += struct.unpack(">2H", bytes(network[letter] for letter in order))
    return found


class Meter:
    """Unit 17: floats from input 1 on, counters and a name in holding registers from 100 on, 16 coils, 60 registers at once."""

    def __init__(self, byte_order: str = "big", word_order: str = "little", most: int = 60) -> None:
        self.most = most
        self.tables = {
            1: dict(enumerate([1, 0, 0, 1] * 4)),
            3: dict(enumerate([3, 7, 250, 12, 0, 65], 100)),
            4: dict(enumerate(registers(VALUES, byte_order, word_order), 1)),
        }
        name = b"METER 4711-B\0\0"
        for at in range(0, len(name), 2):
            self.tables[3][110 + at // 2] = int.from_bytes(name[at : at + 2], byte_order)
        self.tables[3] |= dict.fromkeys((106, 107, 108, 109), 0)

    def answer(self, request: Request) -> bytes | None:
        if request.unit != 17:
            return None
        held = self.tables.get(request.function)
        if held is None:
            return exception(request, 1)
        if request.count > (2000 if request.function < 3 else self.most):
            return exception(request, 3)
        words = [held.get(at) for at in range(request.address, request.address + request.count)]
        if None in words:
            return exception(request, 2)
        if request.function < 3:
            octets = sum(bit << at for at, bit in enumerate(words)).to_bytes((request.count + 7) // 8, "little")
        else:
            octets = struct.pack(f">{len(words)}H", *words)
        return bytes([request.function, len(octets)]) + octets


def search(**more) -> Search:
    return Search(**{"units": (1, 16, 17, 18), "last": 299, "wait": 0.01} | more)


@pytest.mark.parametrize(("byte_order", "word_order"), ORDERS)
async def test_a_meter_is_found_with_its_orders_and_its_draft_reads_it(byte_order, word_order):
    meter = Meter(byte_order, word_order)
    async with running() as device:
        device.answer = meter.answer
        found = await Profiler(device.endpoint, search(), timeout=0.1).run()
        assert found.units == {17: 1.0}
        assert not found.any_unit
        assert found.complete
        assert [(e.kind, e.address, e.end) for e in found.extents] == [
            (Kind.COIL, 0, 16),
            (Kind.HOLDING, 100, 117),
            (Kind.INPUT, 1, 25),
        ]
        best = found.orders[0]
        assert (best.byte_order, best.word_order) == (byte_order, word_order)
        assert best.score > 0.5
        settings = ModbusConfig.model_validate(yaml.safe_load(draft_yaml(found, "meter"))["sources"][0])
        assert (settings.unit_id, settings.byte_order, settings.word_order) == (17, byte_order, word_order)
        async with reading(settings) as (intake, _):
            await intake.until(lambda: good(intake, "input_23"))
    got = {r.tag.tag_name: r.value for r in intake.readings()}
    assert {r.quality for r in intake.readings()} == {Quality.GOOD}
    assert [got[f"input_{at}"] for at in (1, 7, 15)] == [
        struct.unpack(">f", struct.pack(">f", VALUES[n]))[0] for n in (0, 3, 7)
    ]
    assert got["holding_102"] == 250 if byte_order == "big" else 250 << 8
    assert got["holding_110"] == "METER 4711-B"
    assert {r.function for r in device.requests} <= {1, 2, 3, 4, IDENTIFY}


@pytest.mark.parametrize("most", [16, 60, 100, 125])
async def test_the_largest_request_that_is_granted_is_found(most):
    meter = Meter(most=most)
    meter.tables[3] = dict.fromkeys(range(200), 5)
    async with running() as device:
        device.answer = meter.answer
        found = await Profiler(device.endpoint, search(units=(17,))).run()
    assert found.max_registers == most, "the 24 input registers are no limit"
    holding = next(e for e in found.extents if e.kind is Kind.HOLDING)
    assert (holding.address, holding.end) == (0, 200)


async def test_a_device_that_answers_whatever_the_unit_id_is_read_once():
    meter = Meter()
    meter.tables[3] = dict.fromkeys(range(10), 5)
    async with running() as device:
        device.answer = lambda r: meter.answer(r._replace(unit=17))
        found = await Profiler(device.endpoint, search()).run()
    assert found.any_unit
    assert {e.unit_id for e in found.extents} == {1}
    assert "whatever the unit id" in draft_yaml(found)


async def test_a_known_value_settles_order_type_and_how_the_manual_counts():
    meter = Meter()
    async with running() as device:
        device.answer = meter.answer
        known = (Known(6, 231.4),)  # the manual's 30006 is 5 on the wire
        found = await Profiler(device.endpoint, search(units=(17,), known=known)).run()
    first = found.matches[0]
    assert (first.kind, first.address, first.counted, first.type) == (Kind.INPUT, 5, -1, "float32")
    assert (first.byte_order, first.word_order) == ("big", "little")
    assert found.counted == (-1, "a known value is at the manual's address -1")


async def test_a_search_ends_at_its_limit_of_requests_and_says_so():
    meter = Meter()
    async with running() as device:
        device.answer = meter.answer
        found = await Profiler(device.endpoint, search(units=(17,), requests=40)).run()
    assert found.requests == len(device.requests)
    assert 40 <= found.requests < 60, "besides those that measure what was found"
    assert not found.complete
    assert "Not everything was tried" in draft_yaml(found)


async def test_islands_of_addresses_are_found_to_their_ends():
    islands = [(3, 5), (40, 47), (100, 223), (290, 300)]
    meter = Meter(most=125)
    meter.tables[3] = {at: at for first, end in islands for at in range(first, end)}
    async with running() as device:
        device.answer = meter.answer
        found = await Profiler(device.endpoint, search(units=(17,))).run()
    holding = [(e.address, e.end) for e in found.extents if e.kind is Kind.HOLDING]
    assert holding[-3:] == islands[1:], "an island of two may lie between two tries"
    assert all(e.before == tuple(range(e.address, e.end)) for e in found.extents if e.kind is Kind.HOLDING)


async def test_nobody_there_is_an_error_and_a_silent_device_gives_nothing():
    async with running() as device:
        device.answer = lambda r: None
        found = await Profiler(device.endpoint, search(), timeout=0.03).run()
        assert (found.units, found.extents) == ({}, [])
    with pytest.raises(OSError, match=device.endpoint):
        await Profiler(device.endpoint, search()).run()


# Nothing is written


@pytest.mark.parametrize("code", [code for code in range(256) if code not in {1, 2, 3, 4}])
def test_no_function_code_but_those_that_read_can_be_made_into_a_request(code):
    with pytest.raises(ValueError, match="is not a valid Kind"):
        Ask(1, code, 0, 1)


def test_a_request_has_no_other_code_than_its_table():
    for kind in Kind:
        assert Ask(1, kind, 7, 3).pdu == bytes([int(kind), 0, 7, 0, 3])
        with pytest.raises(AttributeError):
            Ask(1, kind, 7, 3).pdu = b"\x06"


def _said(*texts: tuple[int, bytes], more: int = 0, following: int = 0) -> bytes:
    return (
        b"\x2b\x0e\x01\x01"
        + bytes([more, following, len(texts)])
        + b"".join(bytes([number, len(text)]) + text for number, text in texts)
    )


async def test_what_a_unit_says_it_is_is_put_together_and_cannot_leave_its_comment():
    async with running() as device:
        device.answer = lambda r: pdu(r) if r.unit in {1, 16} and r.address < 4 else exception(r, 2)
        parts = {
            0: _said((0, b"Acme\nsources:"), more=0xFF, following=1),
            1: _said((1, b"PM"), (2, b"\xff2"), (9, b"x")),
        }
        device.identify = lambda r: parts[r.address] if r.unit == 1 else exception(r, 1)
        found = await Profiler(device.endpoint, search(last=9)).run()
    assert found.identities == {1: {"vendor": "Acme?sources:", "product": "PM", "revision": "\ufffd2"}}
    assert "# Unit 1 says it is: vendor Acme?sources:, product PM, revision \ufffd2\n" in draft_yaml(found)
    assert list(yaml.safe_load(draft_yaml(found))) == ["sources"]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        b"\x2b\x0e",
        b"\x2b\x0d\x01\x01\x00\x00\x00",
        _said((0, b"cut"))[:-1],
        b"\x2b\x0e\x01\x01\x00\x00\xff",
        _said(more=0xFF, following=0),
        _said((0, b"again"), more=0xFF, following=0),
    ],
)
async def test_an_identification_that_makes_no_sense_does_no_harm(answer):
    async with running() as device:
        device.answer = lambda r: pdu(r) if r.unit == 1 and r.address < 4 else exception(r, 2)
        device.identify = lambda r: answer
        found = await Profiler(device.endpoint, search(last=9), 0.1).run()
        assert len([r for r in device.requests if r.function == IDENTIFY]) <= 3 * len(found.units)
    assert found.extents
    assert found.identities in ({}, {unit: {"vendor": "again"} for unit in found.units})


COMPANY, PRODUCT, REVISION = b"Company identification", b"Product code XX", b"V2.11"  # MODBUS Application Protocol 6.21
WAYS = pytest.mark.parametrize(("over", "mode"), [way for way in SCHEMES if way[0] != "tls"])


@WAYS
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in two"])
async def test_the_examples_of_the_specification_are_read_in_every_framing(over, mode, at_once):
    whole = {0: _said((0, COMPANY), (1, PRODUCT), (2, REVISION))}
    parts = {0: _said((0, COMPANY), (1, PRODUCT), more=0xFF, following=2), 2: _said((2, REVISION))}
    async with running(over=over, mode=mode) as device:
        device.answer = lambda r: pdu(r) if r.unit == 1 and r.address < 4 else exception(r, 2)
        device.identify = lambda r: (whole if at_once else parts)[r.address]
        found = await Profiler(device.endpoint, search(units=(1,), last=9)).run()
    assert found.identities == {1: {"vendor": COMPANY.decode(), "product": PRODUCT.decode(), "revision": "V2.11"}}


LINES = pytest.mark.parametrize("mode", ["rtu", "ascii"])


@LINES
async def test_a_unit_that_does_not_answer_what_it_does_not_know_does_not_keep_the_next_from_being_asked(mode):
    async with running(over="serial", mode=mode) as device:
        device.answer = lambda r: pdu(r) if r.unit in {1, 2, 3} and r.address < 4 else exception(r, 2)
        device.identify = lambda r: {1: None, 2: exception(r, 1), 3: _said((0, COMPANY))}[r.unit]
        found = await Profiler(device.endpoint, search(units=(1, 2, 3), last=9), 0.5).run()
    assert found.identities == {3: {"vendor": COMPANY.decode()}}
    assert {extent.unit_id for extent in found.extents} == {1, 2, 3}


@LINES
@pytest.mark.parametrize(
    "answer",
    [
        b"\x2b\x0e",
        b"\x2b\x0d\x01\x01\x00\x00\x00",
        _said((0, b"cut"))[:-1],
        _said((0, b"long")) + b"er",
        b"\x2b\x0e\x01\x01\x00\x00\xff",
        b"\x2b\x0e\x01\x01\x00\x00\xff" + bytes(250),
        _said((0, bytes(200)), (1, bytes(100))),
        b"\x03\x02\x00\x01",
    ],
)
async def test_an_identification_that_makes_no_sense_does_no_harm_on_a_line_either(mode, answer):
    async with running(over="serial", mode=mode) as device:
        device.answer = lambda r: pdu(r) if r.unit == 1 and r.address < 4 else exception(r, 2)
        device.identify = lambda r: answer
        found = await Profiler(device.endpoint, search(units=(1,), last=9), 0.5).run()
    assert found.extents
    assert mode == "ascii" or not found.identities


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 255), st.binary(max_size=60), max_size=4), st.binary(max_size=8))
def test_an_identification_ends_where_its_texts_do(texts, behind):
    framing = RtuFraming(FramerRTU.compute_CRC)
    said = _said(*texts.items())
    frame = framing.wrap(0, 9, said)
    if len(frame) > 256:
        with pytest.raises(BadReplyError, match="longer than a frame"):
            framing.unwrap(frame)
        return
    for end in range(len(frame)):
        assert framing.unwrap(frame[:end]).used == 0
        assert framing.plain(frame[:end], 0, Identify(9)) is None
    assert framing.unwrap(frame + behind) == (len(frame), 0, 9, said)


@pytest.mark.interop("modbus-serial", "a profile says what the device on a serial line says it is (43/14, RTU)")
async def test_modbus_serial_on_a_serial_line_is_identified():
    install()
    with serial_pair() as (here, there), node("--line", there):
        found = await Profiler(f"rtu://{here}", search(units=(5,), last=99)).run()
    assert found.identities == {5: {"vendor": "Lab?Inc", "product": "PM-3000", "revision": "V2.11"}}


@pytest.mark.interop("modbus-serial", "a profile says what the device says it is (43/14)")
async def test_modbus_serial_is_identified():
    install()
    with node() as (ports, _):
        found = await Profiler(f"tcp://127.0.0.1:{ports['serial']}", search(units=(1,), last=99)).run()
    assert found.identities == {1: {"vendor": "Lab?Inc", "product": "PM-3000", "revision": "V2.11"}}


@pytest.mark.interop("libmodbus")
def test_libmodbus_saw_only_reads_from_the_command_and_its_draft_is_a_configuration(tmp_path):
    subprocess.run([ROOT / "tests/counterparts/modbus-c/install.sh"], check=True, timeout=300)
    server = ROOT / "build/counterparts/modbus-c/server"
    with subprocess.Popen([server], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        endpoint = f"tcp://127.0.0.1:{process.stdout.readline().strip()}"
        command = [sys.executable, "-m", "bifrost", "modbus", "profile", endpoint, "--timeout", "200ms"]
        options = [
            "--units",
            "1,8,9",
            "--last",
            "11000",
            "-o",
            str(tmp_path / "draft.yaml"),
            "--known",
            "101=-1234.5677",
        ]
        ran = subprocess.run([*command, *options], capture_output=True, text=True, check=True, timeout=60)
        asked = subprocess.run(
            [*command, "--units", "1", "--last", "10", "--json"], capture_output=True, text=True, check=True, timeout=60
        )
        counts = _function_codes(int(endpoint.rpartition(":")[2]))
        process.stdin.close()
    assert "unit 1 answers\n" in ran.stderr
    assert "unit 8" not in ran.stderr
    assert "unit 9" not in ran.stderr
    assert {code for code, count in enumerate(counts) if count} == {1, 2, 3, 4, 43}
    text = (tmp_path / "draft.yaml").read_text()
    source = ModbusConfig.model_validate(yaml.safe_load(text)["sources"][0])
    assert (source.max_registers, source.unit_id, source.word_order) == (125, 1, "big")
    assert "a known value is at the manual's address -1" in text
    said = json.loads(asked.stdout)
    assert said["units"] == {"1": 1.0}
    assert said["draft"]["registers"][0] == {
        "name": "coil_{address}",
        "unit_id": 1,
        "kind": "coil",
        "address": 0,
        "count": 11,
    }


def _function_codes(port: int) -> list[int]:
    """How many requests with each function code libmodbus has seen."""
    import socket

    with socket.create_connection(("127.0.0.1", port)) as line:
        counts: list[int] = []
        for address in (9000, 9064):
            line.sendall(struct.pack(">HHHBBHH", 1, 0, 6, 1, 4, address, 64))
            reply = b""
            while len(reply) < 9 + 128:
                reply += line.recv(300)
            counts += struct.unpack(">64H", reply[9:])
    return counts


# What is plausible


@pytest.mark.parametrize(("byte_order", "word_order"), ORDERS)
@settings(deadline=None)
@given(
    st.lists(
        st.integers(1, 900_000).filter(lambda v: v % 100).map(lambda v: v / 100), min_size=8, max_size=40, unique=True
    ),
    st.integers(0, 1),
)
def test_the_order_of_measured_values_is_the_most_plausible(byte_order, word_order, values, shift):
    words = (0,) * shift + tuple(registers(values, byte_order, word_order))
    ranked = orders([Extent(1, Kind.INPUT, 0, words, words)])
    first = [
        (o.byte_order, o.word_order) for o in ranked[: 1 + shift]
    ]  # shifted, halves of neighbors make good floats too
    assert (byte_order, word_order) in first
    assert sum(o.score for o in ranked) == pytest.approx(1, abs=0.01)


def test_with_nothing_to_go_by_the_order_is_that_of_the_specification():
    for words in ((), (0,) * 50, (7,)):
        best = orders([Extent(1, Kind.HOLDING, 0, words, words)])[0]
        assert (best.byte_order, best.word_order) == ("big", "big")


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 65535), min_size=1, max_size=60), st.lists(st.integers(0, 65535), min_size=60, max_size=60)
)
def test_any_registers_are_looked_at_and_each_belongs_to_one_entry(before, after):
    extent = Extent(1, Kind.HOLDING, 5, tuple(before), tuple(after[: len(before)]))
    sizes = {"uint16": 1, "float32": 2}
    for byte_order, word_order in ORDERS:
        at = 5
        for kind, address, count in runs(extent, byte_order, word_order, with_floats=True):
            assert address == at
            at += count // 2 if kind == "string" else count * sizes[kind]
        assert at == extent.end
    assert len(orders([extent])) == 4
    match([extent], Known(7, 3.0))
    found = Found("tcp://h", {1: 1.0}, extents=[extent], orders=orders([extent]))
    ModbusConfig.model_validate(draft(found))


def test_a_value_that_changes_as_no_plant_does_is_no_float():
    one, two = tuple(registers([20.0, 30.0], "big", "big")), tuple(registers([20.1, -4000.0], "big", "big"))
    assert runs(Extent(1, Kind.INPUT, 0, one, two), "big", "big", with_floats=True) == [
        ("float32", 0, 1),
        ("uint16", 2, 2),
    ]


def test_texts_are_found_with_the_bytes_in_their_order():
    words = tuple(int.from_bytes(b"PUMP-7\0\0"[at : at + 2], "little") for at in range(0, 8, 2))
    extent = Extent(1, Kind.HOLDING, 0, (1, 2, *words, 9), (1, 2, *words, 9))
    assert texts(extent, "little") == [(2, 3)]


def test_a_known_value_is_found_as_an_integer_with_a_scale():
    extent = Extent(1, Kind.HOLDING, 90, (0, 2301, 5), (0, 2301, 5))
    found = match([extent], Known(91, 230.1))
    assert (found[0].type, found[0].counted, found[0].scale) == ("int16", 0, 0.1)
    assert match([extent], Known(91, 777.0)) == []


def test_floats_begin_at_each_register():
    assert list(floats(registers([1.5, -2.0], "little", "big"), "little", "big"))[::2] == [1.5, -2.0]
    assert math.isinf(floats([0x7F80, 0], "big", "big")[0])


def test_times_are_rounded_up_to_what_people_write():
    assert [nice(t) for t in (0.01, 0.3, 1.0, 7.0, 1e9)] == [0.05, 0.5, 1.0, 10.0, 60.0]


def test_unit_ids_and_known_values_are_read_from_text():
    assert unit_ids("1-3,247,2") == (1, 2, 3, 247)
    assert known_values(["100=230.1"]) == (Known(100, 230.1),)
    for wrong in ("x", "1-", "300", "1-2-3"):
        with pytest.raises(ValueError, match="is not a unit id"):
            unit_ids(wrong)
    with pytest.raises(ValueError, match="such as 100=230.1"):
        known_values(["100"])
