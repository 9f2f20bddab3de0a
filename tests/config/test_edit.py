"""Editing configuration files from a program: what a person wrote stays as it was written."""

from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from config import edit
from config.edit import MASKED, EditError

TEXT = """\
# Line 4, commissioned in March
gateway:
  name: gw   # never change
  cloud:
    connectors:
      files: {type: file, endpoint: /out}   # for the auditors
# where it comes from
sources:
  # the old press
  - name: press
    protocol: modbus
    endpoint: tcp://10.0.0.5:502  # by the door
    password: hunter2

    registers:
      - {tag: speed, address: 1}   # rpm
      - {tag: force, address: 2}   # kN

  - name: broker   # in the cabinet
    protocol: mqtt
    endpoint: "mqtt://127.0.0.1:1"
    password: ${secret:broker}
# last: rules
routing_rules:
  - name: bad   # alarms
    condition: quality = 'BAD'
    connectors: [files]
"""
FILES = {"gateway.yaml": TEXT}


def lines_outside(before: str, after: str) -> list[str]:
    """Lines of `before` that `after` has not got any more."""
    left = after.splitlines()
    return [line for line in before.splitlines() if line not in left]


def test_sources_are_read_as_they_are_written_with_secrets_masked() -> None:
    found = edit.sources(FILES)
    assert list(found) == ["press", "broker"]
    assert found["press"]["password"] == MASKED
    assert found["broker"]["password"] == "${secret:broker}"
    assert found["press"]["registers"][1] == {"tag": "force", "address": 2}
    assert edit.targets(FILES) == {"files": {"type": "file", "endpoint": "/out"}}
    assert edit.rules(FILES) == [{"name": "bad", "condition": "quality = 'BAD'", "connectors": ["files"]}]


def test_an_edit_of_one_key_changes_one_line() -> None:
    source = edit.sources(FILES)["press"] | {"endpoint": "tcp://10.0.0.6:502"}
    (text,) = edit.put_source(FILES, "press", source).values()
    assert lines_outside(TEXT, text) == ["    endpoint: tcp://10.0.0.5:502  # by the door"]
    assert "# by the door" in text
    assert yaml.safe_load(text)["sources"][0]["password"] == "hunter2"


def test_a_member_of_a_list_that_comes_in_between_leaves_the_others_their_comments() -> None:
    source = edit.sources(FILES)["press"]
    source["registers"].insert(1, {"tag": "heat", "address": 9})
    (text,) = edit.put_source(FILES, "press", source).values()
    assert [r["tag"] for r in yaml.safe_load(text)["sources"][0]["registers"]] == ["speed", "heat", "force"]
    for word in ("# rpm", "# kN", "# the old press", "# in the cabinet"):
        assert word in text
    assert "{tag: heat, address: 9}" in text


def test_what_is_added_stands_behind_the_others_and_changes_no_line() -> None:
    files = edit.put_source(FILES, None, {"name": "new", "protocol": "mqtt", "topics": ["a/#", "b"]})
    files = edit.put_target(files, "more", {"type": "file", "endpoint": "/more"})
    (text,) = files.values()
    assert not lines_outside(TEXT, text)
    assert list(edit.targets(files)) == ["files", "more"]
    assert list(edit.sources(files)) == ["press", "broker", "new"]
    assert text.index("# where it comes from") > text.index("more:")


def test_what_is_removed_takes_only_its_own_lines() -> None:
    (text,) = edit.remove_source(FILES, "press").values()
    assert [source["name"] for source in yaml.safe_load(text)["sources"]] == ["broker"]
    assert "# in the cabinet" in text
    assert "# last: rules" in text
    (text,) = edit.remove_target(FILES, "files").values()
    assert not edit.targets({"gateway.yaml": text})


def test_rules_take_a_new_order_and_keep_their_comments() -> None:
    wanted: list[dict[str, Any]] = [
        {"name": "all", "condition": "TRUE", "connectors": ["files"], "priority": 3},
        *edit.rules(FILES),
    ]
    files = edit.put_rules(FILES, wanted)
    assert edit.rules(files) == wanted
    assert "# alarms" in files["gateway.yaml"]
    files = edit.put_rules(files, [])
    assert not edit.rules(files)
    assert "sources:" in files["gateway.yaml"]


def test_a_source_of_conf_d_is_edited_where_it_stands() -> None:
    files = {**FILES, "conf.d/hall.yaml": "sources:\n- name: oven   # hot\n  protocol: mqtt\n  endpoint: mqtt://h:1\n"}
    after = edit.put_source(files, "oven", edit.sources(files)["oven"] | {"endpoint": "mqtt://h:2"})
    assert after["gateway.yaml"] == TEXT
    assert after["conf.d/hall.yaml"] == "sources:\n- name: oven   # hot\n  protocol: mqtt\n  endpoint: mqtt://h:2\n"


def test_a_source_that_the_files_do_not_have_is_told() -> None:
    with pytest.raises(EditError, match="no source `gone`"):
        edit.put_source(FILES, "gone", {})
    with pytest.raises(EditError, match="no target `gone`"):
        edit.remove_target(FILES, "gone")


SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12),
    st.sampled_from(
        ["no", "012", "12:30:00", "1e3", "~", "null", "- x", "a: b", "# c", "${env:X}", "'", '"', "{", "&a"]
    ),
)
KEYS = st.text("abcdefgh_", min_size=1, max_size=6)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
SOURCES = st.dictionaries(KEYS, VALUES, max_size=5)
STYLES = [
    TEXT,
    TEXT.replace("sources:\n", "sources: []\n#").split("# last")[0].split("  # the old")[0],
    "gateway: {name: gw}\nsources: [{name: press, a: 1}, {name: broker}]\n",
    "sources:\n- name: press\n  a:\n  - 1\n  - 2\n-   name: broker\n",
    "sources:\n  -\n    name: press\n  - name: broker",
    "",
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(STYLES), SOURCES, SOURCES)
def test_whatever_is_put_is_what_stands_there_after(text: str, first: dict[str, Any], second: dict[str, Any]) -> None:
    from pathlib import Path

    from config.yaml_nodes import compose, construct

    files = {"gateway.yaml": text}
    before = edit.sources(files)
    first, second = {"name": "x"} | first, {"name": "x"} | second
    files = edit.put_source(files, None, first)
    files = edit.put_source(files, "x", second)
    node, problems = compose(Path("gateway.yaml"), files["gateway.yaml"].replace("${", "$${"))
    assert not problems
    assert node is not None
    values, problems = construct(node)
    assert not problems
    assert values["sources"][-1] == second
    assert edit.sources(edit.remove_source(files, "x")) == before


def test_a_second_target_leaves_readings_going_where_they_went() -> None:
    files = {
        "gateway.yaml": "gateway:\n  cloud:\n    connectors:\n      first: {type: file, endpoint: /a}  # the one\n"
    }
    target = {"type": "file", "endpoint": "/b"}
    both = edit.put_target(files, "second", target)["gateway.yaml"]
    assert "default_connector: first" in both
    assert "# the one" in both
    assert both.count("default_connector") == 1
    assert edit.put_target({"gateway.yaml": both}, "third", target)["gateway.yaml"].count("default_connector") == 1
    routed = files["gateway.yaml"] + "routing_rules:\n  - {name: all, condition: 'value > 0', connectors: [first]}\n"
    assert "default_connector" not in edit.put_target({"gateway.yaml": routed}, "second", target)["gateway.yaml"]
