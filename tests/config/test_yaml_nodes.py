"""YAML with places: scalars, references, merging, and files that are no configuration."""

import math
from pathlib import Path
from typing import Any

import pytest

from config.yaml_nodes import Problem, ProblemsError, compose, construct, merge


def values(folder: Path, text: str | bytes) -> Any:
    """The values of a text, which has no problems."""
    file = folder / "a.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    node, problems = compose(file)
    assert node is not None
    found, more = construct(node)
    assert [*problems, *more] == []
    return found


def wrong(folder: Path, text: str | bytes) -> list[str]:
    """The problems of a text, without its file."""
    file = folder / "a.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    try:
        node, problems = compose(file)
    except ProblemsError as error:
        problems = error.problems
    else:
        assert node is not None
        problems = [*problems, *construct(node)[1]]
    return [str(problem).replace(f"{file}:", "") for problem in problems]


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("no", "no"), ("yes", "yes"), ("on", "on"), ("Off", "Off"), ("y", "y"),
        ("12:30:00", "12:30:00"), ("2026-01-21", "2026-01-21"), ("1_000", "1_000"), ("0b11", "0b11"), ("=", "="),
        ("true", True), ("FALSE", False), ("null", None), ("~", None), ("", None),
        ("12", 12), ("-7", -7), ("+7", 7), ("012", 12), ("0o17", 15), ("0xff", 255), ("18446744073709551615", 2**64 - 1),
        ("1.5", 1.5), (".5", 0.5), ("1e3", 1000.0), ("1.e-2", 0.01), (".inf", math.inf), ("-.inf", -math.inf),
        ("1.2.3", "1.2.3"), ("ns=2;s=A.B", "ns=2;s=A.B"), ('"12"', "12"), ("'true'", "true"), ('"null"', "null"),
        ("9" * 5000, "9" * 5000), ("٣", "٣"), ("°C", "°C"),
    ],
)  # fmt: skip
def test_scalars_are_what_they_look_like(tmp_path: Path, written: str, value: object) -> None:
    found = values(tmp_path, f"key: {written}\n")["key"]
    assert found == value
    assert type(found) is type(value)


def test_a_byte_order_mark_and_crlf_are_no_matter(tmp_path: Path) -> None:
    assert values(tmp_path, b"\xef\xbb\xbfa: b\r\nc: d\r\n") == {"a": "b", "c": "d"}


def test_aliases_stand_for_their_value(tmp_path: Path) -> None:
    assert values(tmp_path, "a: &x [1, {b: c}]\nd: *x\n") == {"a": [1, {"b": "c"}], "d": [1, {"b": "c"}]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1,\n  b: }\n", "2:6: not YAML: while parsing a flow node, did not find expected node content"),
        ("a: b\n\tc: d\n", "2:1: not YAML: while scanning"),
        ("a: @b\n", "1:4: not YAML: while scanning for the next token, found character that cannot start any token"),
        (
            "a: {b: ${env:X}}\n",
            "1:9: not YAML: while parsing a flow mapping, did not find expected ',' or '}'; inside braces and brackets",
        ),
        ("a: b: c\n", "1:5: not YAML: mapping values are not allowed in this context"),
        ("a: *b\n", "1:4: not YAML: found undefined alias"),
        ("a: b\n---\nc: d\n", "2:1: not YAML: expected a single document in the stream, but found another document"),
        ("a: b\nc: \x1b[31m\n", "2:4: not YAML: the control character 0x1b"),
        (b"a: b\nc: d\xe9\n", "2:5: the byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("a: b\n".encode("utf-16"), "1:1: the byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a:\n  b: 1\n  b: 2\n", "3:3: a.b: stands twice; keep one"),
        ("- x: 1\n  x: 2\n", "2:3: 0.x: stands twice; keep one"),
        ("a: !env HOME\n", "1:4: the tag !env means nothing here; remove it"),
        ("a: !!python/object:os.system x\n", "1:4: the tag !!python/object:os.system means nothing here; remove it"),
        ("? [a, b]\n: c\n", "1:3: a key is a word, not a list or mapping"),
        ("a: &x {b: c}\nd: {<<: *x}\n", "2:5: `<<` is not part of YAML 1.2; write the keys out"),
        ("a: &x [1, *x]\n", "1:4: refers to itself"),
        ("a: &x {b: {c: *x}}\n", "1:4: refers to itself"),
        ("a: " + "[" * 200_000 + "]" * 200_000, "1:1004: is nested too deeply"),
        ("- " * 200_000 + "a", "1:1: is nested too deeply"),
        ("a: " + "[" * 60 + "]" * 60, "1:54: is nested too deeply"),
    ],
)
def test_what_is_no_configuration_is_told_with_its_place(tmp_path: Path, text: str | bytes, problem: str) -> None:
    found = wrong(tmp_path, text)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_aliases_that_stand_for_billions_of_values_are_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert wrong(tmp_path, "\n".join(lines)) == ["7:5: stands for more than 2,000,000 values, by its aliases"]


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    for path, reason in [(tmp_path / "no.yaml", "No such file or directory"), (tmp_path, "Is a directory")]:
        with pytest.raises(ProblemsError) as caught:
            compose(path)
        assert str(caught.value) == f"{path}:1:1: cannot be read: {reason}"


