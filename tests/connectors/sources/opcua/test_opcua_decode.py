"""Decoding OPC UA Binary, against what asyncua encodes."""

import datetime
import json
import struct
import uuid
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary, variant_to_binary
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.sources.opcua.binary import (
    Malformed,
    Structure,
    StructureField,
    Types,
    iso_time,
    microseconds,
    variant,
)
from connectors.sources.opcua.decode import Item, LostBefore, ValueDecoder
from connectors.sources.opcua.notification import DATA_CHANGE, STATUS_CHANGE, notification
from normalization.reading import Columns, Quality, ValueType

V = ua.VariantType
TIME = datetime.datetime(2025, 3, 4, 5, 6, 7, 890123, tzinfo=datetime.UTC)
MICROSECONDS = 1_741_064_767_890_123


def decoded(value: Any, kind: ua.VariantType, **more: Any) -> Any:
    data = variant_to_binary(ua.Variant(value, kind, **more))
    out, pos = variant(data, 0, Types())
    assert pos == len(data)
    return out


def change(*values: tuple[int, ua.DataValue]) -> bytes:
    """The body of a DataChangeNotification."""
    items = [ua.MonitoredItemNotification(handle, value) for handle, value in values]
    return struct_to_binary(ua.DataChangeNotification(items, []))


def decoder(count: int = 8, types: Types | None = None, **more: Any) -> ValueDecoder:
    return ValueDecoder([Item(100 + at) for at in range(count)], types or Types(), **more)


INTEGERS = {
    V.SByte: (-(2**7), 2**7 - 1), V.Byte: (0, 2**8 - 1), V.Int16: (-(2**15), 2**15 - 1), V.UInt16: (0, 2**16 - 1),
    V.Int32: (-(2**31), 2**31 - 1), V.UInt32: (0, 2**32 - 1), V.Int64: (-(2**63), 2**63 - 1), V.UInt64: (0, 2**64 - 1),
}  # fmt: skip


