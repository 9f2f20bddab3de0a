"""A look at a server: what a browse finds, with types, values and units. For people, not for the data path."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.ua_binary import struct_to_binary
from asyncua.ua.uaerrors import UaError

from connectors.contract import Context
from connectors.sources.opcua.binary import Malformed
from connectors.sources.opcua.config import BrowseConfig, OpcUaConfig
from connectors.sources.opcua.datatypes import DataTypes
from connectors.sources.opcua.decode import ValueDecoder
from connectors.sources.opcua.nodes import Described, browse, describe
from connectors.sources.opcua.own import CertificateError
from connectors.sources.opcua.security import ServerRefusedError
from connectors.sources.opcua.session import Session, batches
from connectors.sources.opcua.trust import UntrustedServerError
from normalization.facts import ValueType
from normalization.reading import Columns, Tag

_FEW: Final = 200  # values in one request: some may be large
_FAILURES: Final = (OSError, UaError, Malformed, ServerRefusedError, UntrustedServerError, CertificateError)


class UnusableServerError(Exception):
    """The server cannot be reached, or not used as it is configured."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A variable.

    Attributes:
        path: Browse path, names joined by `/`.
        address: Node id in text, with the namespace's URI.
        tag: Its row of the tag table.
        type: Name of its data type, with `[]` for each dimension of an array.
        value: What it says now: number, truth value, text, bytes or None; arrays and structures as JSON.
        status: Status of the value; 0 is good.
    """

    path: str
    address: str
    tag: Tag
    type: str
    value: Any
    status: int


@dataclass(frozen=True, slots=True)
class Look:
    """What was found.

    Attributes:
        server: The server's name; None when it has none.
        folders: Node ids in text of the objects on the way, by browse path.
        variables: The variables.
        truncated: There are more.
    """

    server: str | None
    folders: dict[str, str]
    variables: list[Seen]
    truncated: bool


async def look(
    config: OpcUaConfig,
    context: Context,
    wanted: BrowseConfig,
    say: Callable[[str], None] = lambda _: None,
    *,
    values: bool = True,
) -> Look:
    """Browse a server.

    Args:
        config: How it is reached.
        context: Where certificates lie.
        wanted: What is looked for.
        say: Hears how far it is.
        values: Whether values are read, too.

    Raises:
        UnusableServerError: It cannot be reached or used; the message says why.
    """
    session = Session(config, context)
    try:
        return await _look(session, wanted, say, values=values)
    except _FAILURES as error:
        raise UnusableServerError(str(error) or type(error).__name__) from error
    finally:
        await session.close()


async def _look(session: Session, wanted: BrowseConfig, say: Callable[[str], None], *, values: bool) -> Look:
    await session.open()
    found = await browse(
        session, wanted, lambda so_far: say(f"{len(so_far.folders)} objects, {len(so_far.variables)} variables …")
    )
    types = DataTypes(session)
    described = await describe(session, session.config, found.variables, types)
    nodes = [variable.id for variable in found.variables if variable.id is not None]
    names = await _type_names(session, nodes)
    read = await _values(session, described, types, say) if values else [(None, 0)] * len(nodes)
    seen = [
        Seen(d.variable.path, d.variable.address, d.tag, name, value, status)
        for d, name, (value, status) in zip(described, names, read, strict=True)
    ]
    return Look(session.server_name, found.folders, seen, found.truncated)


async def _type_names(session: Session, nodes: list[ua.NodeId]) -> list[str]:
    kinds = [_value(read) for read in await session.read_attributes_of(nodes, AttributeIds.DataType)]
    ranks = [_value(read) for read in await session.read_attributes_of(nodes, AttributeIds.ValueRank)]
    known = {kind for kind in kinds if isinstance(kind, ua.NodeId)}
    asked = list(known)
    read = [_value(name) for name in await session.read_attributes_of(asked, AttributeIds.BrowseName)]
    names = {kind: str(name.Name) for kind, name in zip(asked, read, strict=True) if isinstance(name, ua.QualifiedName)}
    return [
        (names.get(kind) or kind.to_string() if isinstance(kind, ua.NodeId) else "?")
        + "[]" * (int(rank) if isinstance(rank, int) and rank > 0 else 0)
        for kind, rank in zip(kinds, ranks, strict=True)
    ]


def _value(read: ua.DataValue) -> Any:
    return read.Value.Value if read.Value is not None else None


async def _values(
    session: Session, described: list[Described], types: DataTypes, say: Callable[[str], None]
) -> list[tuple[Any, int]]:
    decoder = ValueDecoder([d.item(at) for at, d in enumerate(described)], types.types)
    out: list[tuple[Any, int]] = []
    for part in batches(range(len(described)), min(_FEW, session.limits.size("read"))):
        asked = [ua.ReadValueId(NodeId=described[at].variable.id, AttributeId=AttributeIds.Value) for at in part]
        data, pos = await session.read(struct_to_binary(ua.ReadParameters(NodesToRead=asked)))
        handles = np.array(part, np.int64)
        rows = Columns()
        decoder.read_results(data, pos, handles, rows)
        if types.types.missing and await types.learn_missing():
            rows = Columns()
            decoder.read_results(data, pos, handles, rows)
        out += [(_shown(rows, at), rows.status[at] or 0) for at in range(len(rows))]
        say(f"{len(out)} of {len(described)} values …")
    return out


def _shown(rows: Columns, at: int) -> Any:
    match rows.type[at]:
        case ValueType.BOOLEAN:
            return bool(rows.value_int[at])
        case ValueType.UINT64:
            return (rows.value_int[at] or 0) % 2**64
        case ValueType.INT64:
            return rows.value_int[at]
        case ValueType.DOUBLE:
            return rows.value_double[at]
        case ValueType.BYTES:
            return rows.value_bytes[at]
        case _:
            return rows.value_text[at]
