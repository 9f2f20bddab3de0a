"""Which member of a plant's gateways owns which source."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from bifrost.cli import app
from config.loader import load
from config.members import Membership, member_name, ordinal, owner
from config.shown import understood
from config.yaml_nodes import ProblemsError

NAMES = st.sets(st.text("abcdefghijklmnopqrstuvwxyz0123456789_.-", min_size=1, max_size=20), max_size=60)


@given(NAMES, st.integers(1, 40), st.integers(1, 40))
def test_a_change_of_the_count_moves_only_the_sources_that_it_must(names: set[str], before: int, after: int) -> None:
    fewer, more = sorted((before, after))
    for name in names:
        small, large = owner(name, fewer), owner(name, more)
        assert small == large or large >= fewer  # it moves between a member that both have and one that only one has


@pytest.mark.parametrize("members", [2, 3, 10])
def test_members_get_shares_of_about_one_size(members: int) -> None:
    shares = Counter(owner(f"plc{number}", members) for number in range(2000))
    assert len(shares) == members
    assert max(shares.values()) < 1.3 * 2000 / members


def test_the_owner_of_a_source_is_the_same_in_every_version() -> None:
    assert [owner(name, 3) for name in ("opcua1", "mqtt1", "sparkplug1", "modbus1")] == [1, 1, 2, 2]


PLANT = """
gateway: {{name: plant1, directory: {directory}, {more}}}
sources:
  - {{name: a, protocol: mqtt, endpoint: "mqtt://h:1"}}
  - {{name: b, protocol: mqtt, endpoint: "mqtt://h:1"}}
  - {{name: c, protocol: mqtt, endpoint: "mqtt://h:1"}}
  - {{name: d, protocol: mqtt, endpoint: "mqtt://h:1", member: 1}}
"""


def plant(folder: Path, more: str) -> Path:
    path = folder / "gateway.yaml"
    path.write_text(PLANT.format(directory=folder / "data", more=more))
    return path


def test_every_source_has_one_owner_and_every_member_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = plant(tmp_path, "members: 3")
    owned, names = Counter[str](), set()
    for member in range(3):
        monkeypatch.setenv("POD_NAME", f"bifrost-{member}")
        found = load(path)
        owned.update(source.name for source in found.sources)
        names.add(found.gateway)
        assert found.membership is not None
        assert set(found.membership.elsewhere) == set("abcd") - {source.name for source in found.sources}
        assert ("d" in {source.name for source in found.sources}) == (member == 1)
    assert owned == {"a": 1, "b": 1, "c": 1, "d": 1}
    assert names == {"plant1-0", "plant1-1", "plant1-2"}


def test_a_member_beyond_the_count_reads_no_source_and_says_so(tmp_path: Path) -> None:
    found = load(plant(tmp_path, "members: 2, member: 2"))
    assert found.sources == ()
    assert any("member 2 of 2 (0 to 1): leaving, reads no source" in warning for warning in found.warnings)


def test_a_gateway_that_ran_alone_keeps_its_name_as_a_member(tmp_path: Path) -> None:
    path = plant(tmp_path, "members: 2, member: 0")
    assert load(path).gateway == "plant1-0"
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "gateway").write_text("plant1")
    assert load(path).gateway == "plant1"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("members: 2", "which of them is this gateway? set gateway.member, or POD_NAME"),
        ("member: 1", "of how many members? set gateway.members"),
        ("members: 1, member: 0", "source `d` wants member 1; there are 1, 0 to 0"),
    ],
)
def test_what_is_wrong_with_members_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str, said: str
) -> None:
    for variable in ("POD_NAME", "BYTEWAX_POD_NAME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ProblemsError, match="gateway") as wrong:
        load(plant(tmp_path, more))
    assert said in str(wrong.value)


def test_the_number_is_that_of_the_pod() -> None:
    assert ordinal({"POD_NAME": "bifrost-edge-12"}) == 12
    assert ordinal({"BYTEWAX_POD_NAME": "bifrost-0"}) == 0
    assert ordinal({"POD_NAME": "bifrost-7f9c4d-x2x"}) is None
    assert ordinal({"POD_NAME": "bifrost-007"}) is None
    assert ordinal({}) is None
    assert member_name("bifrost-3", 3) == "bifrost-3"


def test_check_and_show_tell_who_owns_what(tmp_path: Path) -> None:
    path = plant(tmp_path, "members: 2, member: 0")
    shown = understood(load(path))["gateway"]
    assert (shown["member"], shown["members"]) == (0, 2)
    assert shown["elsewhere"]["d"] == 1
    said = CliRunner().invoke(app, ["check", "-c", str(path)])
    assert "member:  member 0 of 2; sources of other members: " in said.stdout
    assert "d (1)" in said.stdout
    answer = json.loads(CliRunner().invoke(app, ["check", "-c", str(path), "--json"]).stdout)
    assert answer["elsewhere"] == shown["elsewhere"]


def test_a_membership_tells_itself() -> None:
    assert Membership(1, 3, {"a": 0, "b": 1}).told() == "member 1 of 3"
