"""Data types of one server: enumerations and structures, read from its address space (OPC 10000-3 clause 8.47).

asyncua keeps such types in one registry for the whole process, where two servers that number their types alike would
decode each other's structures. So each session has its own.
"""

import dataclasses
import datetime
import enum
import logging
from collections.abc import Iterable
from typing import Any, Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.ua_binary import from_binary

from connectors.sources.opcua.binary import EXTENSION_OBJECT, VARIANT, Structure, StructureField, Types
from connectors.sources.opcua.names import format_node_id, parse_node_id
from connectors.sources.opcua.session import Session, node_id, plain_id
from connectors.sources.opcua.typedict import Dictionary, parse

_log = logging.getLogger(__name__)

_INT32: Final = 6
_ABSTRACT: Final = {26, 27, 28}  # Number, Integer, UInteger travel as Variant
_ENUMERATION: Final = 29
_BASES: Final = {ObjectIds.Structure, ObjectIds.Union}
_STRUCTURE_TYPES: Final = ua.StructureType


class DataTypes:
    """What one session has learned about the server's data types.

    Attributes:
        types: The structures, as `binary` wants them.
    """

    def __init__(self, session: Session) -> None:
        self.types = Types(standard=_standard)
        self._session = session
        self._definitions: dict[ua.NodeId, Any] = {}
        self._parents: dict[ua.NodeId, ua.NodeId | None] = {}
        self._enumerations: dict[ua.NodeId, dict[int, str] | None] = {}  # those without a definition
        self._structures: dict[ua.NodeId, Structure] = {}
        self._unknown: set[str] = set()
        self._dictionaries: dict[ua.NodeId, Dictionary] = {}

    async def learn(self, data_types: Iterable[ua.NodeId]) -> None:
        """Read the definitions of `data_types`, and of all that they are made of."""
        pending = {t for t in data_types if not _is_builtin(t) and t not in self._definitions}
        while pending:
            wanted = sorted(pending, key=str)
            definitions = await self._session.read_attributes_of(wanted, AttributeIds.DataTypeDefinition)
            parents = await self._session.references(wanted, ObjectIds.HasSubtype, ua.BrowseDirection.Inverse)
            found: set[ua.NodeId] = set()
            for data_type, value, references in zip(wanted, definitions, parents, strict=True):
                definition = value.Value.Value if value.Value is not None else None
                parent = plain_id(references[0].NodeId) if references else None
                self._definitions[data_type] = definition
                self._parents[data_type] = parent
                if parent is not None:
                    found.add(parent)
                if isinstance(definition, ua.StructureDefinition):
                    found |= {part.DataType for part in definition.Fields or []}
            pending = {t for t in found if not _is_builtin(t) and t not in self._definitions}
        await self._learn_enumerations()
        for data_type, definition in list(self._definitions.items()):
            if isinstance(definition, ua.StructureDefinition) and data_type not in self._structures:
                self._build(data_type)
                encoding = definition.DefaultEncodingId
                if encoding is not None and not encoding.is_null():
                    self.types.structures[_text(encoding)] = self._structures[data_type]

    async def _learn_enumerations(self) -> None:
        """Read the names of enumerations without a definition from a property of the data type (OPC 10000-3 clause 5.8.3)."""
        wanted = [
            data_type
            for data_type, definition in self._definitions.items()
            if definition is None and data_type not in self._enumerations and self._builtin(data_type) == _INT32
        ]
        found = await self._session.references(wanted, ObjectIds.HasProperty)
        properties = {
            plain_id(reference.NodeId): data_type
            for data_type, references in zip(wanted, found, strict=True)
            for reference in references
            if reference.BrowseName.Name in ("EnumValues", "EnumStrings")
        }
        values = await self._session.read_attributes_of(list(properties), AttributeIds.Value)
        self._enumerations.update(dict.fromkeys(wanted))
        for data_type, value in zip(properties.values(), values, strict=True):
            self._enumerations[data_type] = names_by_value(value.Value.Value if value.Value is not None else None)

    async def learn_missing(self) -> bool:
        """Look up the structures that decoding has met and did not know; whether any was found."""
        new = self.types.missing - self._unknown
        self.types.missing.clear()
        if not new:
            return False
        encodings = sorted(new)
        nodes = [_node_id(text) for text in encodings]
        found = await self._session.references(nodes, ObjectIds.HasEncoding, ua.BrowseDirection.Inverse)
        owners = {text: plain_id(refs[0].NodeId) for text, refs in zip(encodings, found, strict=True) if refs}
        await self.learn(owners.values())
        defined = {text: self._structures.get(owners[text]) if text in owners else None for text in encodings}
        described = await self._by_dictionary([text for text in encodings if defined[text] is None])
        for encoding in encodings:
            structure = defined[encoding] or described.get(encoding)
            if structure is None:
                self._unknown.add(encoding)
                _log.warning("the server does not define the structure with encoding %s; its bytes are kept", encoding)
            else:
                self.types.structures[encoding] = structure
        return any(encoding in self.types.structures for encoding in encodings)

    async def _by_dictionary(self, encodings: list[str]) -> dict[str, Structure]:
        """The structures with these encodings, as the server's type dictionaries describe them."""
        nodes = [_node_id(text) for text in encodings]
        found = await self._session.references(nodes, ObjectIds.HasDescription)
        described = {text: plain_id(refs[0].NodeId) for text, refs in zip(encodings, found, strict=True) if refs}
        descriptions = list(described.values())
        names = await self._session.read_attributes_of(descriptions, AttributeIds.Value)
        owners = await self._session.references(descriptions, ObjectIds.HasComponent, ua.BrowseDirection.Inverse)
        out: dict[str, Structure] = {}
        for encoding, name, references in zip(described, names, owners, strict=True):
            said = name.Value.Value if name.Value is not None else None
            if references and isinstance(said, str):
                dictionary = await self._dictionary(plain_id(references[0].NodeId))
                if (structure := dictionary.structures.get(said)) is not None:
                    out[encoding] = structure
        return out

    async def _dictionary(self, node: ua.NodeId) -> Dictionary:
        if node not in self._dictionaries:
            (read,) = await self._session.read_attributes_of([node], AttributeIds.Value)
            xml = read.Value.Value if read.Value is not None else None
            try:
                self._dictionaries[node] = parse(xml if isinstance(xml, bytes) else b"")
            except ValueError as error:
                _log.warning("type dictionary %s cannot be used: %s", _text(node), error)
                self._dictionaries[node] = Dictionary({}, {})
        return self._dictionaries[node]

    def enumeration(self, data_type: ua.NodeId) -> dict[int, str] | None:
        """Names by value, when the data type is an enumeration that says them."""
        definition = self._definitions.get(data_type)
        if not isinstance(definition, ua.EnumDefinition):
            return self._enumerations.get(data_type)
        if self._builtin(data_type) != _INT32:
            return None
        return {int(part.Value): str(part.Name) for part in definition.Fields or []}

    def _builtin(self, data_type: ua.NodeId) -> int:
        seen: set[ua.NodeId] = set()
        at: ua.NodeId | None = data_type
        while at is not None and at not in seen:
            if _is_builtin(at):
                number = int(at.Identifier)
                if number == _ENUMERATION:
                    return _INT32
                return VARIANT if number in _ABSTRACT else number
            seen.add(at)
            at = self._parents.get(at)
        return VARIANT

    def _build(self, data_type: ua.NodeId) -> Structure:
        definition = self._definitions[data_type]
        kind = definition.StructureType
        structure = Structure(
            name=_text(data_type),
            masked=kind == _STRUCTURE_TYPES.StructureWithOptionalFields,
            union=kind in (_STRUCTURE_TYPES.Union, _STRUCTURE_TYPES.UnionWithSubtypedValues),
        )
        self._structures[data_type] = structure  # before its fields, which may be of the same type
        for part in self._fields(data_type, set()):
            subtypes = part.IsOptional and kind in (
                _STRUCTURE_TYPES.StructureWithSubtypedValues,
                _STRUCTURE_TYPES.UnionWithSubtypedValues,
            )
            inner: Structure | None = None
            is_structure = isinstance(self._definitions.get(part.DataType), ua.StructureDefinition)
            if is_structure and not subtypes:
                inner = self._structures.get(part.DataType) or self._build(part.DataType)
            builtin = EXTENSION_OBJECT if is_structure else self._builtin(part.DataType)
            structure.fields.append(
                StructureField(
                    name=str(part.Name),
                    builtin=builtin,
                    structure=inner,
                    rank=max(0, int(part.ValueRank)),
                    optional=structure.masked and bool(part.IsOptional),
                )
            )
        return structure

    def _fields(self, data_type: ua.NodeId, seen: set[ua.NodeId]) -> list[Any]:
        """Fields with the inherited ones first, which some servers repeat in the definition and some do not."""
        definition = self._definitions.get(data_type)
        parent = self._parents.get(data_type)
        own = list(definition.Fields or []) if isinstance(definition, ua.StructureDefinition) else []
        if parent is None or _is_builtin(parent) or parent in seen:
            return own
        names = {part.Name for part in own}
        return [part for part in self._fields(parent, seen | {data_type}) if part.Name not in names] + own


