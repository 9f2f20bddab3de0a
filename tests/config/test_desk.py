"""Changing a running gateway's configuration: checked, written and applied as one, or not at all."""

from pathlib import Path

import pytest

from config.desk import Applied, ConfigDesk, OutdatedError, UnknownNumberError
from config.loader import load
from config.models import Configuration
from config.yaml_nodes import ProblemsError
from delivery.disk import StoreError

TEXT = """\
gateway:
  name: gw
  directory: {directory}/data
  cloud:
    connectors:
      files: {{type: file, endpoint: {directory}/out}}
sources:
  - {{name: broker, protocol: mqtt, endpoint: "mqtt://127.0.0.1:1"}}   # kept
"""
MORE = {"name": "more", "protocol": "mqtt", "endpoint": "mqtt://127.0.0.1:2"}


class Gateway:
    """What a desk applies to."""

    def __init__(self, path: Path) -> None:
        self.config = load(path)
        self.refuses: Exception | None = None
        self.desk = ConfigDesk(path, lambda: self.config, self.apply)

    def apply(self, config: Configuration) -> tuple[str, ...]:
        if self.refuses is not None:
            raise self.refuses
        self.config = config
        return ()

    def sources(self) -> list[str]:
        return [source.name for source in self.config.sources]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "gateway.yaml"
    path.write_text(TEXT.format(directory=tmp_path))
    path.chmod(0o640)
    return path


@pytest.fixture
def gateway(path: Path) -> Gateway:
    return Gateway(path)


def apply(gateway: Gateway) -> Applied:
    desk = gateway.desk
    return desk.apply(desk.put_source(None, MORE), desk.current().base)


def test_a_change_is_written_applied_and_kept_in_the_history(gateway: Gateway, path: Path) -> None:
    done = apply(gateway)
    assert gateway.sources() == ["broker", "more"]
    assert [(change.kind, change.name, change.what) for change in done.changes] == [("source", "more", "added")]
    assert (done.number, done.next_start) == (1, ())
    assert "# kept" in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.number for entry in gateway.desk.history()] == [1]
    assert load(path).sources[1].name == "more"


def test_a_plan_changes_nothing_and_says_where(gateway: Gateway, path: Path) -> None:
    before = path.read_text()
    plan = gateway.desk.plan(gateway.desk.put_source(None, MORE))
    assert [change.name for change in plan.changes] == ["more"]
    assert plan.places["source", "more"].line == 9
    assert (path.read_text(), gateway.sources()) == (before, ["broker"])


def test_files_that_changed_meanwhile_are_not_overwritten(gateway: Gateway, path: Path) -> None:
    desk = gateway.desk
    base, files = desk.current().base, desk.put_source(None, MORE)
    path.write_text(path.read_text() + "# a colleague was here\n")
    with pytest.raises(OutdatedError):
        desk.apply(files, base)
    assert "a colleague" in path.read_text()
    assert gateway.sources() == ["broker"]


def test_files_that_are_wrong_are_refused_with_every_problem(gateway: Gateway, path: Path) -> None:
    before = path.read_text()
    files = gateway.desk.put_source(None, {"name": "more", "protocol": "mqtt", "endpoint": "x", "zz": 1, "yy": 2})
    with pytest.raises(ProblemsError) as wrong:
        gateway.desk.apply(files)
    assert len(wrong.value.problems) == 2
    assert path.read_text() == before


def test_what_the_gateway_refuses_is_not_left_on_disk(gateway: Gateway, path: Path) -> None:
    before = path.read_text()
    gateway.refuses = StoreError("no room")
    with pytest.raises(StoreError):
        apply(gateway)
    assert path.read_text() == before
    assert not gateway.desk.history()


def test_files_on_disk_can_be_applied_and_an_earlier_configuration_too(gateway: Gateway, path: Path) -> None:
    gateway.desk.apply()
    more = path.parent / "conf.d" / "more.yaml"
    more.parent.mkdir()
    more.write_text("sources:\n  - {name: more, protocol: mqtt, endpoint: mqtt://127.0.0.1:2}\n")
    assert gateway.desk.apply().number == 2
    assert gateway.sources() == ["broker", "more"]
    assert gateway.desk.rollback(1).number == 3
    assert gateway.sources() == ["broker"]
    assert not more.exists()
    assert more.with_name("more.yaml.replaced").exists()
    with pytest.raises(UnknownNumberError):
        gateway.desk.rollback(77)


@pytest.mark.parametrize("name", ["../x.yaml", "/etc/passwd", "conf.d/../x.yaml", "conf.d/.x.yaml", "other.yaml"])
def test_a_file_outside_the_configuration_is_refused(gateway: Gateway, path: Path, name: str) -> None:
    files = {path.name: path.read_text(), name: "sources: []\n"}
    with pytest.raises(StoreError, match="leads out of"):
        gateway.desk.apply(files)
    assert sorted(each.name for each in path.parent.iterdir()) in (["gateway.yaml"], ["data", "gateway.yaml"])
