"""The Sparkplug B host: the state machine by itself."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sources.sparkplug import RebirthRequest, SparkplugHost
from connectors.wire.sparkplug import DataType, parse_topic, set_value
from connectors.wire.sparkplug_messages import message_class
from normalization.reading import Columns, Flags, Quality, Tag, ValueType
from tests.recording_intake import Recorded, RecordingIntake

T0 = 1_700_000_000_000


class Bench:
    """A host with a tag table, fed by topic and metrics."""

    def __init__(self, state: bytes | None = None, **settings: Any) -> None:
        self.intake = RecordingIntake()
        self.rejects = self.intake.tag(Tag("s", "sparkplug", "s", "", "unreadable"))
        self.host = SparkplugHost(self.tag_of, lambda: self.rejects, **settings)
        if state is not None:
            self.host.restore(state)

    def tag_of(self, device_id: str, address: str, name: str, unit: str, metadata: dict[str, str]) -> int:
        return self.intake.tag(Tag("s", "sparkplug", device_id, address, name, unit, json.dumps(metadata)))

    def receive(
        self, topic: str, payload: bytes, now: float = 0.0, head: int = 0
    ) -> tuple[list[Recorded], list[RebirthRequest]]:
        parsed = parse_topic(f"spBv1.0/{topic}")
        assert parsed is not None
        rows = Columns()
        asked = self.host.receive(parsed, payload, head, now, rows)
        before = len(self.intake.readings())
        self.intake.appended.append((rows, None))
        return self.intake.readings()[before:], asked

    def values(self, topic: str, payload: bytes, now: float = 0.0) -> list[Any]:
        """The values of the sound readings."""
        return [r.value for r in self.receive(topic, payload, now)[0] if r.reject is None]


def metric(kind: DataType, value: Any, name: str = "", alias: int | None = None, **fields: Any) -> Any:
    out = message_class("Metric")(**({"name": name} if name else {}), **fields)
    if alias is not None:
        out.alias = alias
    set_value(out, kind, value)
    return out


def properties(out: Any, **given: Any) -> Any:
    for key, value in given.items():
        out.properties.keys.append(key)
        item = out.properties.values.add()
        set_value(item, DataType.STRING if isinstance(value, str) else DataType.INT32, value)
    return out


def payload(seq: int | None, *metrics: Any, timestamp: int = T0) -> bytes:
    out = message_class()(timestamp=timestamp, metrics=metrics)
    if seq is not None:
        out.seq = seq
    return bytes(out.SerializeToString())


def bdseq(number: int) -> Any:
    return metric(DataType.UINT64, number, "bdSeq")


def born(bench: Bench, number: int = 0) -> None:
    """Edge node G/N with metric `up` (alias 1), device D with `temp` (alias 7) and `cnt` (alias 8)."""
    up = metric(DataType.INT32, 1, "up", 1)
    rebirth = metric(DataType.BOOLEAN, False, "Node Control/Rebirth")
    assert bench.values("G/NBIRTH/N", payload(0, bdseq(number), rebirth, up)) == [1]
    temp = properties(metric(DataType.DOUBLE, 20.5, "temp", 7, timestamp=T0 + 5), engUnit="°C", Place="oven")
    assert bench.values("G/DBIRTH/N/D", payload(1, temp, metric(DataType.UINT64, 2**63, "cnt", 8))) == [20.5, 2**63]


def test_births_name_and_describe_the_metrics() -> None:
    bench = Bench()
    born(bench)
    _, temp, count = bench.intake.readings()
    assert (temp.tag.device_id, temp.tag.address, temp.tag.tag_name, temp.tag.unit) == ("G/N/D", "D/temp", "temp", "°C")
    assert json.loads(temp.tag.metadata) == {"Place": "oven"}
    assert temp.source_time == (T0 + 5) * 1000  # the metric's time, not the payload's
    assert temp.properties is None
    assert (count.type, count.source_time) == (ValueType.UINT64, T0 * 1000)


def test_data_finds_its_metric_by_alias_or_name() -> None:
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
    bench = Bench()
    born(bench)
    readings, _ = bench.receive("G/DDATA/N/D", payload(2, given_metric))
    assert [(r.quality, r.status, r.flags, r.value) for r in readings] == [(quality, status, flags, value)]


def test_data_before_birth_is_kept_as_a_reject_and_a_rebirth_is_asked_for() -> None:
    bench = Bench()
    data = payload(5, metric(DataType.DOUBLE, 1.0, alias=7))
    readings, asked = bench.receive("G/DDATA/N/D", data)
    assert asked == [RebirthRequest("G", "N", "data before birth")]
    assert asked[0].topic == "spBv1.0/G/NCMD/N"
    assert [(r.value, r.reject) for r in readings] == [(data, "alias 7 has no birth")]
    assert json.loads(readings[0].properties or "") == {"topic": "spBv1.0/G/DDATA/N/D"}


def test_rebirth_requests_are_throttled_per_edge_node() -> None:
    bench = Bench(rebirth_interval=30.0)
    data = payload(5, metric(DataType.DOUBLE, 1.0, alias=7))
    asked = [bool(bench.receive(f"G/NDATA/{node}", data, now)[1]) for node, now in
             [("N", 0.0), ("N", 1.0), ("M", 1.0), ("N", 29.9), ("N", 30.0), ("N", 31.0)]]  # fmt: skip
    assert asked == [True, False, True, False, True, False]
    assert bench.host.rebirths == {"data before birth": 3}


@pytest.mark.parametrize(
    ("sequence", "gaps"),
    [
        ([2, 3, 4], [False, False, False]),
        ([2, 4, 5], [False, True, False]),
        ([2, 2, 3], [False, True, False]),
        ([*range(2, 256), 0, 1], [False] * 256),
    ],
)
def test_sequence_numbers_are_checked_and_wrap(sequence: list[int], gaps: list[bool]) -> None:
    bench = Bench(rebirth_interval=0.0)
    born(bench)
    found = []
    for seq in sequence:
        readings, asked = bench.receive("G/DDATA/N/D", payload(seq, metric(DataType.DOUBLE, 1.0, alias=7)))
        assert [r.value for r in readings] == [1.0]  # the value itself is sound
        found.append([a.reason for a in asked] == ["sequence gap"])
    assert found == gaps


def test_an_unknown_alias_rejects_only_that_metric() -> None:
    bench = Bench()
    born(bench)
    data = payload(2, metric(DataType.DOUBLE, 1.0, alias=7), metric(DataType.DOUBLE, 2.0, alias=99))
    readings, asked = bench.receive("G/DDATA/N/D", data)
    assert [(r.value, r.reject) for r in readings] == [(1.0, None), (data, "alias 99 has no birth")]
    assert [a.reason for a in asked] == ["unknown alias"]


def test_an_alias_of_another_device_is_not_believed() -> None:
    bench = Bench()
    born(bench)
    readings, _ = bench.receive("G/NDATA/N", payload(2, metric(DataType.DOUBLE, 1.0, alias=7)))
    assert [r.reject for r in readings] == ["alias 7 has no birth"]


def test_the_death_of_a_node_makes_all_its_metrics_stale_once() -> None:
    bench = Bench()
    born(bench, number=3)
    assert bench.receive("G/NDEATH/N", payload(None, bdseq(2)))[0] == []  # the will of an earlier connection
    readings, _ = bench.receive("G/NDEATH/N", payload(None, bdseq(3)))
    assert {(r.tag.address, r.value, r.quality) for r in readings} == {
        (address, None, Quality.STALE) for address in ("up", "D/temp", "D/cnt")
    }
    assert bench.receive("G/NDEATH/N", payload(None, bdseq(3)))[0] == []
    _, asked = bench.receive("G/DDATA/N/D", payload(4, metric(DataType.DOUBLE, 1.0, alias=7)))
    assert [a.reason for a in asked] == ["data before birth"]


def test_the_death_of_a_device_leaves_the_node_and_other_devices_alone() -> None:
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
    bench = Bench()
    born(bench)
    bench.values("G/NBIRTH/N", payload(0, bdseq(0), metric(DataType.INT32, 1, "up", 7)))
    readings, asked = bench.receive("G/DDATA/N/D", payload(1, metric(DataType.DOUBLE, 1.0, alias=7)))
    assert [a.reason for a in asked] == ["data before birth"]
    assert all(r.reject for r in readings)


def test_metrics_that_a_new_birth_no_longer_has_become_stale() -> None:
    bench = Bench()
    born(bench)
    readings, _ = bench.receive("G/DBIRTH/N/D", payload(2, metric(DataType.DOUBLE, 3.0, "temp", 7)))
    assert [(r.tag.tag_name, r.quality) for r in readings] == [("temp", Quality.GOOD), ("cnt", Quality.STALE)]


def test_a_birth_of_a_device_without_its_node_asks_for_a_rebirth_and_is_read() -> None:
    readings, asked = Bench().receive("G/DBIRTH/N/D", payload(1, metric(DataType.DOUBLE, 3.0, "temp", 7)))
    assert ([r.value for r in readings], [a.reason for a in asked]) == ([3.0], ["DBIRTH before NBIRTH"])


def test_commands_of_others_are_no_readings() -> None:
    bench = Bench()
    assert bench.receive("G/NCMD/N", b"\xff\xff") == ([], [])
    assert not bench.host.changed


def test_after_a_restart_no_rebirth_is_needed_while_the_session_was_kept() -> None:
    before = Bench()
    born(before)
    assert before.host.changed
    bench = Bench(before.host.state())
    assert not before.host.changed
    bench.host.reconnected(session_present=True)
    readings, asked = bench.receive("G/DDATA/N/D", payload(2, metric(DataType.DOUBLE, 9.0, alias=7)))
    assert ([(r.value, r.tag.unit, r.tag.address) for r in readings], asked) == ([(9.0, "°C", "D/temp")], [])
    assert bench.host.unborn(0.0) == []
    _, asked = bench.receive("G/DDATA/N/D", payload(4, metric(DataType.DOUBLE, 9.0, alias=7)))
    assert [a.reason for a in asked] == ["sequence gap"]
    readings, _ = bench.receive("G/NDEATH/N", payload(None, bdseq(0)))
    assert len(readings) == 3


def test_an_edge_node_that_sent_while_we_were_away_is_asked_for_its_births() -> None:
    before = Bench()
    born(before)
    bench = Bench(before.host.state())
    bench.host.reconnected(session_present=True)
    readings, asked = bench.receive("G/DDATA/N/D", payload(77, metric(DataType.DOUBLE, 9.0, alias=7)))
    assert ([r.value for r in readings], [a.reason for a in asked]) == ([9.0], ["sequence gap"])
    assert bench.host.missed == [], "the time without a connection is a gap already"
    assert len(bench.host.tags()) == 3


def test_messages_that_did_not_come_are_missed_by_all_tags_of_the_edge_node() -> None:
    bench = Bench()
    born(bench)
    bench.receive("G/DDATA/N/D", payload(2, metric(DataType.DOUBLE, 1.0, alias=7)), 5.0)
    assert bench.host.missed == []
    bench.receive("G/DDATA/N/D", payload(6, metric(DataType.DOUBLE, 1.0, alias=7)), 9.0)
    (missed,) = bench.host.missed
    assert {bench.intake.tags[tag].address for tag in missed.tags} == {"up", "D/temp", "D/cnt"}
    assert (missed.since, missed.reason) == (5.0, "edge node G/N: sequence number 6 after 2")
    bench.receive("G/DDATA/N/D", payload(7, metric(DataType.DOUBLE, 1.0, alias=7)), 10.0)
    assert bench.host.missed == []


def test_edge_nodes_that_were_alive_are_asked_when_the_session_is_lost() -> None:
    before = Bench()
    born(before)
    bench = Bench(before.host.state())
    bench.host.reconnected(session_present=False)
    assert bench.host.unborn(0.0) == [RebirthRequest("G", "N", "session lost")]
    born(bench)
    bench.receive("G/NDEATH/N", payload(None, bdseq(0)))
    dead = Bench(bench.host.state())
    dead.host.reconnected(session_present=False)
    assert dead.host.unborn(0.0) == [], "who died with our knowledge says by itself that it is back"


def test_without_the_session_old_aliases_are_not_believed() -> None:
    before = Bench()
    born(before)
    bench = Bench(before.host.state())
    bench.host.reconnected(session_present=False)
    readings, asked = bench.receive("G/DDATA/N/D", payload(2, metric(DataType.DOUBLE, 9.0, alias=7)))
    assert [a.reason for a in asked] == ["data before birth"]
    assert [r.reject for r in readings] == ["alias 7 has no birth"]


def test_broken_payloads_and_metrics_become_rejects_and_spare_the_rest() -> None:
    bench = Bench()
    born(bench)
    readings, _ = bench.receive("G/DDATA/N/D", b"\xff\xff\xff")
    assert [r.value for r in readings] == [b"\xff\xff\xff"]
    assert (readings[0].reject or "").startswith("not a Sparkplug B payload")
    wrong = message_class("Metric")(alias=8, string_value="five")
    readings, _ = bench.receive("G/DDATA/N/D", payload(2, wrong, metric(DataType.DOUBLE, 1.0, alias=7)))
    assert [r.value for r in readings if not r.reject] == [1.0]
    assert [r.reject for r in readings if r.reject] == ["metric `cnt`: a string_value where UINT64 is declared"]
    nameless = metric(DataType.DOUBLE, 1.0, alias=3)
    readings, _ = bench.receive("G/DBIRTH/N/E", payload(3, nameless, metric(DataType.DOUBLE, 2.0, "x", 4)))
    assert (readings[0].value, readings[0].reject) == (2.0, None)
    assert readings[1].reject == "a metric of a birth has no name"


def test_more_edge_nodes_than_allowed_become_rejects() -> None:
    bench = Bench(max_nodes=1)
    born(bench)
    readings, asked = bench.receive("G/NDATA/M", payload(0))
    assert ([r.reject for r in readings], asked) == (["more than 1 edge nodes"], [])


def test_more_devices_than_allowed_become_rejects() -> None:
    bench = Bench(max_devices=2)
    born(bench)
    for device in ("E", "E"):
        readings, _ = bench.receive(f"G/DBIRTH/N/{device}", payload(2, metric(DataType.DOUBLE, 1.0, "temp", 9)))
        assert [r.reject for r in readings] == ["more than 2 edge nodes and devices"]
    assert bench.values("G/DBIRTH/N/D", payload(4, metric(DataType.DOUBLE, 1.0, "temp", 7)))[:1] == [1.0]
    size = len(bench.host.state())
    for i in range(100):
        bench.receive(f"G/DDEATH/N/unknown{i}", payload(None))
    assert len(bench.host.state()) == size, "deaths of who never lived are not remembered"


def test_a_quality_beyond_64_bits_is_uncertain() -> None:
    bench = Bench()
    born(bench)
    odd = metric(DataType.DOUBLE, 1.0, alias=7)
    odd.properties.keys.append("Quality")
    set_value(odd.properties.values.add(), DataType.UINT64, 2**64 - 1)
    readings, _ = bench.receive("G/DDATA/N/D", payload(2, odd))
    assert [(r.value, r.quality, r.status) for r in readings] == [(1.0, Quality.UNCERTAIN, None)]


@given(st.lists(st.tuples(st.sampled_from(["NBIRTH", "DBIRTH", "NDATA", "DDATA", "NDEATH", "DDEATH"]),
                          st.integers(0, 255), st.binary(max_size=40)), max_size=12))  # fmt: skip
def test_no_sequence_of_messages_breaks_the_host(script: list[tuple[str, int, bytes]]) -> None:
    bench = Bench(rebirth_interval=0.0)
    for kind, seq, junk in script:
        topic = f"G/{kind}/N" + ("/D" if kind[0] == "D" else "")
        message = payload(seq, metric(DataType.DOUBLE, 1.0, "temp", 7)) + junk
        readings, _ = bench.receive(topic, message)
        for reading in readings:
            assert reading.reject is None or reading.value == message
        Bench(bench.host.state())
