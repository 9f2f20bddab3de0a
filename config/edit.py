"""Editing the files of a configuration: one source, target or the rules, while comments and order stay. Texts in, texts out.

What an engineer wrote by hand stays as it was written: keys that an edit does not change keep their place, their comment and
their form, and a reference such as ``${secret:name}`` stays one. A secret that was written out is shown as ``********``, and
whoever sends that back means the secret that is there.
"""

import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import RoundTripConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from config.changes import NAMES
from config.schema import follow

MASKED: Final = "********"
_CONNECTORS: Final = ("gateway", "cloud", "connectors")
_DEFAULT: Final = ("gateway", "cloud", "default_connector")

_PLAIN: Final = re.compile(
    r"(?!true|false|null|[yYnN]|yes|no|on|off)[A-Za-z_/]([A-Za-z0-9_./-]|:[A-Za-z0-9/])*( [A-Za-z0-9_./-]+)*|",
    re.IGNORECASE,
)

Texts = Mapping[str, str]


class EditError(Exception):
    """A part of a configuration cannot be edited; the message says why and what to do."""


def main_of(files: Texts) -> str:
    """Which of the files is the main one."""
    return next(name for name in files if "/" not in name)


def sources(files: Texts) -> dict[str, dict[str, Any]]:
    """The sources by name, as they are written; templates' sources are not among them."""
    return {name: _plain(item, ("sources", at)) for _, at, name, item in _listed(files, "sources")}


def targets(files: Texts) -> dict[str, dict[str, Any]]:
    """The targets by name, as they are written."""
    found = {}
    for document in map(_read, files.values()):
        for name, item in (_at(document, *_CONNECTORS) or {}).items():
            found[str(name)] = _plain(item, (*_CONNECTORS, name))
    return found


def rules(files: Texts) -> list[dict[str, Any]]:
    """The routing rules, in their order, as they are written."""
    return [_plain(item, ("routing_rules", at)) for _, at, _, item in _listed(files, "routing_rules")]


def put_source(files: Texts, name: str | None, source: Mapping[str, Any]) -> dict[str, str]:
    """The files with a source as given.

    Args:
        files: The texts of the files.
        name: Name of the source that it takes the place of; None adds one.
        source: The source, as plain values.

    Raises:
        EditError: There is no source of this name in the files.
    """
    if name is None:
        return _added(files, ("sources",), [_made(source)])
    file, at = _source(files, name)
    return {**files, file: _replaced(files[file], ("sources", at), source)}


def remove_source(files: Texts, name: str) -> dict[str, str]:
    """The files without a source.

    Raises:
        EditError: There is no source of this name in the files.
    """
    file, at = _source(files, name)
    return {**files, file: _removed(files[file], ("sources", at))}


def put_target(files: Texts, name: str, target: Mapping[str, Any]) -> dict[str, str]:
    """The files with a target as given, which takes the place of one of this name or is added.

    Where a second target is added and nothing says which readings go where, the first one becomes the default.
    """
    file = _target(files, name)
    if file is None:
        made = _added(files, _CONNECTORS, {name: _made(target)})
        there, settled = list(targets(files)), rules(files) or any(_at(_read(t), *_DEFAULT) for t in files.values())
        # With one target all goes there without a word; a second one must not leave it open where readings go.
        return made if len(there) != 1 or settled else _added(made, _DEFAULT[:-1], {_DEFAULT[-1]: there[0]})
    return {**files, file: _replaced(files[file], (*_CONNECTORS, name), target)}


def remove_target(files: Texts, name: str) -> dict[str, str]:
    """The files without a target.

    Raises:
        EditError: There is no target of this name in the files.
    """
    file = _target(files, name)
    if file is None:
        raise _absent("target", name)
    return {**files, file: _removed(files[file], (*_CONNECTORS, name))}


