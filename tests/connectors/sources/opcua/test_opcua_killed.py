"""The whole gateway is killed again and again while open62541 counts: every number arrives, each from one reading only."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from tests.connectors.sources.opcua.test_opcua_open62541 import CServer, installed  # noqa: F401 - a fixture

pytestmark = [pytest.mark.interop("open62541"), pytest.mark.kill]

ROOT = Path(__file__).parents[4]
TAGS, HERTZ, KILLS = 100, 20, 3
LINE = re.compile(r"path=(v\d+),.* value=(\d+),.*sequence=(\d+)i ")


class Gateway:
    """`bifrost run` from the server into a file of line protocol."""

    def __init__(self, endpoint: str, directory: Path) -> None:
        self.lines = directory / "lines"
        self.log = directory / "log"
        self._config = directory / "gateway.yaml"
        source = {
            "name": "plc",
            "protocol": "opcua",
            "endpoint": endpoint,
            "username": "user1",
            "password": "secret1",
            "trust": "all",
            "allow_clear_password": True,
            "publishing_interval": 0.05,
            "sampling_interval": 0,
            "queue_size": 1000,
            "values_per_notification": 40,
            "nodes": [{"id": f"ns=1;s=v{at}", "tag_name": f"v{at}"} for at in range(TAGS)],
        }
        target = {"type": "file", "endpoint": str(self.lines), "format": "line_protocol", "rotate_size": "1GiB"}
        config = {
            "gateway": {
                "name": "killed",
                "directory": str(directory / "data"),
                "cloud": {"connectors": {"lines": target}},
            },
            "web_ui": {"enabled": False},
            "sources": [source],
        }
        self._config.write_text(json.dumps(config))

    def start(self) -> None:
        command = [sys.executable, "-m", "bifrost", "run", "-c", str(self._config)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def stop(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)

    def readings(self) -> list[tuple[str, int, int]]:
        """Tag, number and sequence of each line."""
        text = "".join(path.read_text() for path in sorted(self.lines.glob("**/*")) if path.is_file())
        return [(tag, int(number), int(sequence)) for tag, number, sequence in LINE.findall(text)]

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < end, self.log.read_text()[-2000:]
            time.sleep(0.1)


@pytest.mark.timeout(240)
def test_a_gateway_that_is_killed_again_and_again_loses_nothing_and_takes_nothing_twice(
    installed: None,  # noqa: F811
    tmp_path: Path,
) -> None:
    server = CServer(TAGS, HERTZ)
    gateway = Gateway(server.endpoint, tmp_path)
    try:
        for attempt in range(KILLS + 1):
            before = len(gateway.readings())
            gateway.start()
            gateway.until(lambda before=before: len(gateway.readings()) > before + 20 * TAGS)
            if attempt < KILLS:
                gateway.stop(signal.SIGKILL)
        assert gateway.stop(signal.SIGTERM) == 0
        readings = gateway.readings()
    finally:
        gateway.process.kill()
        gateway.process.wait()
        server.stop()
    numbers: dict[str, set[int]] = {}
    sequences: dict[tuple[str, int], set[int]] = {}
    for tag, number, sequence in readings:
        numbers.setdefault(tag, set()).add(number)
        sequences.setdefault((tag, number), set()).add(sequence)
    assert len(numbers) == TAGS
    missing = {
        tag: [(a, b) for a, b in pairwise(sorted(found)) if b != a + 1]
        for tag, found in numbers.items()
        if len(found) != max(found) - min(found) + 1
    }
    assert missing == {}, gateway.log.read_text()[-2000:]
    assert [
        where for where, found in sequences.items() if len(found) > 1
    ] == []  # what is sent again is the same reading
