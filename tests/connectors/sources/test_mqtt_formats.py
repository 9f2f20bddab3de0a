"""Payload formats: arrays of samples, paths, CSV, CBOR, MessagePack; what is encoded comes back, what is not is a reject."""

import csv
import io
import json
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import cbor2
import msgspec
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from connectors.sources.mqtt.formats import MOST_READINGS
from connectors.sources.mqtt.times import parse_time, parse_times
from normalization.reading import Quality
from tests.connectors.sources.mqtt_decoding import Told, columns, rejects, told

T = 1_700_000_000
BAD, GOOD = int(Quality.BAD), int(Quality.GOOD)

encoders = pytest.mark.parametrize(
    ("form", "encode"),
    [("json", msgspec.json.encode), ("cbor", cbor2.dumps), ("msgpack", msgspec.msgpack.encode)],
)


@encoders
def test_an_object_is_a_sample_or_many_tags(form: str, encode: Callable[[Any], bytes]) -> None:
    sample = {"ts": T, "value": 21.5, "quality": "bad", "unit": "C", "by": "Ann"}
    assert told(encode(sample), format=form) == [Told("press", 21.5, T * 10**6, BAD, "C", {"payload": {"by": "Ann"}})]
    flat = {"time": T, "a": 1, "b": {"c": True}, "d": [1, 2]}
    assert told(encode(flat), format=form) == [
        Told("a", 1, T * 10**6),
        Told("b.c", True, T * 10**6),
        Told("d", "[1,2]", T * 10**6),
    ]


@encoders
def test_an_array_of_samples_is_a_reading_for_each(form: str, encode: Callable[[Any], bytes]) -> None:
    samples = [{"ts": T + i, "value": i / 2} for i in range(3)]
    assert told(encode(samples), format=form) == [Told("press", i / 2, (T + i) * 10**6) for i in range(3)]
    uneven = [{"ts": T, "value": 1, "unit": "C"}, {"value": "off", "quality": "bad"}, {"ts": "soon", "value": None}]
    assert told(encode(uneven), format=form) == [
        Told("press", 1, T * 10**6, GOOD, "C"),
        Told("press", "off", None, BAD, "C"),
        Told("press", None, None, BAD, "C", {"timestamp": "soon"}),
    ]
    mixed = [{"ts": T, "value": 1}, {"ts": T, "a": {"x": 2}}, {"time": T, "a": {"y": 3}}, {"ts": T + 1, "value": 4}]
    assert told(encode(mixed), format=form) == [
        Told("press", 1, T * 10**6),
        Told("press", 4, (T + 1) * 10**6),
        Told("a.x", 2, T * 10**6),
        Told("a.y", 3, T * 10**6),
    ]
    assert rejects(encode([{"ts": 1}, {"quality": 2}]), format=form)[0][0] == "objects without a value"
    different = encode([{f"k{i}": i} for i in range(2000)])
    assert rejects(different, format=form) == [("2000 objects of 2000 keys in one message", different)]
    wide = [{"ts": T, "a": 1, "b": 2.5}, {"ts": T + 1, "a": 3, "b": 4.5}]
    assert told(encode(wide), format=form) == [
        Told("a", 1, T * 10**6),
        Told("a", 3, (T + 1) * 10**6),
        Told("b", 2.5, T * 10**6),
        Told("b", 4.5, (T + 1) * 10**6),
    ]


@encoders
def test_paths_lead_into_arrays(form: str, encode: Callable[[Any], bytes]) -> None:
    nested = {
        "machine": "m1",
        "meta": {"unit": "bar"},
        "lines": [
            {"t": T, "samples": [{"v": 1}, {"v": 2}]},
            {"t": T + 1, "samples": [{"v": 3, "quality": "bad"}]},
        ],
    }
    paths = {"value": "lines[*].samples[*].v", "timestamp": "lines[*].t", "unit": "meta.unit"}
    rest = {"payload": {"machine": "m1"}}
    assert told(encode(nested), format=form, **paths) == [
        Told("press", 1, T * 10**6, GOOD, "bar", rest),
        Told("press", 2, T * 10**6, GOOD, "bar", rest),
        Told("press", 3, (T + 1) * 10**6, BAD, "bar", rest),
    ]
    parallel = {"t": [T, T + 1], "v": [1.5, 2.5]}
    assert told(encode(parallel), format=form, value="v[*]", timestamp="t[*]") == [
        Told("press", 1.5, T * 10**6),
        Told("press", 2.5, (T + 1) * 10**6),
    ]
    pairs = [[T, 1], [T + 1, 2]]
    assert told(encode(pairs), format=form, value="[*][1]", timestamp="$[*][0]") == [
        Told("press", 1, T * 10**6),
        Told("press", 2, (T + 1) * 10**6),
    ]


