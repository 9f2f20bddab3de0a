"""Protobuf payloads, by a descriptor file (``protoc --include_imports --descriptor_set_out=plant.desc``). Pure but for that file."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_WRAPPERS: Final = frozenset(
    f"google.protobuf.{kind}Value"
    for kind in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)


class ProtobufParser:
    """Reads messages of one type as documents: fields by name, enumerations by the names of their values."""

    def __init__(self, descriptor: Path, message: str) -> None:
        """A reader of `message`.

        Args:
            descriptor: File with a ``FileDescriptorSet`` that has the message and all that it imports.
            message: Full name of the message's type.

        Raises:
            ValueError: The file is none, or has no such message.
        """
        from google.protobuf.descriptor_pb2 import FileDescriptorSet
        from google.protobuf.descriptor_pool import DescriptorPool
        from google.protobuf.message import DecodeError
        from google.protobuf.message_factory import GetMessageClass

        try:
            files = FileDescriptorSet.FromString(descriptor.read_bytes()).file
            pool = DescriptorPool()
            for file in files:
                pool.Add(file)
            found = pool.FindMessageTypeByName(message)
        except OSError as error:
            raise ValueError(f"descriptor {descriptor}: {error.strerror}") from None
        except DecodeError as error:
            raise ValueError(f"descriptor {descriptor} holds no descriptors: {error}") from None
        except (KeyError, TypeError) as error:
            raise ValueError(f"descriptor {descriptor} has no message {message} with all it needs: {error}") from None
        self._name = message
        self._class = GetMessageClass(found)
        self._error = DecodeError

    def __call__(self, payload: bytes) -> dict[str, Any]:
        """The message in `payload`.

        Raises:
            ValueError: It is none.
        """
        try:
            return _document(self._class.FromString(payload))
        except (self._error, ValueError, RecursionError) as error:
            raise ValueError(f"not a {self._name}: {error}") from None


def _document(message: "Message") -> dict[str, Any]:
    """Fields that the sender set, and those of which it cannot be known."""
    found = {}
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated:
            found[field.name] = _many(field, getattr(message, field.name))
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _one(field, getattr(message, field.name))
    return found


def _many(field: Any, values: Any) -> Any:
    kind = field.message_type
    if kind is not None and kind.GetOptions().map_entry:
        of_value = kind.fields_by_name["value"]
        return {str(key): _one(of_value, values[key]) for key in values}
    if kind is None and field.enum_type is None:
        return list(values)
    return [_one(field, value) for value in values]


def _one(field: Any, value: Any) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if field.message_type is None:
        return value
    name = field.message_type.full_name
    if name == "google.protobuf.Timestamp":
        try:
            return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)
        except OverflowError:
            return value.seconds
    return value.value if name in _WRAPPERS else _document(value)