# ---------------------------------------------------------------------- references


def test_references_are_resolved_in_plain_and_quoted_scalars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "plc")
    monkeypatch.setenv("PORT", "4840")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.setenv("WORD", "null")
    monkeypatch.delenv("ABSENT", raising=False)
    text = """
    url: opc.tcp://${env:HOST}:${env:PORT}
    port: ${env:PORT}
    quoted: "${env:PORT}"
    block: |
      ${env:HOST}
    default: ${env:ABSENT:-10}
    empty_default: ${env:ABSENT:-}
    empty: ${env:EMPTY}
    default_of_empty: ${env:EMPTY:-x:y}
    null_is_a_word: ${env:WORD}
    literal: $${env:HOST}
    dollar: 5$ {x} $x
    """
    assert values(tmp_path, text) == {
        "url": "opc.tcp://plc:4840",
        "port": 4840,
        "quoted": "4840",
        "block": "plc\n",
        "default": 10,
        "empty_default": "",
        "empty": "",
        "default_of_empty": "x:y",
        "null_is_a_word": "null",
        "literal": "${env:HOST}",
        "dollar": "5$ {x} $x",
    }


def test_a_value_from_the_environment_cannot_become_structure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVIL", "x\nadmin: true # ${env:HOME} {a: b}")
    assert values(tmp_path, "a: ${env:EVIL}\nb: c\n") == {"a": "x\nadmin: true # ${env:HOME} {a: b}", "b": "c"}


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_file_is_taken_without_its_last_line_end(tmp_path: Path, end: str) -> None:
    (tmp_path / "secret").write_bytes(f" p w\n2{end}".encode())
    assert values(tmp_path, "a: ${file:secret}\n") == {"a": " p w\n2"}
    assert values(tmp_path, f"a: '${{file:{tmp_path}/secret}}'\n") == {"a": " p w\n2"}


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        ("${env:NO_SUCH}", "the environment has no NO_SUCH; set it, or write a default: ${env:NO_SUCH:-value}"),
        ("${file:missing}", "No such file or directory"),
        ("${file:.}", "Is a directory"),
        ("${file:binary}", "the file is not UTF-8 text"),
        (
            "${valt:a#b}",
            "there is no `valt` to take values from; write ${env:NAME}, ${file:path}, ${secret:name} or ${vault:path#key}",
        ),
        (
            "${PASSWORD}",
            "says not where the value is; write ${env:NAME}, ${file:path}, ${secret:name} or ${vault:path#key}",
        ),
    ],
)
def test_references_that_lead_nowhere_are_told(tmp_path: Path, reference: str, problem: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (found,) = wrong(tmp_path, f"a:\n  - b: {reference}\n")
    assert found.startswith(f"2:8: a.0.b: {reference}: {problem}")


# ---------------------------------------------------------------------- several files


def _merged(folder: Path, first: str, second: str) -> tuple[Any, list[str]]:
    nodes = []
    for name, text in (("a.yaml", first), ("b.yaml", second)):
        (folder / name).write_text(text)
        node, _ = compose(folder / name)
        nodes.append(node)
    problems: list[Problem] = []
    node = merge(nodes[0], nodes[1], "", problems)  # type: ignore[arg-type]
    return construct(node)[0], [str(problem).replace(f"{folder}/", "") for problem in problems]


def test_mappings_are_joined_and_lists_appended(tmp_path: Path) -> None:
    found, problems = _merged(tmp_path, "a: {b: 1}\nl: [1]\n", "a: {c: 2}\nl: [2]\nm: 3\n")
    assert (found, problems) == ({"a": {"b": 1, "c": 2}, "l": [1, 2], "m": 3}, [])


def test_a_key_that_two_files_set_is_a_problem(tmp_path: Path) -> None:
    _, problems = _merged(tmp_path, "a:\n  b: 1\nc: [1]\n", "a: {b: 2}\nc: {d: 1}\n")
    assert problems == [
        "b.yaml:1:5: a.b: is set in a.yaml:2:3 already; keep one",
        "b.yaml:2:1: c: is set in a.yaml:3:1 already; keep one",
    ]


def test_what_an_alias_shares_is_not_changed_by_a_second_file(tmp_path: Path) -> None:
    found, _ = _merged(tmp_path, "a: &x {k: [1]}\nb: *x\n", "a: {k: [2], l: 3}\n")
    assert found == {"a": {"k": [1, 2], "l": 3}, "b": {"k": [1]}}