@encoders
def test_names_stand_in_the_payload(form: str, encode: Callable[[Any], bytes]) -> None:
    many = {"ts": T, "values": [{"id": "temp", "v": 1}, {"id": "flow", "v": 2}, {"id": "temp", "v": 3}]}
    assert told(encode(many), format=form, value="values[*].v", name="values[*].id") == [
        Told("temp", 1, T * 10**6),
        Told("flow", 2, T * 10**6),
        Told("temp", 3, T * 10**6),
    ]
    samples = [{"tag": "a", "value": 1}, {"tag": "b", "value": 2}]
    assert told(encode(samples), format=form, name="tag") == [Told("a", 1), Told("b", 2)]


@encoders
def test_several_values_are_several_tags(form: str, encode: Callable[[Any], bytes]) -> None:
    document = {"ts": T, "env": {"t": 1.5, "h": 40}, "x y": 3}
    assert told(encode(document), format=form, value=["env.t", "env.h", "env.missing"]) == [
        Told("env.t", 1.5, T * 10**6, properties={"payload": {"x y": 3}}),
        Told("env.h", 40, T * 10**6, properties={"payload": {"x y": 3}}),
    ]
    named = {"temperature": "$.env.t", "other": '["x y"]'}
    assert [(one.name, one.value) for one in told(encode(document), format=form, value=named)] == [
        ("temperature", 1.5),
        ("other", 3),
    ]
    assert rejects(encode(document), format=form, value=["p", "q"])[0][0] == "no `p` or `q` in the object"


@encoders
def test_samples_that_lack_a_value_are_told_and_the_others_read(form: str, encode: Callable[[Any], bytes]) -> None:
    payload = encode({"s": [{"v": 1}, {"w": 2}, {"v": 3}]})
    assert [one.value for one in told(payload, format=form, value="s[*].v")] == [1, 3]
    assert rejects(payload, format=form, value="s[*].v") == [("no `s[*].v` in 1 of 3 samples", payload)]
    assert rejects(encode({"s": "off"}), format=form, value="s[0]")[0][0] == "no `s[0]` in the object"
    assert rejects(encode({"s": 5}), format=form, value="s[*].v")[0][0] == "no `s[*].v` in the object"
    assert told(encode({"s": []}), format=form, value="s[*].v") == []
    assert rejects(encode({"s": []}), format=form, value="s[*].v") == []
    lopsided = encode({"t": [1, 2, 3], "v": [1, 2]})
    reason = "3 items in one array and 2 in another"
    assert rejects(lopsided, format=form, value="v[*]", timestamp="t[*]") == [(reason, lopsided)]


@encoders
def test_a_payload_of_too_many_readings_is_a_reject(form: str, encode: Callable[[Any], bytes]) -> None:
    payload = encode([1] * (MOST_READINGS + 1))
    assert rejects(payload, format=form, value="[*]") == [
        (f"more than {MOST_READINGS} readings in one message", payload)
    ]
    assert len(told(encode([1] * 1000), format=form, value="[*]")) == 1000


# ---------------------------------------------------------------------- what is encoded comes back

leaf = st.one_of(
    st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.text(max_size=8), st.none()
)  # fmt: skip
keys = st.text(max_size=6).filter(lambda key: key not in {"value", "timestamp", "ts", "time", "quality", "unit"})


def stored(value: Any) -> Any:
    return value - 2**64 if isinstance(value, int) and value >= 2**63 else value  # as its bit pattern


