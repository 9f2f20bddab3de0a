"""YAML with places: a file as nodes, as plain values, and the place of each value.

Scalars follow YAML 1.2's core schema, so that ``no``, ``012`` and ``12:30`` stay what they look like. ``${env:NAME}``,
``${env:NAME:-default}`` and ``${file:/path}`` are resolved on scalars, never on the text of the file.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from typing_extensions import override

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_REFERENCE: Final = re.compile(r"\$\{(?P<kind>\w+):(?P<what>[^}]*)\}")
_INTEGER: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: Final = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}  # fmt: skip


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    @override
    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """What is wrong with a configuration.

    Attributes:
        place: Where.
        path: The key, as ``sources.0.endpoint``.
        message: What is wrong and what would be right.
    """

    place: Place
    path: str
    message: str

    @override
    def __str__(self) -> str:
        return f"{self.place}: {self.path + ': ' if self.path else ''}{self.message}"


class ProblemsError(Exception):
    """A configuration cannot be used."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = sorted(set(problems))
        super().__init__("\n".join(str(problem) for problem in self.problems))


def place_of(node: yaml.Node) -> Place:
    """Where a node begins."""
    return Place(node.start_mark.name, node.start_mark.line + 1, node.start_mark.column + 1)


def compose(path: Path) -> yaml.Node | None:
    """The root node of a YAML file; None when it is empty.

    Raises:
        ProblemsError: The file cannot be read, or is not YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ProblemsError([Problem(Place(str(path), 1, 1), "", f"cannot be read: {reason}")]) from error
    loader = _LOADER(text)
    loader.name = str(path)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(str(path), mark.line + 1, mark.column + 1) if mark else Place(str(path), 1, 1)
        raise ProblemsError([Problem(place, "", f"not YAML: {error.problem or error.context}")]) from error
    except yaml.YAMLError as error:
        raise ProblemsError([Problem(Place(str(path), 1, 1), "", f"not YAML: {error}")]) from error
    finally:
        loader.dispose()
    if node is not None:
        _name_marks(node, str(path))
    return node


def _name_marks(node: yaml.Node, name: str) -> None:
    stack, seen = [node], set()
    while stack:
        current = stack.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        mark = current.start_mark
        current.start_mark = yaml.Mark(name, mark.index, mark.line, mark.column, None, 0)
        if isinstance(current, yaml.MappingNode):
            stack.extend(child for pair in current.value for child in pair)
        elif isinstance(current, yaml.SequenceNode):
            stack.extend(current.value)


def merge(into: yaml.MappingNode, other: yaml.MappingNode, path: str = "") -> list[Problem]:
    """Add `other` to `into`: mappings are joined, lists appended; a key that both set is a problem."""
    problems: list[Problem] = []
    known = {key.value: value for key, value in into.value}
    for key, value in other.value:
        here = f"{path}.{key.value}" if path else key.value
        mine = known.get(key.value)
        if mine is None:
            into.value.append((key, value))
        elif isinstance(mine, yaml.MappingNode) and isinstance(value, yaml.MappingNode):
            problems += merge(mine, value, here)
        elif isinstance(mine, yaml.SequenceNode) and isinstance(value, yaml.SequenceNode):
            mine.value.extend(value.value)
        else:
            problems.append(Problem(place_of(key), here, f"is set in {place_of(mine)} already; keep one"))
    return problems


def construct(node: yaml.Node) -> tuple[Any, list[Problem]]:
    """The value of a node, and what is wrong with it: keys that stand twice, references that lead nowhere."""
    problems: list[Problem] = []
    return _construct(node, "", problems, ()), problems


def _construct(node: yaml.Node, path: str, problems: list[Problem], inside: tuple[int, ...]) -> Any:
    if id(node) in inside:
        problems.append(Problem(place_of(node), path, "refers to itself"))
        return None
    inside = (*inside, id(node))
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            name = str(key.value)
            here = f"{path}.{name}" if path else name
            if name in found:
                problems.append(Problem(place_of(key), here, "stands twice; keep one"))
            found[name] = _construct(value, here, problems, inside)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [
            _construct(item, f"{path}.{i}" if path else str(i), problems, inside) for i, item in enumerate(node.value)
        ]
    return _scalar(node, path, problems)


def _scalar(node: yaml.Node, path: str, problems: list[Problem]) -> Any:
    text: str = node.value

    def resolve(match: re.Match[str]) -> str:
        try:
            return _resolve(match["kind"], match["what"])
        except (LookupError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.args[0]
            problems.append(Problem(place_of(node), path, f"{match[0]}: {reason}"))
            return ""

    resolved = _REFERENCE.sub(resolve, text)
    if getattr(node, "style", None) in ("'", '"', "|", ">"):
        return resolved
    if resolved in _SPECIAL and (resolved or not text):
        return _SPECIAL[resolved]
    if _INTEGER.fullmatch(resolved):
        return int(resolved, 0) if resolved[:2] in ("0o", "0x") else int(resolved)
    return float(resolved) if _FLOAT.fullmatch(resolved) else resolved


def _resolve(kind: str, what: str) -> str:
    if kind == "env":
        name, given, default = what.partition(":-")
        value = os.environ.get(name)
        if value is None and not given:
            raise LookupError(f"the environment has no {name}; set it, or write a default: ${{env:{name}:-value}}")
        return default if value is None else value
    if kind == "file":
        return Path(what).read_text(encoding="utf-8").rstrip("\n")
    raise LookupError(f"there is no `{kind}` to take values from; there are env and file")


def find(node: yaml.Node, location: Sequence[str | int], *, key: bool = False) -> tuple[yaml.Node, list[str | int]]:
    """The node at `location`, and the part of it that names keys and positions.

    Args:
        node: The root.
        location: As pydantic gives it; parts that name a choice of a union are passed over.
        key: Take the key rather than the value of the last part.
    """
    taken: list[str | int] = []
    for position, part in enumerate(location):
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is not None:
                taken.append(part)
                node = pair[0] if key and position == len(location) - 1 else pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            taken.append(part)
            node = node.value[part]
    return node, taken
