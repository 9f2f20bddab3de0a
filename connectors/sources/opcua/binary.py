"""OPC UA Binary (OPC 10000-6 clause 5.2): values from bytes. Pure functions, no client library.

Offsets run through all functions as ``pos``: each takes the bytes and where to begin, and returns where it ended. Values come
out as `normalization.reading.Columns` takes them: numbers, booleans, text and bytes as they are; DateTime in ISO 8601 with
100 ns, Guid, NodeId and QualifiedName as text; LocalizedText as its text; StatusCode as its number; arrays, matrices (nested)
and structures (by field name) as lists and dicts. Text that is not UTF-8 stays bytes.
"""

import datetime
import math
import struct
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from connectors.sources.opcua.names import format_node_id

EPOCH: Final = 116_444_736_000_000_000  # 1970-01-01 in 100 ns since 1601-01-01
LAST: Final = 2_650_467_743_990_000_000  # 9999-12-31T23:59:59
_ZERO: Final = datetime.datetime(1601, 1, 1, tzinfo=datetime.UTC)
_MAX_DEPTH: Final = 100  # levels that OPC 10000-6 clause 5.1.5 asks of a decoder
_MAX_ELEMENTS: Final = 1_000_000  # of one array

EXTENSION_OBJECT: Final = 22
VARIANT: Final = 24


class Malformed(ValueError):
    """The bytes are not what the specification says, and where the next value begins is lost."""


@dataclass(slots=True)
class StructureField:
    """A field of a structure.

    Attributes:
        name: Name of the field.
        builtin: Number of the built-in type that it is encoded as.
        structure: Its structure, when it is one that is encoded in place.
        rank: 0 for a scalar, 1 for an array, n for a matrix of n dimensions.
        optional: The encoding mask says whether it is there.
    """

    name: str
    builtin: int
    structure: "Structure | None" = None
    rank: int = 0
    optional: bool = False


@dataclass(slots=True)
class Structure:
    """How a structure is encoded (OPC 10000-3 clause 8.48).

    Attributes:
        name: Name of the type.
        fields: Its fields in the order of encoding, inherited ones first.
        masked: It begins with a mask of the optional fields that are there.
        union: It is one of its fields, chosen by a number.
    """

    name: str
    fields: list[StructureField] = field(default_factory=list)
    masked: bool = False
    union: bool = False


@dataclass(slots=True)
class Types:
    """What is known about the structures of one server, and what was met while decoding.

    Attributes:
        structures: By node id of the binary encoding.
        missing: Encodings that were met and are not in `structures`; their values stay bytes.
        problems: Why structures could not be decoded, since the list was last emptied.
        standard: Decodes structures of the specification by encoding and body; None for what it does not know.
    """

    structures: dict[str, Structure] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    standard: Callable[[str, bytes], Any] | None = None


def microseconds(ticks: int) -> int | None:
    """A DateTime as µs since 1970; None where it says nothing (0, negative) or lies behind the year 9999."""
    return (ticks - EPOCH) // 10 if 0 < ticks < LAST else None