@pytest.mark.parametrize(("form", "encode"), [("cbor", cbor2.dumps), ("msgpack", msgspec.msgpack.encode)])
@settings(deadline=None)
@given(samples=st.lists(st.tuples(leaf | st.binary(max_size=5), st.integers(0, 2 * 10**9)), min_size=1, max_size=60))
def test_samples_come_back(form: str, encode: Callable[[Any], bytes], samples: list[tuple[Any, int]]) -> None:
    payload = encode([{"value": value, "ts": time} for value, time in samples])
    found = told(payload, format=form, timestamp_format="s")
    assert [(repr(one.value), one.time) for one in found] == [
        (repr(stored(value)), time * 10**6) for value, time in samples
    ]


@pytest.mark.parametrize(("form", "encode"), [("cbor", cbor2.dumps), ("msgpack", msgspec.msgpack.encode)])
@settings(deadline=None)
@given(fields=st.dictionaries(keys, leaf, min_size=1, max_size=8))
def test_objects_come_back(form: str, encode: Callable[[Any], bytes], fields: dict[str, Any]) -> None:
    found = told(encode(fields), format=form)
    assert [repr(one.value) for one in found] == [repr(stored(value)) for value in fields.values()]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).map(
                lambda s: f"x{s}"
            ),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_rows_of_csv_come_back(delimiter: str, rows: list[tuple[int, float, str]]) -> None:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["count", "level", "state"])
    writer.writerows(rows)
    payload = out.getvalue().encode()
    found = told(payload, format="csv", csv={"delimiter": delimiter})
    assert [one.name for one in found] == [name for name in ("count", "level", "state") for _ in rows]
    assert [one.value for one in found] == [value for column in zip(*rows, strict=True) for value in column]
    assert rejects(payload, format="csv", csv={"delimiter": delimiter}) == []


# ---------------------------------------------------------------------- CSV


def test_csv_has_a_column_of_values_or_one_for_each_tag() -> None:
    long = b"ts,tag,value,unit,quality,by\n1700000000,a,1.5,C,good,Ann\n1700000001,b,on,,bad,\n1700000002,a,,C,,\n"
    assert told(long, format="csv", name="tag") == [
        Told("a", 1.5, T * 10**6, GOOD, "C", {"payload": {"by": "Ann"}}),
        Told("b", "on", (T + 1) * 10**6, BAD),
    ]
    wide = b"time;Temp [\xc2\xb0C];Flow\r\n14.11.2023 23:13:20;1,5;7\r\n14.11.2023 23:13:21;-2,25;\r\n"
    settings = {
        "csv": {"delimiter": ";", "decimal": ","},
        "timestamp_format": "%d.%m.%Y %H:%M:%S",
        "time_zone": "Europe/Berlin",
    }
    assert told(wide, format="csv", **settings) == [
        Told("Temp [°C]", 1.5, T * 10**6),
        Told("Temp [°C]", -2.25, (T + 1) * 10**6),
        Told("Flow", 7, T * 10**6),
    ]


def test_csv_columns_are_named_by_the_settings() -> None:
    lines = b"made by press 7\n1700000000 1 2\n1700000001 3 4\n"
    settings = {"delimiter": " ", "header": False, "columns": ["t", "a", "b"], "skip_rows": 1}
    assert told(lines, format="csv", csv=settings, timestamp="t", value={"x": "b"}) == [
        Told("x", 2, T * 10**6),
        Told("x", 4, (T + 1) * 10**6),
    ]
    assert told(lines, format="csv", csv=settings, timestamp="t", value="a")[1] == Told("press", 3, (T + 1) * 10**6)


