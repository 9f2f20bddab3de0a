"""The Sparkplug B host: messages in the wrong order, and messages before their birth."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sources.sparkplug import RebirthRequest
from connectors.wire.sparkplug_values import DataType
from normalization.reading import Quality
from tests.connectors.sources.sparkplug_bench import T0, Bench, bdseq, born, data, metric, payload


def test_messages_that_overtook_another_are_read_in_their_order() -> None:
    """tck-id-operational-behavior-host-reordering-start, tck-id-operational-behavior-host-reordering-success"""
    bench = Bench(reorder_timeout=2.0)
    born(bench)
    assert bench.values("G/DDATA/N/D", data(4, 4.0), 1.0) == []
    assert bench.values("G/DDATA/N/D", data(3, 3.0), 1.1) == []
    assert bench.host.deadline() == 3.0
    assert bench.values("G/DDATA/N/D", data(2, 2.0), 1.2) == [2.0, 3.0, 4.0]
    assert bench.host.deadline() is None
    assert bench.expire(9.0) == ([], [])
    assert bench.values("G/DDATA/N/D", data(5, 5.0), 9.0) == [5.0]
    assert bench.host.missed == []


@pytest.mark.parametrize("timeout", [0.5, 20.0])
def test_a_message_that_does_not_come_in_time_is_a_gap_and_a_reason_for_births(timeout: float) -> None:
    """tck-id-operational-behavior-host-reordering-param, tck-id-operational-behavior-host-reordering-rebirth"""
    bench = Bench(reorder_timeout=timeout)
    born(bench)
    bench.values("G/DDATA/N/D", data(2, 2.0), 5.0)
    assert bench.receive("G/DDATA/N/D", data(6, 6.0), 6.0) == ([], [])
    assert bench.receive("G/DDATA/N/D", data(5, 5.0), 6.1) == ([], [])
    assert bench.expire(6.0 + 0.9 * timeout) == ([], [])
    readings, asked = bench.expire(6.0 + timeout)
    assert [r.value for r in readings] == [5.0, 6.0], "what did come is read, in its order"
    assert asked == [RebirthRequest("G", "N", "sequence gap")]
    (missed,) = bench.host.missed
    assert {bench.intake.tags[tag].address for tag in missed.tags} == {"up", "D/temp", "D/cnt"}
    assert (missed.since, missed.until, missed.reason) == (5.0, 6.0, "edge node G/N: sequence number 5 after 2")
    assert bench.values("G/DDATA/N/D", data(7, 7.0), 7.0 + timeout) == [7.0]
    assert bench.host.missed == []


def test_a_message_that_comes_too_late_is_read_all_the_same() -> None:
    bench = Bench(reorder_timeout=2.0, rebirth_interval=0.0)
    born(bench)
    bench.receive("G/DDATA/N/D", data(4, 4.0), 0.0)
    assert [r.value for r in bench.expire(2.0)[0]] == [4.0]
    assert bench.receive("G/DDATA/N/D", data(5, 5.0), 3.0)[1] == []
    readings, asked = bench.receive("G/DDATA/N/D", data(3, 3.0), 3.1)
    assert ([r.value for r in readings], asked) == ([3.0], [])
    assert bench.values("G/DDATA/N/D", data(6, 6.0), 3.2) == [6.0]
    assert bench.host.counts["late"] == 1


def test_without_a_reorder_time_out_nothing_waits() -> None:
    bench = Bench(reorder_timeout=0.0)
    born(bench)
    readings, asked = bench.receive("G/DDATA/N/D", data(4, 4.0), 1.0)
    assert ([r.value for r in readings], [a.reason for a in asked]) == ([4.0], ["sequence gap"])
    assert len(bench.host.missed) == 1
    readings, asked = Bench(reorder_timeout=0.0).receive("G/DDATA/N/D", data(4))
    assert ([r.reject for r in readings], [a.reason for a in asked]) == (
        ["alias 7 has no birth"],
        ["data before birth"],
    )


def test_sequence_numbers_wrap() -> None:
    """tck-id-payloads-sequence-num-incrementing, tck-id-topics-ddata-seq-num, tck-id-payloads-ndata-seq-inc"""
    bench = Bench()
    born(bench)
    for seq in (*range(2, 256), 0, 1):
        assert bench.receive("G/DDATA/N/D", data(seq, float(seq)))[0][0].value == seq
    bench.receive("G/DDATA/N/D", data(3, 3.0))
    assert bench.values("G/DDATA/N/D", data(258, 2.0)) == [2.0, 3.0], "who forgets to wrap is understood"


def test_a_message_that_comes_twice_is_no_gap() -> None:
    bench = Bench(reorder_timeout=1.0)
    born(bench)
    bench.values("G/DDATA/N/D", data(2), 0.0)
    assert bench.values("G/DDATA/N/D", data(2), 0.1) == []
    assert bench.values("G/DDATA/N/D", data(3, 3.0), 0.2) == [3.0]
    readings, asked = bench.expire(1.1)
    assert ([r.value for r in readings], [a.reason for a in asked]) == ([1.0], ["sequence gap"])
    assert bench.host.missed == []
    assert bench.values("G/DDATA/N/D", data(4, 4.0), 1.2) == [4.0]


def test_an_edge_node_without_sequence_numbers_is_read_and_counted() -> None:
    """tck-id-payloads-sequence-num-always-included"""
    bench = Bench()
    born(bench)
    assert [bench.values("G/DDATA/N/D", data(None, float(i))) for i in range(3)] == [[0.0], [1.0], [2.0]]
    assert bench.host.counts["no sequence number"] == 3


def test_what_came_early_is_read_before_a_birth_or_death_ends_its_time() -> None:
    bench = Bench()
    born(bench, number=1)
    bench.receive("G/DDATA/N/D", data(5, 5.0))
    readings, asked = bench.receive("G/NDEATH/N", payload(None, bdseq(1)))
    assert [(r.tag.address, r.value) for r in readings] == [
        ("D/temp", 5.0), ("up", None), ("D/temp", None), ("D/cnt", None),
    ]  # fmt: skip
    assert asked == []
    born(bench, number=2)
    bench.receive("G/DDATA/N/D", data(5, 6.0))
    readings, _ = bench.receive("G/NBIRTH/N", payload(0, bdseq(2), metric(DataType.INT32, 1, "up", 1)))
    assert [(r.tag.address, r.value) for r in readings] == [("D/temp", 6.0), ("up", 1)]


def test_a_birth_and_a_death_of_a_device_wait_for_their_turn() -> None:
    """tck-id-payloads-ddeath-seq-number, tck-id-topics-dbirth-seq"""
    bench = Bench()
    born(bench)
    assert bench.receive("G/DDEATH/N/D", payload(3))[0] == []
    assert bench.receive("G/DBIRTH/N/D", payload(4, metric(DataType.DOUBLE, 9.0, "temp", 7)))[0] == []
    readings, _ = bench.receive("G/DDATA/N/D", data(2, 2.0))
    assert [(r.value, r.quality) for r in readings if r.tag.tag_name == "temp"] == [
        (2.0, Quality.GOOD), (None, Quality.STALE), (9.0, Quality.GOOD),
    ]  # fmt: skip


def test_data_before_its_birth_is_read_when_the_birth_comes() -> None:
    bench = Bench()
    readings, asked = bench.receive(
        "G/DDATA/N/D", payload(77, metric(DataType.DOUBLE, 1.5, alias=7, timestamp=T0)), 0.0
    )
    assert (readings, asked) == ([], [RebirthRequest("G", "N", "data before birth")])
    assert asked[0].topic == "spBv1.0/G/NCMD/N"
    assert bench.receive("G/NDATA/N", payload(78, metric(DataType.INT32, 5, alias=1)), 0.1) == ([], [])
    assert bench.values("G/NBIRTH/N", payload(0, bdseq(0), metric(DataType.INT32, 6, "up", 1)), 0.2) == [5, 6]
    readings, asked = bench.receive("G/DBIRTH/N/D", payload(1, metric(DataType.DOUBLE, 2.5, "temp", 7)), 0.3)
    assert [(r.value, r.source_time) for r in readings] == [(1.5, T0 * 1000), (2.5, T0 * 1000)], "the newer one last"
    assert asked == []
    assert bench.host.deadline() is None


def test_data_whose_birth_does_not_come_is_a_dead_letter_with_its_bytes() -> None:
    bench = Bench(reorder_timeout=2.0)
    message = data(5)
    bench.receive("G/DDATA/N/D", message, 1.0)
    assert bench.expire(2.9) == ([], [])
    readings, asked = bench.expire(3.0)
    assert [(r.value, r.reject) for r in readings] == [(message, "alias 7 has no birth")]
    assert json.loads(readings[0].properties or "") == {"topic": "spBv1.0/G/DDATA/N/D"}
    assert asked == []
    assert bench.host.deadline() is None


def test_only_metrics_without_birth_wait_for_one() -> None:
    """tck-id-payloads-alias-uniqueness"""
    bench = Bench()
    born(bench)
    message = payload(2, metric(DataType.DOUBLE, 1.0, alias=7), metric(DataType.DOUBLE, 2.0, alias=99))
    readings, asked = bench.receive("G/DDATA/N/D", message)
    assert ([r.value for r in readings], [a.reason for a in asked]) == ([1.0], ["unknown alias"])
    both = metric(DataType.DOUBLE, 3.0, "temp", 7), metric(DataType.DOUBLE, 4.0, "new", 99)
    assert bench.values("G/DBIRTH/N/D", payload(3, *both))[:3] == [2.0, 3.0, 4.0]


def test_an_alias_of_another_device_is_not_believed() -> None:
    bench = Bench()
    born(bench)
    readings, asked = bench.receive("G/NDATA/N", payload(2, metric(DataType.DOUBLE, 1.0, alias=7)))
    assert (readings, [a.reason for a in asked]) == ([], ["unknown alias"])
    assert [r.reject for r in bench.expire(9.0)[0]] == ["alias 7 has no birth"]


def test_a_birth_that_overtook_that_of_its_edge_node_holds() -> None:
    """tck-id-message-flow-device-birth-publish-nbirth-wait"""
    bench = Bench(reorder_timeout=2.0)
    temp = metric(DataType.DOUBLE, 3.0, "temp", 7)
    assert bench.receive("G/DBIRTH/N/D", payload(1, temp), 0.0)[1] == []
    assert bench.receive("G/DDATA/N/D", data(2, 4.0), 0.1) == ([], [])
    assert bench.values("G/NBIRTH/N", payload(0, bdseq(0), metric(DataType.INT32, 1, "up", 1)), 0.2) == [1, 4.0]
    assert bench.values("G/DDATA/N/D", data(3, 5.0), 0.3) == [5.0]
    assert bench.expire(9.0) == ([], [])


def test_a_birth_of_a_device_without_that_of_its_edge_node_asks_for_a_rebirth_and_is_read() -> None:
    bench = Bench(reorder_timeout=2.0)
    readings, asked = bench.receive("G/DBIRTH/N/D", payload(1, metric(DataType.DOUBLE, 3.0, "temp", 7)), 0.0)
    assert ([r.value for r in readings], asked) == ([3.0], [])
    assert [a.reason for a in bench.expire(2.0)[1]] == ["DBIRTH before NBIRTH"]
    assert bench.values("G/NBIRTH/N", payload(0, bdseq(0)), 2.1) == []
    assert bench.values("G/DDATA/N/D", data(1), 2.2) == [], "a birth of long ago does not hold"


def test_what_waits_is_bounded() -> None:
    bench = Bench(max_held=3 * len(data(1)))
    for seq in range(3):
        assert bench.receive("G/DDATA/N/D", data(seq))[0] == []
    assert [r.reject for r in bench.receive("G/DDATA/N/D", data(4))[0]] == ["alias 7 has no birth"]
    bench = Bench(max_held=3 * len(data(1)))
    born(bench)
    for seq in (10, 11, 12):
        assert bench.receive("G/DDATA/N/D", data(seq, float(seq)))[0] == []
    readings, asked = bench.receive("G/DDATA/N/D", data(13, 13.0))
    assert [r.value for r in readings] == [10.0, 11.0, 12.0, 13.0], "no more room: they are read now"
    assert [a.reason for a in asked] == ["sequence gap"]
    assert len(bench.host.missed) == 1


def test_what_waits_is_read_when_the_connection_is_lost() -> None:
    bench = Bench()
    born(bench)
    bench.receive("G/DDATA/N/D", data(5, 5.0))
    bench.receive("G/DDATA/N/E", data(2, 2.0))
    readings = bench.lose_connection()
    assert [(r.value, r.reject) for r in readings] == [(5.0, None), (data(2, 2.0), "alias 7 has no birth")]
    assert bench.host.deadline() is None


@pytest.mark.threat(17)
@settings(deadline=None)
@given(st.permutations(range(2, 8)), st.integers(0, 5))
def test_any_order_gives_the_same_readings_once(order: list[int], lost: int) -> None:
    bench = Bench(reorder_timeout=1.0)
    born(bench)
    sent = [seq for seq in order if seq != 2 + lost]
    found = [value for seq in sent for value in bench.values("G/DDATA/N/D", data(seq, float(seq)), 0.0)]
    found += [r.value for r in bench.expire(1.0)[0]]
    assert found == sorted(found)
    assert found == [float(seq) for seq in range(2, 8) if seq != 2 + lost]
