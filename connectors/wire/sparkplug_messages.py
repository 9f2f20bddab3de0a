"""The protobuf messages of Sparkplug B payloads (specification 3.0, §6).

The message classes are built at run time from a descriptor that is written down here as a table of field numbers, so there
is no generated file and decoding runs in protobuf's C core. The descriptor lives in a pool of its own and cannot clash with
another library's.
"""

import zlib
from functools import cache
from typing import Any, Final

_COMPRESSED = "SPBV1.0_COMPRESSED"
_MAX_UNPACKED = 16 * 1024 * 1024
_SCANNED = 1024 * 1024  # bytes of a payload above which it is looked at before it is parsed
_MAX_DEPTH = 100  # as protobuf has it
_MAX_PARTS = (
    1_000_000  # messages, texts and byte strings of a payload: an empty message has 2 bytes, and 100 when parsed
)

# message: {field number: (name, type)}; a type in capitals is a message, `*` means repeated, `|` a member of the oneof.
_MESSAGES: Final[dict[str, dict[int, tuple[str, str]]]] = {
    "Payload": {
        1: ("timestamp", "uint64"),
        2: ("metrics", "*Metric"),
        3: ("seq", "uint64"),
        4: ("uuid", "string"),
        5: ("body", "bytes"),
    },
    "Metric": {
        1: ("name", "string"),
        2: ("alias", "uint64"),
        3: ("timestamp", "uint64"),
        4: ("datatype", "uint32"),
        5: ("is_historical", "bool"),
        6: ("is_transient", "bool"),
        7: ("is_null", "bool"),
        8: ("metadata", "MetaData"),
        9: ("properties", "PropertySet"),
        10: ("int_value", "|uint32"),
        11: ("long_value", "|uint64"),
        12: ("float_value", "|float"),
        13: ("double_value", "|double"),
        14: ("boolean_value", "|bool"),
        15: ("string_value", "|string"),
        16: ("bytes_value", "|bytes"),
        17: ("dataset_value", "|DataSet"),
        18: ("template_value", "|Template"),
    },
    "MetaData": {
        1: ("is_multi_part", "bool"),
        2: ("content_type", "string"),
        3: ("size", "uint64"),
        4: ("seq", "uint64"),
        5: ("file_name", "string"),
        6: ("file_type", "string"),
        7: ("md5", "string"),
        8: ("description", "string"),
    },
    "PropertySet": {1: ("keys", "*string"), 2: ("values", "*PropertyValue")},
    "PropertySetList": {1: ("propertyset", "*PropertySet")},
    "PropertyValue": {
        1: ("type", "uint32"),
        2: ("is_null", "bool"),
        3: ("int_value", "|uint32"),
        4: ("long_value", "|uint64"),
        5: ("float_value", "|float"),
        6: ("double_value", "|double"),
        7: ("boolean_value", "|bool"),
        8: ("string_value", "|string"),
        9: ("propertyset_value", "|PropertySet"),
        10: ("propertysets_value", "|PropertySetList"),
    },
    "DataSet": {
        1: ("num_of_columns", "uint64"),
        2: ("columns", "*string"),
        3: ("types", "*uint32"),
        4: ("rows", "*Row"),
    },
    "Row": {1: ("elements", "*DataSetValue")},
    "DataSetValue": {
        1: ("int_value", "|uint32"),
        2: ("long_value", "|uint64"),
        3: ("float_value", "|float"),
        4: ("double_value", "|double"),
        5: ("boolean_value", "|bool"),
        6: ("string_value", "|string"),
    },
    "Template": {
        1: ("version", "string"),
        2: ("metrics", "*Metric"),
        3: ("parameters", "*Parameter"),
        4: ("template_ref", "string"),
        5: ("is_definition", "bool"),
    },
    "Parameter": {
        1: ("name", "string"),
        2: ("type", "uint32"),
        3: ("int_value", "|uint32"),
        4: ("long_value", "|uint64"),
        5: ("float_value", "|float"),
        6: ("double_value", "|double"),
        7: ("boolean_value", "|bool"),
        8: ("string_value", "|string"),
    },
}


