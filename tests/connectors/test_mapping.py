"""Mapping of tags by name, glob pattern, pattern with places and regular expression."""

import fnmatch
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.settings import Mapping, SourceConfig, TagMapping
from normalization.normalizer import normalize_tag
from normalization.path import DEFAULT_TEMPLATE


def source(*tags: dict[str, Any], **more: Any) -> SourceConfig:
    return SourceConfig.model_validate({"name": "plc", "protocol": "opcua", "tags": list(tags), **more})


def problem(tag: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        TagMapping.model_validate(tag)
    return str(caught.value.errors()[0]["msg"])


def test_named_groups_of_a_regular_expression_fill_places_name_and_unit() -> None:
    config = source({"match": r"re:^(?P<line>L\d+)_(?P<equipment>[A-Z]+\d+)\.(?P<tag_name>[^:]*)(:(?P<unit>.*))?$"})
    found = normalize_tag(config.tag("dev", "L3_PRESS12.oil_temp:°C", "x"), DEFAULT_TEMPLATE)
    assert (found.path, found.unit) == ("L3/PRESS12/temperature/oil_temp", "°C")
    plain = config.tag("dev", "L3_PRESS12.oil_temp", "x", "K")
    assert (plain.tag_name, plain.unit) == ("oil_temp", "K")
    other = config.tag("dev", "l3_PRESS12.oil_temp", "x")
    assert (other.tag_name, other.mapping) == ("x", "{}")


def test_a_pattern_with_places_fills_them_from_a_browse_path_or_topic() -> None:
    config = source({"match": "Objects/{area}/{line}/{equipment}/*/{tag_name}"}, site="s")
    tag = config.tag("dev", "ns=2;i=7", "seven", names=("Objects/hall/L1/P2/oil/in/temp",))
    assert normalize_tag(tag, DEFAULT_TEMPLATE).path == "s/hall/L1/P2/temperature/temp"
    assert config.tag("dev", "Objects/hall/L1/temp", "seven").tag_name == "seven"


def test_parts_of_a_name_may_be_used_in_other_fields_which_go_before_them() -> None:
    config = source(
        {
            "match": r"re:(?P<line>\w+)\.(?P<equipment>\w+)\.(?P<tag_name>\w+)\.(?P<cell>\d*)",
            "tag_name": "{equipment}-{tag_name}",
            "area": "north",
            "metadata": {"cell": "cell {cell}", "as": "it is"},
            "scale": 0.5,
        }
    )
    tag = config.tag("dev", "L1.P2.temp.7", "x", metadata={"m": "1"})
    assert tag.tag_name == "P2-temp"
    assert json.loads(tag.metadata) == {"m": "1", "cell": "cell 7", "as": "it is"}
    assert json.loads(tag.mapping) == {"line": "L1", "equipment": "P2", "area": "north", "scale": 0.5}


def test_braces_that_no_pattern_explains_stay_what_they_are() -> None:
    guid = "ns=2;s={72962b91-fa75-4ae6-8d28-b404dc7daf63}"
    config = source({"match": guid, "unit": "bar", "metadata": {"note": "{x}"}}, {"match": "a*", "tag_name": "{y}"})
    assert config.tag("dev", guid, "x").unit == "bar"
    assert json.loads(config.tag("dev", guid, "x").metadata) == {"note": "{x}"}
    assert config.tag("dev", "ab", "x").tag_name == "{y}"


def test_one_name_goes_before_patterns_and_an_earlier_pattern_before_a_later_one() -> None:
    config = source(
        {"match": "*/temp", "unit": "1"},
        {"match": "re:.*temp", "unit": "2"},
        {"match": "{x}/temp", "unit": "3"},
        {"match": "a/temp", "unit": "4"},
        {"match": "a/temp", "unit": "5"},
    )
    assert [config.tag("d", a, "n").unit for a in ("a/temp", "b/temp", "temp")] == ["4", "1", "1"]
    assert source({"match": "re:temp", "unit": "2"}, {"match": "x*", "unit": "1"}).tag("d", "x1", "temp").unit == "2"


def test_a_source_reports_as_it_says_and_a_tag_as_it_says_itself() -> None:
    config = source(
        {"match": "a*", "report": {"swinging_door": 0.5, "max_interval": "10m"}},
        {"match": "b*", "report": "all"},
        report={"deadband": 1},
    )
    said = [json.loads(config.tag("d", address, "n").mapping)["report"] for address in ("a", "b", "c")]
    assert said == [{"swinging_door": 0.5, "max_interval": 600.0}, "all", {"deadband": 1.0}]


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        ({"match": "re:(a"}, "`re:(a` is no regular expression: missing ), unterminated subpattern at character 1"),
        ({"match": "re:(?P<line>a)(?P<line>b)"}, "is no regular expression: redefinition of group name 'line'"),
        ({"match": "{line}/{line}"}, "`{line}/{line}`: `{line}` stands twice"),
        (
            {"match": "{line}/{tag_name}", "tag_name": "{lin}-x"},
            "tag_name: `{lin}` is no part of the pattern `{line}/{tag_name}`; there are {line}, {tag_name}",
        ),
        ({"match": "{line}/a", "metadata": {"k": "{b}"}}, "metadata.k: `{b}` is no part of the pattern"),
        ({"match": "a", "report": {"swinging_door": 1}}, "swinging_door needs max_interval"),
        (
            {"match": "a", "report": {"swinging_door": 1, "max_interval": 9, "deadband": 1}},
            "swinging_door takes the place of deadband; keep one kind",
        ),
        (
            {"match": "a", "report": {"min_interval": "10s", "max_interval": "1s"}},
            "min_interval is longer than max_interval",
        ),
    ],
)
def test_what_is_wrong_with_a_pattern_or_a_rule_is_told(tag: dict[str, Any], said: str) -> None:
    assert said in problem(tag)


