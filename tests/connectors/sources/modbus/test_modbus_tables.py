"""Addresses in the styles of manuals, tags from files, device profiles, and addresses that are forbidden."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.sources.modbus import ModbusConfig
from connectors.sources.modbus.address import Address, address_of
from connectors.sources.modbus.plan import Block, Forbidden, Kind, Point, plan


def config(registers=(), **more) -> ModbusConfig:
    given = {"name": "boiler", "endpoint": "tcp://10.0.0.5", "registers": list(registers)}
    return ModbusConfig.model_validate(given | more)


def problem(*args, **more) -> str:
    with pytest.raises(ValidationError) as caught:
        config(*args, **more)
    return str(caught.value)


# Addresses


@pytest.mark.parametrize(
    ("text", "style", "address"),
    [
        (0, "from_0", Address(None, 0)),
        ("65535", "from_0", Address(None, 65535)),
        ("17.3", "from_0", Address(None, 17, 3)),
        (1, "from_1", Address(None, 0)),
        (65536, "from_1", Address(None, 65535)),
        (40001, "modicon", Address(Kind.HOLDING, 0)),
        ("40001.15", "modicon", Address(Kind.HOLDING, 0, 15)),
        (49999, "modicon", Address(Kind.HOLDING, 9998)),
        (400001, "modicon", Address(Kind.HOLDING, 0)),
        (465536, "modicon", Address(Kind.HOLDING, 65535)),
        ("4x0001", "modicon", Address(Kind.HOLDING, 0)),
        (30010, "modicon", Address(Kind.INPUT, 9)),
        (10001, "modicon", Address(Kind.DISCRETE, 0)),
        (1, "modicon", Address(Kind.COIL, 0)),
        ("00017", "modicon", Address(Kind.COIL, 16)),
        ("000017", "modicon", Address(Kind.COIL, 16)),
    ],
)
def test_addresses_as_manuals_write_them(text, style, address):
    assert address_of(text, style) == address


@pytest.mark.parametrize(
    ("text", "style", "says"),
    [
        (-1, "from_0", "from 0 to 65535"),
        (65536, "from_0", "from 0 to 65535"),
        (0, "from_1", "from 1 to 65536"),
        ("x", "from_0", "`x` is not an address"),
        (40000, "modicon", "such as 40001"),
        (465537, "modicon", "such as 40001"),
        (20001, "modicon", "such as 40001"),
        (0, "modicon", "such as 40001"),
        ("4000001", "modicon", "such as 40001"),
    ],
)
def test_what_is_no_address_is_refused_in_the_words_of_its_style(text, style, says):
    with pytest.raises(ValueError, match=says):
        address_of(text, style)


@settings(deadline=None)
@given(st.text(max_size=12), st.sampled_from(["from_0", "from_1", "modicon"]))
def test_any_text_is_an_address_or_refused(text, style):
    try:
        found = address_of(text, style)
    except ValueError:
        return
    assert 0 <= found.number <= 65535


def test_the_style_of_the_source_holds_for_its_registers_unless_they_say_another():
    registers = [
        {"name": "a", "address": 40011},
        {"name": "b", "address": "30001.2"},
        {"name": "c", "address": 7, "addresses": "from_0"},
        {"name": "d", "address": "00003"},
        {"name": "e", "address": 5, "addresses": "from_1", "kind": "input", "type": "float32"},
    ]
    source = config(registers, addresses="modicon")
    assert [point for _, _, point in source.values] == [
        Point(1, Kind.HOLDING, 10),
        Point(1, Kind.INPUT, 0, 1, "bit", bit=2),
        Point(1, Kind.HOLDING, 7),
        Point(1, Kind.COIL, 2, 1, "bit"),
        Point(1, Kind.INPUT, 4, 2, "float32"),
    ]
    assert [row.address for row in source.tag_rows()] == ["holding:10", "input:0.2", "holding:7", "coil:2", "input:4"]
    again = ModbusConfig.model_validate(source.model_dump())
    assert [point for _, _, point in again.values] == [point for _, _, point in source.values]


def test_an_address_that_says_another_table_than_the_register_is_refused():
    text = problem([{"address": 30001, "kind": "holding"}], addresses="modicon")
    assert "`30001` is an address of the table input, not of holding" in text
    assert "`40001.1` says the bit" in problem([{"address": "40001.1", "bit": 2}], addresses="modicon")
    assert "a register has the bits 0 to 15" in problem([{"address": "40001.16"}], addresses="modicon")


# Files


def test_a_csv_file_has_its_own_style_by_line_or_that_of_the_source(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text(
        "name,address,addresses,type,enum,invalid,bits,interval,mask\n"
        "a,40001,,,0=off|1=on,,,,\n"
        "b,7,from_0,int16,,0x8000 0x7FFF,,250ms,\n"
        "c,40003,,,,,0=running|3=fault,,\n"
        "d,40004,,,,,,,0x0F00\n"
    )
    values = config(registers_file=str(path), addresses="modicon").values
    assert [(name, point.address, point.bit) for _, name, point in values] == [
        ("a", 0, 0),
        ("b", 7, 0),
        ("c.running", 2, 0),
        ("c.fault", 2, 3),
        ("d", 3, 0),
    ]
    meanings = [point.meaning for _, _, point in values]
    assert (meanings[0].names, meanings[1].invalid, meanings[4].mask) == (
        ((0, "off"), (1, "on")),
        (-32768, 32767),
        0xF00,
    )
    assert values[1][2].interval == 0.25


KEPWARE = """Tag Name,Address,Data Type,Respect Data Type,Client Access,Scan Rate,Scaling,Raw Low,Raw High,Scaled Low,Scaled High,Scaled Data Type,Clamp Low,Clamp High,Eng Units,Description,Negate Value
Temp.PV,400101,Float,1,RO,500,None,,,,,,,,°C,Boiler outlet,
Level,40103,Short,1,R/W,1000,Linear,0,27648,0,100,Double,0,0,%,,0
Run,400110.4,Boolean,1,RO,100,,,,,,,,,,,
Valve,000005,Boolean,1,RO,100,,,,,,,,,,,
Limit,10007,Boolean,1,RO,100,,,,,,,,,,,
Name,400200.20H,String,1,RO,1000,,,,,,,,,,,
Name2,400220.20L,String,1,RO,1000,,,,,,,,,,,
Counts,300001 [4],DWord Array,1,RO,2000,,,,,,,,,,,
Total,40300,LBCD,1,RO,0,,,,,,,,,kWh,,1
"""


def test_a_tag_export_of_kepware(tmp_path):
    path = tmp_path / "kepware.csv"
    path.write_text(KEPWARE, "utf-8")
    source = config(registers_file=str(path), word_order="little")
    found = {name: point for _, name, point in source.values}
    assert found["Temp.PV"] == Point(1, Kind.HOLDING, 100, 2, "float32", "big", "little", interval=0.5)
    assert found["Level"] == Point(1, Kind.HOLDING, 102, 1, "int16", "big", "little", interval=1.0)
    assert found["Run"] == Point(1, Kind.HOLDING, 109, 1, "bit", "big", "little", bit=4, interval=0.1)
    assert found["Valve"] == Point(1, Kind.COIL, 4, 1, "bit", "big", "little", interval=0.1)
    assert found["Limit"].kind is Kind.DISCRETE
    assert (found["Name"].length, found["Name"].byte_order, found["Name2"].byte_order) == (20, "big", "little")
    assert [found[f"Counts_{n}"].address for n in (1, 2, 3, 4)] == [0, 2, 4, 6]
    assert found["Total"].type == "bcd32"
    rows = {row.tag_name: row for row in source.tag_rows()}
    assert (rows["Temp.PV"].unit, json.loads(rows["Temp.PV"].metadata)) == ("°C", {"description": "Boiler outlet"})
    assert json.loads(rows["Level"].mapping) == {"scale": pytest.approx(100 / 27648), "offset": 0.0}
    assert json.loads(rows["Total"].mapping) == {"scale": -1.0}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a,500001,Word,,,,,,", "`500001` is not an address such as 400001"),
        ("a,400001,Date,,,,,,", "`Date` is not a type; there are boolean"),
        ("a,400001,Boolean,,,,,,", "`400001` needs a bit, as 400001.0"),
        ("a,400001,Word,100,Square Root,0,1,0,1", "scaling `Square Root` is not linear"),
        ("a,400001,Word,100,Linear,1,1,0,1", "linear scaling needs the numbers"),
        ("a,400001,Word,100,Linear,,1,0,1", "linear scaling needs the numbers"),
    ],
)
def test_a_line_of_kepware_that_cannot_be_read_is_named(tmp_path, line, says):
    path = tmp_path / "kepware.csv"
    header = "Tag Name,Address,Data Type,Scan Rate,Scaling,Raw Low,Raw High,Scaled Low,Scaled High"
    path.write_text(f"{header}\n{line}\n")
    assert f"{path}:2: {says}" in problem(registers_file=str(path))


METER = """
description: ACME meter 4711
addresses: modicon
word_order: little
registers:
  - {name: power, address: 30053, type: float32, unit: kW}
  - {name: alarm, address: "40010.2", alarm: true}
  - {name: energy, address: 30343, type: uint32, word_order: big, equipment: counter}
