"""The Sparkplug B host among edge nodes that do not keep to the rules, and some that mean harm."""

import contextlib
import json
import subprocess
import sys
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.wire.sparkplug_messages import decode_payload, message_class
from connectors.wire.sparkplug_values import DataType, metric_value, set_value
from normalization.reading import Quality, ValueType
from tests.connectors.sources.sparkplug_bench import Bench, bdseq, born, data, metric, payload, properties

Metric = message_class("Metric")


def test_broken_payloads_and_metrics_become_rejects_and_spare_the_rest() -> None:
    """tck-id-message-flow-edge-node-birth-publish-nbirth-payload"""
    bench = Bench()
    born(bench)
    readings, _ = bench.receive("G/DDATA/N/D", b"\xff\xff\xff")
    assert [r.value for r in readings] == [b"\xff\xff\xff"]
    assert (readings[0].reject or "").startswith("not a Sparkplug B payload")
    wrong = Metric(alias=8, string_value="five")
    readings, _ = bench.receive("G/DDATA/N/D", payload(2, wrong, metric(DataType.DOUBLE, 1.0, alias=7)))
    assert [r.value for r in readings if not r.reject] == [1.0]
    assert [r.reject for r in readings if r.reject] == ["metric `cnt`: a string_value where UINT64 is declared"]
    nameless = metric(DataType.DOUBLE, 1.0, alias=3)
    readings, _ = bench.receive("G/DBIRTH/N/E", payload(3, nameless, metric(DataType.DOUBLE, 2.0, "x", 4)))
    assert (readings[0].value, readings[0].reject) == (2.0, None)
    assert readings[1].reject == "a metric of a birth has no name"
    assert bench.host.counts["reject"] == 3
    assert bench.values("G/DDATA/N/D", data(4, 4.0)) == [4.0]


def test_a_metric_without_name_and_alias_is_nobodys() -> None:
    """tck-id-payloads-name-requirement"""
    bench = Bench()
    bench.values("G/NBIRTH/N", payload(0, metric(DataType.DOUBLE, 1.0, "first", 0)))
    (reading,), _ = bench.receive("G/NDATA/N", payload(1, Metric(double_value=5.0)))
    assert reading.reject == "a metric without name and alias"
    assert bench.values("G/NDATA/N", payload(2, metric(DataType.DOUBLE, 2.0, alias=0))) == [2.0]


@pytest.mark.threat(17)
def test_an_alias_for_two_metrics_stands_for_neither() -> None:
    """tck-id-payloads-alias-uniqueness"""
    bench = Bench()
    clash = [metric(DataType.DOUBLE, float(i), name, 7) for i, name in enumerate("abc")]
    assert bench.values("G/NBIRTH/N", payload(0, *clash)) == [0.0, 1.0, 2.0], "what has a name is sound"
    message = payload(1, metric(DataType.DOUBLE, 3.0, alias=7), metric(DataType.DOUBLE, 4.0, "a"))
    readings, asked = bench.receive("G/NDATA/N", message)
    assert [(r.value, r.reject) for r in readings] == [(4.0, None), (message, "alias 7 stands for two metrics")]
    assert asked == [], "its births would be the same"


def test_devices_of_an_edge_node_that_share_an_alias_are_told_apart() -> None:
    bench = Bench()
    born(bench)
    assert bench.values("G/DBIRTH/N/E", payload(2, metric(DataType.DOUBLE, 1.0, "other", 7))) == [1.0]
    readings, _ = bench.receive("G/DDATA/N/E", payload(3, metric(DataType.DOUBLE, 2.0, alias=7)))
    assert [(r.tag.address, r.value) for r in readings] == [("E/other", 2.0)]
    readings, _ = bench.receive("G/DDATA/N/D", data(4, 3.0))
    assert [(r.tag.address, r.value) for r in readings] == [("D/temp", 3.0)]


def test_a_metric_that_a_birth_names_twice_is_one() -> None:
    bench = Bench()
    twice = metric(DataType.DOUBLE, 1.0, "a", 7), metric(DataType.DOUBLE, 2.0, "a", 7)
    assert bench.values("G/NBIRTH/N", payload(0, *twice)) == [1.0, 2.0]
    assert bench.values("G/NDATA/N", payload(1, metric(DataType.DOUBLE, 3.0, alias=7))) == [3.0]
    assert len(bench.host.tags()) == 1


