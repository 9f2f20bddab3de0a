"""What a configuration says of tags: mappings by address, name or pattern, and when a value is reported."""

import fnmatch
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from collections.abc import Mapping as Texts
from functools import cached_property, lru_cache
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from connectors.fields import Duration, Settings

_GLOB: Final = re.compile(r"[*?\[]")
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_REGEX: Final = "re:"
_PLAIN: Final = re.compile(r"\^?(?:\(\?P<\w+>)?([A-Za-z0-9_/;=:@ -]*)")
_OPTIONAL: Final = re.compile(r"\||\)[?*{]")


class Place(Settings):
    """Where something stands in the plant (ISA-95); each part is optional."""

    site: str | None = Field(None, description="ISA-95 site")
    area: str | None = Field(None, description="ISA-95 area")
    line: str | None = Field(None, description="ISA-95 line (work center)")
    equipment: str | None = Field(None, description="ISA-95 equipment (work unit)")


class ReportSettings(Settings):
    """Report by exception: which readings of a tag go on to the targets; `{}` is every change.

    The first reading, a change of quality and a reading that comes out of order always pass.
    """

    deadband: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="a number passes when it differs by more than this from the last one that passed, in the tag's unit",
    )
    deadband_percent: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="the same in percent of the last value that passed; with `deadband` too, the larger of both counts",
    )
    min_interval: Duration | None = Field(
        None, description="a number passes this long after the last one that passed, at the earliest"
    )
    max_interval: Duration | None = Field(
        None, gt=0, description="a reading passes in any case when the last one that passed is this old"
    )
    swinging_door: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="straight stretches are left out: every number that is left out lies within this of the line between "
        "its neighbors that passed, in the tag's unit; instead of the deadbands and `min_interval`",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.swinging_door is not None:
            others = [key for key in ("deadband", "deadband_percent", "min_interval") if getattr(self, key) is not None]
            if others:
                raise ValueError(f"swinging_door takes the place of {', '.join(others)}; keep one kind")
            if self.max_interval is None:
                raise ValueError("swinging_door needs max_interval: a steady slope is not reported until it ends")
        if self.min_interval and self.max_interval and self.min_interval > self.max_interval:
            raise ValueError("min_interval is longer than max_interval")
        return self


def _kind_of_report(value: object) -> str:
    return "all" if isinstance(value, str) else "rule"


Report = Annotated[
    Annotated[ReportSettings, Tag("rule")] | Annotated[Literal["all"], Tag("all")], Discriminator(_kind_of_report)
]


class Mapping(Place):
    """What is known about a tag beyond what its protocol says; fills and overrides the source's context."""

    signal_type: str | None = Field(None, description="kind of signal: temperature, pressure, speed …")
    tag_name: str | None = Field(None, description="name of the tag, instead of the one its protocol gives")
    unit: str | None = Field(None, description="engineering unit of the value after scaling, e.g. °C, bar, rpm")
    type: Literal["boolean", "integer", "number", "text"] | None = Field(
        None, description="convert values to this type; what cannot be converted becomes a dead letter"
    )
    scale: float | None = Field(None, description="factor: value × scale + offset")
    offset: float | None = Field(None, description="added after scaling, in the tag's unit")
    alarm: bool = Field(False, description="a value other than 0 or false is an alarm: its quality becomes ALARM")
    metadata: dict[str, str] = Field({}, description="free text by key, carried along with the tag")
    report: Report | None = Field(
        None,
        description="report by exception: which readings go on; `all` for every one, against the source's `report`",
    )


TEXTS: Final = (*Place.model_fields, "signal_type", "tag_name", "unit")  # what a part of a pattern may fill


class TagMapping(Mapping):
    """A mapping for the tags whose address or name it matches."""

    match: str = Field(
        description="address, name or device/address of a tag; a glob pattern such as `*/temperature`; a pattern with "
        "places to fill such as `{area}/{line}/{equipment}/{tag_name}`; or `re:` and a regular expression with named groups"
    )

    @field_validator("match")
    @classmethod
    def _sound(cls, match: str) -> str:
        _compiled(match)
        return match

    @model_validator(mode="after")
    def _known_parts(self) -> Self:
        parts = self.parts
        for field, text in self._templates() if parts else ():
            unknown = [name for name in _PLACEHOLDER.findall(text) if name not in parts]
            if unknown:
                raise ValueError(
                    f"{field}: `{{{unknown[0]}}}` is no part of the pattern `{self.match}`; there are "
                    + ", ".join(f"{{{name}}}" for name in sorted(parts))
                )
        return self

    def _templates(self) -> Iterable[tuple[str, str]]:
        yield from ((name, text) for name in TEXTS if (text := getattr(self, name)) is not None)
        yield from ((f"metadata.{key}", text) for key, text in self.metadata.items())

    @cached_property
    def pattern(self) -> re.Pattern[str] | None:
        """The whole of a name that it matches; None when it is one name, as it is written."""
        return _compiled(self.match)

    @cached_property
    def parts(self) -> frozenset[str]:
        """The names of what the pattern takes out of a name."""
        return frozenset(self.pattern.groupindex) if self.pattern is not None else frozenset()

    def filled(self, found: Texts[str, str | None]) -> Mapping:
        """The mapping of one tag, from the parts of its name; what the mapping itself says goes before a part."""
        parts = {name: text or "" for name, text in found.items()}
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set if name != "match"}
        for name in TEXTS:
            if given.get(name) is not None:
                given[name] = _fill(given[name], parts)
            elif parts.get(name):
                given[name] = parts[name]
        if self.metadata:
            given["metadata"] = {key: _fill(text, parts) for key, text in self.metadata.items()}
        return Mapping.model_construct(_fields_set=set(given), **(_NOTHING | given))


