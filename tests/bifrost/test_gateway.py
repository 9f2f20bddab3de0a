"""`from bifrost import Gateway`: a configuration runs in this process, connectors are registered, readings are sent."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from bifrost import CloudData, Gateway
from config.yaml_nodes import ProblemsError
from connectors.contract import Limits, TransientError
from connectors.targets.file import FileConfig
from delivery.disk import DirectoryLock, StoreError
from normalization.rules import RuleError

ROOT = Path(__file__).parents[2]


class Kept:
    """A connector in code."""

    limits = Limits()

    def __init__(self, *, fail: bool = False) -> None:
        self.readings: list[tuple[str, Any]] = []
        self.fail = fail

    async def open(self) -> None:
        if self.fail:
            raise TransientError("told to fail")

    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        paths = batch.column("path").dictionary_decode().to_pylist()
        self.readings += zip(paths, batch.column("value").to_pylist(), strict=True)

    async def close(self) -> None:
        pass


def configuration(folder: Path, **more: Any) -> dict[str, Any]:
    section = {"name": "py", "directory": str(folder / "data"), "log_level": "warning"}
    return {"gateway": section, "web_ui": {"enabled": False}, **more}


def reading(value: float, tag: str = "temp", **more: Any) -> dict[str, Any]:
    return {"device_id": "PLC001", "tag_name": tag, "value": value, **more}


def until(holds: Callable[[], object]) -> None:
    deadline, pause = time.monotonic() + 20, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        pause.wait(0.01)


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python.md").read_text(), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stdout.splitlines() if not line.startswith("{")]
    assert said == ["Taken(accepted=1, repeated=0)", "[25.5]"], done.stdout


def test_importing_the_package_loads_nothing_of_it() -> None:
    code = (
        "import sys, bifrost; print([m for m in ('pyarrow', 'bytewax', 'pydantic', 'structlog') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_readings_go_by_the_rules_to_what_is_registered_or_to_the_one_that_is_named(tmp_path: Path) -> None:
    everything, alarms, own = Kept(), Kept(), Kept()
    gateway = Gateway(configuration(tmp_path))
    gateway.register("everything", everything)
    gateway.register("alarms", alarms, when="quality = 'ALARM' AND value > 1", priority=3)
    gateway.register("own", own, when="FALSE")
    with gateway:
        assert gateway.runs
        taken = gateway.send(
            [reading(1.0), reading(2.0, quality="alarm"), CloudData(device_id="d", tag_name="t", value=3)]
        )
        assert (taken.accepted, taken.repeated) == (3, 0)
        gateway.send(reading(4.0), "own")
        assert gateway.flush()
        assert gateway.account().unaccounted == 0
        assert {name: line.journalled for name, line in gateway.account().sources.items()} == {"api": 3, "api/own": 1}
    assert not gateway.runs
    assert sorted(everything.readings) == [("PLC001/temperature/temp", 1.0), ("d/t", 3.0)]
    assert alarms.readings == [("PLC001/temperature/temp", 2.0)]
    assert own.readings == [("PLC001/temperature/temp", 4.0)]


def test_what_was_sent_is_there_at_the_next_start_and_not_taken_twice(tmp_path: Path) -> None:
    failing, kept = Kept(fail=True), Kept()
    gateway = Gateway(configuration(tmp_path))
    gateway.register("mine", failing)
    for life in range(2):
        with gateway:
            assert gateway.send(reading(7.0, id="one")).accepted == (life == 0)
            assert not gateway.flush(0.1)
    assert failing.readings == []
    gateway = Gateway(configuration(tmp_path))
    gateway.register("mine", kept)
    with gateway:
        until(lambda: kept.readings)
    assert [value for _, value in kept.readings] == [7.0]


def test_a_configuration_from_a_file_runs_with_its_own_connectors(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(
        f"gateway:\n  directory: {tmp_path / 'data'}\n  log_level: warning\n  cloud:\n    connectors:\n"
        f"      files: {{type: file, endpoint: {tmp_path / 'files'}, flush_interval: 0}}\nweb_ui: {{enabled: false}}\n"
    )
    gateway, beside = Gateway(path), Kept()
    gateway.register("more", FileConfig(endpoint=str(tmp_path / "more")), when="value > 5")
    gateway.register("beside", beside)
    with gateway:
        gateway.send([reading(1.0), reading(9.0)])
        gateway.send(reading(2.0), connector="beside")
        assert gateway.flush()
    lines = {name: "".join(f.read_text() for f in (tmp_path / name).rglob("*.jsonl")) for name in ("files", "more")}
    assert ('"value":1' in lines["files"], '"value":9' in lines["files"]) == (True, False)
    assert '"value":9' in lines["more"]
    assert [value for _, value in beside.readings] == [2.0]


def test_what_is_wrong_is_refused_before_anything_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match="sorces"):
        Gateway({"sorces": []})
    gateway = Gateway(configuration(tmp_path))
    with pytest.raises(RuntimeError, match="does not run"):
        gateway.send(reading(1.0))
    with pytest.raises(ValueError, match="no name"):
        gateway.register("a/b", Kept())
    with pytest.raises(RuleError):
        gateway.register("a", Kept(), when="colour = 3")
    gateway.register("a", Kept())
    with pytest.raises(ValueError, match="already"):
        gateway.register("a", Kept())
    lock = DirectoryLock(tmp_path / "data")
    with pytest.raises(StoreError, match="belongs to process"):
        gateway.start()
    lock.release()
    with gateway:
        with pytest.raises(RuntimeError, match="one can at a time"):
            Gateway(configuration(tmp_path / "other")).start()
        with pytest.raises(RuntimeError, match="before it starts"):
            gateway.register("b", Kept())
        with pytest.raises(ValidationError, match="tag_name"):
            gateway.send([reading(1.0), {"device_id": "d", "value": 1}])
        with pytest.raises(ValueError, match="no connector `b`; there are a"):
            gateway.send(reading(1.0), "b")
        assert gateway.account().sources == {}


def test_many_threads_may_send_at_once_and_each_reading_is_there_once(tmp_path: Path) -> None:
    kept = Kept()
    gateway = Gateway(configuration(tmp_path))
    gateway.register("mine", kept)

    def send(start: int) -> None:
        for number in range(start, start + 20):
            gateway.send([reading(float(number), id=f"n{number}"), reading(float(number), id=f"n{number}")])

    with gateway:
        threads = [threading.Thread(target=send, args=(100 * n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert gateway.flush()
    assert sorted(value for _, value in kept.readings) == [float(100 * n + i) for n in range(4) for i in range(20)]
