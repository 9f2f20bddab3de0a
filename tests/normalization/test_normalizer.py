import json
import threading
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normalization.normalizer import Normalizer, normalize_tag
from normalization.path import DEFAULT_TEMPLATE
from normalization.reading import FACTS, TAG_COLUMNS, Columns, Quality, Tag, TagTable, numbers, repeat, stream_schema


def tag(name: Any, *, address: Any = None, source: Any = "s", **mapping: Any) -> Any:
    return Tag(source, "opcua", "d", address or f"ns=2;s={name}", name, mapping=json.dumps(mapping))


def raw_batch(columns: Any, gateway: Any = "g", shard: Any = "opcua-0") -> Any:
    """What an input hands to the step `normalize`."""
    facts = columns.to_batch(np.arange(len(columns), dtype=np.int64), 100)
    arrays = [*facts.columns, repeat(gateway, len(columns)), repeat(shard, len(columns))]
    return pa.RecordBatch.from_arrays(arrays, names=[*FACTS.names, "gateway", "shard"])


def readings(tags: Any, *rows: Any) -> Any:
    columns = Columns()
    for row_tag, value in rows:
        columns.add(tags.intern(row_tag), value)
    return raw_batch(columns)


def test_a_batch_comes_out_with_paths_values_and_no_priority() -> None:
    tags = TagTable()
    out = Normalizer(tags, DEFAULT_TEMPLATE)(
        readings(tags, (tag("temp", site="p1", line="l1"), 21.5), (tag("motor", site="p1", signal_type="state"), True))
    )
    out.validate(full=True)
    assert out.schema.equals(stream_schema(tags.token), check_metadata=True)
    assert out["path"].to_pylist() == ["p1/l1/temperature/temp", "p1/state/motor"]
    assert out["site"].to_pylist() == ["p1", "p1"]
    assert out["signal_type"].to_pylist() == ["temperature", "state"]
    assert out["value"].to_pylist() == [21.5, 1.0]
    assert out["priority"].to_pylist() == [0, 0]
    assert out["gateway"].to_pylist() == ["g", "g"]
    assert [tags[row].path for row in out["tag"].to_pylist()] == out["path"].to_pylist()


def test_names_share_the_tag_tables_arrays() -> None:
    tags = TagTable()
    out = Normalizer(tags, DEFAULT_TEMPLATE)(readings(tags, (tag("a"), 1), (tag("b"), 2)))
    addresses = {out[name].dictionary.buffers()[2].address for name in TAG_COLUMNS}
    assert addresses == {array.buffers()[2].address for array in tags.arrays().values()}
    assert len({out[name].indices.buffers()[1].address for name in TAG_COLUMNS}) == 1


def test_a_tag_is_normalized_once_and_its_row_is_used_again() -> None:
    tags = TagTable()
    normalize = Normalizer(tags, DEFAULT_TEMPLATE)
    first = normalize(readings(tags, (tag("a"), 1)))
    size = len(tags)
    again = normalize(readings(tags, (tag("a"), 2), (tag("a"), 3)))
    assert len(tags) == size
    assert again["tag"].to_pylist() == first["tag"].to_pylist() * 2


def test_normalized_rows_pass_through() -> None:
    tags = TagTable()
    normalize = Normalizer(tags, DEFAULT_TEMPLATE)
    once = normalize(readings(tags, (tag("a", site="x", scale=2), 1)))
    twice = normalize(once)
    assert twice["tag"].equals(once["tag"])
    assert twice["value"].equals(once["value"])
    assert normalize_tag(tags[once["tag"][0].as_py()], "{site}") is tags[once["tag"][0].as_py()]


def test_scaling_and_alarm_touch_only_the_tags_that_ask_for_it() -> None:
    tags = TagTable()
    out = Normalizer(tags, DEFAULT_TEMPLATE)(
        readings(tags, (tag("a", scale=0.1), 70), (tag("b"), 70), (tag("c", alarm=True), True), (tag("d"), True))
    )
    assert out["value"].to_pylist() == [7.0, 70.0, 1.0, 1.0]
    assert out["value_int"].to_pylist() == [None, 70, 1, 1]
    assert out["quality"].to_pylist() == [Quality.GOOD, Quality.GOOD, Quality.ALARM, Quality.GOOD]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (Tag("s", "opcua", "d", "a", "n", mapping="nonsense"), "mapping is not a JSON object"),
        (Tag("s", "opcua", "d", "", ""), "neither a name nor an address"),
        (tag("n", scale="big"), "scale `big` is not a number"),
        (tag("n", type="float32"), "type `float32`"),
        (tag("n", template="{tagname}"), "`{tagname}` is not known"),
    ],
)
def test_a_reading_whose_tag_cannot_be_normalized_becomes_a_reject_with_its_values(bad: Any, reason: Any) -> None:
    tags = TagTable()
    normalize = Normalizer(tags, DEFAULT_TEMPLATE)
    raw = readings(tags, (bad, 7), (tag("good"), 8), (bad, "text"))
    out = normalize(raw)
    rejects = out["reject"].to_pylist()
    assert rejects[1] is None
    assert reason in rejects[0] == rejects[2]
    assert normalize.rejected == {bad: rejects[0]}
    for name in ("type", "value_int", "value_text", "quality", "sequence", "received_time"):
        assert out[name].equals(raw[name])
    assert out["source"].to_pylist() == ["s"] * 3
    assert normalize(raw)["reject"].equals(out["reject"])


