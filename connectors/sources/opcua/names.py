"""Names of nodes: node ids in text (OPC 10000-6 clause 5.3.1.10) and patterns over browse paths. Pure, no client library."""

import base64
import binascii
import re
import uuid
from collections.abc import Sequence
from typing import NamedTuple


class NodeName(NamedTuple):
    """A node id in parts.

    Attributes:
        namespace: Index of the namespace, or its URI.
        kind: `i`, `s`, `g` or `b`.
        identifier: An integer, a text, a UUID or bytes.
    """

    namespace: int | str
    kind: str
    identifier: int | str | uuid.UUID | bytes


def parse_node_id(text: str) -> NodeName:
    """The parts of a node id such as ``ns=2;s=Pump``, ``i=85`` or ``nsu=http://vendor/ns;i=1``.

    Raises:
        ValueError: The text is not a node id; the message says what would be.
    """
    namespace: int | str = 0
    rest = text.strip()
    if match := re.match(r"ns=(\d{1,5});", rest):
        namespace = int(match[1])
        rest = rest[match.end() :]
    elif match := re.match(r"nsu=([^;]+);", rest):
        namespace = match[1].replace("%3B", ";").replace("%25", "%")
        rest = rest[match.end() :]
    kind, _, value = rest.partition("=")
    try:
        match kind:
            case "i" if value.isascii() and value.isdigit() and int(value) < 2**32:
                return NodeName(namespace, kind, int(value))
            case "s" if value:
                return NodeName(namespace, kind, value)
            case "g":
                return NodeName(namespace, kind, uuid.UUID(value))
            case "b":
                return NodeName(namespace, kind, base64.b64decode(value, validate=True))
            case _:
                pass
    except (ValueError, binascii.Error):
        pass
    msg = f"`{text}` is not a node id; write ns=2;s=Name, ns=2;i=1234, ns=2;g=UUID, ns=2;b=BASE64, or nsu=URI; for ns="
    raise ValueError(msg)


def parse_path(text: str) -> list[tuple[int | None, str]]:
    """The names of a browse path such as ``/Objects/2:Plant/Line 1``, each with its namespace, None where it does not say one.

    A slash within a name has a backslash before it.

    Raises:
        ValueError: The text is not a browse path.
    """
    names = [part.replace("\\/", "/") for part in re.split(r"(?<!\\)/", text[1:])]
    if not text.startswith("/") or not all(names):
        msg = f"`{text}` is not a browse path; it begins with /, as in /Objects/Plant/Line 1/Temperature"
        raise ValueError(msg)
    steps: list[tuple[int | None, str]] = []
    for name in names:
        match = re.fullmatch(r"(\d{1,5}):(.+)", name, re.DOTALL)
        steps.append((int(match[1]), match[2]) if match and int(match[1]) < 2**16 else (None, name))
    if steps[0] == (None, "Objects"):
        steps[0] = (0, "Objects")
    return steps


def format_identifier(identifier: int | str | uuid.UUID | bytes) -> str:
    """The second half of a node id: ``i=85``, ``s=Pump``, ``g=…``, ``b=…``."""
    match identifier:
        case int():
            return f"i={identifier}"
        case str():
            return f"s={identifier}"
        case uuid.UUID():
            return f"g={identifier}"
        case _:
            return f"b={base64.b64encode(identifier).decode()}"


def format_node_id(namespace: int | str, identifier: int | str | uuid.UUID | bytes) -> str:
    """A node id in text: with ``ns=`` for an index (left out for 0), with ``nsu=`` for a URI."""
    text = format_identifier(identifier)
    if isinstance(namespace, str):
        return f"nsu={namespace.replace('%', '%25').replace(';', '%3B')};{text}"
    return f"ns={namespace};{text}" if namespace else text


def _pattern(glob: str) -> str:
    out: list[str] = []
    at = 0
    while at < len(glob):
        char = glob[at]
        if glob.startswith("**/", at):
            out.append("(?:[^/]*/)*")
            at += 3
            continue
        if glob.startswith("**", at):
            out.append(".*")
            at += 2
            continue
        if char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[" and (end := glob.find("]", at + 2)) > 0:
            inside = glob[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[").replace("&&", "&\\&")
            inside = inside.replace("--", "-\\-").replace("~~", "~\\~").replace("||", "|\\|")
            out.append(f"[{'^' + inside[1:] if inside[0] == '!' else inside}]")
            at = end
        else:
            out.append(re.escape(char))
        at += 1
    return "".join(out)


class PathFilter:
    """Which browse paths are meant: those that one of `include` and none of `exclude` matches."""

    def __init__(self, include: Sequence[str], exclude: Sequence[str]) -> None:
        self._include = re.compile("|".join(f"(?:{_pattern(glob)})" for glob in include), re.DOTALL)
        self._exclude = (
            re.compile("|".join(f"(?:{_pattern(glob)})" for glob in exclude), re.DOTALL) if exclude else None
        )

    def excludes(self, path: str) -> bool:
        """Whether the path is left out, with all that lies below it."""
        return self._exclude is not None and self._exclude.fullmatch(path) is not None

    def selects(self, path: str) -> bool:
        """Whether the variable with this path is read."""
        return self._include.fullmatch(path) is not None and not self.excludes(path)
