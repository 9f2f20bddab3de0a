"""Sparkplug B: values of all data types, properties and quality (specification 3.0, §6)."""

import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any, Final

from normalization.quality import sparkplug_quality
from normalization.reading import Quality

_MAX_DEPTH = 16
_MAX_ELEMENTS = 1_000_000  # of an array, a data set, a template: what is larger is no reading, and fills the memory


class DataType(IntEnum):
    """Sparkplug data types (§6.4.16)."""

    UNKNOWN = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATETIME = 13
    TEXT = 14
    UUID = 15
    DATASET = 16
    BYTES = 17
    FILE = 18
    TEMPLATE = 19
    PROPERTYSET = 20
    PROPERTYSETLIST = 21
    INT8_ARRAY = 22
    INT16_ARRAY = 23
    INT32_ARRAY = 24
    INT64_ARRAY = 25
    UINT8_ARRAY = 26
    UINT16_ARRAY = 27
    UINT32_ARRAY = 28
    UINT64_ARRAY = 29
    FLOAT_ARRAY = 30
    DOUBLE_ARRAY = 31
    BOOLEAN_ARRAY = 32
    STRING_ARRAY = 33
    DATETIME_ARRAY = 34


_BITS: Final = {
    DataType.INT8: 8, DataType.INT16: 16, DataType.INT32: 32, DataType.INT64: 64,
    DataType.UINT8: 8, DataType.UINT16: 16, DataType.UINT32: 32, DataType.UINT64: 64,
}  # fmt: skip
_SIGNED: Final = frozenset({DataType.INT8, DataType.INT16, DataType.INT32, DataType.INT64})
_FLOATS: Final = frozenset({DataType.FLOAT, DataType.DOUBLE})
_PACKED: Final = {
    DataType.INT8_ARRAY: "b", DataType.INT16_ARRAY: "h", DataType.INT32_ARRAY: "i", DataType.INT64_ARRAY: "q",
    DataType.UINT8_ARRAY: "B", DataType.UINT16_ARRAY: "H", DataType.UINT32_ARRAY: "I", DataType.UINT64_ARRAY: "Q",
    DataType.FLOAT_ARRAY: "f", DataType.DOUBLE_ARRAY: "d", DataType.DATETIME_ARRAY: "q",
}  # fmt: skip
_FIELDS: Final[dict[int, str]] = {
    **dict.fromkeys((DataType.STRING, DataType.TEXT, DataType.UUID), "string_value"),
    **dict.fromkeys((DataType.BYTES, DataType.FILE), "bytes_value"),
    **dict.fromkeys(range(DataType.INT8_ARRAY, DataType.DATETIME_ARRAY + 1), "bytes_value"),
    DataType.DATASET: "dataset_value", DataType.TEMPLATE: "template_value",
    DataType.PROPERTYSET: "propertyset_value", DataType.PROPERTYSETLIST: "propertysets_value",
}  # fmt: skip
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def iso_time(milliseconds: int) -> str | int:
    """ISO 8601 text of a DateTime; the number itself where it is outside the calendar."""
    try:
        when = _EPOCH + timedelta(milliseconds=milliseconds)
    except OverflowError:
        return milliseconds
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _integer(datatype: int) -> Callable[[Any], Any]:
    bits = _BITS[DataType(datatype)]
    mask, top = (1 << bits) - 1, 1 << (bits - 1)
    if datatype not in _SIGNED:
        return lambda raw: int(raw) & mask
    return lambda raw: ((int(raw) & mask) ^ top) - top


def _milliseconds(raw: int) -> str | int:
    return iso_time(raw - 2**64 if raw >= 2**63 else raw)


_CONVERT: Final[dict[int, Callable[[Any], Any]]] = {
    **{int(datatype): _integer(datatype) for datatype in _BITS},
    DataType.FLOAT: float,
    DataType.DOUBLE: float,
    DataType.BOOLEAN: bool,
    DataType.DATETIME: _milliseconds,
}


