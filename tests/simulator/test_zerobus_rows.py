"""Column types, table declarations, and records of each format against them."""

import contextlib
import math

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from simulator.zerobus import schema, wire
from simulator.zerobus.arrow_rows import _encapsulated
from simulator.zerobus.errors import Refused
from simulator.zerobus.formats import open_format
from simulator.zerobus.schema import SchemaError

F = descriptor_pb2.FieldDescriptorProto
COLUMNS = {
    "name": "string",
    "tiny": "tinyint",
    "small": "smallint",
    "number": "int",
    "big": "bigint",
    "single": "float",
    "double": "double",
    "flag": "boolean",
    "blob": "binary",
    "day": "date",
    "time": "timestamp",
    "local": "timestamp_ntz",
    "short": "varchar(5)",
    "anything": "variant",
    "Clear": "string",  # a column may be called as a method of a message
}
SCHEMA = schema.from_declaration(
    [{"name": name, "type": type_, "nullable": name != "name"} for name, type_ in COLUMNS.items()]
)
PROTO = {
    "name": F.TYPE_STRING,
    "tiny": F.TYPE_INT32,
    "small": F.TYPE_INT32,
    "number": F.TYPE_INT32,
    "big": F.TYPE_INT64,
    "single": F.TYPE_FLOAT,
    "double": F.TYPE_DOUBLE,
    "flag": F.TYPE_BOOL,
    "blob": F.TYPE_BYTES,
    "day": F.TYPE_INT32,
    "time": F.TYPE_INT64,
    "local": F.TYPE_INT64,
    "short": F.TYPE_STRING,
    "anything": F.TYPE_STRING,
    "Clear": F.TYPE_STRING,
}


def descriptor(fields: dict[str, int], name: str = "Row", package: str = "") -> tuple[bytes, type]:
    file = descriptor_pb2.FileDescriptorProto(name="r.proto", package=package, syntax="proto2")
    row = file.message_type.add(name=name)
    for number, (field, kind) in enumerate(fields.items(), 1):
        row.field.add(name=field, number=number, type=kind, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    full_name = f"{package}.{name}" if package else name
    return row.SerializeToString(), message_factory.GetMessageClass(pool.FindMessageTypeByName(full_name))


SPEC, Row = descriptor(PROTO)


def proto_request(*records: bytes, offset: int = 0) -> bytes:
    batch = {"offset_id": offset, "proto_encoded_batch": {"records": records}}
    return wire.EphemeralStreamRequest(ingest_record_batch=batch).SerializeToString()


def json_request(*records: str) -> bytes:
    batch = {"offset_id": 0, "json_batch": {"records": [record.encode() for record in records]}}
    return wire.EphemeralStreamRequest(ingest_record_batch=batch).SerializeToString()


def refusal(call, *arguments) -> str:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    assert caught.value.status.name == "INVALID_ARGUMENT"
    return str(caught.value)


ARROW = pa.schema([(column.name, column.type.arrow) for column in SCHEMA.columns])


def arrow_spec(sent: pa.Schema) -> bytes:
    return sent.serialize().to_pybytes()[8:]


def arrow_request(batch: pa.RecordBatch, metadata: bytes = b'{"offset_id":0}') -> bytes:
    message = pa.ipc.read_message(batch.serialize())
    header, body = message.metadata.to_pybytes(), message.body.to_pybytes()
    return wire.FlightData(data_header=header, data_body=body, app_metadata=metadata).SerializeToString()


# ---- types and declarations


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("BIGINT", "bigint"),
        ("long", "bigint"),
        ("Decimal(12, 3)", "decimal(12,3)"),
        ("array<MAP<string, int>>", "array<map<string,int>>"),
        ("STRUCT<a: INT, `b`: ARRAY<DOUBLE>>", "struct<a:int,b:array<double>>"),
        ("varchar(20)", "varchar(20)"),
    ],
)
def test_types_are_read_in_every_spelling(text, normal):
    assert schema.parse_type(text).text == normal
    assert schema.parse_type(normal) == schema.parse_type(text)