@pytest.mark.parametrize("place", ["name", "text", "key"])
def test_texts_that_are_not_utf_8_reject_their_metric_only(place: str) -> None:
    """tck-id-payloads-template-version"""
    bench = Bench()
    wrong = {
        "name": Metric(alias=7, double_value=1.0).SerializeToString() + b"\x0a\x02\xff\xfe",
        "text": b"\x10\x07\x7a\x02\xff\xfe",
        "key": Metric(alias=7, double_value=1.0).SerializeToString() + b"\x4a\x08\x0a\x02\xff\xfe\x12\x02\x18\x01",
    }[place]
    born(bench)
    good = metric(DataType.UINT64, 5, alias=8)
    message = payload(2, good) + b"\x12" + bytes([len(wrong)]) + wrong
    readings, _ = bench.receive("G/DDATA/N/D", message)
    assert [(r.value, r.reject) for r in readings if not r.reject] == [(5, None)]
    assert [r.value for r in readings if r.reject] == [message]


def test_more_edge_nodes_than_allowed_become_rejects() -> None:
    bench = Bench(max_nodes=1)
    born(bench)
    readings, asked = bench.receive("G/NDATA/M", payload(0))
    assert ([r.reject for r in readings], asked) == (["more than 1 edge nodes"], [])


def test_more_devices_than_allowed_become_rejects() -> None:
    bench = Bench(max_devices=2)
    born(bench)
    for seq in (2, 3):
        readings, _ = bench.receive("G/DBIRTH/N/E", payload(seq, metric(DataType.DOUBLE, 1.0, "temp", 9)))
        assert [r.reject for r in readings] == ["more than 2 edge nodes and devices"]
    assert bench.values("G/DBIRTH/N/D", payload(4, metric(DataType.DOUBLE, 1.0, "temp", 7)))[:1] == [1.0]
    size = len(bench.host.state())
    for i in range(100):
        bench.receive(f"G/DDEATH/N/unknown{i}", payload(None))
        bench.receive(f"G/NDEATH/unknown{i}", payload(None, bdseq(0)))
    assert len(bench.host.state()) == size, "deaths of who never lived are not kept"


def test_a_quality_beyond_64_bits_is_uncertain() -> None:
    bench = Bench()
    born(bench)
    odd = metric(DataType.DOUBLE, 1.0, alias=7)
    odd.properties.keys.append("Quality")
    set_value(odd.properties.values.add(), DataType.UINT64, 2**64 - 1)
    readings, _ = bench.receive("G/DDATA/N/D", payload(2, odd))
    assert [(r.value, r.quality, r.status) for r in readings] == [(1.0, Quality.UNCERTAIN, None)]


def test_a_time_beyond_the_calendar_is_none() -> None:
    bench = Bench()
    born(bench)
    readings, _ = bench.receive("G/DDATA/N/D", payload(2, metric(DataType.DOUBLE, 1.0, alias=7, timestamp=2**64 - 1)))
    assert [(r.value, r.source_time) for r in readings] == [(1.0, None)]


def test_properties_without_as_many_values_as_keys_are_refused() -> None:
    """tck-id-payloads-propertyset-keys-array-size, tck-id-payloads-propertyset-values-array-size"""
    bench = Bench()
    born(bench)
    odd = properties(metric(DataType.DOUBLE, 1.0, alias=7), Quality=0)
    odd.properties.keys.append("more")
    (reading,), _ = bench.receive("G/DDATA/N/D", payload(2, odd))
    assert reading.reject == "metric `temp`: a property set of 2 keys with 1 values"
    odd.name, odd.alias = "other", 9
    readings, _ = bench.receive("G/DBIRTH/N/D", payload(3, odd))
    assert [r.reject for r in readings if r.reject] == ["metric `other`: a property set of 2 keys with 1 values"]
    assert bench.values("G/DDATA/N/D", payload(4, metric(DataType.DOUBLE, 2.0, alias=9))) == [2.0]


def test_what_is_kept_of_a_metric_is_bounded() -> None:
    bench = Bench()
    long = properties(metric(DataType.DOUBLE, 1.0, "long", 1), engUnit="m" * 2000, a="x" * 3000, b="y" * 3000, c="z")
    readings, _ = bench.receive("G/NBIRTH/N", payload(0, metric(DataType.DOUBLE, 2.0, "n" * 1001, 2), long))
    assert [(r.tag.tag_name, r.value) for r in readings if not r.reject] == [("long", 1.0)]
    assert [r.reject for r in readings if r.reject] == ["a metric name of 1001 characters, more than 1000"]
    assert json.loads(readings[0].tag.metadata) == {"a": "x" * 3000, "truncated": "true"}
    assert readings[0].tag.unit == ""