def test_a_reject_keeps_its_own_reason() -> None:
    tags = TagTable()
    columns = Columns()
    columns.add_reject(tags.intern(tag("n", scale="big")), "not JSON", b"{")
    columns.add_reject(tags.intern(tag("m", type="integer", site="x")), "too short", b"\x00")
    raw = raw_batch(columns)
    out = Normalizer(tags, DEFAULT_TEMPLATE)(raw)
    assert out["reject"].to_pylist() == ["not JSON", "too short"]
    assert out["value_bytes"].to_pylist() == [b"{", b"\x00"]
    assert out["path"].to_pylist() == ["", "x/m"]


@pytest.mark.parametrize("number", [7, -1, 2**31 - 1, -(2**31), 5000])
def test_a_tag_number_that_the_table_does_not_have_becomes_a_reject(number: Any) -> None:
    tags = TagTable()
    columns = Columns()
    columns.add(number, 1.5)
    columns.add(tags.intern(tag("a")), 2.5)
    out = Normalizer(tags, DEFAULT_TEMPLATE)(raw_batch(columns))
    assert out["reject"].to_pylist() == ["the reading's tag is not in the tag table", None]
    assert out["value"].to_pylist() == [1.5, 2.5]
    assert out["path"].to_pylist() == ["", "a"]


def test_tags_that_collide_on_a_path_are_reported_once_and_all_delivered() -> None:
    tags = TagTable()
    normalize = Normalizer(tags, "{site}/{tag_name}")
    a, b, c = tag("Motor 1", address="1"), tag("Motor_1", address="2"), tag("other", address="3")
    out = normalize(readings(tags, (a, 1), (c, 2)))
    assert normalize.new_collisions() == []
    out = normalize(readings(tags, (a, 1), (b, 2), (c, 3)))
    assert out["path"].to_pylist() == ["Motor_1", "Motor_1", "other"]
    assert out["address"].to_pylist() == ["1", "2", "3"]
    assert len(set(out["tag"].to_pylist())) == 3
    [(path, colliding)] = normalize.new_collisions()
    assert path == "Motor_1"
    assert [each.address for each in colliding] == ["1", "2"]
    normalize(readings(tags, (a, 1), (b, 2)))
    assert normalize.new_collisions() == []
    normalize(readings(tags, (tag("Motor#1", address="4"), 1)))
    assert [each.address for each in dict(normalize.new_collisions())["Motor_1"]] == ["1", "2", "4"]
    assert list(normalize.collisions) == ["Motor_1"]


def test_a_tag_that_changed_is_no_collision() -> None:
    tags = TagTable()
    normalize = Normalizer(tags, DEFAULT_TEMPLATE)
    out = normalize(readings(tags, (tag("temp", scale=2), 1), (tag("temp", scale=3), 1)))
    assert out["value"].to_pylist() == [2.0, 3.0]
    assert len(set(out["tag"].to_pylist())) == 2
    assert normalize.collisions == {}


def test_a_wrong_template_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="not known"):
        Normalizer(TagTable(), "{nothing}")


def test_columns_may_come_in_any_order() -> None:
    tags = TagTable()
    raw = readings(tags, (tag("a"), 1.5), (tag("b"), "x"))
    shuffled = raw.select(list(reversed(raw.schema.names)))
    normalize = Normalizer(tags, DEFAULT_TEMPLATE)
    assert normalize(shuffled).equals(normalize(raw))


