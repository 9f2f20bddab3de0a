"""Every value that goes in comes out equal: through journal, flow and spool, all read back from disk, in each target's form.

What a target's form has no way to say is refused, with a reason, and nothing else is. One test runs the real gateway, with
Bytewax, in a process of its own.
"""

import asyncio
import base64
import json
import math
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, unknown_fields
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bifrost.run import account
from connectors.contract import Context, RejectedRecords
from connectors.targets.zerobus.encode import to_arrow
from connectors.targets.zerobus.schema import Plan, TableColumn, descriptor, plan
from connectors.wire.protobuf import ProtobufEncoder, reading_columns
from delivery.journal import SHARDS, Journal
from delivery.outcome import Outcome
from delivery.spool import Spool
from flows.operators import isolate, refused
from normalization.normalizer import Normalizer
from normalization.reading import TABLE, Quality, Tag, TagTable, ValueType
from normalization.rules import Router
from tests.connectors.wire.line_parser import parse_lines
from tests.lossless_gateway import FORMATS, GATEWAY, RULES, SOURCE, Given, columns, configuration, targets

FIRST_YEAR, LAST_YEAR = -62_135_596_800_000_000, 253_402_300_799_999_999  # µs: the years 1 and 9999
LINE_PROTOCOL_TIME = 9_223_372_036_854_775  # µs whose ns fit 64 bits
TEMPLATE = "{source}/{tag_name}"
NAMES = ("source", "protocol", "device_id", "address", "tag_name", "unit", "metadata")


# What goes in

INTEGERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1),
    st.sampled_from([0, -1, 2**53 + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**40]),
)
FLOATS = st.one_of(
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, 1.7976931348623157e308, 0.1 + 0.2, 2.0**63]),
)
TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        ["", "\0", "\r\n", '\\"', "\\", "\x7f\x80\x9f", "\u2028", "𝄞🛠", "\ufeff", "\uffff", "a,b=c d", "NaN"]
    ),
)
DOCUMENTS = st.recursive(
    st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS, st.binary(max_size=6)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
).filter(lambda document: isinstance(document, list | dict))
VALUES = st.one_of(st.none(), st.booleans(), INTEGERS, FLOATS, TEXTS, st.binary(max_size=20), DOCUMENTS)
TIMES = st.one_of(
    st.none(),
    st.integers(0, 4_102_444_800_000_000),
    st.sampled_from(
        [
            *(0, -1, FIRST_YEAR, FIRST_YEAR - 1, LAST_YEAR, LAST_YEAR + 1, -(2**63), 2**63 - 1),
            *(LINE_PROTOCOL_TIME, LINE_PROTOCOL_TIME + 1, -LINE_PROTOCOL_TIME, -LINE_PROTOCOL_TIME - 1),
        ]
    ),
)
PROPERTIES = st.one_of(st.none(), st.dictionaries(TEXTS, VALUES, max_size=2))
TAGS = st.builds(
    lambda device, address, name, unit, metadata: Tag(
        SOURCE, "mqtt", device, "a" + address, name, unit, json.dumps(metadata, ensure_ascii=False)
    ),
    TEXTS,
    TEXTS,
    TEXTS,
    TEXTS,
    st.dictionaries(TEXTS, TEXTS, max_size=2),
)


def reading(tag: Tag, value: Any, unsigned: bool, more: tuple[Any, ...]) -> Given:
    quality, status, when, flags, properties = more
    if value is None:
        quality, status = Quality.BAD, 0x80050000
    text = None if properties is None else json.dumps(plain(properties), ensure_ascii=False)
    return Given(tag, value, unsigned, int(quality), status, when, flags, text)


READINGS = st.lists(TAGS, min_size=1, max_size=3, unique=True).flatmap(
    lambda tags: st.lists(
        st.builds(
            reading,
            st.sampled_from(tags),
            VALUES,
            st.booleans(),
            st.tuples(
                st.sampled_from(Quality),
                st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
                TIMES,
                st.integers(0, 31),
                PROPERTIES,
            ),
        ),
        min_size=1,
        max_size=25,
    )
)