"""


def test_a_profile_describes_all_devices_of_a_make(tmp_path):
    (tmp_path / "meter.yaml").write_text(METER)
    devices = [
        {"unit_id": 3, "profile_file": str(tmp_path / "meter.yaml"), "equipment": "meter3", "area": "hall1"},
        {"unit_id": 4, "profile_file": str(tmp_path / "meter.yaml"), "equipment": "meter4", "name": "m4"},
    ]
    given = {"name": "x", "endpoint": "rtu:///dev/ttyS0", "devices": devices}
    source = ModbusConfig.model_validate(given)
    assert [(name, point.unit_id, point.address, point.word_order) for _, name, point in source.values] == [
        ("power", 3, 52, "little"),
        ("alarm", 3, 9, "little"),
        ("energy", 3, 342, "big"),
        ("m4_power", 4, 52, "little"),
        ("m4_alarm", 4, 9, "little"),
        ("m4_energy", 4, 342, "big"),
    ]
    rows = source.tag_rows()
    assert json.loads(rows[0].mapping) == {"area": "hall1", "equipment": "meter3"}
    assert json.loads(rows[2].mapping) == {"area": "hall1", "equipment": "counter"}
    assert json.loads(rows[4].mapping) == {"alarm": True, "equipment": "meter4"}
    assert rows[0].unit == "kW"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("registers: [", "cannot be read as YAML"),
        ("- 1", "valid dictionary"),
        ("registers: [{address: 1, typ: x}]", "registers.0.typ: Extra inputs are not permitted"),
        ("nothing: 1", "registers: Field required"),
        (None, "cannot be read"),
    ],
)
def test_a_profile_that_is_none_is_named(tmp_path, text, says):
    path = tmp_path / "meter.yaml"
    if text is not None:
        path.write_text(text)
    said = problem(devices=[{"unit_id": 1, "profile_file": str(path)}])
    assert str(path) in said
    assert says in said


# Forbidden addresses


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 3)), min_size=1, max_size=40),
    st.lists(st.tuples(st.integers(0, 310), st.integers(0, 20)), max_size=6),
    st.integers(0, 50),
)
def test_no_block_asks_for_an_address_that_is_forbidden(places, closed, gap):
    forbidden = [Forbidden(Kind.HOLDING, first, first + more) for first, more in closed]
    points = [Point(1, Kind.HOLDING, at, size) for at, size in places]
    points = [p for p in points if not any(f.within(1, p.kind, p.address, p.end) for f in forbidden)]
    blocks = plan(points, gap, 125, 2000, forbidden)
    assert sorted(i for block in blocks for i in block.members) == list(range(len(points)))
    for block in blocks:
        assert not any(f.within(1, block.kind, block.address, block.end) for f in forbidden)


def test_addresses_are_forbidden_for_a_unit_or_a_table():
    points = [Point(unit, kind, at) for unit in (1, 2) for kind in (Kind.HOLDING, Kind.INPUT) for at in (0, 4)]
    blocks = plan(points, 8, 125, 2000, [Forbidden(Kind.HOLDING, 2, 2, 1)])
    assert blocks == [
        Block(1, Kind.HOLDING, 0, 1, (0,)),
        Block(1, Kind.HOLDING, 4, 1, (1,)),
        Block(1, Kind.INPUT, 0, 5, (2, 3)),
        Block(2, Kind.HOLDING, 0, 5, (4, 5)),
        Block(2, Kind.INPUT, 0, 5, (6, 7)),
    ]


def test_a_value_in_forbidden_addresses_is_refused():
    text = problem([{"name": "x", "address": 9, "type": "int32"}], forbidden=[{"first": 10, "last": 12}])
    assert "`x` (unit 1, holding 9) lies in `forbidden`" in text


def test_tls_is_said_when_it_is_asked_for():
    assert "an endpoint tls:// needs `tls`" in problem([{"address": 1}], endpoint="tls://plc")