def metric_value(metric: Any, datatype: int) -> Any:
    """The value of a metric, property, parameter or data set element.

    Args:
        metric: The protobuf message.
        datatype: Its `DataType`, which for data messages comes from the birth.

    Returns:
        int, float, bool, str, bytes, None, or a list or dict for arrays, data sets, templates and property sets.

    Raises:
        ValueError: The value does not fit the type, or is nested too deeply.
    """
    return _value(metric, datatype, 0)


def _value(message: Any, datatype: int, depth: int) -> Any:
    field = message.WhichOneof("value")
    if field is None or getattr(message, "is_null", False):
        return None
    raw = getattr(message, field)
    if field == "string_value":
        _text(raw)
    convert = _CONVERT.get(datatype)
    if convert is not None:
        if not isinstance(raw, int | float) or (isinstance(raw, float) and datatype not in _FLOATS):
            raise ValueError(f"a {field} where {type_name(datatype)} is declared")
        return convert(raw)
    if field != _FIELDS.get(datatype, field):
        raise ValueError(f"a {field} where {type_name(datatype)} is declared")
    if isinstance(raw, str):
        return raw
    if isinstance(raw, bytes):
        return _array(raw, datatype) if DataType.INT8_ARRAY <= datatype <= DataType.DATETIME_ARRAY else raw
    if isinstance(raw, int | float):
        return raw
    if depth >= _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    return _STRUCTURES[raw.DESCRIPTOR.name](raw, depth + 1)


def _text(raw: str | bytes) -> str:
    """A string field; protobuf hands out bytes where it is not UTF-8."""
    if isinstance(raw, str):
        return raw
    raise ValueError("a text that is not UTF-8")