def put_rules(files: Texts, wanted: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The files with these routing rules, in this order; they stand in one file then."""
    holders = list(dict.fromkeys(file for file, *_ in _listed(files, "routing_rules")))
    if not holders:
        return _added(files, ("routing_rules",), [_made(rule) for rule in wanted]) if wanted else dict(files)
    made = dict(files)
    for file in holders:
        first = file == holders[0] and wanted
        made[file] = (
            _replaced(files[file], ("routing_rules",), wanted) if first else _removed(files[file], ("routing_rules",))
        )
    return made


def _source(files: Texts, name: str) -> tuple[str, int]:
    for file, at, other, _ in _listed(files, "sources"):
        if other == name:
            return file, at
    raise _absent("source", name)


def _target(files: Texts, name: str) -> str | None:
    return next((file for file, text in files.items() if name in (_at(_read(text), *_CONNECTORS) or ())), None)


# ---------------------------------------------------------------------- reading


class _Float(float):
    """A number as it is written."""

    written: str


class _Constructor(RoundTripConstructor):
    def as_written(self, node: Any) -> _Float:
        made = _Float(self.construct_yaml_float(node))
        made.written = node.value
        return made


class _Representer(RoundTripRepresenter):
    def number(self, value: float) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:float", getattr(value, "written", repr(value)))


_Constructor.add_constructor("tag:yaml.org,2002:float", _Constructor.as_written)
_Representer.add_representer(_Float, _Representer.number)
_Representer.add_representer(float, _Representer.number)


def _yaml() -> YAML:
    made = YAML()
    made.Constructor, made.Representer = _Constructor, _Representer
    made.preserve_quotes = True
    made.width = 4096
    made.indent(mapping=2, sequence=4, offset=2)
    return made


def _read(text: str) -> Any:
    try:
        document = _yaml().load(text)
    except YAMLError as error:
        raise EditError(f"the file is not YAML: {' '.join(str(error).split())}") from error
    return CommentedMap() if document is None else document


def _written(document: Any) -> str:
    out = io.StringIO()
    _yaml().dump(document, out)
    return out.getvalue()


def _listed(files: Texts, key: str) -> Iterable[tuple[str, int, str, Any]]:
    """The members of a list in all files: file, place in its list there, name, and the member."""
    for file, text in files.items():
        for at, item in enumerate(_at(_read(text), key) or ()):
            yield file, at, str(item.get("name", "")) if isinstance(item, Mapping) else "", item


def _at(document: Any, *path: str) -> Any:
    for part in path:
        document = document.get(part) if isinstance(document, Mapping) else None
    return document


def _absent(kind: str, name: str) -> EditError:
    return EditError(
        f"the files have no {kind} `{name}` of its own; one that a template or the section zerobus makes is edited there"
    )


def _plain(value: Any, path: tuple[Any, ...]) -> Any:
    """A value as it is written, without comments; what is secret and not a reference is masked."""
    if isinstance(value, Mapping):
        return {str(key): _plain(member, (*path, key)) for key, member in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(member, (*path, at)) for at, member in enumerate(value)]
    if isinstance(value, str):
        return MASKED if "${" not in value and follow(path).is_secret else str(value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return None if value is None else str(value)


# ---------------------------------------------------------------------- writing


# Only the lines of what is edited are written anew: everything else stays as it is, letter by letter.


def _nodes(text: str, path: Sequence[str | int]) -> list[yaml.Node]:
    """The nodes on the way to what stands at `path`: key and value of each part."""
    node: Any = yaml.compose(text, Loader=yaml.CSafeLoader)
    found = [node, node]
    for part in path:
        pair = (
            (node.value[part],) * 2
            if isinstance(part, int)
            else next(pair for pair in node.value if pair[0].value == part)
        )
        found += pair
        node = pair[1]
    return found


def _last_line(node: Any) -> int:
    """Number of the last line that a node stands on, without what follows it."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        mark = node.end_mark
        return int(mark.line if mark.column else max(node.start_mark.line, mark.line - 1))
    last = node.value[-1]
    return _last_line(last[1] if isinstance(last, tuple) else last)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _stands_apart(line: str, path: Sequence[str | int]) -> bool:
    """Whether a member of a list does not stand on the line of its dash."""
    return isinstance(path[-1], int) and not line.lstrip(" ").startswith("- ")


def _in_flow(nodes: Sequence[yaml.Node]) -> bool:
    return any(isinstance(node, yaml.CollectionNode) and node.flow_style for node in nodes)


def _replaced(text: str, path: Sequence[str | int], new: Any) -> str:
    """The text with what stands at `path` as `new` says."""
    *above, key, node = _nodes(text, path)
    lines = text.splitlines(keepends=True)
    first, last = key.start_mark.line, _last_line(node)
    if _in_flow(above[1:]) or _stands_apart(lines[first], path):
        return _whole(text, path, lambda holder, part: _update(holder[part], new, holder, part))
    indent = _indent(lines[first])
    block = "".join(
        line[indent:] if line[:indent].isspace() or not indent else line for line in lines[first : last + 1]
    )
    if not isinstance(path[-1], int):
        document = _read(block)
        _update(document[path[-1]], new, document, path[-1])
        return _spliced(lines, first, last + 1, _shifted(_written(document), indent))
    document = _read(_X + _shifted(block, _DASH))
    _update(document["x"][0], new, document["x"], 0)
    return _spliced(lines, first, last + 1, _shifted(_without_x(_written(document)), indent))


def _removed(text: str, path: Sequence[str | int]) -> str:
    *above, key, node = _nodes(text, path)
    lines, first = text.splitlines(keepends=True), key.start_mark.line
    if _in_flow(above[1:]) or len(above[-1].value) == 1 or _stands_apart(lines[first], path):
        return _whole(text, path, lambda holder, part: holder.pop(part))
    return _spliced(lines, first, _last_line(node) + 1, "")


def _added(files: Texts, path: Sequence[str], new: Any) -> dict[str, str]:
    """The files with new members of the list or mapping at `path`: where the last such thing stands, else in the main file."""
    holding = [file for file, text in files.items() if _at(_read(text), *path)]
    file = holding[-1] if holding else main_of(files)
    text = files[file]
    nodes = _nodes(text, path) if holding else []
    if not holding or _in_flow(nodes[1:]):
        return {**files, file: _whole(text, path, lambda holder, part: _join(holder, part, new))}
    lines = text.splitlines(keepends=True)
    listed, after = nodes[-1], _last_line(nodes[-1]) + 1
    if isinstance(listed, yaml.SequenceNode):
        indent = _indent(lines[listed.start_mark.line])
        made: Any = CommentedSeq(new)
    else:
        indent, made = listed.start_mark.column, CommentedMap(new)
    return {**files, file: _spliced(lines, after, after, _written_at(made, indent))}


def _join(holder: Any, part: Any, new: Any) -> None:
    if isinstance(new, Mapping):
        holder[part] = CommentedMap({**(holder.get(part) or {}), **new})
    else:
        holder[part] = CommentedSeq([*(holder.get(part) or ()), *new])


def _whole(text: str, path: Sequence[str | int], act: Callable[[Any, Any], Any]) -> str:
    """The text written anew, after `act` on what holds the last part of `path`."""
    holder = document = _read(text)
    for part in path[:-1]:
        if not isinstance(part, int) and not holder.get(part):
            holder[part] = CommentedMap()
        holder = holder[part]
    act(holder, path[-1])
    return _written(document)


def _written_at(made: Any, indent: int) -> str:
    if isinstance(made, CommentedSeq):
        return _shifted(_without_x(_written(CommentedMap({"x": made}))), indent)
    return _shifted(_written(made), indent)


# A list is read and written as what a key `x` holds, so that its dashes are indented as those of the lists within it.
_X: Final = "x:\n"
_DASH: Final = 2


def _without_x(block: str) -> str:
    return "".join(line[_DASH:] if line.strip() else line for line in block.removeprefix(_X).splitlines(keepends=True))


def _shifted(block: str, indent: int) -> str:
    return "".join(" " * indent + line if line.strip() else line for line in block.splitlines(keepends=True))


def _spliced(lines: list[str], first: int, after: int, block: str) -> str:
    if first and not lines[first - 1].endswith("\n"):
        lines[first - 1] += "\n"
    return "".join([*lines[:first], block, *lines[after:]])


def _made(value: Any) -> Any:
    if isinstance(value, Mapping):
        made = CommentedMap()
        for key, member in value.items():
            made[key] = _made(member)
        return made
    if isinstance(value, Sequence) and not isinstance(value, str):
        listed = CommentedSeq()
        listed.extend(_made(member) for member in value)
        if all(not isinstance(member, Mapping | Sequence) or isinstance(member, str) for member in value):
            listed.fa.set_flow_style()
        return listed
    return DoubleQuotedScalarString(value) if isinstance(value, str) and not _PLAIN.fullmatch(value) else value


def _update(old: Any, new: Any, holder: Any, key: Any) -> None:
    """Make what stands under `key` of `holder` as `new` says, and touch nothing that says so already."""
    if isinstance(old, CommentedMap) and isinstance(new, Mapping):
        for gone in [name for name in old if name not in new]:
            del old[gone]
        for name, value in new.items():
            if name in old:
                _update(old[name], value, old, name)
            else:
                old[name] = _made(value)
    elif isinstance(old, CommentedSeq) and isinstance(new, Sequence) and not isinstance(new, str):
        _update_list(old, new)
    elif new != MASKED and (old != new or isinstance(old, bool) is not isinstance(new, bool)):
        holder[key] = _made(new)


def _update_list(old: CommentedSeq, new: Sequence[Any]) -> None:
    names, wanted = ([_name(item, at) for at, item in enumerate(items)] for items in (old, new))
    flow = any(isinstance(item, CommentedMap) and item.fa.flow_style() for item in old)
    comments, members = dict(old.ca.items), []
    moved = {}
    for at, name in enumerate(wanted):
        if name in names:
            before = names.index(name)
            holder = {at: old[before]}
            _update(old[before], new[at], holder, at)
            members.append(holder[at])
            if before in comments:
                moved[at] = comments[before]
        else:
            members.append(_made(new[at]))
            if flow and isinstance(members[-1], CommentedMap):
                members[-1].fa.set_flow_style()
    old[:] = members
    old.ca.items.clear()
    old.ca.items.update(moved)


def _name(item: Any, at: int) -> str:
    if isinstance(item, Mapping):
        return next((f"{key}={item[key]}" for key in NAMES if item.get(key) not in (None, "")), str(at))
    return str(at)
