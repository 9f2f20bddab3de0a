"""Servers that take line protocol, for tests: InfluxDB 1.x, InfluxDB 2.x where it was built, and VictoriaMetrics.

Each has a free port of loopback and a temporary folder, and is killed and started again at will.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import psutil

from tests.orphans import Server
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
INSTALLER = ROOT / "tests" / "counterparts" / "influxdb.sh"
BUILT = ROOT / "build" / "counterparts" / "influx2" / "influxd"
USER, PASSWORD, TOKEN, ORGANIZATION = "keeper", "kept secret", "token-of-the-keeper", "plant 1"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

_CONFIG_1 = """
reporting-disabled = true
bind-address = "127.0.0.1:{other}"
[meta]
  dir = "{folder}/meta"
[data]
  dir = "{folder}/data"
  wal-dir = "{folder}/wal"
  query-log-enabled = false
  {data}
[monitor]
  store-enabled = false
[http]
  bind-address = "127.0.0.1:{port}"
  auth-enabled = true
  log-enabled = false
  {http}
[logging]
  level = "error"
[subscriber]
  enabled = false
"""


def program(name: str) -> str:
    """The path of a server that is a package of the system, installed if it is missing."""
    found = shutil.which(name)
    if found is None:
        subprocess.run(["sh", str(INSTALLER)], check=True, capture_output=True, timeout=300)
        found = shutil.which(name)
    assert found is not None
    return found


class LineServer:
    """A process that takes line protocol over HTTP."""

    def __init__(self, headers: dict[str, str]) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="bifrost-influx-"))
        self.headers = headers
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        """What is run."""
        raise AssertionError

    def start(self) -> None:
        """Start it; returns when it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = Server(self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            return bool(_OPENER.open(f"{self.url}/health", timeout=5).status == 200)
        except urllib.error.HTTPError as error:
            return error.code == 404  # 1.6 knows no /health
        except OSError:
            return False

    def cpu_seconds(self) -> float:
        """CPU time that it has used."""
        assert self._process is not None
        used = psutil.Process(self._process.pid).cpu_times()
        return float(used.user + used.system)

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it, without a chance to tidy up unless `how` gives it one."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """What it has logged."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Ask it with the keeper's credentials; returns status and body, whatever they are."""
        request = urllib.request.Request(self.url + path, data=body, method=method, headers={**self.headers, **headers})
        try:
            with _OPENER.open(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def query(self, statement: str, **given: str) -> list[dict[str, Any]]:
        """The series that a statement of InfluxQL gives."""
        status, body = self.call("GET", f"/query?{urlencode({'q': statement, 'epoch': 'ns', **given})}")
        assert status == 200, body
        (result,) = json.loads(body, parse_int=_number)["results"]
        assert "error" not in result, result
        found: list[dict[str, Any]] = result.get("series", [])
        return found


class Influx1(LineServer):
    """InfluxDB 1.x with users; `data` and `http` are lines of its configuration."""

    def __init__(self, data: str = "", http: str = "") -> None:
        import base64

        known = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        super().__init__({"Authorization": f"Basic {known}"})
        text = _CONFIG_1.format(folder=self.folder, port=self.port, other=free_port(), data=data, http=http)
        (self.folder / "influxdb.conf").write_text(text)
        self.start()
        made = urlencode({"q": f"CREATE USER {USER} WITH PASSWORD '{PASSWORD}' WITH ALL PRIVILEGES"})
        status, body = self.call("POST", "/query", made.encode())
        assert status == 200, body

    def command(self) -> Sequence[str]:
        return [program("influxd"), "-config", str(self.folder / "influxdb.conf")]


class Influx2(LineServer):
    """InfluxDB 2.x as `tests/counterparts/influx2/install.sh` builds it."""

    def __init__(self) -> None:
        super().__init__({"Authorization": f"Token {TOKEN}"})
        self.start()
        asked = {"username": USER, "password": PASSWORD, "org": ORGANIZATION, "bucket": "first", "token": TOKEN}
        status, body = self.call("POST", "/api/v2/setup", json.dumps(asked).encode())
        assert status == 201, body

    def command(self) -> Sequence[str]:
        where = self.folder
        return [
            str(BUILT), "--bolt-path", f"{where}/i.bolt", "--sqlite-path", f"{where}/i.sqlite", "--engine-path",
            f"{where}/engine", "--http-bind-address", f"127.0.0.1:{self.port}", "--reporting-disabled", "--log-level",
            "error",
        ]  # fmt: skip


class VictoriaMetrics(LineServer):
    """VictoriaMetrics, which keeps everything however old. It answers before data is on disk: `kill` lets it tidy up."""

    def __init__(self) -> None:
        super().__init__({})
        self.start()

    def command(self) -> Sequence[str]:
        return [
            program("victoria-metrics"), "-storageDataPath", f"{self.folder}/data", "-httpListenAddr",
            f"127.0.0.1:{self.port}", "-retentionPeriod", "100y", "-loggerLevel", "ERROR",
        ]  # fmt: skip

    def samples(self) -> list[dict[str, Any]]:
        """Every sample: the labels of its metric, its value and its time in ms."""
        self.call("GET", "/internal/force_flush")
        asked = urlencode({"match[]": '{__name__!=""}'})
        _, body = self.call("GET", f"/api/v1/export?{asked}")
        return [
            {**found["metric"], "sample": value, "time": when}
            for found in map(json.loads, body.splitlines())
            for value, when in zip(found["values"], found["timestamps"], strict=True)
        ]


def _number(text: str) -> float | int:
    return -0.0 if text == "-0" else int(text)


def asked_for_influx2() -> bool:
    """Whether the tests are to run against the real InfluxDB 2.x too."""
    return bool(os.environ.get("BIFROST_INFLUX2"))


@contextlib.contextmanager
def running(server: LineServer) -> Any:
    """A server for the time of a `with`."""
    try:
        yield server
    finally:
        server.end()
