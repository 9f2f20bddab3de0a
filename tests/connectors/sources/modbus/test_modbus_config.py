"""What a user writes, and what is said when it is wrong."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from connectors.settings import Mapping, Place
from connectors.sources.modbus import ModbusConfig, RegisterConfig
from connectors.sources.modbus.plan import Kind, Point


def config(registers=None, **more) -> ModbusConfig:
    given = {"name": "boiler", "endpoint": "tcp://10.0.0.5"} | ({} if registers is None else {"registers": registers})
    return ModbusConfig.model_validate(given | more)


def problem(*args, **more) -> str:
    with pytest.raises(ValidationError) as caught:
        config(*args, **more)
    return str(caught.value)


def test_a_source_without_registers_says_what_is_needed():
    assert (
        "needs `registers` or `registers_file`, or `devices` with profiles: a device cannot be asked what it holds"
        in problem()
    )


def test_configuration_is_checked_without_the_client_library():
    code = "import sys, connectors.sources.modbus as m; print(m.ModbusConfig.__name__, 'pymodbus' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["ModbusConfig", "False"]


@pytest.mark.parametrize(
    ("endpoint", "host", "port"),
    [
        ("tcp://10.0.0.5", "10.0.0.5", 502),
        ("tcp://plc-3.plant:1502", "plc-3.plant", 1502),
        ("rtu+tcp://[::1]:4001", "::1", 4001),
        ("tls://plc", "plc", 802),
        ("udp://plc", "plc", 502),
        ("rtu:///dev/ttyUSB0", "/dev/ttyUSB0", 0),
        ("ascii+tcp://gateway:23", "gateway", 23),
    ],
)
def test_endpoints(endpoint, host, port):
    source = config([{"address": 0}], endpoint=endpoint, tls={})
    assert (source.at.host, source.at.port) == (host, port)


@pytest.mark.parametrize(
    "endpoint",
    [
        "10.0.0.5:502",
        "http://x",
        "tcp://",
        "rtu://host",
        "rtu:///",
        "udp://",
        "tcp://x:0",
        "tcp://x:99999",
        "tcp://x/1",
        "tcp://u:p@x",
        "",
    ],
)
def test_an_endpoint_that_is_none_is_refused_with_an_example(endpoint):
    assert "write tcp://host:502, rtu+tcp://host:502" in problem([{"address": 0}], endpoint=endpoint)


@pytest.mark.parametrize(
    ("register", "point"),
    [
        ({}, Point(1, Kind.HOLDING, 10, 1, "uint16")),
        ({"kind": "coil"}, Point(1, Kind.COIL, 10, 1, "bit")),
        ({"kind": "discrete", "type": "bit"}, Point(1, Kind.DISCRETE, 10, 1, "bit")),
        ({"bit": 3}, Point(1, Kind.HOLDING, 10, 1, "bit", bit=3)),
        ({"unit_id": 0, "kind": "input", "type": "float64"}, Point(0, Kind.INPUT, 10, 4, "float64")),
        ({"type": "int32", "word_order": "little"}, Point(1, Kind.HOLDING, 10, 2, "int32", "big", "little")),
        (
            {"type": "string", "length": 5, "encoding": "ascii"},
            Point(1, Kind.HOLDING, 10, 3, "string", length=5, encoding="ascii"),
        ),
    ],
)
def test_a_register_is_a_place_in_the_device(register, point):
    assert [p for _, _, p in config([{"address": 10} | register]).values] == [point]


@pytest.mark.parametrize(
    ("register", "says"),
    [
        ({"kind": "coil", "type": "int16"}, "a coil holds one bit"),
        ({"kind": "discrete", "bit": 1}, "a discrete holds one bit"),
        ({"type": "bit"}, "needs `type: bit` and `bit: 0` to 15"),
        ({"type": "int16", "bit": 1}, "needs `type: bit`"),
        ({"type": "string"}, "`length` (in bytes) is needed for a string"),
        ({"length": 4}, "only for a string"),
        ({"type": "float64", "address": 65533}, "ends at address 65536"),
        ({"count": 30, "step": 4000}, "highest address is 65535"),
        ({"type": "int32", "count": 2, "step": 1}, "`step` 1 is less than the 2 registers"),
        ({"address": -1}, "`-1` is not an address from 0 to 65535"),
        ({"unit_id": 256}, "less than or equal to 255"),
        ({"type": "int24"}, "'int16'"),
        ({"adress": 3}, "Extra inputs are not permitted"),
    ],
)
def test_what_cannot_be_is_refused_in_plain_words(register, says):
    assert says in problem([{"address": 10} | register])


def test_a_value_larger_than_a_request_is_refused():
    text = problem([{"name": "id", "address": 0, "type": "string", "length": 40}], max_registers=16)
    assert "`id` (unit 1, holding 0) takes 20 registers, more than `max_registers`" in text


def test_two_values_with_one_name_in_one_unit_are_refused_and_in_two_units_not():
    same = [{"name": "t", "address": 4}, {"name": "t", "address": 9, "kind": "input"}]
    assert "`t` (unit 1, input 9) has the name of holding 4 of the same unit" in problem(same)
    assert len(config([same[0], same[1] | {"unit_id": 2}]).values) == 2


def test_a_count_makes_2000_registers_of_one_entry():
    source = config([{"name": "motor_{n}_at_{address}", "address": 100, "count": 2000, "type": "int16"}])
    names = [name for _, name, _ in source.values]
    assert (names[0], names[-1], len(set(names))) == ("motor_1_at_100", "motor_2000_at_2099", 2000)
    source = config([{"name": "t", "address": 0, "count": 3, "type": "float32", "step": 10}, {"address": 9, "bit": 2}])
    assert [(n, p.address) for _, n, p in source.values] == [
        ("t_1", 0),
        ("t_2", 10),
        ("t_3", 20),
        ("unit1_holding_9.2", 9),
    ]


def test_the_orders_of_the_source_hold_where_a_register_has_none():
    source = config([{"address": 0}, {"address": 1, "byte_order": "big"}], byte_order="little", word_order="little")
    assert [(p.byte_order, p.word_order) for _, _, p in source.values] == [("little", "little"), ("big", "little")]


def test_a_register_can_say_all_that_a_mapping_can():
    assert set(Mapping.model_fields) - set(RegisterConfig.model_fields) == {"tag_name"}  # which is its `name`
    assert set(Place.model_fields) <= set(RegisterConfig.model_fields)
    for name, field in RegisterConfig.model_fields.items():
        assert field.description or name in Place.model_fields


def test_tag_rows_carry_what_the_register_then_the_tag_list_then_the_source_says():
    source = config(
        [
            {"name": "t1", "address": 4, "type": "int16", "scale": 0.1, "unit": "°C", "metadata": {"a": "1"}},
            {"name": "run", "address": 2, "kind": "coil", "unit_id": 7, "alarm": True, "equipment": "pump"},
        ],
        site="plant1",
        tags=[{"match": "holding:*", "area": "utilities", "scale": 5.0, "metadata": {"a": "0", "b": "2"}}],
        metadata={"c": "3"},
    )
    one, two = source.tag_rows()
    assert (one.device_id, one.address, one.tag_name, one.unit) == ("1", "holding:4", "t1", "°C")
    assert json.loads(one.mapping) == {"site": "plant1", "area": "utilities", "scale": 0.1}
    assert json.loads(one.metadata) == {"a": "1", "b": "2", "c": "3"}
    assert (two.device_id, two.address, two.protocol, two.source) == ("7", "coil:2", "modbus", "boiler")
    assert json.loads(two.mapping) == {"site": "plant1", "equipment": "pump", "alarm": True}


def test_convert_is_the_mapping_type():
    (row,) = config([{"address": 4, "type": "string", "length": 6, "convert": "number"}]).tag_rows()
    assert json.loads(row.mapping) == {"type": "number"}


def test_a_register_says_when_it_is_reported_against_the_source():
    registers = [{"name": "a", "address": 1, "report": {"deadband": 0.5}}, {"name": "b", "address": 2, "report": "all"}]
    registers.append({"name": "c", "address": 3})
    rows = config(registers, report={"deadband": 2}).tag_rows()
    assert [json.loads(row.mapping)["report"] for row in rows] == [{"deadband": 0.5}, "all", {"deadband": 2.0}]


def test_registers_come_from_a_csv_file_too(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text(
        "\ufeffname;unit_id;kind;address;type;word_order;scale;unit;bit;metadata.maker\r\n"
        "temp;3;input;7;float32;little;;°C;;ACME\r\n"
        ";;;;;;;;;\r\n"
        "alarm;3;holding;9;;;;;4;\r\n"
        "valve;;coil;1;;;;;;\r\n",
        "utf-8",
    )
    source = config([{"name": "first", "address": 0}], registers_file=str(path))
    assert [(name, point) for _, name, point in source.values] == [
        ("first", Point(1, Kind.HOLDING, 0)),
        ("temp", Point(3, Kind.INPUT, 7, 2, "float32", "big", "little")),
        ("alarm", Point(3, Kind.HOLDING, 9, 1, "bit", bit=4)),
        ("valve", Point(1, Kind.COIL, 1, 1, "bit")),
    ]
    assert (source.tag_rows()[1].unit, json.loads(source.tag_rows()[1].metadata)) == ("°C", {"maker": "ACME"})


def test_a_relative_csv_file_lies_beside_the_configuration(tmp_path):
    (tmp_path / "tags.csv").write_text("name,address\na,1\n")
    given = {"name": "x", "endpoint": "tcp://h", "registers_file": "tags.csv"}
    source = ModbusConfig.model_validate(given, context={"directory": tmp_path})
    assert [name for _, name, _ in source.values] == ["a"]


def test_every_wrong_line_of_a_csv_file_is_named(tmp_path):
    path = tmp_path / "tags.csv"
    path.write_text("name,address,type\na,1,int16\nb,x,int16\nc,3,int17\nd,4,int16,5\n")
    text = problem(registers_file=str(path))
    assert f"{path}:3: address: " in text
    assert f"{path}:4: type: " in text
    assert f"{path}:5: more cells than the header has" in text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"name,addr\na,1\n", "unknown column `addr`; columns are site, area"),
        (b"name,type\na,int16\n", "no column `address`"),
        (b"", "no column `address`"),
        (b"name,address\n\xff,1\n", "cannot be read as UTF-8 text"),
        (b"name,address\n", "needs `registers` or `registers_file`"),
    ],
)
def test_a_csv_file_that_is_none_is_refused(tmp_path, content, says):
    path = tmp_path / "tags.csv"
    path.write_bytes(content)
    assert says in problem(registers_file=str(path))


def test_a_csv_file_that_is_not_there_is_named(tmp_path):
    assert "nowhere.csv: cannot be read" in problem(registers_file=str(tmp_path / "nowhere.csv"))
