"""The edge node as a state machine: what its payloads say, to protobuf's own decoder."""

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from connectors.targets.mqtt.edge import Edge, Outgo
from connectors.wire.sparkplug import rebirth_command
from connectors.wire.sparkplug_encode import wide_varints
from connectors.wire.sparkplug_messages import decode_payload, message_class
from connectors.wire.sparkplug_values import DataType, metric_value, properties_of
from normalization.reading import Flags, Quality
from tests.contract.readings import BASE_TIME, SAMPLES, Source

NOW = BASE_TIME // 1000
LATER = NOW + 10_000_000


def edge(state: bytes | None = None, device: str = "{source}") -> Edge:
    made = Edge("G", "N", device, "{path}", state)
    made.next_session()
    return made


def topics(messages: list[Outgo]) -> list[str]:
    return [message.topic.removeprefix("spBv1.0/G/") for message in messages]


def told(node: Edge, messages: list[Outgo]) -> list[tuple[str, Any, bool]]:
    """Names, values and whether they are historical, of data, by the births among the messages."""
    names: dict[int, tuple[str, int]] = {}
    out = []
    for message in messages:
        for metric in decode_payload(message.payload).metrics:
            if "BIRTH" in message.topic:
                names[metric.alias] = metric.name, metric.datatype
            else:
                name, datatype = names[metric.alias]
                out.append((name, metric_value(metric, datatype), metric.is_historical))
    return out


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1))
def test_numbers_are_as_protobuf_writes_them(numbers: list[int]) -> None:
    expected = [bytes(message_class()(timestamp=number).SerializeToString())[1:] for number in numbers]
    expected = [one or b"\0" for one in expected]
    assert wide_varints(np.array(numbers, np.uint64)).to_pylist() == expected


def test_a_birth_holds_bdseq_and_rebirth_and_counts_from_0() -> None:
    node = edge()
    (birth,) = node.births(NOW, first=True)
    payload = decode_payload(birth.payload)
    assert (birth.topic, payload.seq, payload.timestamp) == ("spBv1.0/G/NBIRTH/N", 0, NOW)
    session, rebirth = payload.metrics
    assert (session.name, session.datatype, session.long_value) == ("bdSeq", DataType.INT64, 0)
    assert (rebirth.name, rebirth.datatype, rebirth.boolean_value) == (
        "Node Control/Rebirth", DataType.BOOLEAN, False,
    )  # fmt: skip
    assert not session.HasField("alias")
    assert not rebirth.HasField("alias")
    death = node.death(NOW)
    payload = decode_payload(death.payload)
    assert death.topic == "spBv1.0/G/NDEATH/N"
    assert not payload.HasField("seq")
    assert [(one.name, one.long_value) for one in payload.metrics] == [("bdSeq", 0)]


def test_every_kind_of_value_comes_back() -> None:
    source = Source()
    tags = [source.tag(at, path=sample.name, source="s") for at, sample in enumerate(SAMPLES)]
    batch = source.batch([s.value for s in SAMPLES], unsigned=[s.unsigned for s in SAMPLES], tags=tags)
    node = edge()
    node.births(NOW, first=True)
    messages = list(node.data(batch, NOW))
    assert topics(messages) == ["DBIRTH/N/s", "DDATA/N/s"]
    assert [decode_payload(one.payload).seq for one in messages] == [1, 2]
    found = {name: value for name, value, _ in told(node, messages)}
    for sample in SAMPLES:
        value, expected = found[sample.name], sample.value
        if sample.name in ("array", "structure"):
            value = json.loads(value)
        if isinstance(expected, float) and math.isnan(expected):
            assert math.isnan(value)
        else:
            assert (value, type(value)) == (expected, type(expected))
    birth = {one.name: one for one in decode_payload(messages[0].payload).metrics}
    assert (birth["null"].is_null, properties_of(birth["null"])) == (True, {"Quality": 0})


def test_arrays_of_one_kind_are_arrays() -> None:
    source = Source()
    values: list[Any] = [[1, -2], [1.5, 2], [True, False], ["a", "ß"], [], [None], [2**63]]
    tags = [source.tag(at, path=str(at), source="s") for at in range(len(values))]
    node = edge()
    node.births(NOW, first=True)
    birth, data = node.data(source.batch(values, tags=tags), NOW)
    assert [one.datatype for one in decode_payload(birth.payload).metrics] == [
        DataType.INT64_ARRAY, DataType.DOUBLE_ARRAY, DataType.BOOLEAN_ARRAY, DataType.STRING_ARRAY, DataType.STRING,
        DataType.STRING, DataType.STRING,
    ]  # fmt: skip
    found = [value for _, value, _ in told(node, [birth, data])]
    assert found == [[1, -2], [1.5, 2.0], [True, False], ["a", "ß"], "[]", "[null]", "[9223372036854775808]"]


def test_new_metrics_and_new_types_are_born_before_their_data() -> None:
    source, node = Source(), edge()
    node.births(NOW, first=True)
    a, b = (source.tag(at, path=name, source="s") for at, name in enumerate("ab"))
    assert topics(list(node.data(source.batch([1.5, 2.5], tags=[a, a]), NOW))) == ["DBIRTH/N/s", "DDATA/N/s"]
    assert topics(list(node.data(source.batch([3.5], tags=[a]), NOW))) == ["DDATA/N/s"]
    assert topics(list(node.data(source.batch([1.5, "x"], tags=[a, b]), NOW))) == ["DBIRTH/N/s", "DDATA/N/s"]
    births = node.births(NOW)
    changing = list(node.data(source.batch([1.5, 7, None, 8, "off"], tags=[a] * 5), NOW))
    assert topics(changing) == ["DDATA/N/s", "DBIRTH/N/s", "DDATA/N/s", "DBIRTH/N/s", "DDATA/N/s"]
    assert [value for _, value, _ in told(node, [*births, *changing])][1:] == [7, None, 8, "off"]
    assert [row for one in changing if one.rows is not None for row in one.rows.tolist()] == [0, 1, 2, 3, 4]