@pytest.mark.parametrize(
    "text", ["", "colour", "array", "array<", "map<string>", "struct<>", "int(3)", "varchar", "decimal(50,1)", "int x"]
)
def test_what_is_no_type_is_refused(text):
    with pytest.raises(SchemaError, match="is not a Delta type"):
        schema.parse_type(text)


def test_a_declaration_survives_its_delta_table(tmp_path):
    columns = [{"name": name, "type": type_, "comment": f"the {name}"} for name, type_ in COLUMNS.items()]
    columns.append({"name": "nested", "type": "array<struct<a:int,b:map<string,decimal(10,2)>>>", "nullable": False})
    declared = schema.from_declaration({"columns": columns, "partition_by": ["day"]})
    table = DeltaTable.create(tmp_path / "t", declared.delta(), partition_by=list(declared.partition_by))
    assert schema.from_delta(table.schema(), table.metadata().partition_columns) == declared


def test_a_create_table_statement_declares_the_same():
    ddl = r"""
    CREATE TABLE IF NOT EXISTS `main`.plant.readings (
      gateway STRING NOT NULL COMMENT 'the gateway\'s name', value DOUBLE, day DATE, tags MAP<STRING, STRING>
    ) USING DELTA PARTITIONED BY (day) TBLPROPERTIES ('delta.appendOnly' = 'true');
    """
    assert schema.from_text(ddl) == schema.from_declaration(
        {
            "columns": [
                {"name": "gateway", "type": "string", "nullable": False, "comment": "the gateway's name"},
                {"name": "value", "type": "double"},
                {"name": "day", "type": "date"},
                {"name": "tags", "type": "map<string,string>"},
            ],
            "partition_by": ["day"],
        }
    )


@pytest.mark.parametrize(
    ("declaration", "word"),
    [
        ({}, "columns"),
        ([], "at least one column"),
        ([{"name": "a"}], r"columns\[0\] \(a\)"),
        ([{"name": "a", "type": "int", "nulable": True}], "nulable"),
        ([{"name": "a b", "type": "int"}], "letters"),
        ([{"name": "a", "type": "int"}, {"name": "A", "type": "int"}], "twice"),
        ({"columns": [{"name": "a", "type": "int"}], "partition_by": ["b"]}, "'b'"),
        ([{"name": "a", "type": "array<variant>"}], "variant"),
    ],
)
def test_a_wrong_declaration_says_what_is_wrong(declaration, word):
    with pytest.raises(SchemaError, match=word):
        schema.from_declaration(declaration)


# ---- protobuf

int64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.fixed_dictionaries(
    {"name": st.text()},
    optional={
        "tiny": st.integers(-128, 127),
        "small": st.integers(-(2**15), 2**15 - 1),
        "number": st.integers(-(2**31), 2**31 - 1),
        "big": int64,
        "single": st.floats(width=32),
        "double": st.floats(),
        "flag": st.booleans(),
        "blob": st.binary(),
        "day": st.integers(-719_162, 2_932_896),
        "time": int64,
        "local": int64,
        "short": st.text(max_size=5),
        "anything": st.sampled_from(["1", '{"a": [null]}', '"x"']),
        "Clear": st.text(),
    },
)


@given(st.lists(ROWS, max_size=20))
def test_every_protobuf_value_comes_out_of_the_columns_as_it_went_in(rows):
    rows_format = open_format("proto", SPEC, SCHEMA)
    messages = []
    for row in rows:
        message = Row()
        for name, value in row.items():
            setattr(message, name, value)
        messages.append(message.SerializeToString())
    request = proto_request(*messages, offset=7)
    assert rows_format.check(request) == (7, len(rows))
    table = rows_format.columns([request])
    for name, type_ in COLUMNS.items():
        column = table[name].combine_chunks()
        assert column.type == schema.parse_type(type_).arrow
        if pa.types.is_timestamp(column.type):
            column = column.view(pa.int64())
        elif pa.types.is_date(column.type):
            column = column.view(pa.int32())
        for got, row in zip(column.to_pylist(), rows, strict=True):
            expected = row.get(name)
            both_nan = isinstance(expected, float) and math.isnan(expected) and math.isnan(got)
            assert both_nan or (got == expected and (got is None) == (expected is None))


