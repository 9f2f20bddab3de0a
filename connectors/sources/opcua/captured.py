"""Values of nodes that were captured, as the reader would decode them: they are put into the bytes of an answer first."""

import struct
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np

from connectors.dry_run import Captured, CapturedError, Sample
from connectors.sources.opcua.binary import Types
from connectors.sources.opcua.config import NodeConfig, OpcUaConfig
from connectors.sources.opcua.decode import Item, ValueDecoder
from connectors.sources.opcua.names import parse_node_id, parse_path
from normalization.reading import Columns, Tag

_WORDS: Final = {
    "": 0,
    "GOOD": 0,
    "UNCERTAIN": 0x40000000,
    "BAD": 0x80000000,
    "STALE": 0x80310000,  # BadNoCommunication
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def rows(config: OpcUaConfig) -> list[tuple[NodeConfig, Tag]]:
    """The rows of the nodes that are configured one by one; the server may know further names by which they match."""
    found = []
    for node in config.nodes:
        if node.path is not None:
            names = [name for _, name in parse_path(node.path)]
            path = "/".join(names[1:] if names[0] == "Objects" else names)
            metadata = {"browse_path": path}
            tag = config.tag(config.endpoint, node.path, names[-1], metadata=metadata, own=node, names=[path])
        elif node.id is not None:
            tag = config.tag(config.endpoint, node.id, str(parse_node_id(node.id).identifier), own=node)
        else:
            continue
        found.append((node, tag))
    return found


def row(config: OpcUaConfig, address: str, device: str, unit: str, tag_name: str) -> Tag | None:
    """The row of a node: one that is configured, or one that browsing may find."""
    for node, known in rows(config):
        if address in (node.id, node.path, known.tag_name, f"{config.endpoint}/{known.address}"):
            return config.tag(
                device or config.endpoint,
                known.address,
                tag_name or str(known.tag_name),
                known.unit or unit,
                own=node,
            )
    try:
        name = str(parse_node_id(address).identifier)
    except ValueError:
        return None
    if config.browsing is None:
        return None
    return config.tag(device or config.endpoint, address, tag_name or name, unit)


def decode(config: OpcUaConfig, captured: Captured, intern: Callable[[Tag], int]) -> Columns:
    """The reading of one value.

    Raises:
        CapturedError: There is no such status or type, or the value is none of that type.
    """
    if not isinstance(captured, Sample):
        raise CapturedError("an OPC UA source is given by a node and a value")
    data = b"\1\0\0\0" + _data_value(captured, server_time=config.timestamps == "server")
    found = Columns()
    decoder = ValueDecoder([Item(intern(captured.tag))], Types(), server_time=config.timestamps == "server")
    decoder.read_results(data, 0, np.zeros(1, np.int64), found)
    return found


def _data_value(captured: Sample, *, server_time: bool) -> bytes:
    """A DataValue as a server would send it."""
    from asyncua import ua
    from asyncua.ua.ua_binary import struct_to_binary
    from asyncua.ua.uaerrors import UaError

    when = None if captured.time is None else _date_time(captured.time)
    value = captured.value
    kind = captured.type or _usual(value)
    try:
        wanted = ua.VariantType[kind]
    except KeyError:
        raise CapturedError(f"`{kind}` is no built-in type of OPC UA, such as Float, UInt16 or String") from None
    try:
        variant = ua.Variant(value, wanted)
        data: bytes = struct_to_binary(
            ua.DataValue(
                variant,
                ua.StatusCode(ua.UInt32(_status(captured.quality))),
                SourceTimestamp=None if server_time else when,
                ServerTimestamp=when if server_time else None,
            )
        )
    except (TypeError, ValueError, ArithmeticError, AttributeError, struct.error, UaError) as error:
        raise CapturedError(f"{value!r} is no {kind}: {error}") from error
    return data


def _date_time(micros: int) -> Any:
    """A time as the library has it."""
    return (_EPOCH + timedelta(microseconds=micros)).replace(tzinfo=None)


def _usual(value: Any) -> str:
    one = value[0] if isinstance(value, list) and value else value
    kinds: dict[type, str] = {bool: "Boolean", int: "Int64", float: "Double", str: "String", bytes: "ByteString"}
    if one is None:
        return "Null"
    kind = kinds.get(type(one))
    if kind is None:
        raise CapturedError(f"{value!r} is no value of a built-in type of OPC UA")
    return kind


def _status(said: str | int) -> int:
    """A StatusCode from a word of ours, its name in the specification, or its number."""
    from asyncua.ua.status_codes import StatusCodes

    if isinstance(said, int):
        return said & 0xFFFFFFFF
    word = said.strip()
    if word.upper() in _WORDS:
        return _WORDS[word.upper()]
    number = getattr(StatusCodes, word, None)
    if isinstance(number, int):
        return number
    raise CapturedError(
        f"`{said}` is no status: write GOOD, UNCERTAIN, BAD or STALE, a name such as BadNoCommunication, or a number"
    )