def test_metrics_of_the_node_itself_are_born_with_it() -> None:
    source, node = Source(), edge(device="")
    node.births(NOW, first=True)
    messages = list(node.data(source.batch([1.5, 2.5]), NOW))
    assert topics(messages) == ["NBIRTH/N", "NDATA/N"]
    assert [decode_payload(one.payload).seq for one in messages] == [0, 1]


def test_sequence_numbers_go_round_over_devices() -> None:
    source, node = Source(), edge()
    node.births(NOW, first=True)
    numbers = [decode_payload(one.payload).seq for _ in range(200) for one in node.data(source.batch([1.0, 2.0]), NOW)]
    assert numbers == [(1 + at) % 256 for at in range(len(numbers))]


def test_a_restart_knows_metrics_and_counts_sessions_on() -> None:
    source, node = Source(), edge()
    node.births(NOW, first=True)
    list(node.data(source.batch([1.5, 2.5]), NOW))
    assert node.changed
    kept = node.state()
    assert not node.changed
    again = edge(kept)
    assert again.bdseq == 1
    births = again.births(LATER, first=True)
    assert topics(births) == ["NBIRTH/N", "DBIRTH/N/plc0", "DBIRTH/N/plc1"]
    (metric,) = decode_payload(births[1].payload).metrics
    assert (metric.alias, metric.datatype, metric.is_null, properties_of(metric)) == (
        0, DataType.DOUBLE, True, {"Quality": 500},
    )  # fmt: skip
    assert topics(list(again.data(source.batch([1.5]), LATER))) == ["DDATA/N/plc0"]
    for _ in range(254):
        again.next_session()
    assert again.bdseq == 255
    again.next_session()
    assert again.bdseq == 0


def test_what_was_received_before_the_birth_or_sent_before_is_historical() -> None:
    source, node = Source(), edge()
    batch = source.batch([1.0, 2.0], tags=[source.tag(0)] * 2)
    received = BASE_TIME // 1000 + 10**6
    node.births(received, first=True)
    assert [old for _, _, old in told(node, list(node.data(batch, received)))] == [False, False]
    flags = batch.schema.get_field_index("flags")
    sent = batch.set_column(flags, batch.schema.field(flags), pa.array([0, Flags.RESENT], pa.int16()))
    births = node.births(received + 5000)  # a rebirth makes nothing historical
    assert [old for _, _, old in told(node, [*births, *node.data(sent, received)])] == [False, True]
    node.next_session()
    births = node.births(received + 5000, first=True)
    assert [old for _, _, old in told(node, [*births, *node.data(batch, received)])] == [True, True]


def test_quality_is_a_property_unless_it_is_good() -> None:
    source, node = Source(), edge()
    node.births(NOW, first=True)
    batch = source.batch([1.0] * 5, tags=[source.tag(0)] * 5)
    place = batch.schema.get_field_index("quality")
    batch = batch.set_column(place, batch.schema.field(place), pa.array([int(one) for one in Quality], pa.int8()))
    _, data = node.data(batch, NOW)
    assert [properties_of(one) for one in decode_payload(data.payload).metrics] == [
        {}, {"Quality": 64}, {"Quality": 0}, {"Quality": 500}, {"Quality": 192, "Alarm": True},
    ]  # fmt: skip


def test_a_rebirth_is_the_same_session_with_the_newest_values() -> None:
    source, node = Source(), edge()
    node.births(NOW, first=True)
    list(node.data(source.batch([1.5, 2.5], tags=[source.tag(0)] * 2), NOW))
    assert node.wants_rebirth(node.commands(), rebirth_command(NOW))
    assert not node.wants_rebirth("spBv1.0/G/NCMD/other", rebirth_command(NOW))
    assert not node.wants_rebirth(node.commands(), b"\xff\xff")
    first, second = node.births(NOW)
    assert decode_payload(first.payload).metrics[0].long_value == node.bdseq == 0
    assert [one.double_value for one in decode_payload(second.payload).metrics] == [2.5]


def test_large_batches_are_cut_into_messages_in_order() -> None:
    source, node = Source(), edge()
    node.births(NOW, first=True)
    batch = source.batch(
        [float(at) for at in range(5_000)], tags=[source.tag(at % 3, source="s") for at in range(5_000)]
    )
    messages = list(node.data(batch, NOW))
    assert len(messages) == 11
    assert [value for _, value, _ in told(node, messages)] == [float(at) for at in range(5_000)]


def test_hostile_names_of_devices_stay_in_their_level() -> None:
    source, node = Source(), edge()
    node.births(NOW, first=True)
    tags = [source.tag(0, source="a/b+c#d\0e"), source.tag(1, source="", path="")]
    found = topics(list(node.data(source.batch([1.0, 2.0], tags=tags), NOW)))
    assert sorted(found) == ["DBIRTH/N/a_b_c_d_e", "DDATA/N/a_b_c_d_e", "NBIRTH/N", "NDATA/N"]