def test_slices_and_empty_batches() -> None:
    tags = TagTable()
    normalize = Normalizer(tags, DEFAULT_TEMPLATE)
    rows = [(tag("a", scale=0.5), i) for i in range(5)] + [(tag("b"), None), (tag("c"), True), (tag("d"), 2**64 - 1)]
    raw = readings(tags, *rows)
    whole = normalize(raw)
    for start in range(len(rows)):
        assert normalize(raw.slice(start, 3)).equals(whole.slice(start, 3))
    assert normalize(raw.slice(0, 0)).num_rows == 0


def test_many_new_tags_grow_the_lookup() -> None:
    tags = TagTable()
    normalize = Normalizer(tags, "{tag_name}")
    for start in range(0, 6000, 1500):
        out = normalize(readings(tags, *((tag(f"t{i}", offset=float(i)), 0) for i in range(start, start + 1500))))
        assert out["path"].to_pylist() == [f"t{i}" for i in range(start, start + 1500)]
        assert out["value"].to_pylist() == [float(i) for i in range(start, start + 1500)]


def test_threads_share_a_normalizer() -> None:
    tags = TagTable()
    normalize = Normalizer(tags, "{source}/{tag_name}")
    failures = []

    def run(seed: Any) -> None:
        order = np.random.default_rng(seed)
        for _ in range(40):
            numbers = order.integers(0, 400, 20)
            out = normalize(readings(tags, *((tag(f"t{i}", offset=float(i)), 0) for i in numbers)))
            if out["path"].to_pylist() != [f"s/t{i}" for i in numbers] or out["value"].to_pylist() != list(numbers):
                failures.append(numbers)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert normalize.collisions == {}


def test_lone_surrogates_do_not_poison_the_tag_table() -> None:
    tags = TagTable()
    strange = Tag("s", "mqtt", "d", "a\udc80", "n\ud800")
    out = Normalizer(tags, DEFAULT_TEMPLATE)(readings(tags, (strange, 1), (strange, 2)))
    assert out["path"].to_pylist() == ["n", "n"]
    assert tags.intern(strange) == 0
    assert Tag.from_json(tags[0].to_json()) == tags[0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
mappings = st.one_of(
    st.text(max_size=20),
    st.dictionaries(
        st.sampled_from(["site", "line", "signal_type", "template", "type", "scale", "offset", "alarm"]), json_values
    ).map(json.dumps),
    st.fixed_dictionaries(
        {},
        optional={
            "site": st.text(max_size=8),
            "type": st.sampled_from(["boolean", "integer", "number", "text"]),
            "scale": st.floats(-1e3, 1e3),
            "offset": st.floats(-1e3, 1e3),
            "alarm": st.booleans(),
        },
    ).map(json.dumps),
)
any_text = st.text(st.characters(), max_size=12)
hostile_tags = st.builds(
    Tag, any_text, any_text, any_text, any_text, any_text, any_text, metadata=mappings, mapping=mappings
)
any_value = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(), max_size=10),
    st.binary(),
    json_values,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(hostile_tags, any_value, st.booleans(), st.sampled_from(Quality)), max_size=10))
def test_anything_comes_out(rows: Any) -> None:
    tags = TagTable()
    columns = Columns()
    for row_tag, value, rejected, quality in rows:
        columns.add(tags.intern(row_tag), value, quality=quality)
        if rejected:
            columns.reject[-1] = "came so"
    raw = raw_batch(columns)
    out = Normalizer(tags, DEFAULT_TEMPLATE)(raw)
    out.validate(full=True)
    assert out.schema.equals(stream_schema(tags.token), check_metadata=True)
    for name in ("sequence", "received_time", "source_time", "status", "flags", "properties", "gateway", "shard"):
        assert out[name].equals(raw[name])
    for i, (reject, path) in enumerate(zip(out["reject"].to_pylist(), out["path"].to_pylist(), strict=True)):
        if rows[i][2]:
            assert reject == "came so"
        assert reject or path
        if reject:
            for name in ("type", "value_double", "value_int", "value_text", "value_bytes", "quality"):
                a, b = out[name][i].as_py(), raw[name][i].as_py()
                assert a == b or (a != a and b != b)  # noqa: PLR0124 - NaN


@given(
    st.lists(st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=3)))
)
def test_numbers_are_the_values_as_floats(values: Any) -> None:
    columns = Columns()
    for value in values:
        columns.add(0, value)
    batch = columns.to_batch(np.zeros(len(values), np.int64), 0)
    for start in (0, 1):
        part = batch.slice(start)
        out = numbers(part["type"], part["value_double"], part["value_int"]).to_pylist()
        expected = [None if isinstance(value, str | None) else float(value) for value in values[start:]]
        assert [repr(value) for value in out] == [repr(value) for value in expected]
