"""The Sparkplug B host: the state machine by itself."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.wire.sparkplug_messages import message_class
from connectors.wire.sparkplug_values import DataType
from normalization.reading import Flags, Quality, ValueType
from tests.connectors.sources.sparkplug_bench import T0, Bench, bdseq, born, metric, payload, properties


def test_births_name_and_describe_the_metrics() -> None:
    """tck-id-topics-nbirth-metrics, tck-id-topics-dbirth-metrics, tck-id-payloads-metric-datatype-req,
    tck-id-payloads-metric-timestamp-in-UTC"""
    bench = Bench()
    born(bench)
    _, temp, count = bench.intake.readings()
    assert (temp.tag.device_id, temp.tag.address, temp.tag.tag_name, temp.tag.unit) == ("G/N/D", "D/temp", "temp", "°C")
    assert json.loads(temp.tag.metadata) == {"Place": "oven"}
    assert temp.source_time == (T0 + 5) * 1000  # the metric's time, not the payload's
    assert temp.properties is None
    assert (count.type, count.source_time) == (ValueType.UINT64, T0 * 1000)


def test_data_finds_its_metric_by_alias_or_name() -> None:
    """tck-id-payloads-name-requirement, tck-id-payloads-alias-data-cmd-requirement,
    tck-id-payloads-metric-datatype-not-req"""
    bench = Bench()
    born(bench)
    bare = message_class("Metric")(alias=7, double_value=21.5, timestamp=T0 + 9)  # no name, no datatype
    by_name = message_class("Metric")(name="cnt", long_value=5)
    readings, asked = bench.receive("G/DDATA/N/D", payload(2, bare, by_name))
    assert [(r.value, r.tag.tag_name) for r in readings] == [(21.5, "temp"), (5, "cnt")]
    assert asked == []
    assert bench.values("G/NDATA/N", payload(3, message_class("Metric")(alias=1, int_value=2**32 - 1))) == [-1]


@pytest.mark.parametrize(
    ("given_metric", "quality", "status", "flags", "value"),
    [
        (properties(metric(DataType.DOUBLE, 1.0, alias=7), Quality=192), Quality.GOOD, 192, 0, 1.0),
        (properties(metric(DataType.DOUBLE, 1.0, alias=7), Quality=0), Quality.BAD, 0, 0, 1.0),
        (properties(metric(DataType.DOUBLE, 1.0, alias=7), Quality=500), Quality.STALE, 500, 0, 1.0),
        (metric(DataType.DOUBLE, None, alias=7), Quality.BAD, None, 0, None),
        (properties(metric(DataType.DOUBLE, None, alias=7), Quality=500), Quality.STALE, 500, 0, None),
        (metric(DataType.DOUBLE, 1.0, alias=7, is_historical=True), Quality.GOOD, None, Flags.HISTORICAL, 1.0),
    ],
)
def test_quality_null_and_history(given_metric: Any, quality: Quality, status: int, flags: int, value: Any) -> None:
    """tck-id-payloads-propertyset-quality-value-value"""
    bench = Bench()
    born(bench)
    readings, _ = bench.receive("G/DDATA/N/D", payload(2, given_metric))
    assert [(r.quality, r.status, r.flags, r.value) for r in readings] == [(quality, status, flags, value)]


@pytest.mark.threat(17)
def test_rebirth_requests_are_throttled_per_edge_node() -> None:
    """tck-id-topics-ncmd-topic, tck-id-operational-behavior-data-commands-ncmd-rebirth-verb"""
    bench = Bench(rebirth_interval=30.0)
    data = payload(5, metric(DataType.DOUBLE, 1.0, alias=7))
    asked = [bool(bench.receive(f"G/NDATA/{node}", data, now)[1]) for node, now in
             [("N", 0.0), ("N", 1.0), ("M", 1.0), ("N", 29.9), ("N", 30.0), ("N", 31.0)]]  # fmt: skip
    assert asked == [True, False, True, False, True, False]
    assert bench.host.counts["rebirth: data before birth"] == 3


def test_births_that_leave_metrics_out_are_asked_for_more_and_more_rarely() -> None:
    bench = Bench(rebirth_interval=10.0, reorder_timeout=0.0)
    born(bench)
    asked = []
    for second in range(200):
        readings, requests = bench.receive(
            "G/DDATA/N/D", payload(2 + second, metric(DataType.INT32, 1, alias=99)), second
        )
        assert [r.reject for r in readings] == ["alias 99 has no birth"]
        if requests:
            asked.append(second)
    assert asked == [0, 10, 30, 70, 150]
    for seq, later in (9, 400.0), (20, 410.0):
        assert [a.reason for a in bench.receive("G/DDATA/N/D", payload(seq), later)[1]] == ["sequence gap"]


def test_the_death_of_a_node_makes_all_its_metrics_stale_once() -> None:
    """tck-id-payloads-ndeath-bdseq, tck-id-topics-nbirth-bdseq-matching,
    tck-id-operational-behavior-edge-node-termination-host-action-ndeath-node-offline,
    tck-id-operational-behavior-edge-node-termination-host-action-ndeath-node-tags-stale,
    tck-id-operational-behavior-edge-node-termination-host-action-ndeath-devices-offline,
    tck-id-operational-behavior-edge-node-termination-host-action-ndeath-devices-tags-stale"""
    bench = Bench()
    born(bench, number=3)
    assert bench.receive("G/NDEATH/N", payload(None, bdseq(2)))[0] == []  # the will of an earlier connection
    assert bench.host.counts["death of an earlier connection"] == 1
    readings, _ = bench.receive("G/NDEATH/N", payload(None, bdseq(3)))
    assert {(r.tag.address, r.value, r.quality) for r in readings} == {
        (address, None, Quality.STALE) for address in ("up", "D/temp", "D/cnt")
    }
    assert bench.receive("G/NDEATH/N", payload(None, bdseq(3)))[0] == []
    _, asked = bench.receive("G/DDATA/N/D", payload(4, metric(DataType.DOUBLE, 1.0, alias=7)))
    assert [a.reason for a in asked] == ["data before birth"]


def test_a_death_that_the_broker_retained_says_nothing_about_now() -> None:
    """tck-id-payloads-ndeath-will-message-retain"""
    bench = Bench()
    born(bench, number=0)
    assert bench.receive("G/NDEATH/N", payload(None, bdseq(0)), head=1) == ([], [])
    assert bench.receive("G/DDEATH/N/D", payload(9), head=1) == ([], [])
    assert bench.values("G/DDATA/N/D", payload(2, metric(DataType.DOUBLE, 1.0, alias=7))) == [1.0]
    assert bench.host.counts["retained death"] == 2


def test_the_death_of_a_device_leaves_the_node_and_other_devices_alone() -> None:
    """tck-id-operational-behavior-edge-node-termination-host-action-ddeath-devices-offline,
    tck-id-operational-behavior-edge-node-termination-host-action-ddeath-devices-tags-stale"""
    bench = Bench()
    born(bench)
    bench.values("G/DBIRTH/N/E", payload(2, metric(DataType.DOUBLE, 1.0, "temp", 9)))
    readings, asked = bench.receive("G/DDEATH/N/D", payload(3, timestamp=T0 + 7))
    assert {(r.tag.address, r.quality, r.source_time) for r in readings} == {
        ("D/temp", Quality.STALE, (T0 + 7) * 1000),
        ("D/cnt", Quality.STALE, (T0 + 7) * 1000),
    }
    assert asked == []
    assert bench.values("G/DDATA/N/E", payload(4, metric(DataType.DOUBLE, 2.0, alias=9))) == [2.0]
    assert [a.reason for a in bench.receive("G/DDATA/N/D", payload(5))[1]] == ["data before birth"]


def test_a_new_birth_of_the_node_drops_the_aliases_of_its_devices() -> None:
    """tck-id-payloads-dbirth-order, tck-id-operational-behavior-data-commands-rebirth-action-2"""
    bench = Bench()
    born(bench)
    bench.values("G/NBIRTH/N", payload(0, bdseq(0), metric(DataType.INT32, 1, "up", 7)))
    readings, asked = bench.receive("G/DDATA/N/D", payload(1, metric(DataType.DOUBLE, 1.0, alias=7)))
    assert (readings, [a.reason for a in asked]) == ([], ["data before birth"])
    assert [r.reject for r in bench.expire(9.0)[0]] == ["alias 7 has no birth"]


def test_metrics_that_a_new_birth_no_longer_has_become_stale() -> None:
    bench = Bench()
    born(bench)
    readings, _ = bench.receive("G/DBIRTH/N/D", payload(2, metric(DataType.DOUBLE, 3.0, "temp", 7)))
    assert [(r.tag.tag_name, r.quality) for r in readings] == [("temp", Quality.GOOD), ("cnt", Quality.STALE)]


def test_commands_of_others_are_no_readings() -> None:
    bench = Bench()
    assert bench.receive("G/NCMD/N", b"\xff\xff") == ([], [])
    assert not bench.host.changed


def test_another_connection_of_an_edge_node_whose_death_was_missed_makes_its_devices_stale() -> None:
    """tck-id-topics-nbirth-bdseq-increment, tck-id-payloads-nbirth-bdseq-repeat"""
    bench = Bench()
    born(bench, number=3)
    same, _ = bench.receive("G/NBIRTH/N", payload(0, bdseq(3), metric(DataType.INT32, 2, "up", 1)))
    assert [(r.tag.address, r.quality) for r in same] == [("up", Quality.GOOD)]
    other, _ = bench.receive("G/NBIRTH/N", payload(0, bdseq(4), metric(DataType.INT32, 3, "up", 1)))
    assert {(r.tag.address, r.quality) for r in other} == {
        ("up", Quality.GOOD), ("D/temp", Quality.STALE), ("D/cnt", Quality.STALE),
    }  # fmt: skip


def test_a_device_that_is_born_again_forgets_its_old_aliases() -> None:
    bench = Bench()
    born(bench)
    bench.values(
        "G/DBIRTH/N/D", payload(2, metric(DataType.DOUBLE, 1.0, "temp", 17), metric(DataType.UINT64, 5, "cnt", 7))
    )
    bare = message_class("Metric")(alias=7, long_value=6)
    assert bench.values("G/DDATA/N/D", payload(3, bare)) == [6], "alias 7 is the counter's now"
    readings, asked = bench.receive("G/DDATA/N/D", payload(4, metric(DataType.UINT64, 5, alias=8)))
    assert (readings, [a.reason for a in asked]) == ([], ["unknown alias"])


def test_what_stands_beside_a_value_becomes_properties() -> None:
    bench = Bench()
    born(bench)
    item = properties(metric(DataType.DOUBLE, 1.0, alias=7, is_transient=True), Note="x", engUnit="°C", Quality=192)
    item.metadata.content_type = "a/b"
    (reading,), _ = bench.receive("G/DDATA/N/D", payload(2, item))
    assert json.loads(reading.properties or "") == {
        "Note": "x", "is_transient": True, "metadata": {"content_type": "a/b"},
    }  # fmt: skip


def test_a_metric_without_a_time_has_that_of_its_message() -> None:
    """tck-id-payloads-timestamp-in-UTC, tck-id-payloads-name-birth-data-requirement"""
    bench = Bench()
    born(bench)
    (reading,), _ = bench.receive("G/DDATA/N/D", payload(2, metric(DataType.DOUBLE, 1.0, alias=7), timestamp=T0 + 3))
    assert reading.source_time == (T0 + 3) * 1000


@st.composite
def plain_messages(draw: st.DrawFn) -> list[Any]:
    kinds = {
        "double_value": 1.5,
        "float_value": 0.5,
        "int_value": 2**32 - 5,
        "long_value": 2**64 - 5,
        "boolean_value": True,
    }
    metrics = []
    for _ in range(draw(st.integers(1, 4))):
        field = draw(st.sampled_from(sorted(kinds)))
        first, count = draw(st.integers(0, 30)), draw(st.integers(1, 40))
        when = draw(st.sampled_from([None, T0, 2**62]))
        step = draw(st.integers(0, 1))
        for i in range(first, first + count):
            one = {"alias": i, field: kinds[field], "is_historical": draw(st.integers(0, 30)) == 0}
            metrics.append(message_class("Metric")(**one, **({} if when is None else {"timestamp": when + step * i})))
    return metrics


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([*range(12)]), min_size=40, max_size=70),
    plain_messages(),
    st.sampled_from([0, T0]),
)
def test_the_short_way_gives_the_same_readings(kinds: list[int], metrics: list[Any], timestamp: int) -> None:
    born_as = [
        metric(DataType(kind), 1 if kind else 1.0, f"m{alias}", alias)
        if kind
        else message_class("Metric")(name="?", alias=alias)
        for alias, kind in enumerate(kinds)
    ]
    message = payload(1, *metrics, timestamp=timestamp)
    found = []
    for plain in (True, False):
        bench = Bench()
        bench.receive("G/NBIRTH/N", payload(0, *born_as))
        # an unknown field is nothing to protobuf, and not plain
        readings, asked = bench.receive("G/NDATA/N", message if plain else message + b"\x98\x06\x01")
        readings += bench.expire(9.0)[0]
        rejects = sorted(r.reject for r in readings if r.reject)
        values = sorted(
            (r.tag.address, repr(r.value), r.type, r.quality, r.source_time or 0, r.flags)
            for r in readings
            if not r.reject
        )
        found.append((values, rejects, asked, bench.state()[0]))
    assert found[0] == found[1]