def test_rows_of_csv_that_do_not_fit_are_rejects_and_the_others_read() -> None:
    payload = b'a,b\n1,2\n3\n"4,5",6,7\n8,9\n'
    assert [one.value for one in told(payload, format="csv")] == [1, 8, 2, 9]
    assert rejects(payload, format="csv") == [
        ("a row of 1 columns instead of 2", b"3"),
        ("a row of 3 columns instead of 2", b'"4,5",6,7'),
    ]
    only = b"a,b\n1\n"
    assert rejects(only, format="csv") == [("a row of 1 columns instead of 2", b"1")]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"a,b\n", "CSV without a row"),
        (b"\n\n", "CSV without a row"),
        (b"a,a\n1,2\n", "two columns have the same name"),
        (b"a\n\xff\n", "not UTF-8 text"),
        (b'a\n"' + b"x" * 200_000, "not CSV: field larger than field limit (131072)"),
        (b"ts\n1\n", "rows without a value"),
        (b"a,b\n" + b"1\n" * 101, "more than 100 rows that have not 2 columns"),
        (b"a\n" + b"1\n" * 1_000_001, "CSV of more than 1000000 rows or cells"),
        (b"," * 1_000_001, "CSV of more than 1000000 rows or cells"),
    ],
)
def test_what_is_no_csv_is_a_reject(payload: bytes, reason: str) -> None:
    assert rejects(payload, format="csv") == [(reason, payload)]


def test_numbers_in_csv_keep_their_type_and_words_stay_text() -> None:
    payload = "v\n9007199254740993\n1.5\n+7\n1e999\n ON\ntrue\n1_0\n０\n".encode()
    assert [one.value for one in told(payload, format="csv", value="v")] == [
        9007199254740993, 1.5, 7, "1e999", " ON", True, "1_0", "０",
    ]  # fmt: skip


# ---------------------------------------------------------------------- times


@pytest.mark.parametrize(
    ("value", "form", "zone", "expected"),
    [
        ("14.11.2023 23:13:20", "%d.%m.%Y %H:%M:%S", "Europe/Berlin", T * 10**6),
        ("20231114221320.25", "%Y%m%d%H%M%S.%f", "UTC", T * 10**6 + 250_000),
        (20231114, "%Y%m%d", "UTC", 1_699_920_000 * 10**6),
        ("Tue Nov 14 17:13:20 -0500 2023", "%a %b %d %H:%M:%S %z %Y", "Europe/Berlin", T * 10**6),
        ("2023-11-14T23:13:20", "auto", "Europe/Berlin", T * 10**6),
        ("2023-11-14T22:13:20Z", "auto", "Europe/Berlin", T * 10**6),
        (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), "auto", "UTC", T * 10**6),
        ("soon", "%H:%M", "UTC", None),
        ("0001-01-01T00:00:00", "auto", "Asia/Tokyo", None),
        ("9999-12-31T23:59:59.999999Z", "iso", "UTC", 253_402_300_799_999_999),
    ],
)
def test_times_of_other_forms_and_zones(value: Any, form: str, zone: str, expected: int | None) -> None:
    assert parse_time(value, form, ZoneInfo(zone)) == expected


@settings(deadline=None)
@given(
    st.lists(st.datetimes(), min_size=48, max_size=60).flatmap(
        lambda whens: st.tuples(
            st.just(whens), st.sampled_from(["", "Z", "+02:00", "-00:30"]), st.sampled_from(["T", " "])
        )
    ),
    st.sampled_from(["auto", "iso"]),
    st.sampled_from([UTC, ZoneInfo("Europe/Berlin")]),
)
def test_many_texts_are_read_as_one_by_one(drawn: tuple[list[datetime], str, str], form: str, zone: Any) -> None:
    whens, suffix, between = drawn
    texts: list[Any] = [when.isoformat(between) + suffix for when in whens]
    assert parse_times(texts, form, zone) == [parse_time(text, form, zone) for text in texts]
    texts[7] = texts[7][:-1]
    assert parse_times(texts, form, zone) == [parse_time(text, form, zone) for text in texts]


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**18).map(str), min_size=48, max_size=60), st.sampled_from(["auto", "s", "ms", "iso"]))
@example(["²"] * 48, "auto")
@example(["٣"] * 48, "s")
@example(["9" * 18] * 48, "s")
def test_many_numbers_as_text_are_read_as_one_by_one(texts: list[str], form: str) -> None:
    assert parse_times(list(texts), form) == [parse_time(text, form) for text in texts]


# ---------------------------------------------------------------------- types that JSON has not