def iso_time(ticks: int) -> str:
    """A DateTime as ISO 8601 with 100 ns; what lies outside 1601–9999 becomes the nearer end (OPC 10000-6 5.2.2.5)."""
    ticks = min(max(ticks, 0), LAST)
    seconds, rest = divmod(ticks, 10_000_000)
    whole = (_ZERO + datetime.timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{rest:07d}Z" if rest else f"{whole}Z"


_u8: Final = struct.Struct("<B").unpack_from
_u16: Final = struct.Struct("<H").unpack_from
_i32: Final = struct.Struct("<i").unpack_from
_u32: Final = struct.Struct("<I").unpack_from
_i64: Final = struct.Struct("<q").unpack_from
NUMBERS: Final = {1: "?", 2: "b", 3: "B", 4: "h", 5: "H", 6: "i", 7: "I", 8: "q", 9: "Q", 10: "f", 11: "d"}

Read = tuple[Any, int]


def _number(code: str) -> Callable[[bytes, int, Types, int], Read]:
    layout = struct.Struct(f"<{code}")
    unpack, size = layout.unpack_from, layout.size

    def read(data: bytes, pos: int, types: Types, depth: int) -> Read:  # noqa: ARG001
        return unpack(data, pos)[0], pos + size

    return read


def byte_string(data: bytes, pos: int, *_: Any) -> tuple[bytes | None, int]:
    """A ByteString; None when it is null."""
    (length,) = _i32(data, pos)
    pos += 4
    if length < 0:
        return None, pos
    if length > len(data) - pos:
        msg = f"a string of {length} bytes, of which {len(data) - pos} are there"
        raise Malformed(msg)
    return data[pos : pos + length], pos + length


def string(data: bytes, pos: int, *_: Any) -> tuple[str | bytes | None, int]:
    """A String; None when it is null, bytes when it is not UTF-8."""
    raw, pos = byte_string(data, pos)
    if raw is None:
        return None, pos
    try:
        return raw.decode(), pos
    except UnicodeDecodeError:
        return raw, pos


def _text(data: bytes, pos: int) -> tuple[str, int]:
    raw, pos = byte_string(data, pos)
    return (raw or b"").decode("utf-8", "replace"), pos


def _date_time(data: bytes, pos: int, *_: Any) -> Read:
    return iso_time(_i64(data, pos)[0]), pos + 8


def _guid(data: bytes, pos: int, *_: Any) -> Read:
    if pos + 16 > len(data):
        msg = "the message ends within a Guid"
        raise Malformed(msg)
    return str(uuid.UUID(bytes_le=data[pos : pos + 16])), pos + 16


def node_id(data: bytes, pos: int, *_: Any) -> tuple[str, int]:
    """A NodeId or ExpandedNodeId in text (OPC 10000-6 clause 5.2.2.9)."""
    (encoding,) = _u8(data, pos)
    pos += 1
    namespace: int | str
    identifier: int | str | uuid.UUID | bytes
    raw: bytes | None
    match encoding & 0x3F:
        case 0:
            namespace, identifier, pos = 0, data[pos], pos + 1
        case 1:
            namespace, identifier, pos = data[pos], _u16(data, pos + 1)[0], pos + 3
        case 2:
            namespace, identifier, pos = _u16(data, pos)[0], _u32(data, pos + 2)[0], pos + 6
        case 3:
            namespace = _u16(data, pos)[0]
            identifier, pos = _text(data, pos + 2)
        case 4:
            namespace = _u16(data, pos)[0]
            text, pos = _guid(data, pos + 2)
            identifier = uuid.UUID(text)
        case 5:
            namespace = _u16(data, pos)[0]
            raw, pos = byte_string(data, pos + 2)
            identifier = raw or b""
        case other:
            msg = f"node id with the unknown encoding {other}"
            raise Malformed(msg)
    server = ""
    index: int
    if encoding & 0x80:
        uri, pos = _text(data, pos)
        namespace = uri or namespace
    if encoding & 0x40:
        (index,) = _u32(data, pos)
        server, pos = f"svr={index};", pos + 4
    return server + format_node_id(namespace, identifier), pos


def _qualified_name(data: bytes, pos: int, *_: Any) -> Read:
    (namespace,) = _u16(data, pos)
    name, pos = _text(data, pos + 2)
    return f"{namespace}:{name}" if namespace else name, pos


def _localized_text(data: bytes, pos: int, *_: Any) -> Read:
    (mask,) = _u8(data, pos)
    pos += 1
    if mask & 1:
        pos = byte_string(data, pos)[1]
    return string(data, pos) if mask & 2 else (None, pos)


def _extension_object(data: bytes, pos: int, types: Types, depth: int) -> Read:
    encoding, pos = node_id(data, pos)
    (form,) = _u8(data, pos)
    pos += 1
    if form == 0:
        return (None if encoding == "i=0" else {"TypeId": encoding, "Body": None}), pos
    if form == 2:
        body, pos = string(data, pos)
        return {"TypeId": encoding, "Body": body}, pos
    if form != 1:
        msg = f"a structure with the unknown encoding {form}"
        raise Malformed(msg)
    raw, pos = byte_string(data, pos)
    raw = raw or b""
    structure = types.structures.get(encoding)
    if structure is None:
        if types.standard is not None and (known := types.standard(encoding, raw)) is not None:
            return known, pos
        types.missing.add(encoding)
        return {"TypeId": encoding, "Body": raw}, pos
    try:
        value, end = _structure(raw, 0, structure, types, depth + 1)
    except (Malformed, struct.error, IndexError) as error:
        types.problems.append(f"structure {structure.name} does not fit its definition: {error}")
        return {"TypeId": encoding, "Body": raw}, pos
    if end != len(raw):
        types.problems.append(f"structure {structure.name} is {len(raw)} bytes long, its definition says {end}")
        return {"TypeId": encoding, "Body": raw}, pos
    return value, pos


def _structure(data: bytes, pos: int, structure: Structure, types: Types, depth: int) -> Read:
    if depth > _MAX_DEPTH:
        msg = f"more than {_MAX_DEPTH} levels"
        raise Malformed(msg)
    if structure.union:
        (choice,) = _u32(data, pos)
        pos += 4
        if choice == 0:
            return None, pos
        if choice > len(structure.fields):
            msg = f"choice {choice} of {len(structure.fields)}"
            raise Malformed(msg)
        part = structure.fields[choice - 1]
        value, pos = _field(data, pos, part, types, depth)
        return {part.name: value}, pos
    mask = 0
    if structure.masked:
        (mask,) = _u32(data, pos)
        pos += 4
    out: dict[str, Any] = {}
    bit = 1
    for part in structure.fields:
        if part.optional:
            present, bit = mask & bit, bit << 1
            if not present:
                continue
        out[part.name], pos = _field(data, pos, part, types, depth)
    return out, pos


def _field(data: bytes, pos: int, part: StructureField, types: Types, depth: int) -> Read:
    if part.rank == 0:
        if part.structure is not None:
            return _structure(data, pos, part.structure, types, depth + 1)
        return _READ[part.builtin](data, pos, types, depth + 1)
    if part.rank > 1:  # dimensions first, then the elements (OPC 10000-6 clause 5.2.5)
        dimensions, pos = _array(data, pos, 6, types, depth)
        count = math.prod(max(0, d) for d in dimensions or ())
        values, pos = _elements(data, pos, count, part, types, depth)
        return _reshape(values, dimensions or []), pos
    (count,) = _i32(data, pos)
    pos += 4
    return (None, pos) if count < 0 else _elements(data, pos, count, part, types, depth)


def _elements(data: bytes, pos: int, count: int, part: StructureField, types: Types, depth: int) -> Read:
    _check_count(data, pos, count)
    if part.structure is None:
        return _values(data, pos, count, part.builtin, types, depth)
    values = []
    for _ in range(count):
        value, pos = _structure(data, pos, part.structure, types, depth + 1)
        values.append(value)
    return values, pos


def _check_count(data: bytes, pos: int, count: int) -> None:
    if count > min(len(data) - pos, _MAX_ELEMENTS):  # every element takes a byte, so a hostile length costs nothing
        msg = f"an array of {count} elements in {len(data) - pos} bytes"
        raise Malformed(msg)


def _values(data: bytes, pos: int, count: int, builtin: int, types: Types, depth: int) -> Read:
    code = NUMBERS.get(builtin)
    if code is not None:
        layout = f"<{count}{code}"
        return list(struct.unpack_from(layout, data, pos)), pos + struct.calcsize(layout)
    read = _READ[builtin]
    values = []
    for _ in range(count):
        value, pos = read(data, pos, types, depth + 1)
        values.append(value)
    return values, pos


def _array(data: bytes, pos: int, builtin: int, types: Types, depth: int) -> Read:
    (count,) = _i32(data, pos)
    pos += 4
    if count < 0:
        return None, pos
    _check_count(data, pos, count)
    return _values(data, pos, count, builtin, types, depth)


def _reshape(values: list[Any], dimensions: Sequence[int]) -> list[Any]:
    if len(dimensions) < 2 or not values or math.prod(dimensions) != len(values):
        return values
    for size in reversed(dimensions[1:]):
        values = [values[at : at + size] for at in range(0, len(values), size)]
    return values


def variant(data: bytes, pos: int, types: Types, depth: int = 0) -> Read:
    """The value of a Variant (OPC 10000-6 clause 5.2.2.16)."""
    (encoding,) = _u8(data, pos)
    pos += 1
    builtin = encoding & 0x3F
    if depth > _MAX_DEPTH:
        msg = f"more than {_MAX_DEPTH} levels"
        raise Malformed(msg)
    if builtin == 0:
        return None, pos
    if builtin > 25:
        builtin = 15  # reserved numbers are taken as ByteString (OPC 10000-6 clause 5.1.2)
    if not encoding & 0x80:
        return _READ[builtin](data, pos, types, depth + 1)
    values, pos = _array(data, pos, builtin, types, depth + 1)
    if encoding & 0x40:
        dimensions, pos = _array(data, pos, 6, types, depth)
        if values is not None:
            values = _reshape(values, dimensions or [])
    return values, pos


def _data_value(data: bytes, pos: int, types: Types, depth: int) -> Read:
    value, _, status, source, server, pos = data_value(data, pos, types, depth + 1)
    out: dict[str, Any] = {"Value": value}
    if status:
        out["StatusCode"] = status
    if source:
        out["SourceTimestamp"] = iso_time(source)
    if server:
        out["ServerTimestamp"] = iso_time(server)
    return out, pos


def data_value(data: bytes, pos: int, types: Types, depth: int = 0) -> tuple[Any, int, int, int, int, int]:
    """A DataValue (OPC 10000-6 clause 5.2.2.17).

    Returns:
        Value, number of its built-in type (0 for arrays), status, source and server time (100 ns since 1601, 0 when not
        said), and where it ended.
    """
    (mask,) = _u8(data, pos)
    pos += 1
    value: Any = None
    builtin = status = source = server = 0
    if mask & 1:
        builtin = data[pos] & 0xBF
        value, pos = variant(data, pos, types, depth)
    if mask & 2:
        (status,) = _u32(data, pos)
        pos += 4
    if mask & 4:
        (source,) = _i64(data, pos)
        pos += 8
    if mask & 16:
        pos += 2  # picoseconds beyond the 100 ns
    if mask & 8:
        (server,) = _i64(data, pos)
        pos += 8
    if mask & 32:
        pos += 2
    if pos > len(data):
        msg = "the message ends within a value"
        raise Malformed(msg)
    return value, builtin, status, source, server, pos


def _diagnostic_info(data: bytes, pos: int, types: Types, depth: int) -> Read:
    if depth > _MAX_DEPTH:
        msg = f"more than {_MAX_DEPTH} levels"
        raise Malformed(msg)
    (mask,) = _u8(data, pos)
    pos += 1
    out: dict[str, Any] = {}
    for bit, name in ((1, "SymbolicId"), (2, "NamespaceUri"), (8, "Locale"), (4, "LocalizedText")):
        if mask & bit:
            out[name], pos = _i32(data, pos)[0], pos + 4
    if mask & 16:
        out["AdditionalInfo"], pos = string(data, pos)
    if mask & 32:
        out["InnerStatusCode"], pos = _u32(data, pos)[0], pos + 4
    if mask & 64:
        out["InnerDiagnosticInfo"], pos = _diagnostic_info(data, pos, types, depth + 1)
    return out, pos


def response_header(data: bytes) -> tuple[int, int, int]:
    """The header of a response (OPC 10000-4 clause 7.33), with the type before it.

    Returns:
        Number of the response's encoding id (-1 when it has none), status, and where the header ended.

    Raises:
        Malformed: It is none.
    """
    try:
        if data[:2] == b"\x01\x00":
            (kind,), pos = _u16(data, 2), 4
        else:
            (_, pos), kind = node_id(data, 0), -1
        (status,) = _u32(data, pos + 12)
        pos += 16
        if data[pos : pos + 8] in _PLAIN_ENDS:
            return kind, status, pos + 8
        types = Types()
        _, pos = _diagnostic_info(data, pos, types, 0)
        _, pos = _array(data, pos, 12, types, 0)
        _, pos = _extension_object(data, pos, types, 0)
    except (struct.error, IndexError) as error:
        raise Malformed(str(error)) from None
    return kind, status, pos


_PLAIN_ENDS: Final = (bytes(8), b"\0\xff\xff\xff\xff\0\0\0")  # no diagnostics, no strings, no additional header

_READ: Final[dict[int, Callable[[bytes, int, Types, int], Read]]] = {
    **{builtin: _number(code) for builtin, code in NUMBERS.items()},
    12: string,
    13: _date_time,
    14: _guid,
    15: byte_string,
    16: string,
    17: node_id,
    18: node_id,
    19: _number("I"),
    20: _qualified_name,
    21: _localized_text,
    22: _extension_object,
    23: _data_value,
    24: variant,
    25: _diagnostic_info,
}