# What it means, told without any of the code that carries it


def kind_of(one: Given) -> ValueType:
    match one.value:
        case None:
            return ValueType.NULL
        case bool():
            return ValueType.BOOLEAN
        case int() if one.unsigned and 0 <= one.value < 2**64:
            return ValueType.UINT64
        case int() if -(2**63) <= one.value < 2**63:
            return ValueType.INT64
        case int() if 0 <= one.value < 2**64:
            return ValueType.UINT64
        case float():
            return ValueType.DOUBLE
        case str():
            return ValueType.TEXT
        case bytes():
            return ValueType.BYTES
        case _:
            return ValueType.JSON


def plain(document: Any) -> Any:
    """A document as JSON can say it."""
    match document:
        case float() if math.isnan(document):
            return "NaN"
        case float() if math.isinf(document):
            return "Infinity" if document > 0 else "-Infinity"
        case bytes():
            return base64.b64encode(document).decode()
        case list():
            return [plain(item) for item in document]
        case dict():
            return {key: plain(item) for key, item in document.items()}
        case _:
            return document


def exact(value: Any) -> Any:
    """A value in a form in which what differs is unequal: 1, 1.0 and true; 0.0 and -0.0; and NaN is equal to itself."""
    match value:
        case float():
            return ("double", "nan" if math.isnan(value) else struct.pack(">d", value))
        case list():
            return [exact(item) for item in value]
        case dict():
            return {key: exact(item) for key, item in value.items()}
        case _:
            return (type(value).__name__, value)


@dataclass(frozen=True)
class Out:
    """A reading as a target has it."""

    type: ValueType
    value: Any
    quality: str
    status: int | None
    source_time: int | None
    flags: int
    properties: str | None
    names: tuple[str, ...]


def meant(one: Given) -> Out:
    kind = kind_of(one)
    value = plain(one.value) if kind is ValueType.JSON else one.value
    names = tuple(getattr(one.tag, name) for name in NAMES)
    quality = Quality(one.quality).name
    return Out(kind, exact(value), quality, one.status, one.source_time, one.flags, one.properties, names)


# The way


def nothing_told(_: pa.RecordBatch) -> Outcome:
    raise AssertionError("nothing was given to the flow before")


def through_the_stores(folder: Path, given_: list[Given]) -> tuple[pa.RecordBatch, TagTable]:
    """What a forwarder takes; each store is closed and opened between its two sides, with a tag table of its own."""

    async def journalled() -> None:
        tags = TagTable()
        journal = Journal(folder / "journal", GATEWAY, tags, linger=0.0)
        await journal.append(SOURCE, 0, columns(tags.intern, given_), None)
        journal.close()

    asyncio.run(journalled())
    tags = TagTable()
    journal = Journal(folder / "journal", GATEWAY, tags)
    journal.attach(0, None, nothing_told)
    raw = [entry.batch for entry in journal.take(0, 10**6)]
    router = Router(RULES, ("delta", *FORMATS))
    spool = Spool(folder / "spool", tags, lambda shard: shard.startswith(SHARDS[0]))
    normalizer = Normalizer(tags, TEMPLATE)
    for normalized in isolate(normalizer, lambda row, why: refused(row, why, tags), pa.concat_batches(raw)):
        routed = router(normalized)
        assert len(routed.dead) == 0, routed.batch.column("reject").to_pylist()
        spool.append(routed.select("delta"))
    spool.snapshot()
    spool.close()
    journal.close()
    tags = TagTable()
    spool = Spool(folder / "spool", tags, lambda shard: shard.startswith(SHARDS[0]), marks_resent=False)
    unit = spool.take(10**6, 2**40)
    assert unit is not None
    batch = unit.batch()
    spool.settle(unit)
    assert spool.take(10**6, 2**40) is None
    spool.close()
    return batch, tags