@cache
def message_class(name: str = "Payload") -> Any:
    """The protobuf class of a Sparkplug message, by default the payload itself."""
    from google.protobuf import message_factory

    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"bifrost.sparkplug.{name}"))


@cache
def _pool() -> Any:
    from google.protobuf import descriptor_pb2, descriptor_pool

    file = descriptor_pb2.FileDescriptorProto(name="bifrost_sparkplug.proto", package="bifrost.sparkplug")
    kinds = descriptor_pb2.FieldDescriptorProto
    for message_name, members in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for number, (field_name, declared) in members.items():
            field = message.field.add(name=field_name, number=number)
            field.label = kinds.LABEL_REPEATED if declared[0] == "*" else kinds.LABEL_OPTIONAL
            if declared[0] == "|":
                if not message.oneof_decl:
                    message.oneof_decl.add(name="value")
                field.oneof_index = 0
            kind = declared.lstrip("*|")
            if kind in _MESSAGES:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f".bifrost.sparkplug.{kind}"
            else:
                field.type = kinds.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)  # type: ignore[no-untyped-call, unused-ignore]
    return pool


def decode_payload(data: bytes) -> Any:
    """The payload message in `data`, unpacked if it is compressed (Deflate or GZIP, as edge nodes in the field do).

    Raises:
        ValueError: The bytes are not a Sparkplug B payload, or are too many when unpacked.
    """
    from google.protobuf.message import DecodeError

    try:
        _check_parts(data)
        payload = message_class().FromString(data)
        if payload.HasField("body") and payload.uuid == _COMPRESSED:
            unpacked = _unpacked(payload.body)
            _check_parts(unpacked)
            payload = message_class().FromString(unpacked)
    except DecodeError as error:
        raise ValueError(f"not a Sparkplug B payload: {error}") from None
    return payload


_CHILDREN: Final = {
    name: {
        number: declared.lstrip("*|") for number, (_, declared) in members.items() if declared.lstrip("*|") in _MESSAGES
    }
    for name, members in _MESSAGES.items()
}


def _check_parts(data: bytes) -> None:
    """Refuse a large payload of so many parts that parsing it would fill the memory."""
    if len(data) < _SCANNED:
        return
    parts, at, end, children = 0, 0, len(data), _CHILDREN["Payload"]
    around: list[tuple[int, dict[int, str]]] = []  # ends of the messages that this one is in, and what is in these
    try:
        while True:
            if at >= end:
                if at > end:
                    raise IndexError
                if not around:
                    return
                end, children = around.pop()
                continue
            key, at = _varint(data, at)
            wire = key & 7
            if wire == 2:
                size, at = _varint(data, at)
                parts += 1
                if parts > _MAX_PARTS:
                    raise ValueError(f"a payload of more than {_MAX_PARTS} parts")
                child = children.get(key >> 3)
                if child is None:
                    at += size
                elif at + size > end or len(around) > _MAX_DEPTH:
                    raise IndexError
                else:
                    around.append((end, children))
                    end, children = at + size, _CHILDREN[child]
            elif wire == 0:
                at = _varint(data, at)[1]
            elif wire in {1, 5}:
                at += 8 if wire == 1 else 4
            elif wire > 5:
                raise IndexError
    except IndexError:
        raise ValueError("not a Sparkplug B payload: it is cut off, or nested without end") from None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = data[at]
    if value < 0x80:
        return value, at + 1
    value &= 0x7F
    for shift in range(7, 70, 7):
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
    raise IndexError


def _unpacked(body: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=47)  # zlib or gzip, told by the header
    try:
        data = unpacker.decompress(body, _MAX_UNPACKED)
    except zlib.error as error:
        raise ValueError(f"not a compressed payload: {error}") from None
    if not unpacker.eof:
        raise ValueError(f"a compressed payload that is cut off or has more than {_MAX_UNPACKED} bytes")
    return data
