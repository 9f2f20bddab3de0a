"""Topics and payloads: the pure half of the MQTT source."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from connectors.sources.mqtt import MqttConfig
from connectors.sources.mqtt.formats import parse_plain
from connectors.sources.mqtt.gathered import Gathered
from connectors.sources.mqtt.paths import parse_path
from connectors.sources.mqtt.payload import Decoder
from connectors.sources.mqtt.times import parse_time, parse_times
from connectors.sources.mqtt.topics import fill, match_pattern, parse_properties, topic_matches
from connectors.wire.mqtt_packets import DUP, RETAIN, Publish, Publishes
from normalization.reading import Columns, Quality, TagTable

T = 1_700_000_000


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (T, "auto", T * 10**6),
        (T + 0.25, "auto", T * 10**6 + 250_000),
        (T * 10**3 + 1, "auto", T * 10**6 + 1000),
        (T * 10**6 + 1, "auto", T * 10**6 + 1),
        (T * 10**9 + 1999, "auto", T * 10**6 + 1),
        (5, "ms", 5000),
        (-5, "s", -5_000_000),
        (5.5, "us", 6),
        (str(T), "auto", T * 10**6),
        (str(T * 1000), "ms", T * 10**6),
        ("2023-11-14T22:13:20Z", "auto", T * 10**6),
        ("2023-11-15T00:13:20.000001+02:00", "iso", T * 10**6 + 1),
        ("2023-11-14 22:13:20", "auto", T * 10**6),
        ("20231114T221320", "iso", T * 10**6),
        ("yesterday", "auto", None),
        (T, "iso", None),
        (True, "auto", None),
        (None, "auto", None),
        ({}, "auto", None),
        (math.nan, "auto", None),
        (math.inf, "s", None),
        (10**30, "s", None),
        ("1" * 400, "auto", None),
    ],
)
def test_times(value: Any, unit: str, expected: int | None) -> None:
    assert parse_time(value, unit) == expected


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b"21.5", 21.5),
        (b" -7 \n", -7),
        (b"+5", 5),
        (b"1e3", 1000.0),
        (b".5", 0.5),
        (b"18446744073709551616", 2**64),
        (b"TRUE", True),
        (b"false", False),
        (b"null", None),
        (b"1_000", "1_000"),
        (b"0x10", "0x10"),
        (b"ON ", "ON "),
        (b"1e999", "1e999"),
        ("Müde".encode(), "Müde"),
    ],
)
def test_plain_payloads(payload: bytes, expected: Any) -> None:
    assert parse_plain(payload) == expected
    assert type(parse_plain(payload)) is type(expected)


def test_not_a_number_is_a_number() -> None:
    assert math.isnan(parse_plain(b"NaN"))
    assert parse_plain(b"-Infinity") == -math.inf


levels = st.lists(st.sampled_from(["a", "b", "", "$x", "ab"]), min_size=1, max_size=4).map("/".join)
filters = st.lists(st.sampled_from(["a", "b", "", "+", "$x"]), min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from(["/".join(parts), "/".join([*parts, "#"]), "#"])
)


@settings(deadline=None)
@given(filters, levels)
@example("a/#", "a")
@example("+/+", "/a")
@example("#", "$SYS/x")
def test_filters_match_as_paho_says(topic_filter: str, topic: str) -> None:
    assert topic_matches(topic_filter, topic) == topic_matches_sub(topic_filter, topic)


def test_a_shared_subscription_matches_by_its_filter() -> None:
    assert topic_matches("$share/gateways/a/+", "a/b")
    assert not topic_matches("$share/gateways/a/+", "b/b")


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("plant/{line}/+/{tag_name}", "plant/l1/x/temp", {"line": "l1", "tag_name": "temp"}),
        ("plant/{line}/+/{tag_name}", "plant/l1/x", None),
        ("plant/{line}/+/{tag_name}", "works/l1/x/temp", None),
        ("{site}/#", "s/a/b/c", {"site": "s"}),
        ("{site}/#", "s", {"site": "s"}),
        ("m-{device_id}.x/{tag_name}", "m-7.x/t", {"device_id": "7", "tag_name": "t"}),
        ("{site}/{line}/+/{tag}", "s/l1//temp", {"site": "s", "line": "l1", "tag_name": "temp"}),
        ("{site}/{line}/+/{tag}", "s//x/temp", None),
        ("{line}-{metadata.shift-id}/+/#", "l1-2/x/y/z", {"line": "l1", "metadata.shift-id": "2"}),
        ("{line}/#", "l1\nx/y", {"line": "l1\nx"}),
        ("#", "a/b", {}),
    ],
)
def test_patterns(pattern: str, topic: str, expected: dict[str, str] | None) -> None:
    assert match_pattern(pattern, topic) == expected


def test_places_of_the_topic_are_places_and_metadata_of_the_tag() -> None:
    settings = {"topic": "#", "pattern": "{site}/{line}/{metadata.cell}/{device_id}/{tag}"}
    subject, tags = decoder(metadata={"owner": "Ann"}, subscriptions=[settings])
    rows = Columns()
    subject.decode(
        together([message({"value": 1}, "s1/l2/c3/press/temp"), message({"a": 1}, "s1/l2/c3/press/env")]), rows
    )
    subject.decode(together([message({"value": 1}, "other/topic")]), rows)
    first, second, other = (tags[tag] for tag in rows.tag)
    assert (first.device_id, first.tag_name, first.address) == ("press", "temp", "s1/l2/c3/press/temp")
    assert json.loads(first.mapping) == {"site": "s1", "line": "l2"}
    assert json.loads(first.metadata) == {"owner": "Ann", "cell": "c3"}
    assert (second.device_id, second.tag_name, json.loads(second.metadata)["cell"]) == ("press", "env.a", "c3")
    assert (other.device_id, other.tag_name, other.mapping, other.metadata) == (
        "other",
        "topic",
        "{}",
        '{"owner": "Ann"}',
    )


def test_templates_and_paths() -> None:
    assert fill("{1}-{-1}-{9}", ["a", "b", "c"]) == "a-c-"
    assert parse_path("$.a.b-c[0][12].d e") == ("a", "b-c", 0, 12, "d e")


odd_times = st.sampled_from([None, True, 1.5, "2023-11-14T22:13:20Z", "never", str(T), 10**30, -(2**63), 2**63])


@settings(deadline=None)
@given(
    st.lists(st.integers(10**8, 2 * 10**18) | st.integers(-(10**13), 10**13), min_size=1, max_size=5)
    | st.lists(st.integers(T * 1000, T * 1000 + 10**9), min_size=1)
    | st.lists(st.integers(0, 10**19) | st.floats() | odd_times.filter(lambda time: time is not True), min_size=1),
    st.sampled_from(["auto", "s", "ms", "us", "ns", "iso"]),
)
@example([99_999_999_999, 100_000_000_000], "auto")
@example([10**8, 10**11, -(10**11)], "auto")
@example([10**14 - 1, 10**14], "auto")
@example([-(2**63), 2**63 - 1], "ns")
@example([253_402_300_799], "s")
@example([253_402_300_800], "s")
def test_many_times_are_told_as_one_by_one(times: list[Any], unit: str) -> None:
    assert parse_times(times, unit) == [None if time is None else parse_time(time, unit) for time in times]


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)


def same(one: Columns, other: Columns) -> None:
    """They hold the same readings, as lists and as Arrow."""
    count = len(one)
    assert len(other) == count
    batches = [rows.to_batch([0] * count, 0).to_pydict() for rows in (one, other)]
    assert repr(batches[0]) == repr(batches[1])  # NaN is NaN, and 1 is not True
    for name in Columns.__slots__:
        assert repr(getattr(one, name)) == repr(getattr(other, name)), name


@settings(deadline=None)
@given(
    st.one_of(*[st.lists(some, max_size=20) for some in (scalars, st.floats(allow_nan=False), st.integers())]),
    st.lists(st.sampled_from([(0, None), (2, 5), (3, None)]), min_size=1, max_size=3),
    st.booleans(),
    st.integers(0, 20),
)
def test_many_are_appended_as_one_by_one(
    values: list[Any], said: list[tuple[int, int | None]], with_more: bool, split: int
) -> None:
    singly, at_once = Columns(), Columns()
    for rows in (singly, at_once):
        rows.add(7, "what was there before")
    readings = [
        (
            i,
            value,
            said[i % len(said)],
            1000 * i if with_more and i % 3 else None,
            i % 2 if with_more else 0,
            "{}" if with_more else None,
        )
        for i, value in enumerate(values)
    ]
    for tag, value, (quality, status), when, flags, properties in readings:
        code = quality if value is not None or quality else Quality.BAD
        singly.add(tag, value, quality=code, status=status, source_time=when, flags=flags, properties=properties)
    gathered = Gathered(at_once)
    for reading in readings[:split]:
        gathered.add(*reading)
    rest: Any = [reading for reading in readings[split:] if not isinstance(reading[1], list)]
    if rest and len(rest) == len(readings[split:]):
        gathered.extend(*map(list, zip(*rest, strict=True)))
    else:
        for reading in readings[split:]:
            gathered.add(*reading)
    assert gathered.flush() is at_once
    same(at_once, singly)


def decoder(**settings: Any) -> tuple[Decoder, TagTable]:
    tags = TagTable()
    given_settings = {"name": "s", "endpoint": "mqtt://b"} | settings
    return Decoder(MqttConfig.model_validate(given_settings), tags.intern), tags


def message(payload: Any, topic: str = "a/b", head: int = 0, properties: bytes = b"") -> Publish:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Publish(topic.encode("utf-8", "surrogateescape"), raw, head, 0, properties)


def together(messages: list[Publish]) -> Publishes:
    found = Publishes()
    for one in messages:
        found.add(one)
    return found


samples = st.fixed_dictionaries(
    {"value": scalars},
    optional={
        "ts": st.one_of(st.integers(0, 2 * 10**15), st.sampled_from([None, "2023-11-14T22:13:20Z", "never", 1.5])),
        "quality": st.one_of(st.none(), st.sampled_from(["good", "bad", "stale", "Alarm", 192, 0, 500, True, [1]])),
        "unit": st.sampled_from([None, "C", "K", 5]),
        "more": scalars,
    },
)


# what is no sample, or looks as if a part of its neighbours when put between commas or line breaks
oddities = st.sampled_from(
    [
        b"",
        b"21.5",
        b"on",
        b"{}",
        b'{"value":1},{"value":2}',
        b'{"value":1},\n{"value":2}',
        b'{"value":1}\n{"value":2}',
        b'{"value":[{}',
        b"{}]}",
        b'{"value":"}',
        b'{"}',
        b'{"value":1',
        b'"quality":"good"}',
        b'{"unit":"C"}',
        b'{"value":1}]',
        b'{"value":1}],[{"value":2}',
        b'{"value":1}],\n[{"value":2}',
        b'{"value":"a],',
        b'[b"}',
        b'{"val',
        b'ue":1}',
        b'{"value":[1',
        b"2]}",
        b'[{"value":1}',
        b'[{"value":1}]',
        b'{"value":1,"value":{}}',
        b'{"value":{},"value":1}',
        b'{"value":1,"ts":true}',
        b'{"value":1,"quality":[]}',
        b'{"value":1,"unit":5}',
        b'{\n "value": 1.5,\n "ts": 1700000000000\n}',
        b' {"value":2.5}\n',
        b'{"value":"a\nb"}',
        b'{"value":1e999}',
        b'{"value":NaN}',
        b'{"value":"\\ud800"}',
        b'{"value":1,"x":2}',
        b'{"time":1700000000,"value":3.5}',
    ]
)
numbers = st.fixed_dictionaries(
    {"value": st.floats(-1e9, 1e9), "ts": st.integers(T * 1000, T * 1000 + 10**6)},
    optional={"quality": st.sampled_from(["good", "bad"]), "unit": st.sampled_from(["C", "K"])},
)
anything = st.tuples(
    st.sampled_from(["a", "b", "c", "d/e"]),
    samples | numbers | oddities,
    st.sampled_from([0, 0, 0, 2, RETAIN, 2 | DUP]),
    st.sampled_from([b"", b"", b"\x01\x01"]),
)


@settings(deadline=None)
@given(st.lists(anything, max_size=4), st.lists(anything, max_size=40), st.sampled_from(["auto", "ms", "s", "iso"]))
def test_messages_together_give_what_they_give_one_by_one_the_general_way(
    first: list[tuple[str, Any, int, bytes]], then: list[tuple[str, Any, int, bytes]], unit: str
) -> None:
    settings = {"subscriptions": [{"topic": "#", "timestamp_format": unit}]}
    fast, tags = decoder(**settings)
    general, other_tags = decoder(**settings)
    learnt = [message({"value": 1.5, "ts": 1, "unit": "C"}, topic) for topic in ("a", "b", "c")]
    sent = [message(payload, topic, head, properties) for topic, payload, head, properties in first + then]
    at_once, singly = Columns(), Columns()
    fast.decode(together(learnt + sent[: len(first)]), at_once)
    fast.decode(together(sent[len(first) :]), at_once)
    for one in learnt + sent:
        general._sampled.clear()
        general.decode(together([one]), singly)
    same(at_once, singly)
    assert [tags[i] for i in range(len(tags))] == [other_tags[i] for i in range(len(other_tags))]


def test_samples_with_one_odd_message_among_them_keep_their_order() -> None:
    subject, _ = decoder()
    rows = Columns()
    sent = [message({"value": float(i)}) for i in range(100)]
    sent[40] = message(b'{"value": {"x": 1}}')
    sent[41] = message(b"broken {")
    for _ in range(2):
        subject.decode(together(sent), rows)
    assert rows.value_double.count(None) == 4
    expected: list[Any] = [float(i) for i in range(100)]
    expected[40] = expected[41] = None
    assert rows.value_double == expected * 2
    assert rows.value_text[40] == '{"x":1}'


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "s/x", "\udcff"]), st.binary(max_size=30)), max_size=6))
def test_no_payload_is_lost_or_breaks_the_decoder(sent: list[tuple[str, bytes]]) -> None:
    subject, _ = decoder(
        subscriptions=[{"topic": "a", "format": "json"}, {"topic": "b", "format": "plain"}, {"topic": "#"}]
    )
    for topic, payload in sent:
        rows = Columns()
        subject.decode(together([message(payload, topic)]), rows)
        rows.to_batch([0] * len(rows), 0)
        assert len(rows) >= 1
        if rows.reject and rows.reject[0]:
            assert rows.value_bytes == [payload]


@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'{"value": 1e999}'])
def test_hostile_documents_are_rejected(payload: bytes) -> None:
    subject, _ = decoder()
    rows = Columns()
    subject.decode(together([message(payload)]), rows)
    assert len(rows) == 1
    rows.to_batch([0], 0)


@pytest.mark.parametrize("payload", [b'{"value": "\\ud800"}', b'{"value": 1, "\\udfff": 2}', b'["\\ud800x"]'])
def test_half_a_surrogate_pair_is_a_reject_with_its_bytes(payload: bytes) -> None:
    subject, _ = decoder()
    rows = Columns()
    subject.decode(together([message(payload), message({"value": "\U0001f600"})]), rows)
    assert rows.value_bytes == [payload, None]
    assert rows.value_text == [None, "\U0001f600"]
    rows.to_batch([0, 0], 0)


def test_units_that_change_are_new_tags_and_what_is_missing_is_said() -> None:
    subject, tags = decoder(subscriptions=[{"topic": "#", "format": "json", "value": "v"}])
    rows = Columns()
    sent = [{"v": 1, "unit": "C"}, {"v": 2, "unit": "K"}, {"v": 3}, {"v": 4, "unit": "C"}, {"w": 5}]
    subject.decode(together([message(document) for document in sent]), rows)
    assert [tags[tag].unit for tag in rows.tag] == ["C", "K", "K", "C", "C"]
    assert rows.reject == [None] * 4 + ["no `v` in the object"]


def test_times_and_qualities_that_cannot_be_told_are_kept() -> None:
    subject, _ = decoder()
    rows = Columns()
    subject.decode(
        together([message({"value": 1, "ts": "soon", "quality": "so-so"}), message({"value": 1, "quality": 65})]), rows
    )
    assert rows.source_time == [None, None]
    assert json.loads(rows.properties[0] or "") == {"timestamp": "soon"}
    assert rows.quality == [Quality.UNCERTAIN, Quality.UNCERTAIN]
    assert rows.status == [None, 65]


def test_flat_objects_share_time_and_quality() -> None:
    subject, tags = decoder()
    rows = Columns()
    subject.decode(together([message({"time": T, "quality": "bad", "a": 1, "b": {"c": True, "d": {}}})]), rows)
    assert [(tags[t].tag_name, tags[t].address) for t in rows.tag] == [
        ("a", "a/b#a"),
        ("b.c", "a/b#b.c"),
        ("b.d", "a/b#b.d"),
    ]
    assert rows.quality == [Quality.BAD] * 3
    assert rows.source_time == [T * 10**6] * 3


@settings(deadline=None)
@given(st.binary(max_size=30))
@example(b"\x26\x00\x01a\x00\x01b\x26\x00\x01a\x00\x01c\x01\x01")
def test_no_properties_break_the_decoder(raw: bytes) -> None:
    text = parse_properties(raw)
    assert text is None or isinstance(json.loads(text), dict)


def test_properties_with_one_key_twice_are_both_kept() -> None:
    raw = b"\x26\x00\x01a\x00\x01b\x26\x00\x01a\x00\x01c\x01\x01"
    assert json.loads(parse_properties(raw) or "") == {"payload_format_indicator": 1, "user": {"a": "b, c"}}