def _array(raw: bytes, datatype: int) -> list[Any]:
    code = _PACKED.get(DataType(datatype))
    if code is not None:
        size = struct.calcsize("<" + code)
        _check_size(len(raw) // size, datatype)
        if len(raw) % size:
            raise ValueError(f"{len(raw)} bytes are no {DataType(datatype).name}")
        values = list(struct.unpack(f"<{len(raw) // size}{code}", raw))
        return [iso_time(v) for v in values] if datatype == DataType.DATETIME_ARRAY else values
    if datatype == DataType.STRING_ARRAY:
        if raw and raw[-1]:
            raise ValueError("a STRING_ARRAY whose last text does not end with a zero byte")
        _check_size(raw.count(b"\0"), datatype)
        try:
            return [part.decode() for part in raw.split(b"\0")[:-1]]
        except UnicodeDecodeError:
            raise ValueError("a STRING_ARRAY that is not UTF-8") from None
    count = int.from_bytes(raw[:4], "little")
    if len(raw) < 4 or len(raw) - 4 < (count + 7) // 8:
        raise ValueError("a BOOLEAN_ARRAY that is shorter than its count")
    _check_size(count, datatype)
    return [bool(raw[4 + i // 8] >> (7 - i % 8) & 1) for i in range(count)]


def _check_size(count: int, datatype: int) -> None:
    if count > _MAX_ELEMENTS:
        raise ValueError(f"a {type_name(datatype)} of {count} elements, more than {_MAX_ELEMENTS}")


def _data_set(message: Any, depth: int) -> dict[str, Any]:
    types = list(message.types)
    if len(message.columns) != len(types):
        raise ValueError(f"a data set of {len(message.columns)} columns with {len(types)} types")
    _check_size(len(message.rows) * max(1, len(types)), DataType.DATASET)
    rows = []
    for row in message.rows:
        elements = row.elements
        if len(elements) != len(types):
            raise ValueError(f"a data set row of {len(elements)} elements with {len(types)} columns")
        rows.append([_value(element, types[i], depth) for i, element in enumerate(elements)])
    return {"columns": [_text(name) for name in message.columns], "types": [type_name(t) for t in types], "rows": rows}


def _template(message: Any, depth: int) -> dict[str, Any]:
    out: dict[str, Any] = {}
    _check_size(len(message.metrics) + len(message.parameters), DataType.TEMPLATE)
    if message.template_ref:
        out["template"] = _text(message.template_ref)
    if message.version:
        out["version"] = _text(message.version)
    if message.is_definition:
        out["definition"] = True
    if message.parameters:
        out["parameters"] = {_text(p.name): _value(p, p.type, depth) for p in message.parameters}
    out["metrics"] = {
        _text(m.name) or str(m.alias): None if m.is_null else _value(m, m.datatype, depth) for m in message.metrics
    }
    return out


def _property_set(message: Any, depth: int) -> dict[str, Any]:
    keys, values = message.keys, message.values
    if len(keys) != len(values):
        raise ValueError(f"a property set of {len(keys)} keys with {len(values)} values")
    _check_size(len(keys), DataType.PROPERTYSET)
    return {_text(key): _value(value, value.type, depth) for key, value in zip(keys, values, strict=True)}


def _property_sets(message: Any, depth: int) -> list[dict[str, Any]]:
    return [_property_set(part, depth) for part in message.propertyset]


_STRUCTURES: Final[dict[str, Callable[[Any, int], Any]]] = {
    "DataSet": _data_set,
    "Template": _template,
    "PropertySet": _property_set,
    "PropertySetList": _property_sets,
}


def metric_name(metric: Any) -> str:
    """The name of a metric, empty when it has none.

    Raises:
        ValueError: It is not UTF-8.
    """
    return _text(metric.name)


def type_name(datatype: int) -> str:
    """Name of a data type; its number where the specification has none."""
    try:
        return DataType(datatype).name
    except ValueError:
        return str(datatype)


def properties_of(metric: Any) -> dict[str, Any]:
    """The properties of a metric by name, nested sets as dicts.

    Raises:
        ValueError: They cannot be read.
    """
    return _property_set(metric.properties, 1) if metric.HasField("properties") else {}


def quality_of(properties: dict[str, Any]) -> tuple[int, int | None]:
    """Quality and code of a metric with these properties (§6.4.11); GOOD and None when it says nothing."""
    code = properties.get("Quality")
    if not isinstance(code, int) or isinstance(code, bool):
        return Quality.GOOD, None
    return sparkplug_quality(code), code if abs(code) < 2**63 else None


def set_value(metric: Any, datatype: int, value: Any) -> None:
    """Write type and value into a metric, property or parameter; the inverse of `metric_value` for scalars and arrays.

    Args:
        metric: The protobuf message.
        datatype: A scalar or array `DataType`.
        value: As `metric_value` returns it, DateTime as milliseconds; None for null.

    Raises:
        ValueError: The value does not fit the type.
    """
    if hasattr(metric, "datatype"):
        metric.datatype = datatype
    else:
        metric.type = datatype
    if value is None:
        metric.is_null = True
    elif datatype in _BITS:
        bits = _BITS[DataType(datatype)]
        low, high = (-(1 << bits - 1), 1 << bits - 1) if datatype in _SIGNED else (0, 1 << bits)
        if not low <= value < high:
            raise ValueError(f"{value} is no {type_name(datatype)}")
        if bits == 64:
            metric.long_value = value & 2**64 - 1
        else:
            metric.int_value = value & 2**32 - 1
    elif datatype == DataType.DATETIME:
        metric.long_value = value & 2**64 - 1
    elif datatype == DataType.FLOAT:
        metric.float_value = value
    elif datatype == DataType.DOUBLE:
        metric.double_value = value
    elif datatype == DataType.BOOLEAN:
        metric.boolean_value = value
    elif datatype in {DataType.STRING, DataType.TEXT, DataType.UUID}:
        metric.string_value = value
    elif datatype in {DataType.BYTES, DataType.FILE}:
        metric.bytes_value = value
    elif DataType.INT8_ARRAY <= datatype <= DataType.DATETIME_ARRAY:
        metric.bytes_value = _packed_array(datatype, value)
    else:
        raise ValueError(f"{type_name(datatype)} is not a scalar or array")


def _packed_array(datatype: int, values: list[Any]) -> bytes:
    code = _PACKED.get(DataType(datatype))
    if code is not None:
        return struct.pack(f"<{len(values)}{code}", *values)
    if datatype == DataType.STRING_ARRAY:
        return b"".join(str(value).encode() + b"\0" for value in values)
    bits = bytearray((len(values) + 7) // 8)
    for i, value in enumerate(values):
        bits[i // 8] |= bool(value) << (7 - i % 8)
    return struct.pack("<I", len(values)) + bytes(bits)
