"""Structures by type dictionary, as servers describe them that know no DataTypeDefinition (OPC 10000-5 annex F). Pure, no I/O.

A dictionary is XML: fields in the order of encoding, each with a type of OPC Binary (`opc:`), of the specification (`ua:`), or of
the dictionary. What it says beyond what `Structure` can say is left out with its type, whose values then stay bytes.
"""

from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree

from connectors.sources.opcua.binary import EXTENSION_OBJECT, VARIANT, Structure, StructureField

_SCHEMA: Final = "{http://opcfoundation.org/BinarySchema/}"
_BUILTIN: Final = {
    "Boolean": 1, "SByte": 2, "Byte": 3, "Int16": 4, "UInt16": 5, "Int32": 6, "UInt32": 7, "Int64": 8, "UInt64": 9, "Float": 10,
    "Double": 11, "String": 12, "CharArray": 12, "WideString": 12, "DateTime": 13, "Guid": 14, "ByteString": 15,
    "XmlElement": 16, "NodeId": 17, "ExpandedNodeId": 18, "StatusCode": 19, "QualifiedName": 20, "LocalizedText": 21,
    "ExtensionObject": EXTENSION_OBJECT, "DataValue": 23, "Variant": VARIANT, "DiagnosticInfo": 25,
}  # fmt: skip
_INT32: Final = 6
_MASK_BITS: Final = 32
_LONGEST: Final = 16 * 1024 * 1024  # bytes of a dictionary


class _CannotSay(ValueError):
    """A type that `Structure` has no words for."""


@dataclass(frozen=True, slots=True)
class Dictionary:
    """What a dictionary defines.

    Attributes:
        structures: By name.
        enumerations: Names by value, by name.
    """

    structures: dict[str, Structure]
    enumerations: dict[str, dict[int, str]]


def parse(xml: bytes) -> Dictionary:
    """The types of a dictionary.

    Raises:
        ValueError: It is not a sound dictionary.
    """
    if len(xml) > _LONGEST or b"<!" in xml.replace(b"<!--", b""):  # entities could grow without end
        msg = "the dictionary is too large, or declares entities"
        raise ValueError(msg)
    try:
        root = ElementTree.fromstring(xml.rstrip(b"\0 \r\n"))  # noqa: S314 - it declares no entities
    except ElementTree.ParseError as error:
        msg = f"the dictionary is not XML: {error}"
        raise ValueError(msg) from None
    enumerations = {
        one.get("Name", ""): {
            int(value.get("Value", "0")): value.get("Name", "") for value in one.findall(f"{_SCHEMA}EnumeratedValue")
        }
        for one in root.findall(f"{_SCHEMA}EnumeratedType")
    }
    described = {one.get("Name", ""): one for one in root.findall(f"{_SCHEMA}StructuredType")}
    structures: dict[str, Structure] = {}
    for name in described:
        made: dict[str, Structure] = {}
        try:
            _structure(name, described, enumerations, structures, made)
        except (_CannotSay, RecursionError):
            continue  # with all that was begun for it
        structures |= made
    return Dictionary(structures, enumerations)


def _structure(
    name: str,
    described: dict[str, ElementTree.Element],
    enumerations: dict[str, dict[int, str]],
    known: dict[str, Structure],
    made: dict[str, Structure],
) -> Structure:
    if (found := known.get(name) or made.get(name)) is not None:
        return found
    structure = made[name] = Structure(name)  # before its fields, which may be of the same type
    fields = described[name].findall(f"{_SCHEMA}Field")
    lengths = {field.get("LengthField") for field in fields}
    switches: dict[str, int] = {}  # bits of the mask, in their order
    chosen_by: str | None = None
    bits = 0
    for field in fields:
        own, kind = field.get("Name", ""), field.get("TypeName", "").rpartition(":")
        if kind[2] == "Bit":
            bits += int(field.get("Length", "1"))
            switches[own] = len(switches)
            continue
        if bits % 8:
            raise _CannotSay(own)
        if own in lengths:
            continue  # the length that an array begins with in any case
        switch = field.get("SwitchField")
        optional = switch is not None and field.get("SwitchValue") is None
        if field.get("SwitchValue") is not None:
            if chosen_by != switch or int(field.get("SwitchValue", "0")) != len(structure.fields) + 1:
                raise _CannotSay(own)
            structure.union = True
        elif any(other.get("SwitchField") == own for other in fields):
            chosen_by = own  # what a union begins with
            continue
        if optional and switches.get(str(switch)) != sum(one.optional for one in structure.fields):
            raise _CannotSay(own)
        if field.get("Length") is not None or field.get("Terminator") is not None:
            raise _CannotSay(own)
        rank = 1 if field.get("LengthField") else 0
        builtin, inner = _type(kind[0], kind[2], described, enumerations, known, made)
        structure.fields.append(StructureField(own, builtin, inner, rank, optional))
    structure.masked = bool(bits)
    if bits not in (0, _MASK_BITS):
        raise _CannotSay(name)
    return structure


def _type(
    prefix: str,
    name: str,
    described: dict[str, ElementTree.Element],
    enumerations: dict[str, dict[int, str]],
    known: dict[str, Structure],
    made: dict[str, Structure],
) -> tuple[int, Structure | None]:
    if prefix in ("opc", "ua"):
        if name not in _BUILTIN:
            raise _CannotSay(name)
        return _BUILTIN[name], None
    if name in enumerations:
        return _INT32, None
    if name not in described:
        raise _CannotSay(name)
    return EXTENSION_OBJECT, _structure(name, described, enumerations, known, made)
