"""What differs between configurations, and the history of those that a gateway has run with."""

import dataclasses
import json
import random
import stat
from pathlib import Path
from typing import Any

import pytest

from config.changes import changes, parts, shown
from config.history import FOLDER, entries, record, restore, texts_of
from config.loader import load, places
from config.models import Configuration
from delivery.disk import StoreError

SALT = b"0123456789abcdef"
TEXT = """
gateway:
  name: gw
  directory: {directory}
  cloud:
    connectors:
      files: {{type: file, endpoint: out}}
sources:
  # the boiler
  - name: boiler
    protocol: modbus
    endpoint: "tcp://127.0.0.1:15020"
    registers:
      - {{name: flow, address: 100, type: float32}}
      - {{name: level, address: 102, type: float32}}
  - {{name: broker, protocol: mqtt, endpoint: "mqtt://127.0.0.1:1", username: u, password: first}}
routing_rules:
  - {{name: hot, condition: "value > 100", connectors: [files]}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.yaml"
    file.write_text(TEXT.format(directory=tmp_path / "data"))
    return file


def edit(path: Path, *replacements: tuple[str, str]) -> Configuration:
    text = path.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    path.write_text(text)
    return load(path)


def difference(before: Configuration, now: Configuration) -> dict[str, object]:
    return {
        f"{one.kind} {one.name}": dict(one.leaves) if one.what == "changed" else one.what
        for one in changes(parts(before, SALT), parts(now, SALT))
    }


def test_a_configuration_does_not_differ_from_itself(path: Path) -> None:
    assert difference(load(path), load(path)) == {}


def test_what_is_written_another_way_or_order_and_means_the_same_is_no_change(path: Path) -> None:
    before = load(path)
    text = path.read_text()
    first, second = (
        "      - {name: flow, address: 100, type: float32}\n",
        "      - {name: level, address: 102, type: float32}\n",
    )
    path.write_text(
        text.replace(first + second, second + first)
        .replace("  # the boiler\n", "")
        .replace("boiler\n", '"boiler"\n', 1)
    )
    assert difference(before, load(path)) == {}


def test_a_change_is_told_by_its_key_and_what_it_said(path: Path) -> None:
    before = load(path)
    now = edit(path, ("address: 102", "address: 104"), ("value > 100", "value > 90"))
    assert difference(before, now) == {
        "source boiler": {"registers[level].address": (102, 104)},
        "rule hot": {"condition": ("value > 100", "value > 90")},
    }


def test_a_register_that_comes_or_goes_changes_no_other(path: Path) -> None:
    before = load(path)
    now = edit(path, ("- {name: flow, address: 100, type: float32}", "- {name: extra, address: 10, type: int16}"))
    assert difference(before, now) == {
        "source boiler": {"registers[flow]": ("removed", None), "registers[extra]": (None, "added")}
    }


def test_parts_that_come_and_go_are_told(path: Path) -> None:
    before = load(path)
    now = edit(
        path,
        ("name: broker", "name: hub"),
        ("name: hot", "name: warm"),
        ("files: {", "lines: {"),
        ("[files]", "[lines]"),
    )
    found = difference(before, now)
    assert {key: what for key, what in found.items() if not isinstance(what, dict)} == {
        "source broker": "removed", "source hub": "added", "target files": "removed", "target lines": "added",
        "rule hot": "removed", "rule warm": "added",
    }  # fmt: skip


def test_a_secret_that_changes_is_told_and_never_shown(path: Path) -> None:
    before = load(path)
    now = edit(path, ("password: first", "password: canary-7f3a91"))
    found = difference(before, now)
    ((key, (old, new)),) = found["source broker"].items()  # type: ignore[attr-defined]
    assert (key, shown(old), shown(new)) == ("password", "(a secret)", "(a secret)")
    assert "canary" not in repr((found, parts(now, SALT)))


def test_every_field_of_the_gateway_is_compared(path: Path) -> None:
    before = load(path)
    for field in dataclasses.fields(Configuration):
        value = getattr(before, field.name)
        if field.name in ("gateway", "warnings") or not isinstance(value, int | float | str):
            continue
        new: Any = f"{value}x" if isinstance(value, str) else value + 1
        other = dataclasses.replace(before, **{field.name: new})
        assert difference(before, other) == {"gateway gw": {field.name: (value, getattr(other, field.name))}}


def test_a_change_of_the_buffer_that_all_targets_share_is_one_of_each(path: Path) -> None:
    before = load(path)
    now = edit(path, ("  cloud:\n", "  cloud:\n    buffer: {quota: 2GB}\n"))
    assert list(difference(before, now)) == ["target files"]


# ---------------------------------------------------------------------- the history


def test_each_configuration_is_kept_once_with_its_comments_for_its_owner_alone(path: Path) -> None:
    assert record(path, load(path), 1000.0) == 1
    assert record(path, load(path), 2000.0) is None
    edit(path, ("address: 102", "address: 104"))
    assert record(path, load(path), 3000.0) == 2
    kept = entries(load(path).directory)
    assert [entry.number for entry in kept] == [1, 2]
    assert "# the boiler" in kept[0].files["gateway.yaml"]
    file = load(path).directory / FOLDER / "000001.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_secret_that_only_the_environment_says_is_told_as_changed_by_the_history(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER", "first")
    edit(path, ("password: first", 'password: "${env:BROKER}"'))
    record(path, load(path), 1000.0)
    monkeypatch.setenv("BROKER", "canary-7f3a91")
    (entry,) = entries(load(path).directory)
    assert [(one.name, list(one.leaves)) for one in entry.differs(load(path))] == [("broker", ["password"])]
    assert record(path, load(path), 2000.0) == 2
    assert b"canary" not in b"".join(file.read_bytes() for file in (load(path).directory / FOLDER).iterdir())


def test_an_earlier_configuration_is_put_back_as_it_was(path: Path) -> None:
    (path.parent / "conf.d").mkdir()
    part = path.parent / "conf.d" / "more.yaml"
    part.write_text("# more\ngateway: {commit_interval: 5ms}\n")
    before = texts_of(path)
    record(path, load(path), 1000.0)
    edit(path, ("address: 102", "address: 104"))
    part.unlink()
    (path.parent / "conf.d" / "later.yaml").write_text("gateway: {commit_interval: 9ms}\n")
    record(path, load(path), 2000.0)
    (first, _) = entries(load(path).directory)
    assert sorted(restore(first, path)) == ["conf.d/later.yaml", "conf.d/more.yaml", "gateway.yaml"]
    assert texts_of(path) == before
    assert (path.parent / "conf.d" / "later.yaml.replaced").exists()
    assert first.differs(load(path)) == []


def test_a_history_that_was_tampered_with_writes_nowhere_else(path: Path) -> None:
    record(path, load(path), 1000.0)
    file = load(path).directory / FOLDER / "000001.json"
    kept = json.loads(file.read_text())
    kept["files"]["../../outside.yaml"] = "x"
    file.write_text(json.dumps(kept))
    (entry,) = entries(load(path).directory)
    with pytest.raises(StoreError, match="leads out of"):
        restore(entry, path)
    assert not (path.parent.parent.parent / "outside.yaml").exists()


def test_an_entry_that_is_damaged_hides_no_other(path: Path) -> None:
    chance = random.Random(1)
    for number in range(1, 4):
        edit(path, ("value > ", f"value > {chance.randrange(10)}"))
        assert record(path, load(path), 1000.0 * number) == number
    (load(path).directory / FOLDER / "000002.json").write_text("{")
    assert [entry.number for entry in entries(load(path).directory)] == [1, 3]


def test_the_oldest_go_when_there_are_many(path: Path) -> None:
    for number in range(1, 53):
        edit(path, ("value > ", "value > 1"))
        assert record(path, load(path), float(number)) == number
    kept = entries(load(path).directory)
    assert (kept[0].number, kept[-1].number, len(kept)) == (3, 52, 50)


def test_places_are_those_of_the_file(path: Path) -> None:
    found = places(path)
    lines = path.read_text().splitlines()
    assert "name: boiler" in lines[found["source", "boiler"].line - 1]
    assert "files:" in lines[found["target", "files"].line - 1]
    assert "name: hot" in lines[found["rule", "hot"].line - 1]