def test_a_descriptor_with_a_package_and_nested_messages_is_resolved():
    declared = schema.from_declaration(
        [
            {"name": "points", "type": "array<struct<x:double,at:timestamp,labels:map<string,int>>>"},
            {"name": "counts", "type": "map<int,bigint>"},
        ]
    )
    file = descriptor_pb2.FileDescriptorProto(name="n.proto", package="a.Row.b", syntax="proto2")
    row = file.message_type.add(name="Row")
    row.field.add(name="points", number=1, type=F.TYPE_MESSAGE, label=3, type_name=".a.Row.b.Row.Point")
    row.field.add(name="counts", number=2, type=F.TYPE_MESSAGE, label=3, type_name=".a.Row.b.Row.CountsEntry")
    point = row.nested_type.add(name="Point")
    point.field.add(name="x", number=1, type=F.TYPE_DOUBLE, label=1)
    point.field.add(name="at", number=2, type=F.TYPE_INT64, label=1)
    point.field.add(name="labels", number=3, type=F.TYPE_MESSAGE, label=3, type_name=".a.Row.b.Row.Point.LabelsEntry")
    for holder, name, key in ((row, "CountsEntry", F.TYPE_INT32), (point, "LabelsEntry", F.TYPE_STRING)):
        entry = holder.nested_type.add(name=name)
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=key, label=1)
        value = F.TYPE_INT64 if key == F.TYPE_INT32 else F.TYPE_INT32
        entry.field.add(name="value", number=2, type=value, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("a.Row.b.Row"))()
    message.points.add(x=1.5, at=5, labels={"k": -1})
    message.points.add()
    message.counts[3] = 4
    rows_format = open_format("proto", row.SerializeToString(), declared)
    request = proto_request(message.SerializeToString(), b"")
    assert rows_format.check(request).rows == 2
    first, empty = rows_format.columns([request]).to_pylist()
    assert [(p["x"], p["labels"]) for p in first["points"]] == [(1.5, [("k", -1)]), (None, [])]
    assert first["points"][0]["at"].microsecond == 5
    assert first["counts"] == [(3, 4)]
    assert empty == {"points": [], "counts": []}


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"colour": F.TYPE_STRING}, "'colour' does not exist in Delta schema"),
        ({"big": F.TYPE_INT32}, "'big' is int32 where int64 is needed"),
        ({"day": F.TYPE_STRING}, "'day' is string where int32 is needed"),
        ({"flag": F.TYPE_INT32}, "'flag' is int32 where bool is needed"),
        ({"big": F.TYPE_SINT64}, "'big' is sint64"),
        ({"name": None}, "'name' is NOT NULL and missing"),
    ],
)
def test_a_descriptor_that_does_not_fit_is_refused_with_the_column(changes, word):
    fields = {name: kind for name, kind in (PROTO | changes).items() if kind is not None}
    assert word in refusal(open_format, "proto", descriptor(fields)[0], SCHEMA)


def test_all_findings_about_a_descriptor_come_at_once():
    message = refusal(open_format, "proto", descriptor({"colour": 9, "big": 9})[0], SCHEMA)
    assert "colour" in message
    assert "'big'" in message
    assert "'name'" in message


@pytest.mark.parametrize("spec", [b"", b"\xff\xff", b"\x0a\x03Row"], ids=["empty", "garbage", "no fields"])
def test_what_is_no_descriptor_is_refused(spec):
    refusal(open_format, "proto", spec, SCHEMA)


@given(st.binary(max_size=60))
def test_no_descriptor_makes_the_emulator_fail(spec):
    with contextlib.suppress(Refused):
        open_format("proto", spec, SCHEMA)