# ---------------------------------------------------------------------- against a plain search

PIECES = ["a", "b", "L1", "/", ".", "temp", "_"]
words = st.lists(st.sampled_from(PIECES), max_size=6).map("".join)
globs = st.lists(st.sampled_from([*PIECES, "*", "?", "[ab]", "[!a]", "["]), min_size=1, max_size=6).map("".join)
placed = st.lists(st.sampled_from([*PIECES, "*"]), max_size=3).map("".join).map(lambda text: f"{text}{{line}}/b*")
regexes = st.lists(
    st.sampled_from(["a", "b", "L1", "/", "temp", r"\.", ".*", "a?", "b*", "(?P<x>a)?", "(?P<y>L\\d)", "[ab]", "a|b", "L{1}"]),
    min_size=1,
    max_size=5,
    unique=True,
).map(lambda parts: "re:" + "".join(parts))  # fmt: skip


def plainly(tags: list[TagMapping], names: list[str]) -> str | None:
    """The unit of the mapping that holds, by comparing everything with everything."""
    for name in names:
        for tag in tags:
            if tag.match == name and not re.search(r"[*?\[{]", tag.match) and not tag.match.startswith("re:"):
                return tag.unit
    for tag in tags:
        if tag.match.startswith("re:"):
            pattern = tag.match.removeprefix("re:")
        elif "{line}" in tag.match:
            before, after = tag.match.split("{line}")
            pattern = f"{_glob(before)}[^/]+{_glob(after)}"
        elif re.search(r"[*?\[]", tag.match):
            pattern = _glob(tag.match)
        else:
            continue
        if any(re.fullmatch(pattern, name, re.DOTALL if not tag.match.startswith("re:") else 0) for name in names):
            return tag.unit
    return None


def _glob(text: str) -> str:
    return fnmatch.translate(text).removesuffix(r"\Z")


@given(st.lists(globs | placed | regexes | words.filter(bool), max_size=12), st.lists(words, min_size=1, max_size=3))
def test_the_quick_search_finds_what_a_plain_one_finds(matches: list[str], names: list[str]) -> None:
    tags = [TagMapping(match=match, unit=str(number)) for number, match in enumerate(matches)]
    found: Mapping | None = SourceConfig(name="s", protocol="opcua", tags=tags).mapping(names)
    assert (found.unit if found else None) == plainly(tags, names)
