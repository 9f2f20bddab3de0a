"""Topics and payloads: the pure half of the MQTT source."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from connectors.sources.mqtt import MqttConfig
from connectors.sources.mqtt.parse import (
    fill,
    match_pattern,
    parse_path,
    parse_plain,
    parse_properties,
    parse_time,
    topic_matches,
)
from connectors.sources.mqtt.payload import Decoder, extend
from connectors.wire.mqtt_packets import Publish
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
    ],
)
def test_patterns(pattern: str, topic: str, expected: dict[str, str] | None) -> None:
    assert match_pattern(pattern, topic.split("/")) == expected


def test_templates_and_paths() -> None:
    assert fill("{1}-{-1}-{9}", ["a", "b", "c"]) == "a-c-"
    assert parse_path("$.a.b-c[0][12].d e") == ["a", "b-c", 0, 12, "d e"]


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
)


@given(st.lists(scalars, max_size=8))
def test_many_are_appended_as_one_by_one(values: list[Any]) -> None:
    singly, together = Columns(), Columns()
    for i, value in enumerate(values):
        singly.add(i, value, quality=i % 3, status=i, source_time=-i, flags=1, properties="{}")
    count = len(values)
    extend(
        together,
        list(range(count)),
        values,
        [i % 3 for i in range(count)],
        list(range(count)),
        [-i for i in range(count)],
        [1] * count,
        ["{}"] * count,
    )
    for name in Columns.__slots__:
        assert getattr(together, name) == getattr(singly, name), name
    together.to_batch([0] * count, 0)


def decoder(**settings: Any) -> tuple[Decoder, TagTable]:
    tags = TagTable()
    given_settings = {"name": "s", "endpoint": "mqtt://b"} | settings
    return Decoder(MqttConfig.model_validate(given_settings), tags.intern), tags


def message(payload: Any, topic: str = "a/b", head: int = 0) -> Publish:
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Publish(topic.encode(), raw, head, 0, b"")


samples = st.fixed_dictionaries(
    {"value": scalars},
    optional={
        "ts": st.one_of(st.integers(0, 2 * 10**15), st.sampled_from([None, "2023-11-14T22:13:20Z", "never", 1.5])),
        "quality": st.one_of(st.none(), st.sampled_from(["good", "bad", "stale", "Alarm", 192, 0, 500, True, [1]])),
        "unit": st.sampled_from([None, "C", "K", 5]),
        "more": scalars,
    },
)


@given(st.lists(samples, min_size=1, max_size=6))
def test_the_short_way_gives_what_the_general_way_gives(documents: list[dict[str, Any]]) -> None:
    messages = [message({"value": 1.5, "ts": 1}), *(message(document) for document in documents)]
    short, tags = decoder()
    together = Columns()
    short.decode(messages, together)
    general, other_tags = decoder()
    singly = Columns()
    for one in messages:
        for topic in general._topics.values():
            topic.decode = None
        general.decode([one], singly)
    for name in Columns.__slots__:
        assert getattr(together, name) == getattr(singly, name), name
    assert [tags[i] for i in range(len(tags))] == [other_tags[i] for i in range(len(other_tags))]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "s/x", "\udcff"]), st.binary(max_size=30)), max_size=6))
def test_no_payload_is_lost_or_breaks_the_decoder(sent: list[tuple[str, bytes]]) -> None:
    subject, _ = decoder(
        subscriptions=[{"topic": "a", "format": "json"}, {"topic": "b", "format": "plain"}, {"topic": "#"}]
    )
    for topic, payload in sent:
        rows = Columns()
        subject.decode([Publish(topic.encode("utf-8", "surrogateescape"), payload, 0, 0, b"")], rows)
        rows.to_batch([0] * len(rows), 0)
        assert len(rows) >= 1
        if rows.reject and rows.reject[0]:
            assert rows.value_bytes == [payload]


@pytest.mark.parametrize("payload", [b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b'{"value": 1e999}'])
def test_hostile_documents_are_rejected(payload: bytes) -> None:
    subject, _ = decoder()
    rows = Columns()
    subject.decode([message(payload)], rows)
    assert len(rows) == 1
    rows.to_batch([0], 0)


@pytest.mark.parametrize("payload", [b'{"value": "\\ud800"}', b'{"value": 1, "\\udfff": 2}', b'["\\ud800x"]'])
def test_half_a_surrogate_pair_is_a_reject_with_its_bytes(payload: bytes) -> None:
    subject, _ = decoder()
    rows = Columns()
    subject.decode([message(payload), message({"value": "\U0001f600"})], rows)
    assert rows.value_bytes == [payload, None]
    assert rows.value_text == [None, "\U0001f600"]
    rows.to_batch([0, 0], 0)


def test_units_that_change_are_new_tags_and_what_is_missing_is_said() -> None:
    subject, tags = decoder(subscriptions=[{"topic": "#", "format": "json", "value": "v"}])
    rows = Columns()
    sent = [{"v": 1, "unit": "C"}, {"v": 2, "unit": "K"}, {"v": 3}, {"v": 4, "unit": "C"}, {"w": 5}]
    subject.decode([message(document) for document in sent], rows)
    assert [tags[tag].unit for tag in rows.tag] == ["C", "K", "K", "C", "C"]
    assert rows.reject == [None] * 4 + ["no `v` in the object"]


def test_times_and_qualities_that_cannot_be_told_are_kept() -> None:
    subject, _ = decoder()
    rows = Columns()
    subject.decode(
        [message({"value": 1, "ts": "soon", "quality": "so-so"}), message({"value": 1, "quality": 65})], rows
    )
    assert rows.source_time == [None, None]
    assert json.loads(rows.properties[0] or "") == {"timestamp": "soon"}
    assert rows.quality == [Quality.UNCERTAIN, Quality.UNCERTAIN]
    assert rows.status == [None, 65]


def test_flat_objects_share_time_and_quality() -> None:
    subject, tags = decoder()
    rows = Columns()
    subject.decode([message({"time": T, "quality": "bad", "a": 1, "b": {"c": True, "d": {}}})], rows)
    assert [(tags[t].tag_name, tags[t].address) for t in rows.tag] == [
        ("a", "a/b#a"),
        ("b.c", "a/b#b.c"),
        ("b.d", "a/b#b.d"),
    ]
    assert rows.quality == [Quality.BAD] * 3
    assert rows.source_time == [T * 10**6] * 3


@given(st.binary(max_size=30))
@example(b"\x26\x00\x01a\x00\x01b\x26\x00\x01a\x00\x01c\x01\x01")
def test_no_properties_break_the_decoder(raw: bytes) -> None:
    text = parse_properties(raw)
    assert text is None or isinstance(json.loads(text), dict)


def test_properties_with_one_key_twice_are_both_kept() -> None:
    raw = b"\x26\x00\x01a\x00\x01b\x26\x00\x01a\x00\x01c\x01\x01"
    assert json.loads(parse_properties(raw) or "") == {"payload_format_indicator": 1, "user": {"a": "b, c"}}