def names_by_value(said: Any) -> dict[int, str] | None:
    """Names of numbers as EnumStrings has them, one for each from 0 on, or EnumValues, for some; None for anything else."""
    if not isinstance(said, list):
        return None
    if all(isinstance(one, ua.EnumValueType) for one in said):
        return {int(one.Value): one.DisplayName.Text or "" for one in said}
    return {at: text.Text or "" for at, text in enumerate(said) if isinstance(text, ua.LocalizedText)}


def _is_builtin(data_type: ua.NodeId) -> bool:
    return data_type.NamespaceIndex == 0 and (
        isinstance(data_type.Identifier, int)
        and (data_type.Identifier <= _ENUMERATION or data_type.Identifier in _BASES)
    )


def _text(node: ua.NodeId) -> str:
    return format_node_id(int(node.NamespaceIndex), node.Identifier)


def _node_id(text: str) -> ua.NodeId:
    name = parse_node_id(text)
    return node_id(name.identifier, name.namespace if isinstance(name.namespace, int) else 0)


def _standard(encoding: str, body: bytes) -> Any:
    """A structure of namespace 0 by asyncua's own definitions; None for what is not one, or does not fit."""
    if not encoding.startswith("i="):
        return None
    cls = ua.extension_objects_by_typeid.get(node_id(int(encoding[2:])))
    if cls is None:
        return None
    try:
        return _plain_value(from_binary(cls, Buffer(body)))
    except Exception:  # noqa: BLE001  a body that does not fit raises whatever its reader met; its bytes are kept
        return None


def _plain_value(value: Any) -> Any:
    match value:
        case ua.LocalizedText():
            return value.Text
        case ua.NodeId():
            return _text(value)
        case ua.QualifiedName():
            return value.to_string() if value.NamespaceIndex else value.Name
        case ua.StatusCode():
            return value.value
        case ua.Variant():
            return _plain_value(value.Value)
        case enum.Enum():
            return value.value
        case datetime.datetime():
            return value.isoformat().replace("+00:00", "Z")
        case list() | tuple():
            return [_plain_value(part) for part in value]
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {
                part.name: _plain_value(getattr(value, part.name))
                for part in dataclasses.fields(value)
                if part.name != "Encoding"
            }
        case _:
            return value
