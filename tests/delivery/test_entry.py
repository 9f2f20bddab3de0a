import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from delivery.entry import COLUMNS, Compression, TagReader, TagScribe, decode, encode
from normalization.reading import Columns, Tag, TagTable, ValueType
from tests.delivery.stores import columns, raw_columns, stream, tag_table

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(2**64, 2**70),
    st.text(max_size=20),
    st.binary(max_size=20),
    st.lists(st.one_of(st.integers(), st.floats(), st.text(max_size=5)), max_size=4),
    st.dictionaries(st.text(max_size=4), st.none(), max_size=3),
)
OPTIONAL_INT = st.none() | st.integers(-(2**63), 2**63 - 1)


@st.composite
def readings(draw: Any) -> Columns:
    rows = Columns()
    for _ in range(draw(st.integers(1, 12))):
        unsigned = draw(st.booleans())
        rows.add(
            draw(st.integers(0, 3)),
            draw(VALUES),
            quality=draw(st.integers(0, 4)),
            status=draw(OPTIONAL_INT),
            source_time=draw(OPTIONAL_INT),
            flags=draw(st.integers(0, 31)),
            properties=draw(st.none() | st.just('{"a":1}')),
            unsigned=unsigned,
        )
        if draw(st.booleans()):
            rows.add_reject(draw(st.integers(0, 3)), draw(st.text("abc ", min_size=1)), draw(st.binary(max_size=9)))
    return rows


def plain(array: pa.Array) -> list[Any]:
    """Values of a column; a NaN is told from null, and -0.0 from 0.0."""
    if pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())
    return [repr(v) if isinstance(v, float) else v for v in array.to_pylist()]


@given(readings(), st.sampled_from(list(Compression)))
def test_every_value_survives_encoding(rows: Columns, compression: Compression) -> None:
    batch = rows.to_batch(np.full(len(rows), 7), 1)
    arrays = [*batch.columns, pa.array(np.zeros(len(rows), np.int32))]
    mask, size, data = encode(arrays, compression)
    again = decode(mask, size, memoryview(data))
    assert [plain(a) for a in again] == [plain(a) for a in arrays]
    assert [a.type for a in again] == COLUMNS.types


def test_a_uint64_keeps_its_bits() -> None:
    rows = Columns()
    rows.add(0, 2**64 - 1, unsigned=True)
    rows.add(0, math.nan)
    arrays = rows.to_batch([1, 1], 1).columns
    again = decode(*(lambda mask, size, data: (mask, size, memoryview(data)))(*encode(arrays)))
    assert again[1].to_pylist() == [ValueType.UINT64, ValueType.DOUBLE]
    assert again[3].to_numpy(zero_copy_only=False).astype(np.float64)[0] == -1.0
    assert math.isnan(again[2][1].as_py())


def test_columns_that_are_null_throughout_are_left_out() -> None:
    arrays = columns([1.5] * 100).to_batch(np.full(100, 1), 1).columns
    mask, size, _ = encode(arrays)
    assert not mask >> COLUMNS.get_field_index("value_text") & 1
    assert size < 100 * (4 + 1 + 8 + 1 + 8 + 8 + 2) + 1500


def test_a_slice_is_encoded_without_its_neighbours() -> None:
    table = tag_table()
    batch = stream(table, range(100_000), text="x" * 20)
    _, whole, _ = encode(raw_columns(batch))
    mask, size, data = encode(raw_columns(batch.slice(50_000, 10)))
    assert size < whole / 1000
    again = decode(mask, size, memoryview(data))
    assert again[COLUMNS.get_field_index("sequence")].to_pylist() == list(range(50_000, 50_010))


def test_tags_are_numbered_anew_in_each_segment_and_found_again_in_another_process() -> None:
    table, later = tag_table(5), TagTable()
    scribe, reader = TagScribe(table), TagReader(later)
    for segment, ids in ((1, [4, 2, 4]), (1, [2, 0]), (9, [3, 4])):
        local, rows = scribe.translate(segment, pa.array(ids, pa.int32()))
        if rows:
            reader.learn(segment, rows)
        arrays = [local]
        assert reader.translate(segment, arrays)
        assert [later[i] for i in arrays[0].to_pylist()] == [table[i] for i in ids]
        assert (local.type, arrays[0].type) == (pa.int32(), pa.int32())


