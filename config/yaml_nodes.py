"""YAML with places: a file as nodes, as plain values, and the place of each value.

Scalars follow YAML 1.2's core schema, so that ``no``, ``012`` and ``12:30:00`` stay what they look like. ``${env:NAME}``,
``${env:NAME:-default}``, ``${file:path}``, ``${secret:name}`` and ``${vault:path#key}`` are resolved on scalars, never on the text of
the file; ``$${`` stands for ``${``. The name of a file, in a key that ends in ``_file`` or in ``${file:…}``, is relative to the file that says it.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from typing_extensions import override

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_REFERENCE: Final = re.compile(r"\$?\$\{([^{}]*)\}")
_INTEGER: Final = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_SPECIAL: Final = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"), ".nan": float("nan"),
}  # fmt: skip
_LONGEST_NUMBER: Final = 400
_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{t}"
    for t in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge", "value")
)
_DEEPEST: Final = 50
_MOST_VALUES: Final = 2_000_000
_UNSOUND: Final = re.compile("[^\\t\\n\\r\\x20-\\x7e\\x85\\xa0-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
_QUOTED: Final = ("'", '"', "|", ">")
# The C library recurses for every level and would end the process; no bracket or dash opens more levels than these.
_BRACKETS: Final = re.compile(r"[\[\]{}]")
_DASHES: Final = re.compile(r"(?:[-?:][ \t]+){500}")


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
        # What stands in one place may be used in several, by an alias or a template: it is told once.
        self.problems = sorted({(p.place, p.message): p for p in sorted(problems, reverse=True)}.values())
        super().__init__("\n".join(str(problem) for problem in self.problems))


def place_of(node: yaml.Node) -> Place:
    """Where a node begins."""
    return Place(node.start_mark.name, node.start_mark.line + 1, node.start_mark.column + 1)


# ---------------------------------------------------------------------- files


def compose(path: Path, written: str | None = None) -> tuple[yaml.Node | None, list[Problem]]:
    """The root node of a YAML file, None when it is empty, and what YAML allows but a configuration does not.

    Args:
        path: The file.
        written: What is to be written into it, which is looked at instead of what it holds.

    Raises:
        ProblemsError: The file cannot be read, or is not YAML.
    """
    text = _read(path, written)
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(str(path), mark.line + 1, mark.column + 1) if mark else Place(str(path), 1, 1)
        said = ", ".join(part for part in (error.context, error.problem) if part)
        if "flow" in said and "${" in "".join(text.split("\n")[place.line - 1 : place.line]):
            said += '; inside braces and brackets a reference needs quotes: "${env:NAME}"'
        raise ProblemsError([Problem(place, "", f"not YAML: {said}")]) from error
    finally:
        loader.dispose()
    if node is None:
        return None, []
    walk = _Walk(str(path))
    walk.visit(node, 0)
    return node, walk.problems


def _read(path: Path, written: str | None) -> str:
    def wrong(message: str, offset: int = 0, before: str = "") -> ProblemsError:
        line, column = before.count("\n", 0, offset) + 1, offset - (before.rfind("\n", 0, offset) + 1) + 1
        return ProblemsError([Problem(Place(str(path), line, column), "", message)])

    try:
        raw = path.read_bytes() if written is None else written.encode("utf-8", "surrogatepass")
    except OSError as error:
        raise wrong(f"cannot be read: {error.strerror}") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = error.object[: error.start].decode("utf-8")
        message = f"the byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise wrong(message, len(before), before) from error
    unsound = _UNSOUND.search(text)
    if unsound is not None:
        raise wrong(f"not YAML: the control character 0x{ord(unsound[0]):02x}", unsound.start(), text)
    depth = 0
    for bracket in _BRACKETS.finditer(text):
        depth += 1 if bracket[0] in "[{" else -1
        if depth > 1000:
            raise wrong("is nested too deeply", bracket.start(), text)
    dashes = _DASHES.search(text)
    if dashes is not None:
        raise wrong("is nested too deeply", dashes.start(), text)
    return text


class _Walk:
    """Names the file in all marks, and finds what YAML allows but a configuration does not."""

    def __init__(self, name: str) -> None:
        self.problems: list[Problem] = []
        self._name = name
        self._values: dict[int, int] = {}  # by node: values that it stands for, 0 while it is being visited

    def visit(self, node: yaml.Node, depth: int) -> int:
        """Visit a node and what is below it; how many values it stands for."""
        known = self._values.get(id(node))
        if known is not None:
            if not known:
                self._refuse(node, "refers to itself")
            return known
        self._values[id(node)] = 0
        mark = node.start_mark
        node.start_mark = yaml.Mark(self._name, mark.index, mark.line, mark.column, None, 0)
        if depth > _DEEPEST:
            self._refuse(node, "is nested too deeply")
        if node.tag not in _TAGS:
            self._say(node, f"the tag {node.tag.replace('tag:yaml.org,2002:', '!!')} means nothing here; remove it")
        values = 1
        if isinstance(node, yaml.MappingNode):
            pairs = []
            for key, value in node.value:
                self.visit(key, depth + 1)
                values += self.visit(value, depth + 1)
                if not isinstance(key, yaml.ScalarNode):
                    self._say(key, "a key is a word, not a list or mapping")
                elif key.tag == "tag:yaml.org,2002:merge":
                    self._say(
                        key, "`<<` is not part of YAML 1.2; write the keys out, or use an alias for a whole value"
                    )
                else:
                    pairs.append((key, value))
            node.value = pairs
        elif isinstance(node, yaml.SequenceNode):
            values += sum(self.visit(item, depth + 1) for item in node.value)
        if values > _MOST_VALUES:
            self._refuse(node, f"stands for more than {_MOST_VALUES:,} values, by its aliases")
        self._values[id(node)] = values
        return values

    def _say(self, node: yaml.Node, message: str) -> None:
        self.problems.append(Problem(place_of(node), "", message))

    def _refuse(self, node: yaml.Node, message: str) -> None:
        self._say(node, message)
        raise ProblemsError(self.problems)


def merge(first: yaml.MappingNode, second: yaml.MappingNode, path: str, problems: list[Problem]) -> yaml.MappingNode:
    """Both as one: mappings are joined, lists appended; a key that both set otherwise is a problem."""
    pairs = list(first.value)
    position = {key.value: at for at, (key, _) in enumerate(pairs)}
    for key, value in second.value:
        here = f"{path}.{key.value}" if path else key.value
        at = position.get(key.value)
        if at is None:
            pairs.append((key, value))
            continue
        mine_key, mine = pairs[at]
        if isinstance(mine, yaml.MappingNode) and isinstance(value, yaml.MappingNode):
            pairs[at] = (mine_key, merge(mine, value, here, problems))
        elif isinstance(mine, yaml.SequenceNode) and isinstance(value, yaml.SequenceNode):
            joined = yaml.SequenceNode(mine.tag, [*mine.value, *value.value], mine.start_mark, mine.end_mark)
            pairs[at] = (mine_key, joined)
        else:
            problems.append(Problem(place_of(key), here, f"is set in {place_of(mine_key)} already; keep one"))
    return yaml.MappingNode(first.tag, pairs, first.start_mark, first.end_mark)


def find(node: yaml.Node, path: Sequence[str | int], *, key: bool = False) -> yaml.Node:
    """The node at `path`, or the last one on the way there that exists.

    Args:
        node: The root.
        path: Keys and positions.
        key: Take the key rather than the value of the last part.
    """
    for position, part in enumerate(path):
        if isinstance(node, yaml.MappingNode):
            pair = next((pair for pair in node.value if pair[0].value == str(part)), None)
            if pair is None:
                return node
            node = pair[0] if key and position == len(path) - 1 else pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
        else:
            return node
    return node


# ---------------------------------------------------------------------- values


IsFile = Callable[[tuple[str | int, ...]], bool]


def construct(node: yaml.Node, is_file: IsFile = lambda path: False) -> tuple[Any, list[Problem]]:  # noqa: ARG005
    """The value of a node, and what is wrong with it: keys that stand twice, references that lead nowhere.

    Args:
        node: The node.
        is_file: Whether a path, which ends in ``…_file``, leads to the name of a file.
    """
    problems: list[Problem] = []
    return _construct(node, (), is_file, problems), problems


def _construct(node: yaml.Node, path: tuple[str | int, ...], is_file: IsFile, problems: list[Problem]) -> Any:
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value in node.value:
            name = key_node.value
            here = (*path, name)
            if name in found:
                problems.append(Problem(place_of(key_node), dotted(here), "stands twice; keep one"))
            found[name] = _construct(value, here, is_file, problems)
            if name.endswith("_file") and isinstance(found[name], str) and is_file(here):
                found[name] = str(Path(value.start_mark.name).parent / found[name])
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item, (*path, i), is_file, problems) for i, item in enumerate(node.value)]
    assert isinstance(node, yaml.ScalarNode)  # noqa: S101 - YAML has three kinds of nodes
    return _value(node, path, problems)


def dotted(path: Sequence[str | int]) -> str:
    """A path as people write it: ``sources.0.endpoint``."""
    return ".".join(str(part) for part in path)


def text(node: yaml.Node) -> str | None:
    """What a plain scalar says, letter by letter, its references resolved; None for null and for what is no scalar."""
    if not isinstance(node, yaml.ScalarNode) or (node.style not in _QUOTED and _SPECIAL.get(node.value, "") is None):
        return None
    return _resolved(node, (), [])


def _value(node: yaml.ScalarNode, path: tuple[str | int, ...], problems: list[Problem]) -> Any:
    said: str = node.value
    resolved = _resolved(node, path, problems) if "${" in said else said
    if node.style in _QUOTED:
        return resolved
    if resolved in _SPECIAL:
        special = _SPECIAL[resolved]
        return resolved if special is None and resolved is not said else special  # a reference is never null
    if len(resolved) > _LONGEST_NUMBER:
        return resolved
    if _INTEGER.fullmatch(resolved):
        return int(resolved, 0) if resolved[:2] in ("0o", "0x") else int(resolved)
    return float(resolved) if _FLOAT.fullmatch(resolved) else resolved


def _resolved(node: yaml.ScalarNode, path: tuple[str | int, ...], problems: list[Problem]) -> str:
    def resolve(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        try:
            return _look_up(match[1], Path(node.start_mark.name).parent)
        except (LookupError, ValueError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error.args[0]
            problems.append(Problem(place_of(node), dotted(path), f"{match[0]}: {reason}"))
            return ""

    return _REFERENCE.sub(resolve, node.value)


def _look_up(reference: str, directory: Path) -> str:
    kind, colon, what = reference.partition(":")
    if kind == "env" and colon:
        name, given, default = what.partition(":-")
        value = os.environ.get(name)
        if value is None and not given:
            raise LookupError(f"the environment has no {name}; set it, or write a default: ${{env:{name}:-value}}")
        return value or default
    if kind == "file" and colon:
        try:
            return (directory / what).read_bytes().decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError:
            raise ValueError("the file is not UTF-8 text") from None
    if kind == "secret" and colon:
        from config.secrets import SecretsError, SecretStore, store_path

        try:
            return SecretStore(store_path(directory)).get(what)
        except SecretsError as error:
            raise LookupError(str(error)) from None
    if kind == "vault" and colon:
        from config import vault
        from config.secret_keys import SecretsError

        try:
            return vault.get(what)
        except SecretsError as error:
            raise LookupError(str(error)) from None
    said = f"there is no `{kind}` to take values from" if colon else "says not where the value is"
    raise LookupError(
        f"{said}; write ${{env:NAME}}, ${{file:path}}, ${{secret:name}} or ${{vault:path#key}}, and $${{ for the characters "
        "themselves"
    )
