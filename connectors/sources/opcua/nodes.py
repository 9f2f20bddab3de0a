"""Which nodes a source reads, and what the server says about them."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.uaerrors import UaStatusCodeError

from connectors.sources.opcua.config import BrowseConfig, NodeConfig, OpcUaConfig
from connectors.sources.opcua.datatypes import DataTypes, names_by_value
from connectors.sources.opcua.decode import Item
from connectors.sources.opcua.names import (
    NodeName,
    PathFilter,
    format_identifier,
    format_node_id,
    parse_node_id,
    parse_path,
)
from connectors.sources.opcua.nodeset import NodeSet
from connectors.sources.opcua.selection import are_of_types, at_paths
from connectors.sources.opcua.session import Session, batches, node_id, plain_id
from normalization.reading import Tag

_log = logging.getLogger(__name__)

_SERVER: Final = node_id(ObjectIds.Server)
_HAS_PROPERTY: Final = node_id(ObjectIds.HasProperty)
_CLASSES: Final = ua.NodeClass.Object | ua.NodeClass.Variable
BAD_NODE_ID_UNKNOWN: Final = 0x80340000


@dataclass(slots=True)
class Variable:
    """A node that is to be read.

    Attributes:
        id: Its node id in this session; None when its namespace is not there.
        address: Its node id in text, as it is written or, when browsed, with the namespace's URI, which stays the same
            when the server numbers its namespaces differently.
        name: Name of the tag; empty for the browse name.
        path: Browse path below its root, for browsed nodes.
        config: What is configured for it, for nodes by id or path.
        absent: Why it has no id.
        properties: Node ids of its standard properties by name; None when they were not looked for yet.
    """

    id: ua.NodeId | None
    address: str
    name: str = ""
    path: str = ""
    config: NodeConfig | None = None
    properties: dict[str, ua.NodeId] | None = None
    absent: str = "the server has no such namespace"


@dataclass(slots=True)
class Found:
    """What a browse found.

    Attributes:
        variables: In the order of their level below the root.
        truncated: There are more than `max_nodes`.
        folders: Node ids in text of the objects on the way, by browse path.
    """

    variables: list[Variable] = field(default_factory=list)
    truncated: bool = False
    folders: dict[str, str] = field(default_factory=dict)


def resolve(text: str, namespaces: list[str]) -> ua.NodeId | None:
    """The node id in a session with these namespaces; None when its namespace is not among them."""
    return resolve_name(parse_node_id(text), namespaces)


def resolve_name(name: NodeName, namespaces: list[str]) -> ua.NodeId | None:
    """The same of a node id in parts."""
    if isinstance(name.namespace, str):
        if name.namespace not in namespaces:
            return None
        return node_id(name.identifier, namespaces.index(name.namespace))
    return node_id(name.identifier, name.namespace)


def _address(node: ua.NodeId, namespaces: list[str]) -> str:
    index = int(node.NamespaceIndex)
    return format_node_id(namespaces[index] if 0 < index < len(namespaces) else index, node.Identifier)


async def browse(session: Session, config: BrowseConfig, progress: Callable[[Found], None] | None = None) -> Found:
    """Find the variables below the roots, level by level (OPC 10000-4 clause 5.9.2); `progress` hears of each request."""
    paths = PathFilter(config.include, config.exclude)
    found: dict[ua.NodeId, Variable] = {}
    out = Found()
    seen: set[ua.NodeId] = set()
    level: list[tuple[ua.NodeId, str]] = []
    for root in config.roots:
        node = resolve(root, session.namespaces)
        if node is None:
            _log.warning("source %s: root %s: the server has no such namespace", session.config.name, root)
        else:
            level.append((node, ""))
            seen.add(node)
    await _report_roots(session, [node for node, _ in level])
    for _ in range(config.max_depth):
        if not level or out.truncated:
            break
        deeper: list[tuple[ua.NodeId, str]] = []
        for part in batches(level, session.limits.size("browse")):
            results = await session.references([node for node, _ in part], classes=_CLASSES)
            for (parent, path), references in zip(part, results, strict=True):
                owner = found.get(parent)
                if owner is not None:
                    owner.properties = {}
                for reference in references:
                    if getattr(reference.NodeId, "ServerIndex", 0):
                        continue  # a node of another server
                    node = plain_id(reference.NodeId)
                    name = reference.BrowseName.Name or format_identifier(node.Identifier)
                    child = f"{path}/{name}" if path else name
                    if reference.ReferenceTypeId == _HAS_PROPERTY:
                        if owner is not None and owner.properties is not None:
                            owner.properties[name] = node
                        if not config.properties or reference.BrowseName.NamespaceIndex == 0:
                            continue
                    if paths.excludes(child):
                        continue
                    is_variable = reference.NodeClass == ua.NodeClass.Variable
                    if is_variable and node.NamespaceIndex and node not in found and paths.selects(child):
                        if len(found) >= config.max_nodes:
                            out.truncated = True
                            break
                        text = child.replace("/", ".") if config.tag_name == "path" else name
                        found[node] = Variable(node, _address(node, session.namespaces), text, child)
                        out.variables.append(found[node])
                    elif not is_variable:
                        out.folders.setdefault(child, _address(node, session.namespaces))
                    if node not in seen and node != _SERVER:
                        seen.add(node)
                        deeper.append((node, child))
            if progress is not None:
                progress(out)
        level = deeper
    if out.truncated:
        _log.warning(
            "source %s: more than max_nodes = %d variables; the rest is left out", session.config.name, config.max_nodes
        )
    return out


async def described_by_files(session: Session, config: BrowseConfig) -> Found:
    """Find the variables below the roots in NodeSet2 files, as `browse` finds them in the server."""
    files = await asyncio.to_thread(NodeSet.read, config.nodeset_files)
    paths = PathFilter(config.include, config.exclude)
    out = Found()
    roots = [parse_node_id(root) for root in config.roots]
    level = [(root._replace(namespace=_uri(root.namespace, session.namespaces)), "") for root in roots]
    seen = {name for name, _ in level}
    found: set[NodeName] = set()
    for _ in range(config.max_depth):
        deeper: list[tuple[NodeName, str]] = []
        for parent, path in level:
            for name, node, is_property in files.children(parent):
                child = f"{path}/{node.name}" if path else node.name
                if (is_property and (not config.properties or not name.namespace)) or paths.excludes(child):
                    continue
                if node.is_variable and name.namespace and name not in found and paths.selects(child):
                    if len(found) >= config.max_nodes:
                        out.truncated = True
                        return out
                    found.add(name)
                    address = format_node_id(name.namespace, name.identifier)
                    text = child.replace("/", ".") if config.tag_name == "path" else node.name
                    own = {
                        other.name: resolve_name(one, session.namespaces)
                        for one, other, is_ in files.children(name)
                        if is_
                    }
                    properties = {key: id_ for key, id_ in own.items() if id_ is not None}
                    id_ = resolve_name(name, session.namespaces)
                    out.variables.append(Variable(id_, address, text, child, properties=properties))
                if name not in seen:
                    seen.add(name)
                    deeper.append((name, child))
        level = deeper
    return out


def _uri(namespace: int | str, namespaces: list[str]) -> int | str:
    known = isinstance(namespace, int) and 0 < namespace < len(namespaces)
    return namespaces[int(namespace)] if known else namespace


async def _report_roots(session: Session, roots: list[ua.NodeId]) -> None:
    """Say which roots are not there: a browse of them finds nothing and says nothing."""
    for root, name in zip(roots, await session.read_attributes_of(roots, AttributeIds.BrowseName), strict=True):
        if name.StatusCode is not None and not name.StatusCode.is_good():
            address = _address(root, session.namespaces)
            _log.warning(
                "source %s: root %s: nothing is browsed there: %s", session.config.name, address, name.StatusCode.name
            )


async def variables(session: Session, config: OpcUaConfig) -> list[Variable]:
    """All nodes that the source reads; each once, those by id first."""
    paths = await at_paths(session, [node.path for node in config.nodes if node.path is not None])
    out: list[Variable] = []
    for node in config.nodes:
        if node.id is not None:
            out.append(Variable(resolve(node.id, session.namespaces), node.id, config=node))
        elif node.path is not None:
            names = [name for _, name in parse_path(node.path)]
            absent = "the server has no node at this path"
            path = "/".join(names[1:] if names[0] == "Objects" else names)
            out.append(Variable(paths[node.path], node.path, names[-1], path, node, absent=absent))
    wanted = config.browsing
    if wanted is not None:
        known = {variable.id for variable in out}
        look = described_by_files if wanted.nodeset_files else browse
        found = [v for v in (await look(session, wanted)).variables if v.id not in known]
        ids = [v.id for v in found if v.id is not None]
        kept = iter(await are_of_types(session, ids, wanted.types, wanted.type_definitions))
        out += [v for v in found if v.id is None or next(kept)]  # of a file's nodes the server may lack a namespace
    return out


@dataclass(frozen=True, slots=True)
class Described:
    """A variable with its tag.

    Attributes:
        variable: The variable.
        tag: Row of the tag table.
        names: Properties (JSON) by value of an enumeration.
    """

    variable: Variable
    tag: Tag
    names: dict[int, str] | None

    def item(self, tag: int) -> Item:
        """What decoding needs, once the tag table has numbered the tag."""
        return Item(tag, self.names)


async def describe(session: Session, config: OpcUaConfig, wanted: list[Variable], types: DataTypes) -> list[Described]:
    """Look up names, units and data types of the variables, and make their tags."""
    there = [v for v in wanted if v.id is not None]
    ids = [v.id for v in there if v.id is not None]
    unnamed = [v for v in there if not v.name]
    names = await session.read_attributes_of([v.id for v in unnamed if v.id is not None], AttributeIds.BrowseName)
    for variable, value in zip(unnamed, names, strict=True):
        read = value.Value.Value if value.Value is not None else None
        variable.name = (read.Name if isinstance(read, ua.QualifiedName) else None) or ""
    data_types = {
        id(variable): value.Value.Value if value.Value is not None else None
        for variable, value in zip(there, await session.read_attributes_of(ids, AttributeIds.DataType), strict=True)
    }
    properties: dict[int, dict[str, Any]] = {}
    try:
        await types.learn(t for t in set(data_types.values()) if isinstance(t, ua.NodeId))
        properties = await _properties(session, there)
    except UaStatusCodeError as error:  # units and names of enumerations are welcome, values are needed
        _log.warning("source %s: the server does not describe its nodes: %s", config.name, error)
    device = session.server_name or config.endpoint
    out: list[Described] = []
    for variable in wanted:
        own = properties.get(id(variable), {})
        information = own.get("EngineeringUnits")
        unit = information.DisplayName.Text or "" if isinstance(information, ua.EUInformation) else ""
        data_type = data_types.get(id(variable))
        enumeration = types.enumeration(data_type) if isinstance(data_type, ua.NodeId) else None
        if enumeration is None:
            enumeration = names_by_value(own.get("EnumStrings") or own.get("EnumValues"))
        tag = config.tag(
            device,
            variable.address,
            variable.name or parse_name(variable.address),
            unit,
            {"browse_path": variable.path} if variable.path else None,
            own=variable.config,
            names=_names(variable),
        )
        rendered = (
            {value: json.dumps({"enum": name}, ensure_ascii=False) for value, name in enumeration.items()}
            if enumeration
            else None
        )
        out.append(Described(variable, tag, rendered))
    return out


def parse_name(address: str) -> str:
    """A name for a node whose browse name is not known: its identifier."""
    return address.rpartition("/")[2] if address.startswith("/") else str(parse_node_id(address).identifier)


def _names(variable: Variable) -> list[str]:
    """Further names by which a mapping may match a variable: its id by namespace index, and its browse path."""
    if variable.id is None:
        return [variable.path] if variable.path else []
    indexed = format_node_id(int(variable.id.NamespaceIndex), variable.id.Identifier)
    return [indexed, variable.path] if variable.path else [indexed]


async def _properties(session: Session, wanted: list[Variable]) -> dict[int, dict[str, Any]]:
    """Values of EngineeringUnits, EnumStrings and EnumValues (OPC 10000-8 clause 5.3), by variable."""
    unseen = [v for v in wanted if v.properties is None]
    results = await session.references([v.id for v in unseen if v.id is not None], ObjectIds.HasProperty)
    for variable, references in zip(unseen, results, strict=True):
        variable.properties = {str(r.BrowseName.Name): r.NodeId for r in references}
    asked = [
        (variable, name, variable.properties[name])
        for variable in wanted
        for name in ("EngineeringUnits", "EnumStrings", "EnumValues")
        if variable.properties and name in variable.properties
    ]
    values = await session.read_attributes_of([node for _, _, node in asked], AttributeIds.Value)
    out: dict[int, dict[str, Any]] = {}
    for (variable, name, _), value in zip(asked, values, strict=True):
        if value.Value is not None:
            out.setdefault(id(variable), {})[name] = value.Value.Value
    return out