# The targets' forms, parsed back

Found = Iterator[tuple[int, Out]]


def table_item(item: dict[str, Any]) -> tuple[int, Out]:
    """A row of ``TABLE``; times are µs."""
    kind = ValueType[item["type"]]
    held = {
        ValueType.BOOLEAN: "value_int",
        ValueType.INT64: "value_int",
        ValueType.UINT64: "value_int",
        ValueType.DOUBLE: "value",
        ValueType.TEXT: "value_text",
        ValueType.BYTES: "value_bytes",
        ValueType.JSON: "value_text",
    }
    value: Any = item[held[kind]] if kind in held else None
    others = {name for name in ("value_int", "value_text", "value_bytes") if name != held.get(kind)}
    assert all(item[name] is None for name in others), item
    assert isinstance(item["path"], str)
    assert item["path"]
    match kind:
        case ValueType.BOOLEAN:
            value = {0: False, 1: True}[value]
        case ValueType.UINT64:
            value %= 2**64
        case ValueType.JSON:
            value = json.loads(value)
        case _:
            pass
    names = tuple(item[name] for name in NAMES)
    seen = (item["quality"], item["status"], item["source_time"], item["flags"], item["properties"])
    return item["sequence"], Out(kind, exact(value), *seen, names)


def table_rows(rows: pa.Table | pa.RecordBatch) -> Found:
    """The rows of an Arrow table; Python's datetime does not know all times."""
    arrays = {}
    for name in TABLE.names:
        column = rows.column(name)
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64())
        arrays[name] = column.to_pylist() if name != "date" else [None] * len(column)
    for row in zip(*arrays.values(), strict=True):
        yield table_item(dict(zip(arrays, row, strict=True)))


def delta_rows(folder: Path) -> Found:
    if not DeltaTable.is_deltatable(str(folder / "readings")):
        return iter(())
    return table_rows(DeltaTable(folder / "readings").to_pyarrow_table())


def parquet_rows(folder: Path) -> Found:
    for file in folder.glob("*/*.parquet"):
        yield from table_rows(pq.ParquetFile(file).read())


def micros(text: str) -> int:
    """Of UTC text, with any year."""
    assert text.endswith("Z")
    return int(np.datetime64(text[:-1], "us").astype(np.int64))


def jsonl_rows(folder: Path) -> Found:
    for file in folder.glob("readings-*.jsonl"):
        for line in file.read_bytes().decode().split("\n")[:-1]:
            item = json.loads(line)
            kind, value = ValueType[item["type"]], item["value"]
            if kind is ValueType.DOUBLE:
                value = float(value)
            elif kind is ValueType.BYTES:
                value = base64.b64decode(value)
            when = item.get("source_time")
            seen = (item["quality"], item.get("status"), None if when is None else micros(when), item.get("flags", 0))
            names = tuple(item.get(name, "{}" if name == "metadata" else "") for name in NAMES)
            yield item["sequence"], Out(kind, exact(value), *seen, item.get("properties"), names)


FIELD_TYPES = {
    "value": ValueType.DOUBLE,
    "value_int": ValueType.INT64,
    "value_uint": ValueType.UINT64,
    "value_bool": ValueType.BOOLEAN,
    "value_text": ValueType.TEXT,
    "value_bytes": ValueType.BYTES,
    "value_json": ValueType.JSON,
}