@pytest.mark.parametrize(
    ("record", "word"),
    [
        (Row(name="a", tiny=200), "records[1].tiny: 200 does not fit TINYINT"),
        (Row(name="a", small=40_000), "SMALLINT"),
        (Row(name="a", short="123456"), "VARCHAR(5)"),
        (Row(name="a", anything="{"), "VARIANT"),
        (Row(name="a", day=3_000_000), "DATE"),
        (Row(tiny=1), "records[1]: no value for NOT NULL column 'name'"),
        (b"\x0a\x02\xff\xfe", "not a message"),  # a string that is not UTF-8
        (b"\x0a\x7f", "not a message"),  # cut off
    ],
)
def test_a_protobuf_record_that_does_not_fit_is_refused(record, word):
    rows_format = open_format("proto", SPEC, SCHEMA)
    encoded = record if isinstance(record, bytes) else record.SerializePartialToString()
    assert word in refusal(rows_format.check, proto_request(Row(name="sound").SerializeToString(), encoded))


# ---- JSON


def test_json_values_become_columns():
    rows_format = open_format("json", b"", SCHEMA)
    request = json_request(
        '{"name":"a","tiny":-1,"big":9223372036854775807,"double":1,"flag":true,"blob":"AP8=","day":"2020-02-29",'
        '"time":"2020-02-29T12:00:00+01:00","local":5,"anything":{"x":[1]},"Clear":"é"}',
        '{"name":"","day":3,"time":null}',
    )
    assert rows_format.check(request).rows == 2
    first, second = rows_format.columns([request]).to_pylist()
    assert (first["tiny"], first["big"], first["double"], first["blob"]) == (-1, 2**63 - 1, 1.0, b"\x00\xff")
    assert (first["day"].isoformat(), first["time"].isoformat()) == ("2020-02-29", "2020-02-29T11:00:00+00:00")
    assert (first["local"].microsecond, first["anything"], first["Clear"]) == (5, '{"x":[1]}', "é")
    assert second["day"].isoformat() == "1970-01-04"
    assert [name for name, value in second.items() if value is not None] == ["name", "day"]


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "null",
        '{"name":"a","colour":1}',
        '{"name":1}',
        '{"name":"a","big":"1"}',
        '{"name":"a","big":1.5}',
        '{"name":"a","big":9223372036854775808}',
        '{"name":"a","tiny":128}',
        '{"name":"a","double":NaN}',
        '{"name":"a","blob":"%"}',
        '{"name":"a","short":"123456"}',
        '{"name":"a","time":"yesterday"}',
        '{"name":"a"} {"name":"b"}',
        '{"tiny":1}',
    ],
)
def test_a_json_record_that_does_not_fit_is_refused(record):
    rows_format = open_format("json", b"", SCHEMA)
    assert "records[1]" in refusal(rows_format.check, json_request('{"name":"sound"}', record))


def test_json_decimals_must_fit_exactly():
    rows_format = open_format("json", b"", schema.from_declaration([{"name": "price", "type": "decimal(5,2)"}]))
    request = json_request('{"price":"123.45"}', '{"price":1.5}')
    assert rows_format.check(request).rows == 2
    assert [str(row["price"]) for row in rows_format.columns([request]).to_pylist()] == ["123.45", "1.50"]
    for record in ('{"price":"1234.5"}', '{"price":"1.234"}', '{"price":"NaN"}'):
        assert "DECIMAL(5,2)" in refusal(rows_format.check, json_request(record))


# ---- Arrow


def test_arrow_columns_come_out_as_they_went_in():
    rows_format = open_format("arrow", arrow_spec(ARROW), SCHEMA)
    source = open_format("proto", SPEC, SCHEMA)
    full = Row(name="a", tiny=1, big=2, double=float("nan"), flag=True, blob=b"x", day=3, time=4, local=5, Clear="c")
    table = source.columns([proto_request(full.SerializeToString(), Row(name="b").SerializeToString())])
    batch = table.cast(ARROW).to_batches()[0]
    request = arrow_request(batch, b'{"offset_id":3}')
    assert rows_format.check(request) == (3, 2)
    assert rows_format.columns([request, request]).slice(2).combine_chunks().to_batches()[0].equals(batch, False) or (
        str(rows_format.columns([request]).to_pylist()) == str(batch.to_pylist())
    )