_NOTHING: Final[dict[str, Any]] = {name: getattr(Mapping(), name) for name in Mapping.model_fields}


def _fill(text: str, parts: Texts[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda placeholder: parts[placeholder[1]], text)


@lru_cache(maxsize=4096)
def _compiled(match: str) -> re.Pattern[str] | None:
    """The pattern that `match` stands for.

    Raises:
        ValueError: It is none.
    """
    if match.startswith(_REGEX):
        try:
            return re.compile(match.removeprefix(_REGEX))
        except re.error as error:
            at = f" at character {error.pos + 1}" if error.pos is not None else ""
            raise ValueError(f"`{match}` is no regular expression: {error.msg}{at}") from None
    parts = _PLACEHOLDER.split(match)
    names = parts[1::2]
    if not names:
        return re.compile(fnmatch.translate(match)) if _GLOB.search(match) else None
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"`{match}`: `{{{twice[0]}}}` stands twice")
    between = [_glob(text) for text in parts[::2]]
    named = [f"(?P<{name}>[^/]+)" for name in names]
    return re.compile("(?s:" + "".join(a + b for a, b in zip(between, [*named, ""], strict=True)) + ")")


def _glob(text: str) -> str:
    """A part of a glob pattern as a regular expression, without its end."""
    return fnmatch.translate(text).removeprefix("(?s:").rsplit(")\\Z", 1)[0]


def _literals(match: str) -> tuple[str, str]:
    """What every name begins with that the pattern matches, and what is in every one, as far as it is easily told."""
    if not match.startswith(_REGEX):
        begin, *others = re.split(r"[*?]|\[.*\]|\{\w+\}", match)
        return begin, max(others, key=len, default="")
    text = match.removeprefix(_REGEX)
    plain = _PLAIN.match(text)
    if plain is None or _OPTIONAL.search(text):
        return "", ""
    return (plain[1][:-1] if text[plain.end() :][:1] in ("*", "?", "{") else plain[1]), ""


class Matcher:
    """Finds the mapping of a tag: a match without wildcards goes first, then the first pattern.

    Args:
        mappings: The mappings, in their order.
    """

    def __init__(self, mappings: Sequence[TagMapping]) -> None:
        self.mappings = mappings
        # By number of a mapping, None for no mapping: the tags that it took; filled when somebody wants to know.
        self.taken: dict[int | None, set[str]] | None = None
        self._exact: dict[str, int] = {}
        # Most names are told apart by plain text of the patterns: how they begin, and what must be in them.
        starting: dict[str, list[tuple[int, str, re.Pattern[str]]]] = defaultdict(list)
        for number, mapping in enumerate(mappings):
            if mapping.pattern is None:
                self._exact.setdefault(mapping.match, number)
            else:
                begin, inside = _literals(mapping.match)
                starting[begin].append((number, inside, mapping.pattern))
        self._starting = dict(starting)
        self._lengths = sorted({len(begin) for begin in starting})

    def find(self, names: Sequence[str]) -> Mapping | None:
        """What is said of a tag with these names; the first of them is the tag's own."""
        for name in names:
            number = self._exact.get(name)
            if number is not None:
                self._count(number, names)
                return self.mappings[number]
        best, found = len(self.mappings), None
        for name in dict.fromkeys(names):
            for length in self._lengths:
                for number, inside, pattern in self._starting.get(name[:length], ()):
                    if number >= best:
                        break
                    if inside in name and (match := pattern.fullmatch(name)) is not None:
                        best, found = number, match
                        break
        self._count(None if found is None else best, names)
        if found is None:
            return None
        mapping = self.mappings[best]
        return mapping.filled(found.groupdict()) if mapping.parts else mapping

    def _count(self, number: int | None, names: Sequence[str]) -> None:
        if self.taken is not None:
            self.taken.setdefault(number, set()).add(names[0])