def test_types_of_cbor_are_kept_or_told() -> None:
    when = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    payload = cbor2.dumps(
        {"ts": when, "a": when, "b": Decimal("1.5"), "c": b"\x00\xff", "d": cbor2.undefined, "e": 2**70}
    )
    assert [(one.name, one.value, one.time) for one in told(payload, format="cbor")] == [
        ("a", "2023-11-14T22:13:20+00:00", T * 10**6),
        ("b", "1.5", T * 10**6),
        ("c", b"\x00\xff", T * 10**6),
        ("d", None, T * 10**6),
        ("e", str(2**70), T * 10**6),
    ]
    assert told(cbor2.dumps(math.inf), format="cbor") == [Told("press", math.inf)]
    tagged = cbor2.dumps(cbor2.CBORTag(4711, {"value": 5}))
    assert told(tagged, format="cbor") == [Told("press", 5)]
    assert told(b"\x9f\x01\x02\xff", format="cbor", value="[*]") == [Told("press", 1), Told("press", 2)]


def test_types_of_msgpack_are_kept_or_told() -> None:
    when = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    payload = msgspec.msgpack.encode({"time": when, "a": msgspec.msgpack.Ext(5, b"\x01\xff"), 7: 1, "n": math.nan})
    found = told(payload, format="msgpack")
    assert [(one.name, one.value, one.time) for one in found[:2]] == [
        ("a", b"\x01\xff", T * 10**6),
        ("7", 1, T * 10**6),
    ]
    assert math.isnan(found[2].value)


def test_text_of_another_encoding_is_read() -> None:
    payload = '{"value": "Tür", "unit": "°C"}'.encode("latin-1")
    assert told(payload, encoding="latin-1") == [Told("press", "Tür", unit="°C")]
    assert rejects(payload) == [(rejects(payload)[0][0], payload)]
    assert told("v\nTür\n".encode("utf-16"), format="csv", encoding="utf-16", value="v") == [Told("press", "Tür")]
    assert told("21,5".encode("cp1252"), format="plain", encoding="cp1252") == [Told("press", "21,5")]


# ---------------------------------------------------------------------- hostile input

HOSTILE = {
    "cbor": [
        b"\x81" * 100_000,
        b"\x9f" * 100_000,
        b"\xc1" * 100_000,
        b"\x9b\x00\x00\x00\x7f\xff\xff\xff\xff",
        b"\x5b\x00\x00\x00\x7f\xff\xff\xff\xffab",
        b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x9f\x01",
        b"\x01\x02",
        b"\xff",
        b"\xd8\x1c\x81\xd8\x1d\x00",  # an array that contains itself
        b"\xd9\x01\x00\x82\x63abc\xd8\x19\x00",
        b"\xc4\x82\x1b\x7f\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\xc5\x82\x1a\x7f\xff\xff\xff\x01",
        b"\xd8\x1e\x82\x01\x00",
        b"\xc1\xfb\x7e\x37\xe4\x3c\x88\x00\x75\x9c",
        b"\xc2\x5a\x00\x01\x00\x00" + b"\xff" * 65536,
        b"\x62\xff\xfe",
    ],
    "msgpack": [
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xffab",
        b"\xc9\xff\xff\xff\xff\x01ab",
        b"\xc7\x0c\xff" + b"\xff" * 12,
        b"\x92\x01",
        b"\x01\x02",
        b"\xc1",
        b"\xa2\xff\xfe",
        b"\x81\x80\x01",
    ],
    "json": [b"[" * 100_000, b'[{"value":' * 900 + b"1" + b"}]" * 900, b'[{"a":1},{"a":', b"\xff"],
}


@pytest.mark.parametrize(("form", "payload"), [(form, payload) for form in HOSTILE for payload in HOSTILE[form]])
def test_hostile_payloads_are_rejects_with_their_bytes(form: str, payload: bytes) -> None:
    ((reason, raw),) = rejects(payload, format=form)
    assert raw == payload
    assert len(reason) < 500


@settings(deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["auto", "json", "plain", "cbor", "msgpack", "csv"]))
@example(b"\x81\x81\x01\x02", "cbor")
@example(b"\xa1\xf9\x7e\x00\x01", "cbor")
@example(b"\xd9\x01\x02\x81\xa0", "cbor")
@example(b"\xd8\x23\x64(((a", "cbor")
@example(b"\x81\x90\x01", "msgpack")
def test_no_bytes_break_a_decoder(payload: bytes, form: str) -> None:
    rows, _ = columns(payload, format=form)
    paths = {"value": ["a", "value"]} if form == "csv" else {"value": "[*].a", "timestamp": "[*].t", "name": "[0]"}
    columns(payload, format=form, **paths)
    assert [raw for why, raw in zip(rows.reject, rows.value_bytes, strict=True) if why and form != "csv"] in (
        [],
        [payload],
    )


