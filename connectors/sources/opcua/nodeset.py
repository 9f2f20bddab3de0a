"""The nodes of a server as a NodeSet2 file describes them (OPC 10000-6 annex F): looked through instead of browsing the server."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import Element, ParseError, iterparse

from connectors.sources.opcua.names import NodeName, parse_node_id

_UA: Final = "{http://opcfoundation.org/UA/2011/03/UANodeSet.xsd}"
_HAS_PROPERTY: Final = NodeName(0, "i", 46)
# References, HierarchicalReferences and the standard types below them that a browse follows (OPC 10000-5 clause 11)
_DOWN: Final = {
    NodeName(0, "i", number) for number in (33, 34, 35, 36, 44, 46, 47, 48, 49, 56, 14476, 14936, 16361, 16362)
}


@dataclass(slots=True)
class Described:
    """A node of a file.

    Attributes:
        name: Its browse name, without the namespace.
        is_variable: Whether it is a variable; else an object.
        below: The nodes below it, and whether each is a property.
    """

    name: str = ""
    is_variable: bool = False
    below: dict[NodeName, bool] = field(default_factory=dict)


class NodeSet:
    """The objects and variables of some files; their namespaces are URIs, and 0.

    Attributes:
        nodes: By node id; those of namespace 0 that have something below them, too.
    """

    def __init__(self) -> None:
        self.nodes: dict[NodeName, Described] = {}

    @staticmethod
    def read(files: Iterable[Path]) -> "NodeSet":
        """Read files that belong together.

        Raises:
            ValueError: A file is no NodeSet2, or cannot be read; the message says which and why.
        """
        found = NodeSet()
        for file in files:
            try:
                found._take(file)
            except OSError as error:
                msg = f"{file} cannot be read: {error.strerror}"
                raise ValueError(msg) from None
            except (ParseError, ValueError, IndexError) as error:
                msg = f"{file} is no NodeSet2 file: {error}"
                raise ValueError(msg) from None
        return found

    def _take(self, file: Path) -> None:
        uris: list[str] = []
        aliases: dict[str, NodeName] = {}
        root: Element | None = None
        for event, element in iterparse(file, events=("start", "end")):  # noqa: S314 - the operator's own file
            if root is None:
                root = element
                if element.tag != f"{_UA}UANodeSet":
                    msg = f"it begins with {element.tag}"
                    raise ValueError(msg)
            if event == "start":
                continue
            match element.tag.removeprefix(_UA):
                case "NamespaceUris":
                    uris += [(uri.text or "").strip() for uri in element]
                case "Aliases":
                    aliases = {one.get("Alias", ""): _id(one.text, uris) for one in element}
                case "UAObject" | "UAVariable":
                    self._add(element, uris, aliases)
                    element.clear()
                case "UADataType" | "UAObjectType" | "UAVariableType" | "UAMethod" | "UAReferenceType":
                    element.clear()
                case _:
                    pass

    def _add(self, element: Element, uris: Sequence[str], aliases: dict[str, NodeName]) -> None:
        own = _id(element.get("NodeId"), uris)
        node = self.nodes.setdefault(own, Described())
        prefix, colon, rest = element.get("BrowseName", "").partition(":")
        node.name = rest if colon and prefix.isdigit() else element.get("BrowseName", "")
        node.is_variable = element.tag == f"{_UA}UAVariable"
        for one in element.iterfind(f"{_UA}References/{_UA}Reference"):
            said = one.get("ReferenceType", "")
            kind = aliases.get(said) or _id(said, uris)
            if kind in _DOWN:
                other = _id(one.text, uris)
                above, below = (own, other) if one.get("IsForward", "true") != "false" else (other, own)
                self.nodes.setdefault(above, Described()).below[below] = kind == _HAS_PROPERTY

    def children(self, of: NodeName) -> Iterator[tuple[NodeName, Described, bool]]:
        """The nodes below one, and whether each is a property."""
        node = self.nodes.get(of)
        for below, is_property in node.below.items() if node is not None else ():
            child = self.nodes.get(below)
            if child is not None and child.name:
                yield below, child, is_property


def _id(text: str | None, uris: Sequence[str]) -> NodeName:
    """A node id of a file, whose namespaces are numbered as the file does it."""
    name: Any = parse_node_id(text or "")
    if name.namespace == 0 or isinstance(name.namespace, str):
        return NodeName(*name)
    return NodeName(uris[name.namespace - 1], name.kind, name.identifier)