def scalars() -> st.SearchStrategy[tuple[ua.VariantType, Any]]:
    numbers = [st.tuples(st.just(kind), st.integers(*ends)) for kind, ends in INTEGERS.items()]
    return st.one_of(
        *numbers,
        st.tuples(st.just(V.Boolean), st.booleans()),
        st.tuples(st.just(V.Double), st.floats(allow_nan=False)),
        st.tuples(st.just(V.Float), st.floats(allow_nan=False, width=32)),
        st.tuples(st.just(V.String), st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"])))),
        st.tuples(st.just(V.ByteString), st.one_of(st.none(), st.binary(max_size=40))),
    )


@given(scalars())
def test_scalars_come_out_as_they_went_in(case):
    kind, value = case
    assert decoded(value, kind) == value


@given(st.one_of(*(st.tuples(st.just(k), st.lists(st.integers(*ends), max_size=20)) for k, ends in INTEGERS.items())))
def test_arrays_come_out_as_they_went_in(case):
    kind, values = case
    assert decoded(values, kind) == values


def test_matrices_are_nested():
    assert decoded([[1, 2, 3], [4, 5, 6]], V.Int32) == [[1, 2, 3], [4, 5, 6]]
    assert decoded([[["a"], ["b"]], [["c"], ["d"]]], V.String) == [[["a"], ["b"]], [["c"], ["d"]]]


def test_dimensions_that_do_not_fit_leave_the_array_flat():
    data = struct.pack("<Bi3di2i", 11 | 0xC0, 3, 1.0, 2.0, 3.0, 2, 2, 2)
    assert variant(data, 0, Types()) == ([1.0, 2.0, 3.0], len(data))


def test_other_built_in_types_are_text_or_json():
    guid = uuid.uuid4()
    assert decoded(guid, V.Guid) == str(guid)
    assert decoded(TIME, V.DateTime) == "2025-03-04T05:06:07.8901230Z"
    assert decoded(ua.NodeId("Pump", 2), V.NodeId) == "ns=2;s=Pump"
    assert decoded(ua.NodeId(b"\x01\x02", 3), V.NodeId) == "ns=3;b=AQI="
    assert decoded(ua.NodeId(guid, 3), V.NodeId) == f"ns=3;g={guid}"
    assert decoded(ua.ExpandedNodeId(7, 0, ua.NodeIdType.Numeric, "http://x/;y", 1), V.ExpandedNodeId) == (
        "svr=1;nsu=http://x/%3By;i=7"
    )
    assert decoded(ua.StatusCode(0x80340000), V.StatusCode) == 0x80340000
    assert decoded(ua.QualifiedName("Name", 2), V.QualifiedName) == "2:Name"
    assert decoded(ua.LocalizedText("Öl", "de"), V.LocalizedText) == "Öl"
    assert decoded(ua.LocalizedText(), V.LocalizedText) is None
    assert decoded([ua.Variant(1, V.Int16), ua.Variant("a", V.String)], V.Variant) == [1, "a"]


def test_text_that_is_not_utf_8_stays_bytes():
    assert variant(b"\x0c\x02\x00\x00\x00\xff\xfe", 0, Types()) == (b"\xff\xfe", 7)


@pytest.mark.parametrize(
    ("ticks", "text", "moment"),
    [
        (-5, "1601-01-01T00:00:00Z", None),
        (0, "1601-01-01T00:00:00Z", None),
        (1, "1601-01-01T00:00:00.0000001Z", -11_644_473_600_000_000),
        (2**63 - 1, "9999-12-31T23:59:59Z", None),
        (116_444_736_000_000_010, "1970-01-01T00:00:00.0000010Z", 1),
    ],
)
def test_times_out_of_range_become_the_nearer_end(ticks, text, moment):
    assert iso_time(ticks) == text
    assert microseconds(ticks) == moment


@given(
    scalars(),
    st.sampled_from([0, 0x40000000, 0x80340000, 0x480]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 7),
)
@settings(deadline=None)
def test_a_notification_is_decoded_as_asyncua_encodes_it(case, status, with_source, with_server, handle):
    kind, value = case
    data_value = ua.DataValue(
        ua.Variant(value, kind),
        ua.StatusCode(status),
        SourceTimestamp=TIME if with_source else None,
        ServerTimestamp=TIME + datetime.timedelta(seconds=1) if with_server else None,
    )
    for server_time in (False, True):
        rows = Columns()
        overflowed = decoder(server_time=server_time).data_change(change((handle, data_value)), rows)
        assert rows.tag == [100 + handle]
        assert rows.reject == [None]
        assert rows.status == [status]
        assert overflowed == ([100 + handle] if status == 0x480 else [])
        shown = with_server if server_time else with_source
        assert rows.source_time == [(MICROSECONDS + 1_000_000 * server_time) if shown else None]
        expected = Columns()
        expected.add(0, value, unsigned=kind == V.UInt64)
        for name in ("type", "value_double", "value_int", "value_text", "value_bytes"):
            assert getattr(rows, name) == getattr(expected, name)


def test_a_null_with_a_bad_status_is_a_reading():
    rows = Columns()
    decoder().data_change(change((3, ua.DataValue(None, ua.StatusCode(0x80340000)))), rows)
    assert (rows.tag, rows.type, rows.quality, rows.status) == ([103], [ValueType.NULL], [Quality.BAD], [0x80340000])


def test_an_unsigned_number_above_the_signed_range_keeps_its_bits():
    rows = Columns()
    decoder().data_change(change((0, ua.DataValue(ua.Variant(2**64 - 1, V.UInt64)))), rows)
    assert (rows.type, rows.value_int) == ([ValueType.UINT64], [-1])


def test_picoseconds_are_passed_over():
    value = struct.pack("<BBdQHQH", 0x3D, 11, 1.5, 116_444_736_000_000_010, 7, 116_444_736_000_000_020, 9)
    body = struct.pack("<iI", 2, 0) + value + struct.pack("<I", 1) + value + struct.pack("<i", -1)
    rows = Columns()
    decoder().data_change(body, rows)
    assert (rows.value_double, rows.source_time, rows.reject) == ([1.5, 1.5], [1, 1], [None, None])


def test_an_enumeration_carries_its_name():
    rows = Columns()
    items = [Item(0, {2: '{"enum":"Running"}'})]
    ValueDecoder(items, Types()).data_change(
        change((0, ua.DataValue(ua.Variant(2, V.Int32))), (0, ua.DataValue(ua.Variant(9, V.Int32)))), rows
    )
    assert rows.properties == ['{"enum":"Running"}', None]
    assert rows.value_int == [2, 9]


# -- structures

POINT = Structure("Point", [StructureField("x", 11), StructureField("y", 11)])
RECIPE = Structure(
    "Recipe",
    [
        StructureField("name", 12),
        StructureField("steps", 6, rank=1),
        StructureField("origin", 22, POINT),
        StructureField("path", 22, POINT, rank=1),
        StructureField("grid", 3, rank=2),
    ],
)


def extension(type_id: int, body: bytes) -> bytes:
    return b"\x16" + struct.pack("<BBHBi", 1, 2, type_id, 1, len(body)) + body


def test_a_structure_becomes_an_object_by_field_name():
    body = struct.pack("<i3s", 3, b"abc") + struct.pack("<3i", 2, 7, 8) + struct.pack("<2d", 1, 2)
    body += struct.pack("<i2d", 1, 3, 4) + struct.pack("<3i4B", 2, 2, 2, 1, 2, 3, 4)
    types = Types({"ns=2;i=500": RECIPE})
    value, _ = variant(extension(500, body), 0, types)
    assert value == {
        "name": "abc",
        "steps": [7, 8],
        "origin": {"x": 1.0, "y": 2.0},
        "path": [{"x": 3.0, "y": 4.0}],
        "grid": [[1, 2], [3, 4]],
    }
    assert not types.problems


def test_optional_fields_and_unions():
    optional = Structure("O", [StructureField("a", 6), StructureField("b", 6, optional=True), StructureField("c", 6, optional=True)], masked=True)  # fmt: skip
    union = Structure("U", [StructureField("text", 12), StructureField("number", 11)], union=True)
    types = Types({"ns=2;i=1": optional, "ns=2;i=2": union})
    assert variant(extension(1, struct.pack("<Iii", 2, 5, 6)), 0, types)[0] == {"a": 5, "c": 6}
    assert variant(extension(2, struct.pack("<Id", 2, 2.5)), 0, types)[0] == {"number": 2.5}
    assert variant(extension(2, struct.pack("<I", 0)), 0, types)[0] is None
    assert not types.problems


def test_an_unknown_structure_keeps_its_bytes_and_is_named():
    types = Types()
    assert variant(extension(9, b"abc"), 0, types)[0] == {"TypeId": "ns=2;i=9", "Body": b"abc"}
    assert types.missing == {"ns=2;i=9"}


def test_a_structure_that_does_not_fit_is_a_reject_and_the_values_behind_it_are_kept():
    types = Types({"ns=2;i=500": POINT})
    good = struct.pack("<I", 1) + b"\x01\x0b" + struct.pack("<d", 1.5)
    for body in (b"short", struct.pack("<3d", 1, 2, 3)):
        message = struct.pack("<iI", 2, 0) + b"\x01" + extension(500, body) + good + struct.pack("<i", 0)
        rows = Columns()
        decoder(types=types).data_change(message, rows)
        assert rows.tag == [100, 101]
        assert "Point" in (rows.reject[0] or "")
        assert body in (rows.value_bytes[0] or b"")
        assert (rows.value_double[1], rows.reject[1]) == (1.5, None)


# -- hostile bytes


def test_what_is_cut_off_is_one_reject_and_what_came_before_is_kept():
    whole = change((0, ua.DataValue(ua.Variant(1.5, V.Double))), (1, ua.DataValue(ua.Variant("abc", V.String))))
    rows = Columns()
    decoder().data_change(whole[:-6], rows)
    assert rows.tag == [100, 101]
    assert rows.value_double[0] == 1.5
    assert "cannot be decoded" in (rows.reject[1] or "")


def test_an_unknown_handle_is_a_reject():
    rows = Columns()
    decoder(2).data_change(
        change((7, ua.DataValue(ua.Variant(1.5, V.Double))), (1, ua.DataValue(ua.Variant("a", V.String)))), rows
    )
    assert ["unknown handle 7" in (reason or "") for reason in rows.reject] == [True, False]


@pytest.mark.parametrize("builtin", [1, 11, 12, 22, 23, 24, 25])
def test_a_hostile_array_length_costs_nothing(builtin):
    with pytest.raises(Malformed, match="elements"):
        variant(bytes([builtin | 0x80]) + struct.pack("<i", 2**31 - 1) + b"\x00" * 100, 0, Types())


def test_dimensions_with_zeros_cost_nothing():
    data = struct.pack("<Bii2i", 6 | 0xC0, 0, 2, 2**31 - 1, 0)
    assert variant(data, 0, Types())[0] == []


@pytest.mark.parametrize("level", [b"\x18", b"\x98\x01\x00\x00\x00", b"\x17\x01", b"\x97\x01\x00\x00\x00\x01"])
def test_endless_nesting_is_refused(level):
    body = struct.pack("<iI", 1, 0) + b"\x01" + level * 20_000 + b"\x00"
    rows = Columns()
    decoder().data_change(body, rows)
    assert "levels" in (rows.reject[0] or "")


@settings(max_examples=300)
@given(st.binary(max_size=200), st.integers(1, 3))
def test_any_bytes_become_rows_and_never_an_exception(data, count):
    rows = Columns()
    decoder(types=Types({"i=0": POINT})).data_change(struct.pack("<i", count) + data, rows)
    rows.to_batch([0] * len(rows), 0)
    assert len(rows) >= 1


@settings(max_examples=200)
@given(st.binary(max_size=120))
def test_any_bytes_of_a_publish_response_are_refused_or_taken_apart(data):
    try:
        message = notification(data, 0)
    except Malformed:
        return
    assert all(0 <= start <= end <= len(data) for _, start, end in message.parts)


def test_a_publish_response_is_taken_apart():
    response = ua.PublishResponse()
    response.Parameters.SubscriptionId = 5
    response.Parameters.AvailableSequenceNumbers = [1, 2]
    response.Parameters.MoreNotifications = True
    body = ua.DataChangeNotification([ua.MonitoredItemNotification(1, ua.DataValue(ua.Variant(2.5)))], [])
    response.Parameters.NotificationMessage.SequenceNumber = 9
    response.Parameters.NotificationMessage.NotificationData = [body, ua.StatusChangeNotification()]
    data = struct_to_binary(response.Parameters)
    message = notification(data, 0)
    assert (message.subscription, message.sequence, message.more) == (5, 9, True)
    assert [kind for kind, _, _ in message.parts] == [DATA_CHANGE, STATUS_CHANGE]
    rows = Columns()
    decoder().data_change(data[message.parts[0][1] : message.parts[0][2]], rows)
    assert rows.value_double == [2.5]


def test_an_answer_for_other_nodes_is_refused():
    body = struct.pack("<i", 2) + b"\x01\x0b" + struct.pack("<d", 1.5) + b"\x00"
    rows = Columns()
    with pytest.raises(Malformed, match="2 values for 3 nodes"):
        decoder().read_results(body, 0, np.array([0, 1, 2]), rows)
    decoder().read_results(body, 0, np.array([0, 1]), rows)
    assert (rows.value_double, rows.type) == ([1.5, None], [ValueType.DOUBLE, ValueType.NULL])


def test_structures_of_a_row_are_json():
    rows = Columns()
    types = Types({"ns=2;i=500": POINT})
    body = struct.pack("<iI", 1, 0) + b"\x01" + extension(500, struct.pack("<2d", 1, 2)) + struct.pack("<i", 0)
    decoder(types=types).data_change(body, rows)
    assert json.loads(rows.value_text[0] or "") == {"x": 1, "y": 2}


@pytest.mark.parametrize("count", [3, 40], ids=["one by one", "in a run"])
def test_what_overflowed_stands_before_its_value_where_history_has_it(count):
    """Handle 1 has a history, handle 2 has none."""
    at_ = [TIME + datetime.timedelta(seconds=at) for at in range(count)]
    status = {1: 0x480, 2: 0x480}
    values = [
        (at % 4, ua.DataValue(ua.Variant(1.5, V.Double), ua.StatusCode(ua.UInt32(status.get(at, 0))), SourceTimestamp=when))
        for at, when in enumerate(at_)
    ]  # fmt: skip
    taken = decoder()
    taken.seen, taken.fillable = [], np.array([False, True] + [False] * 6)
    assert taken.data_change(change(*values), Columns()) == [102]
    before = taken.seen.index(LostBefore(1, MICROSECONDS + 1_000_000))
    assert [entry for entry in taken.seen if isinstance(entry, LostBefore)] == [taken.seen[before]]
    assert [handle for handles, _ in taken.seen[:before] for handle in np.atleast_1d(handles)] == [0]
    assert [handle for handles, _ in taken.seen[before + 1 :] for handle in np.atleast_1d(handles)][:2] == [1, 2]
