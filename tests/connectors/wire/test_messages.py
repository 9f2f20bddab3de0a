"""Messages: names are rendered from templates, and every reading is in one payload that is JSON."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.wire.json_lines import JsonLinesEncoder
from connectors.wire.messages import Names, Template, pack, singly
from tests.contract.readings import Source


def each(names: Names) -> list[str]:
    return [names.names[at] for at in names.index.tolist()]


def test_a_template_is_rendered_per_reading_and_knows_tags_that_come_later() -> None:
    source = Source()
    template = Template("a/{source}/{tag_name}")
    first = source.batch([1.0, 2.0])
    assert each(template.render(first)) == ["a/plc0/temp 0", "a/plc1/temp 1"]
    later = source.batch([3.0, 4.0], tags=[source.tag(1), source.tag(99)])
    assert each(template.render(later)) == ["a/plc1/temp 1", "a/plc1/temp 99"]
    other = Source()
    other.tag(5)
    assert each(template.render(other.batch([1.0], tags=[other.tag(6)]))) == ["a/plc0/temp 6"]


def test_tags_with_one_name_share_its_number() -> None:
    names = Template("all").render(Source().batch([1.0] * 5))
    assert set(names.index.tolist()) == {0}
    assert names.names == ["all"]


def test_gateway_and_shard_are_rendered_beside_the_tag() -> None:
    source = Source("gateway {1}")
    tags = [source.tag(0), source.tag(1, source="{gateway}")]
    found = Template("{gateway}/{source}/{shard}/{gateway}").render(source.batch([1.0, 2.0], tags=tags))
    assert each(found) == [f"gateway {{1}}/{name}/modbus-0-a1b2/gateway {{1}}" for name in ("plc0", "{gateway}")]


def test_columns_are_cleaned_and_the_template_is_not() -> None:
    found = Template("a b/{tag_name}", lambda column, text: f"{column}={text.replace(' ', '_')}").render(
        Source().batch([1.0])
    )
    assert each(found) == ["a b/tag_name=temp_0"]


@pytest.mark.parametrize(("text", "why"), [("{pth}", "pth is no column; there are source"), ("a{path", "not closed")])
def test_a_template_that_cannot_be_rendered_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Template(text)


def test_a_payload_each_is_the_line_without_its_line_feed() -> None:
    batch = Source().batch([1, "zwei ✓", None])
    encoder = JsonLinesEncoder()
    assert b"".join(one + b"\n" for one in singly(encoder.objects(batch))) == encoder.encode(batch)


@given(
    st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.integers(0, 3)), max_size=40),
    st.integers(2, 80),
    st.integers(1, 9),
)
def test_every_reading_is_in_one_message_in_order_and_within_the_limits(
    given_readings: list[tuple[str, int]], most_bytes: int, most_readings: int
) -> None:
    texts = [json.dumps(text) for text, _ in given_readings]
    groups = np.array([group for _, group in given_readings], np.int64)
    objects = pa.concat_arrays([pa.array(["{}"]), pa.array(texts, pa.string())]).slice(1)
    packs = pack(objects, groups, most_bytes=most_bytes, most_readings=most_readings)
    for one in packs:
        assert json.loads(one.payload) == [given_readings[row][0] for row in one.rows.tolist()]
        assert {int(groups[row]) for row in one.rows.tolist()} == {one.group}
        assert one.rows.tolist() == sorted(one.rows.tolist())
        assert len(one.rows) <= most_readings
        assert len(one.payload) <= most_bytes or len(one.rows) == 1
    assert sorted(row for one in packs for row in one.rows.tolist()) == list(range(len(texts)))
    for before, after in zip(packs, packs[1:], strict=False):
        if before.group == after.group:
            assert before.rows[-1] < after.rows[0]
            full = len(before.payload) + 1 + len(texts[after.rows[0]].encode()) > most_bytes
            assert full or len(before.rows) == most_readings
