"""Nodes that are named otherwise than by their id: by browse path, or by the types that they are of."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds

from connectors.sources.opcua.names import format_node_id, parse_path
from connectors.sources.opcua.session import Session, node_id, plain_id

_ROOT: Final = node_id(ObjectIds.RootFolder)
_YES: Final[Any] = True  # what asyncua calls a Boolean cannot be made
_NO: Final[Any] = False
_Steps = tuple[tuple[int | None, str], ...]


async def at_paths(session: Session, paths: Sequence[str]) -> dict[str, ua.NodeId | None]:
    """The nodes at these browse paths; None where there is none.

    Names with a namespace are translated by the server (OPC 10000-4 clause 5.9.4); a path with a bare name is browsed, level by
    level, and a bare name is that of any namespace.
    """
    steps = {path: tuple(parse_path(path)) for path in paths}
    exact = [path for path in steps if all(index is not None for index, _ in steps[path])]
    found: dict[str, ua.NodeId | None] = dict.fromkeys(paths)
    found |= await _translated(session, {path: steps[path] for path in exact})
    below: dict[_Steps, ua.NodeId] = {(): _ROOT}
    browsed = {path: steps[path] for path in steps if path not in exact}
    for depth in range(max((len(names) for names in browsed.values()), default=0)):
        wanted = {names[: depth + 1] for names in browsed.values() if len(names) > depth and names[:depth] in below}
        parents = sorted({names[:depth] for names in wanted}, key=str)
        results = await session.references([below[parent] for parent in parents])
        for parent, references in zip(parents, results, strict=True):
            for reference in references:
                name = reference.BrowseName
                for index in (int(name.NamespaceIndex), None):
                    child = (*parent, (index, str(name.Name)))
                    if child in wanted:
                        below.setdefault(child, plain_id(reference.NodeId))
    return found | {path: below.get(names) for path, names in browsed.items()}


async def _translated(session: Session, paths: dict[str, _Steps]) -> dict[str, ua.NodeId | None]:
    asked = [
        ua.BrowsePath(
            StartingNode=_ROOT,
            RelativePath=ua.RelativePath(
                [
                    ua.RelativePathElement(
                        ReferenceTypeId=node_id(ObjectIds.HierarchicalReferences),
                        IsInverse=_NO,
                        IncludeSubtypes=_YES,
                        TargetName=ua.QualifiedName(name, ua.UInt16(index or 0)),
                    )
                    for index, name in names
                ]
            ),
        )
        for names in paths.values()
    ]

    async def translate(part: Sequence[ua.BrowsePath]) -> list[ua.BrowsePathResult]:
        return await session.uaclient.translate_browsepaths_to_nodeids(list(part))

    results = await session.limits.ask("translate", asked, translate)
    found: dict[str, ua.NodeId | None] = {}
    for path, result in zip(paths, results, strict=True):
        targets = [target for target in result.Targets or () if target.RemainingPathIndex == 0xFFFFFFFF]
        found[path] = plain_id(targets[0].TargetId) if targets and result.StatusCode.is_good() else None
    return found


async def are_of_types(
    session: Session, nodes: Sequence[ua.NodeId], types: Sequence[str], definitions: Sequence[str]
) -> list[bool]:
    """Which variables have one of these data types or type definitions, or a subtype; an empty list says nothing.

    Args:
        session: The session.
        nodes: The variables.
        types: Names or node ids of data types.
        definitions: Names or node ids of type definitions.
    """
    kept = [True] * len(nodes)
    if types:
        read = await session.read_attributes_of(nodes, AttributeIds.DataType)
        kinds = [value.Value.Value if value.Value is not None else None for value in read]
        kept = await _are(session, [kind if isinstance(kind, ua.NodeId) else None for kind in kinds], types)
    if definitions:
        found = await session.references(nodes, ObjectIds.HasTypeDefinition)
        made = await _are(session, [plain_id(refs[0].NodeId) if refs else None for refs in found], definitions)
        kept = [one and other for one, other in zip(kept, made, strict=True)]
    return kept


async def _are(session: Session, kinds: Sequence[ua.NodeId | None], wanted: Sequence[str]) -> list[bool]:
    names = await _lineages(session, {kind for kind in kinds if kind is not None})
    return [kind is not None and not names[kind].isdisjoint(wanted) for kind in kinds]


async def _lineages(session: Session, types: Iterable[ua.NodeId]) -> dict[ua.NodeId, set[str]]:
    """Names and node ids of each type and of all that it is a subtype of."""
    asked = list(types)
    read = await session.read_attributes_of(asked, AttributeIds.BrowseName)
    names: dict[ua.NodeId, set[str]] = {}
    for kind, value in zip(asked, read, strict=True):
        said = value.Value.Value if value.Value is not None else None
        names[kind] = {*_ids(session, kind), *([str(said.Name)] if isinstance(said, ua.QualifiedName) else [])}
    above: dict[ua.NodeId, ua.NodeId] = {kind: kind for kind in asked}  # where each of them has got to
    seen: dict[ua.NodeId, set[ua.NodeId]] = {kind: {kind} for kind in asked}
    while above:
        level = sorted(set(above.values()), key=str)
        results = await session.references(level, ObjectIds.HasSubtype, ua.BrowseDirection.Inverse)
        parents = {node: refs[0] for node, refs in zip(level, results, strict=True) if refs}
        for kind, at in list(above.items()):
            parent = parents.get(at)
            reached = plain_id(parent.NodeId) if parent is not None else None
            if parent is None or reached is None or reached in seen[kind]:
                del above[kind]
                continue
            names[kind] |= {str(parent.BrowseName.Name), *_ids(session, reached)}
            seen[kind].add(reached)
            above[kind] = reached
    return names


def _ids(session: Session, node: ua.NodeId) -> list[str]:
    """A node id in text, with the namespace's index and with its URI."""
    index = int(node.NamespaceIndex)
    texts = [format_node_id(index, node.Identifier)]
    if 0 < index < len(session.namespaces):
        texts.append(format_node_id(session.namespaces[index], node.Identifier))
    return texts