documents = st.recursive(
    leaf | st.floats() | st.binary(max_size=3) | st.datetimes(timezones=st.just(UTC)),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["value", "ts", "a", "b"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(documents, st.sampled_from(["value", "[*].value", "a[*].b", "a[*].b[*]", "[*][*]", "$", "b[1]"]))
def test_no_document_breaks_a_path(document: Any, path: str) -> None:
    for paths in ({}, {"value": path}, {"value": path, "name": "a", "timestamp": "[*].ts", "unit": "a[*].b"}):
        columns(cbor2.dumps(document), format="cbor", **paths)
        columns(msgspec.msgpack.encode(document), format="msgpack", **paths)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["value", "ts", "time", "quality", "unit", "a", "b"]), leaf | st.lists(leaf), min_size=1
    )
)
def test_an_object_says_the_same_alone_and_in_an_array(document: dict[str, Any]) -> None:
    alone, of_one = (columns(cbor2.dumps(payload), format="cbor") for payload in (document, [document]))
    if alone[0].reject == [None] * len(alone[0]):
        assert alone[0].to_batch([0] * len(alone[0]), 0) == of_one[0].to_batch([0] * len(of_one[0]), 0)
        assert [alone[1][at] for at in range(len(alone[1]))] == [of_one[1][at] for at in range(len(of_one[1]))]
    else:
        assert alone[0].reject == of_one[0].reject


def test_the_examples_of_wrong_settings_name_what_is_wrong() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"value": "a..b"}, "is no path"),
        ({"value": "a[x]"}, "is no path"),
        ({"value": []}, "a path is empty"),
        ({"timestamp_format": "seconds"}, "is no format of times"),
        ({"time_zone": "Mars/Olympus"}, "is no time zone"),
        ({"encoding": "rot13"}, "is no encoding of text"),
        ({"csv": {"delimiter": ";"}}, "`csv` is for format csv"),
        ({"format": "csv", "csv": {"header": False}}, "needs `columns`"),
        ({"format": "csv", "csv": {"delimiter": ",", "decimal": ","}}, "cannot stand between cells"),
        ({"format": "protobuf", "message": "a.B"}, "which needs both"),
        ({"format": "json", "message": "a.B"}, "go with format protobuf"),
    ]
    for wrong, words in cases:
        with pytest.raises(ValueError, match=words):
            columns(b"1", **wrong)


def test_json_written_by_hand_is_read() -> None:
    text = json.dumps([{"ts": "2023-11-14T22:13:20Z", "value": 1}], indent=2).encode()
    assert told(text) == [Told("press", 1, T * 10**6)]


def test_what_the_docs_show_is_read() -> None:
    page = (Path(__file__).parents[3] / "docs" / "mqtt.md").read_text(encoding="utf-8")
    shown = re.search(r"```yaml fragment\n(subscriptions:.*?)```", page, re.DOTALL)
    assert shown is not None
    payloads = re.findall(r"- topic: \S+ +# ([\[{].*)", shown[1])
    rules = yaml.safe_load(shown[1])["subscriptions"]
    assert len(payloads) == len(rules) == 4
    found = [told(payload.encode(), **rule | {"topic": "#"}) for payload, rule in zip(payloads, rules, strict=True)]
    assert [[(one.name, one.value, one.unit) for one in readings] for readings in found] == [
        [("press", 1.5, "bar"), ("press", 1.6, "bar")],
        [("press", 1.5, ""), ("press", 1.6, "")],
        [("temperature", 21.5, ""), ("humidity", 40, "")],
        [("temp", 21.5, ""), ("flow", 7, "")],
    ]
    assert [[one.time for one in readings] for readings in found[:3]] == [
        [T * 10**6, (T + 1) * 10**6],
        [T * 10**6, (T + 1) * 10**6],
        [T * 10**6, T * 10**6],
    ]