def line_rows(folder: Path) -> Found:
    """Lines of line protocol; names are those that it has."""
    for file in folder.glob("readings-*.lp"):
        for line in parse_lines(file.read_bytes().decode()):
            fields: dict[str, Any] = dict(line.fields)
            seen = (fields.pop("quality"), fields.pop("status", None))
            sequence, flags = fields.pop("sequence"), fields.pop("flags")
            received, properties = fields.pop("received_time"), fields.pop("properties", None)
            fields.pop("priority")
            name: str
            value: Any
            (name, value), *more = fields.items() or [("", None)]
            assert not more, fields
            kind = FIELD_TYPES.get(name, ValueType.NULL)
            if kind is ValueType.BYTES:
                value = base64.b64decode(value)
            elif kind is ValueType.JSON:
                value = json.loads(value)
            when = None if line.time == received * 1000 else line.time // 1000
            assert line.time % 1000 == 0
            names = (line.tags["source"], line.tags.get("unit", ""))
            yield sequence, Out(kind, exact(value), *seen, when, flags, properties, names)


def zerobus_plan() -> Plan:
    """The plan for the table that has all columns."""
    sql = {
        pa.string(): "string",
        pa.int64(): "bigint",
        pa.int32(): "int",
        pa.float64(): "double",
        pa.date32(): "date",
        pa.timestamp("us", tz="UTC"): "timestamp",
        pa.binary(): "binary",
    }
    return plan([TableColumn(field.name, sql[field.type], field.nullable) for field in TABLE])


def protobuf_rows(batch: pa.RecordBatch) -> Found:
    fitting = zerobus_plan()
    file = descriptor_pb2.FileDescriptorProto.FromString(descriptor(fitting.columns))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("Reading"))
    for record in ProtobufEncoder(fitting.columns).encode(reading_columns(batch), len(batch)).to_pylist():
        parsed = message.FromString(record)
        assert len(unknown_fields.UnknownFieldSet(parsed)) == 0
        yield table_item({n: getattr(parsed, n) if parsed.HasField(n) else None for n in TABLE.names})


def arrow_rows(batch: pa.RecordBatch) -> Found:
    fitting = zerobus_plan()
    made = to_arrow(reading_columns(batch), fitting.columns, fitting.arrow)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as stream:
        stream.write_batch(made)
    return table_rows(pa.ipc.open_stream(sink.getvalue()).read_all())


# What a form has no way to say


def never(_: Given) -> bool:
    return False


def not_a_date(one: Given) -> bool:
    """Delta's dates are those of the years 1 to 9999."""
    return one.source_time is not None and not FIRST_YEAR <= one.source_time <= LAST_YEAR


def not_a_line(one: Given) -> bool:
    """NaN and infinities, times that have more than 64 bits of ns, and line breaks in a tag (or a backslash at its end)."""
    if isinstance(one.value, float) and not math.isfinite(one.value):
        return True
    if one.source_time is not None and abs(one.source_time) > LINE_PROTOCOL_TIME:
        return True
    unit = one.tag.unit
    return "\n" in unit or "\r" in unit or unit.endswith("\\")


@dataclass(frozen=True)
class Form:
    """How a target is written and read back.

    Attributes:
        read: Parses what the target's folder has.
        refuses: What the form cannot say.
        names: Positions in ``NAMES`` of the names that it has.
    """

    read: Callable[[Path], Found]
    refuses: Callable[[Given], bool] = never
    names: tuple[int, ...] = tuple(range(len(NAMES)))


FORMS = {
    "delta": Form(delta_rows, not_a_date),
    "jsonl": Form(jsonl_rows),
    "line_protocol": Form(line_rows, not_a_line, (0, 5)),
    "parquet": Form(parquet_rows),
}


def expected(given_: list[Given], form: Form) -> dict[int, Out]:
    out = {}
    for sequence, one in enumerate(given_):
        if not form.refuses(one):
            whole = meant(one)
            names = tuple(whole.names[at] for at in form.names)
            out[sequence] = Out(**{**whole.__dict__, "names": names})
    return out


def collected(found: Found) -> dict[int, Out]:
    """By sequence, counted from the first of the shard; each once."""
    rows = list(found)
    assert len({sequence for sequence, _ in rows}) == len(rows)
    return dict(sorted(rows))


