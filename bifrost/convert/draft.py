"""A configuration that is being written, and the one that it comes from, of which nothing gets lost unsaid."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from connectors.fields import seconds

Kind = Literal["lost", "to do", "note"]
WRITES_NOTHING: Final = "Bifrost reads devices and writes nothing to them; leave it where it is"
_SECRET: Final = re.compile(r"pass|token|secret|credential|private|api_?key|connection|^dsn$|auth", re.IGNORECASE)
_LOGIN: Final = re.compile(r"//[^/\s@]*@")  # of a URL
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST: Final = 60  # characters of a value in a comment


class ConvertError(Exception):
    """A file cannot be read as what it is said to be; the message says where and what would be."""


class Ready(str):
    """Text in our own syntax: ``${`` in it is a reference, not two characters."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Remark:
    """A comment.

    Attributes:
        kind: Something that was not taken over, something that is left to do, or neither.
        text: What it says, one line.
    """

    kind: Kind
    text: str


class Section(dict[str, Any]):
    """A mapping of the configuration: scalars, lists and further sections, with remarks that stand above it."""

    def __init__(self, **values: Any) -> None:
        super().__init__({key: value for key, value in values.items() if value is not None})
        self.remarks: list[Remark] = []

    def remark(self, kind: Kind, text: str) -> None:
        """Say something once."""
        said = Remark(kind, _LOGIN.sub("//…@", " ".join(text.split())))
        if said not in self.remarks:
            self.remarks.append(said)

    def lost(self, what: str, why: str) -> None:
        """Say that something was not taken over, why, and what to do."""
        self.remark("lost", f"{what}: {why}")

    def put(self, **values: Any) -> None:
        """Set what is not None."""
        self.update({key: value for key, value in values.items() if value is not None})

    def inner(self, key: str) -> "Section":
        """The section at `key`, made when there is none."""
        found = self.setdefault(key, Section())
        assert isinstance(found, Section)  # noqa: S101 - nobody puts anything else where a section belongs
        return found


def remarks(value: Any) -> Iterator[Remark]:
    """All remarks in a section or list, those above first."""
    if isinstance(value, Section):
        yield from value.remarks
        for inner in value.values():
            yield from remarks(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from remarks(inner)


def named(text: str, taken: Iterable[str] = (), *, otherwise: str = "device") -> str:
    """A name of a source, target or secret made from a text, other than those that are taken."""
    begun = _NOT_IN_NAMES.sub("-", text).strip("-_")[:50] or otherwise
    if re.fullmatch(r"[\d-]+", begun):
        begun = f"{otherwise}-{begun}"
    known, number, name = set(taken), 2, begun
    while name in known:
        name, number = f"{begun}-{number}", number + 1
    return name


def shown(key: str, value: Any) -> str:
    """A key and its value for a comment: never a secret, never more than a line."""
    if isinstance(value, Mapping):
        return f"{key} ({', '.join(map(str, list(value)[:8]))})" if value else key
    if isinstance(value, list):
        simple = all(isinstance(item, str | int | float) for item in value)
        text = ", ".join(map(str, value)) if simple else f"{len(value)} of them"
    else:
        text = str(value)
    if _SECRET.search(key) or "@" in text or not text:
        return key
    return f"{key} = {text if len(text) <= _LONGEST else text[:_LONGEST] + '…'}"


@dataclass
class Draft:
    """A conversion under way.

    Attributes:
        origin: Name of the file that it comes from.
        kind: Whose file that is.
        words: Turns a text of the file into ours, with its references.
        root: What is written.
        targets: The targets by name; all readings go to each of them.
    """

    origin: str
    kind: str
    words: Callable[[str], str] = str
    root: Section = field(default_factory=Section)
    targets: Section = field(default_factory=Section)
    origins: "list[Origin]" = field(default_factory=list)

    @property
    def sources(self) -> list[Section]:
        """The sources."""
        found: list[Section] = self.root.setdefault("sources", [])
        return found

    def source(self, text: str, protocol: str) -> Section:
        """A new source, whose name is made from a text."""
        made = Section(name=named(text, (s["name"] for s in self.sources), otherwise=protocol), protocol=protocol)
        self.sources.append(made)
        return made

    def target(self, text: str, type_: str) -> Section:
        """A new target, whose name is made from a text."""
        name = named(text, self.targets, otherwise=type_)
        self.targets[name] = Section(type=type_)
        found: Section = self.targets[name]
        return found

    def read(self, values: Mapping[str, Any], where: str, into: Section | None = None) -> "Origin":
        """A mapping of the file, of which all that nobody asks for is told when the draft is finished."""
        made = Origin(self, values, where, self.root if into is None else into)
        self.origins.append(made)
        return made

    def finish(self) -> None:
        """Tell what nobody asked for."""
        for origin in self.origins:
            origin.rest()


class Origin:
    """A mapping of the file that is converted. What is asked for counts as taken; the rest is told."""

    def __init__(self, draft: Draft, values: Mapping[str, Any], where: str, into: Section) -> None:
        self.draft, self.where, self.into = draft, where, into
        self.otherwise = "there is no such setting here; see docs/reference/configuration.md"
        self._values = values
        self._taken: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._values.get(key) not in (None, "", [], {})

    def take(self, key: str) -> Any:
        """What stands at `key`, as it is; None when there is nothing."""
        self._taken.add(key)
        return self._values.get(key)

    def lost(self, key: str, why: str) -> None:
        """Tell that a key is not taken over, where it is there."""
        value = self.take(key)
        if value is not None:
            self.into.lost(f"{self.where}.{shown(key, value)}", why)

    def needless(self, why: str, *keys: str) -> None:
        """Say that keys are not needed, where they are there; nothing is lost by it."""
        for key in keys:
            if self.take(key) is not None:
                self.into.remark("note", f"not needed: {self.where}.{key}: {why}")

    def drop(self, why: str, into: Section) -> None:
        """Tell that the whole of it is not taken over."""
        self._taken |= set(self._values)
        into.lost(self.where, why)

    def skip(self, why: str) -> None:
        """Say that the whole of it is not needed; nothing is lost by it."""
        self._taken |= set(self._values)
        self.into.remark("note", f"not needed: {self.where}: {why}")

    def rest(self) -> None:
        """Tell what nobody asked for."""
        for key in self._values:
            if key not in self._taken:
                self.lost(key, self.otherwise)

    def text(self, key: str) -> str | None:
        """A text, or a number as text."""
        value = self.take(key)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            self._unfit(key, value, "a text")
            return None
        return self.draft.words(str(value)) or None

    def number(self, key: str) -> Any:
        """A number, or a reference that stands for one."""
        value = self.take(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        if isinstance(value, str):
            words = self.draft.words(value)
            if isinstance(words, Ready):
                return words
            if re.fullmatch(r"\s*[+-]?\d{1,15}(\.\d{1,15})?\s*", value):
                return float(value) if "." in value else int(value)
        self._unfit(key, value, "a number")
        return None

    def whole(self, key: str) -> int | None:
        """A whole number that is known now."""
        value = self.number(key)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, int) or value is None:
            return value
        self._unfit(key, value, "a whole number")
        return None

    def flag(self, key: str) -> bool | None:
        """True or false."""
        value = self.take(key)
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            value = value.strip().lower() == "true"
        if isinstance(value, bool):
            return value
        self._unfit(key, value, "true or false")
        return None

    def duration(self, key: str, unit: str = "s") -> str | None:
        """A duration; numbers are in `unit`."""
        value = self.take(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return f"{value:g}{unit}" if abs(value) < 1e6 else f"{value:.0f}{unit}"
        words = self.draft.words(value) if isinstance(value, str) else value
        if isinstance(words, str) and words:
            if isinstance(words, Ready):
                return words
            try:
                seconds(written := words.replace("µs", "us"))
            except ValueError:
                self._unfit(key, value, "a duration such as 10s")
                return None
            return written
        self._unfit(key, value, "a duration such as 10s")
        return None

    def texts(self, key: str) -> list[str]:
        """A list of texts, or one."""
        value = self.take(key)
        if isinstance(value, str):
            return [self.draft.words(value)]
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return [self.draft.words(item) for item in value]
        self._unfit(key, value, "a list of texts")
        return []

    def sections(self, key: str) -> "list[Origin]":
        """The mappings in a list, or the one that stands there alone."""
        value = self.take(key)
        if isinstance(value, Mapping):
            return [self.draft.read(value, f"{self.where}.{key}", self.into)]
        if isinstance(value, list) and all(isinstance(item, Mapping) for item in value):
            return [
                self.draft.read(item, f"{self.where}.{key}[{at}]", self.into) for at, item in enumerate(value, start=1)
            ]
        self._unfit(key, value, "a table or a list of tables")
        return []

    def section(self, key: str) -> "Origin":
        """The mapping that stands there; an empty one when there is none."""
        found = self.sections(key)
        for other in found[1:]:
            other.drop("there is one of these here; the first is taken", self.into)
        return found[0] if found else self.draft.read({}, f"{self.where}.{key}", self.into)

    def choice(self, key: str, known: Mapping[str, Any], why: str) -> Any:
        """What one of some words stands for, small and large letters the same; None for none and for another one."""
        value = self.text(key)
        if value is None:
            return None
        if value.lower() not in known:
            self.lost(key, why)
            return None
        return known[value.lower()]

    def words(self, key: str) -> dict[str, str]:
        """Texts by key, such as the tags of a metric."""
        value = self.take(key)
        if isinstance(value, list) and all(isinstance(item, list) and len(item) == 2 for item in value):
            value = {str(name): text for name, text in value}
        if isinstance(value, Mapping) and all(isinstance(item, str | int | float) for item in value.values()):
            return {str(name): self.draft.words(str(text)) for name, text in value.items()}
        self._unfit(key, value, "texts by key")
        return {}

    def secret(self, key: str, owner: str, into: Section | None = None) -> str | None:
        """A secret, as a reference: one in clear goes into the store of secrets, by the user's hand."""
        value = self.take(key)
        if value is None or value == "":
            return None
        words = self.draft.words(str(value))
        place = self.into if into is None else into
        if isinstance(words, Ready):
            for name in re.findall(r"\$\{secret:([^{}]*)\}", words):
                place.remark("to do", f"{self.where}.{key} stood in a store of secrets: bifrost secrets set {name}")
            return words
        name = named(f"{owner}-{key}")
        place.remark("to do", f"{self.where}.{key} stands in clear in {self.draft.origin}: bifrost secrets set {name}")
        return Ready(f"${{secret:{name}}}")

    def _unfit(self, key: str, value: Any, wanted: str) -> None:
        if value not in (None, "", [], {}):
            self.into.lost(f"{self.where}.{shown(key, value)}", f"is not {wanted}; write it by hand")


def join(parts: Iterable[str]) -> str:
    """Texts as one, which is in our own syntax when one of them is."""
    found = list(parts)
    if not any(isinstance(part, Ready) for part in found):
        return "".join(found)
    return Ready("".join(part if isinstance(part, Ready) else part.replace("${", "$${") for part in found))