def _data_set(columns: int, types: int, rows: list[int]) -> Any:
    out = Metric(name="d", datatype=DataType.DATASET)
    out.dataset_value.columns.extend(map(str, range(columns)))
    out.dataset_value.types.extend([DataType.INT8] * types)
    for cells in rows:
        row = out.dataset_value.rows.add()
        for _ in range(cells):
            row.elements.add(int_value=1)
    return out


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (_data_set(1, 2, []), "a data set of 1 columns with 2 types"),
        (_data_set(2, 2, [2, 1]), "a data set row of 1 elements with 2 columns"),
        (_data_set(1, 1, [3]), "a data set row of 3 elements with 1 columns"),
        (metric(DataType.INT8_ARRAY, [1] * 1_000_001, "d"), "a INT8_ARRAY of 1000001 elements, more than 1000000"),
        (Metric(name="d", datatype=DataType.BYTES, string_value="x"), "a string_value where BYTES is declared"),
        (Metric(name="d", datatype=DataType.STRING, int_value=1), "a int_value where STRING is declared"),
        (Metric(name="d", datatype=DataType.TEMPLATE, bytes_value=b""), "a bytes_value where TEMPLATE is declared"),
        (Metric(name="d", datatype=DataType.INT16_ARRAY, bytes_value=b"abc"), "3 bytes are no INT16_ARRAY"),
    ],
)  # fmt: skip
def test_values_that_are_not_what_they_say_are_refused(item: Any, reason: str) -> None:
    """tck-id-payloads-dataset-column-num-headers, tck-id-payloads-dataset-types-num"""
    readings, _ = Bench().receive("G/NBIRTH/N", payload(0, item))
    assert [r.reject for r in readings] == [f"metric `d`: {reason}"]


def test_a_type_that_the_specification_does_not_have_is_read_as_it_is() -> None:
    readings, _ = Bench().receive("G/NBIRTH/N", payload(0, Metric(name="d", datatype=99, int_value=7)))
    assert [(r.value, r.type) for r in readings] == [(7, ValueType.INT64)]


def test_metrics_without_end_are_one_dead_letter() -> None:
    bench = Bench()
    born(bench)
    message = payload(2, *[Metric(alias=1000 + i, double_value=1.0) for i in range(20_000)])
    bench.receive("G/DDATA/N/D", message)
    (reading,), _ = bench.expire(9.0)
    assert (reading.reject or "").endswith("alias 1004 has no birth and 19995 more")


BOMBS = {
    "metrics": b"\x12\x00" * (8 << 20),
    "rows": b"\x12\x86\x80\x80\x07\x8a\x01\x80\x80\x80\x07" + b"\x22\x00" * (7 << 20),
    "columns": b"\x12\x86\x80\x80\x07\x8a\x01\x80\x80\x80\x07" + b"\x12\x00" * (7 << 20),
}


_DECODE = """
import resource, sys
from connectors.wire.sparkplug_messages import decode_payload
decode_payload(b"")  # what is imported on the way is not counted
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (160 << 20),) * 2)
try:
    decode_payload(sys.stdin.buffer.read())
except ValueError as error:
    print(error)
"""


@pytest.mark.threat(17)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("bomb", sorted(BOMBS))
def test_a_payload_of_countless_parts_does_not_fill_the_memory(bomb: str, packed: bool) -> None:
    content = BOMBS[bomb]
    if packed:
        body = zlib.compress(content, 1)
        content = message_class()(uuid="SPBV1.0_COMPRESSED", body=body).SerializeToString()
    run = subprocess.run([sys.executable, "-c", _DECODE], input=content, capture_output=True, check=False, timeout=300)
    assert run.stdout.decode() == "a payload of more than 1000000 parts\n", run.stderr.decode()


def test_a_large_birth_is_no_bomb() -> None:
    birth = payload(0, *[metric(DataType.DOUBLE, 1.0, f"area/line/machine/m{i}", i) for i in range(40_000)])
    assert len(birth) > 1 << 20
    assert len(Bench().values("G/NBIRTH/N", birth)) == 40_000
    with pytest.raises(ValueError, match="cut off"):
        decode_payload(birth[:-3])