def differences(want: dict[int, Out], got: dict[int, Out]) -> dict[int, tuple[Out | None, Out | None]]:
    return {at: (want.get(at), got.get(at)) for at in want.keys() | got.keys() if want.get(at) != got.get(at)}


async def write(name: str, folder: Path, batch: pa.RecordBatch) -> list[int]:
    """Write as a forwarder does; returns the rows that were refused."""
    writer = targets(folder)[name].writer(Context(GATEWAY, folder / "context"))
    await writer.open()
    rejected = RejectedRecords([], [], rest_written=True)
    try:
        await writer.write(batch, 1)
    except RejectedRecords as error:
        rejected = error
    if not rejected.rest_written and len(rejected.indices) < len(batch):
        rest = np.delete(np.arange(len(batch)), rejected.indices)
        await writer.write(batch.take(pa.array(rest)), 2)
    await writer.close()
    assert len(rejected.reasons) == len(rejected.indices)
    assert all(rejected.reasons)
    return rejected.indices


CHECKED = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.parametrize("name", FORMS)
@settings(CHECKED, max_examples=40)
@given(given_=READINGS)
def test_what_goes_in_comes_out_of_a_target(name: str, given_: list[Given]) -> None:
    form = FORMS[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        batch, _ = through_the_stores(folder, given_)
        rejected = asyncio.run(write(name, folder, batch))
        sequences = batch.column("sequence").to_pylist()
        assert sequences == list(range(sequences[0], sequences[0] + len(given_)))
        assert rejected == [at for at, one in enumerate(given_) if form.refuses(one)]
        got = {at - sequences[0]: out for at, out in collected(form.read(folder / name)).items()}
        assert differences(expected(given_, form), got) == {}


@pytest.mark.parametrize("read", [protobuf_rows, arrow_rows], ids=["protobuf", "arrow"])
@settings(CHECKED, max_examples=40)
@given(given_=READINGS)
def test_what_goes_in_comes_out_of_what_zerobus_is_sent(
    read: Callable[[pa.RecordBatch], Found], given_: list[Given]
) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        batch, _ = through_the_stores(Path(temporary), given_)
        first = batch.column("sequence")[0].as_py()
        got = {at - first: out for at, out in collected(read(batch)).items()}
        assert differences(expected(given_, Form(lambda _: iter(()))), got) == {}


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not condition():
        assert process.poll() is None, f"it ended with {process.returncode}"
        assert time.monotonic() < deadline, "waited in vain"
        pause.wait(0.05)


@settings(CHECKED, max_examples=3)
@given(given_=st.lists(READINGS, min_size=10, max_size=20).map(lambda many: [one for part in many for one in part]))
def test_what_goes_in_comes_out_of_a_running_gateway(given_: list[Given]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "given").write_bytes(pickle.dumps(given_))
        root = Path(__file__).parents[1]
        command = [sys.executable, "-m", "tests.lossless_gateway", str(folder)]
        with subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}) as process:
            try:
                for name, form in FORMS.items():
                    many = len(expected(given_, form))
                    until(partial(_has, form, folder / name, many), process)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == 0
            finally:
                process.kill()
        for name, form in FORMS.items():
            got = collected(form.read(folder / name))
            first = min(got, default=0) - min(expected(given_, form), default=0)
            assert differences(expected(given_, form), {at - first: out for at, out in got.items()}) == {}
        found = account(configuration(folder))
        assert found["unaccounted"] == 0
        for name, form in FORMS.items():
            line = found["targets"][name][SOURCE]
            refused_ = sum(map(form.refuses, given_))
            assert (line["delivered"], line["dead_letters"]) == (len(given_) - refused_, refused_)


def _has(form: Form, folder: Path, many: int) -> bool:
    return sum(1 for _ in form.read(folder)) >= many


def test_the_flow_and_the_targets_of_these_tests_are_the_same() -> None:
    assert set(FORMS) == set(targets(Path()))