def test_a_segment_that_is_read_again_from_its_head_is_understood_at_no_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    table, later = tag_table(5), TagTable()
    scribe, reader = TagScribe(table), TagReader(later)
    said = [scribe.translate(1, pa.array(ids, pa.int32())) for ids in ([4, 2], [0, 2, 3])]
    for _, rows in said:
        reader.learn(1, rows)
    with monkeypatch.context() as patch:
        patch.setattr(Tag, "from_json", lambda _: pytest.fail("it is known"))
        for local, rows in said:
            reader.learn(1, rows)
            assert reader.translate(1, [local])
    arrays = [said[1][0]]
    assert reader.translate(1, arrays)
    assert [later[i] for i in arrays[0].to_pylist()] == [table[i] for i in (0, 2, 3)]


def test_nothing_is_announced_twice() -> None:
    scribe = TagScribe(tag_table(5))
    assert scribe.translate(1, pa.array([1, 2], pa.int32()))[1]
    assert not scribe.translate(1, pa.array([2, 1, 1], pa.int32()))[1]
    assert len(scribe.translate(1, pa.array([2, 3], pa.int32()))[1]) == 2


def test_an_entry_whose_tags_are_damaged_is_refused_and_never_given_other_names() -> None:
    table = tag_table(6)
    scribe, reader = TagScribe(table), TagReader(TagTable())
    lost, _ = scribe.translate(1, pa.array([0, 1], pa.int32()))
    kept, rows = scribe.translate(1, pa.array([2], pa.int32()))
    assert not reader.translate(1, [lost])
    reader.learn(1, rows)
    assert not reader.translate(1, [lost])
    assert reader.translate(1, [kept])
    assert not reader.translate(2, [kept]), "numbers hold in their segment only"


def test_a_tag_row_that_could_not_be_written_is_announced_again_under_another_number() -> None:
    table = tag_table(6)
    scribe, reader, later = TagScribe(table), TagReader(TagTable()), TagTable()
    first, rows = scribe.translate(1, pa.array([0], pa.int32()))
    reader = TagReader(later)
    reader.learn(1, rows)
    scribe.translate(1, pa.array([1, 2], pa.int32()))  # its rows never reach the disk
    scribe.announce_again()
    second, rows = scribe.translate(1, pa.array([2, 0], pa.int32()))
    reader.learn(1, rows)
    for numbers, ids in ((first, [0]), (second, [2, 0])):
        arrays = [numbers]
        assert reader.translate(1, arrays)
        assert [later[i] for i in arrays[0].to_pylist()] == [table[i] for i in ids]


def test_a_tag_added_after_the_scribe_was_made_is_known() -> None:
    table = tag_table(2)
    scribe = TagScribe(table)
    scribe.translate(1, pa.array([0], pa.int32()))
    more = tag_table(50)
    for i in range(50):
        table.intern(more[i])
    local, rows = scribe.translate(1, pa.array([49, 0], pa.int32()))
    assert local.to_pylist() == [1, 0]
    assert local.type == pa.int32()
    assert len(rows) == 2


@pytest.mark.parametrize("compression", list(Compression))
def test_compression_is_told_apart_and_pays(compression: Compression) -> None:
    arrays = raw_columns(stream(tag_table(100), range(1000)))
    mask, size, data = encode(arrays, compression)
    assert data.size < size / (2 if compression is Compression.LZ4 else 4)
    assert [plain(a) for a in decode(mask, size, memoryview(data))] == [plain(a) for a in arrays]


def test_what_is_just_large_enough_to_be_compressed_survives() -> None:
    table, sizes = tag_table(), set()
    for length in range(0, 900, 8):
        arrays = raw_columns(stream(table, [1], text="x" * length))
        mask, size, data = encode(arrays)
        sizes.add(size)
        assert (data.size < size) == (size >= 1024)
        assert [plain(a) for a in decode(mask, size, memoryview(data))] == [plain(a) for a in arrays]
    assert 1024 in sizes


def test_numbers_are_known_up_to_the_last_that_was_announced() -> None:
    scribe, reader = TagScribe(tag_table(6)), TagReader(TagTable())
    local, rows = scribe.translate(1, pa.array([2, 3, 4], pa.int32()))
    reader.learn(1, rows)
    assert reader.translate(1, [local])
    for number in (3, 4, 100):
        assert not reader.translate(1, [pa.array([0, number], pa.int32())])
    assert not reader.translate(1, [pa.array([], pa.int32())]), "an entry without readings was never written"