@pytest.mark.parametrize(
    ("field", "word"),
    [
        (pa.field("colour", pa.string()), "'colour' does not exist"),
        (pa.field("big", pa.int32()), "'big' is int32"),
        (pa.field("time", pa.timestamp("ms", "UTC")), "'time'"),
        (pa.field("time", pa.timestamp("us")), "'time'"),
        (pa.field("local", pa.timestamp("us", "UTC")), "'local'"),
        (pa.field("time", pa.int64()), "'time'"),
        (pa.field("big", pa.uint64()), "'big'"),
    ],
)
def test_an_arrow_schema_that_does_not_fit_is_refused_with_the_column(field, word):
    sent = pa.schema([pa.field("name", pa.string()), field])
    assert word in refusal(open_format, "arrow", arrow_spec(sent), SCHEMA)


def test_arrow_without_a_not_null_column_is_refused():
    assert "'name' is NOT NULL" in refusal(open_format, "arrow", arrow_spec(pa.schema([("big", pa.int64())])), SCHEMA)


def test_damaged_arrow_is_refused_before_it_is_acknowledged():
    sent = pa.schema([("name", pa.string())])
    rows_format = open_format("arrow", arrow_spec(sent), SCHEMA)
    invalid_text = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
    )
    wrong_offsets = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.array([0, 900, 2], pa.int32()).buffers()[1], pa.py_buffer(b"ab")]
    )
    for column in (invalid_text, wrong_offsets):
        refusal(rows_format.check, arrow_request(pa.record_batch([column], schema=sent)))
    sound = arrow_request(pa.record_batch([pa.array(["a"])], schema=sent))
    assert rows_format.check(sound).rows == 1
    for end in range(0, len(sound) - 1, 7):
        refusal(rows_format.check, sound[:end])
    assert "NOT NULL" in refusal(
        rows_format.check, arrow_request(pa.record_batch([pa.array(["a", None])], schema=sent))
    )
    assert "offset_id" in refusal(
        rows_format.check, arrow_request(pa.record_batch([pa.array(["a"])], schema=sent), b"[1]")
    )


def test_an_ipc_message_is_rebuilt_from_its_parts():
    batch = pa.record_batch([pa.array(["a", "b"])], names=["name"])
    message = pa.ipc.read_message(batch.serialize())
    rebuilt = _encapsulated(message.metadata.to_pybytes(), message.body.to_pybytes())
    assert pa.ipc.read_record_batch(pa.ipc.read_message(rebuilt), batch.schema).equals(batch)


# ---- what is acknowledged can be stored


def sound_request(kind: str) -> tuple[bytes, bytes]:
    """What describes the records, and a request of two of them."""
    first = Row(name="a", tiny=1, big=2, double=1.5, flag=True, blob=b"x", day=3, time=4, local=5, anything="[]")
    proto = proto_request(first.SerializeToString(), Row(name="b").SerializeToString())
    if kind == "proto":
        return SPEC, proto
    if kind == "json":
        return b"", json_request('{"name":"a","big":2,"time":"2020-01-01T00:00:00Z","blob":"AP8="}', '{"name":"b"}')
    table = open_format("proto", SPEC, SCHEMA).columns([proto])
    return arrow_spec(ARROW), arrow_request(table.cast(ARROW).combine_chunks().to_batches()[0])


@pytest.mark.parametrize("kind", ["proto", "json", "arrow"])
@given(st.data())
def test_whatever_passes_the_check_becomes_rows(kind, data):
    spec, request = sound_request(kind)
    damaged = bytearray(request)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged)
    rows_format = open_format(kind, spec, SCHEMA)
    try:
        checked = rows_format.check(damaged)
    except Refused as refused:
        assert refused.status.name == "INVALID_ARGUMENT"  # noqa: PT017 - either answer is right
    else:
        assert rows_format.columns([damaged]).num_rows == checked.rows


@pytest.mark.parametrize("kind", ["proto", "json", "arrow"])
@given(noise=st.binary(max_size=80))
def test_noise_is_refused_or_stored(kind, noise):
    rows_format = open_format(kind, sound_request(kind)[0], SCHEMA)
    with contextlib.suppress(Refused):
        rows = rows_format.check(noise).rows
        assert rows_format.columns([noise]).num_rows == rows