names = st.text(st.characters(codec="utf-8"), max_size=5)
scalars = st.one_of(
    st.builds(lambda v: {"int_value": v}, st.integers(0, 2**32 - 1)),
    st.builds(lambda v: {"long_value": v}, st.integers(0, 2**64 - 1)),
    st.builds(lambda v: {"double_value": v}, st.floats()),
    st.builds(lambda v: {"float_value": v}, st.floats(width=32)),
    st.builds(lambda v: {"boolean_value": v}, st.booleans()),
    st.builds(lambda v: {"string_value": v}, names),
)  # fmt: skip
types = st.integers(0, 36)
values = st.builds(lambda v, t: message_class("PropertyValue")(type=t, **v), scalars, types)
property_sets = st.builds(
    lambda keys, values: message_class("PropertySet")(keys=keys, values=values),
    st.lists(names | st.just("Quality"), max_size=3),
    st.lists(values, max_size=3),
)
data_sets = st.builds(
    lambda columns, types, rows: message_class("DataSet")(
        columns=columns,
        types=types,
        rows=[message_class("Row")(elements=[message_class("DataSetValue")(**v) for v in row]) for row in rows],
    ),
    st.lists(names, max_size=3),
    st.lists(types, max_size=3),
    st.lists(st.lists(scalars, max_size=3), max_size=3),
)


def _metrics(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    templates = st.builds(
        lambda metrics, ref, definition: message_class("Template")(
            metrics=metrics, template_ref=ref, is_definition=definition
        ),
        st.lists(inner, max_size=3),
        names,
        st.booleans(),
    )
    value = st.one_of(
        scalars,
        st.builds(lambda v: {"bytes_value": v}, st.binary(max_size=12)),
        st.builds(lambda v: {"dataset_value": v}, data_sets),
        st.builds(lambda v: {"template_value": v}, templates),
    )
    fields = st.fixed_dictionaries(
        {"datatype": types},
        optional={
            "name": names | st.sampled_from(["temp", "bdSeq", "Node Control/Rebirth"]),
            "alias": st.integers(0, 9) | st.integers(0, 2**64 - 1),
            "timestamp": st.integers(0, 2**64 - 1),
            "is_null": st.booleans(),
            "is_historical": st.booleans(),
            "is_transient": st.booleans(),
            "properties": property_sets,
        },
    )
    return st.builds(lambda fields, value: Metric(**fields, **value), fields, value)


leaves = st.builds(lambda v, t: Metric(datatype=t, **v), scalars, types)
metrics = _metrics(_metrics(_metrics(leaves)))


@settings(deadline=None)
@given(metrics)
def test_no_metric_breaks_the_decoder(item: Any) -> None:
    read = Metric.FromString(item.SerializeToString())
    with contextlib.suppress(ValueError):
        metric_value(read, read.datatype)


@pytest.mark.threat(17)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["NBIRTH", "DBIRTH", "NDATA", "DDATA", "NDEATH", "DDEATH"]),
            st.sampled_from("NM"),
            st.none() | st.integers(0, 6) | st.integers(0, 2**64 - 1),
            st.lists(metrics, max_size=4),
            st.binary(max_size=3),
            st.sampled_from(["", "expire", "restart", "lose"]),
        ),
        max_size=12,
    )
)
def test_no_sequence_of_messages_breaks_the_host(
    script: list[tuple[str, str, int | None, list[Any], bytes, str]],
) -> None:
    bench, now = Bench(rebirth_interval=0.0, max_held=2000), 0.0
    for kind, node, seq, items, junk, then in script:
        topic = f"G/{kind}/{node}" + ("/D" if kind[0] == "D" else "")
        message = payload(seq, *items) + junk
        bench.receive(topic, message, now)
        now += 0.5
        if then == "expire":
            bench.expire(now)
        elif then == "restart":
            bench.lose_connection(now)
            bench = Bench(bench.state(), rebirth_interval=0.0, max_held=2000)
        elif then == "lose":
            bench.host.reconnected(session_present=False)
    for later in (9.0, 18.0):  # one that came early may have to wait for its birth then
        bench.expire(now + later)
    assert bench.host.deadline() is None
    assert bench.host._waiting.held == 0, "the account of what is held is kept"
    assert all(r.value for r in bench.intake.readings() if r.reject), "rejects have their bytes"
