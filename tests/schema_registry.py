"""An Apicurio Registry of its own for tests, in memory, on a free port of loopback; it speaks Confluent's API."""

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from tests.orphans import Server
from tests.ports import free_port

_INSTALLER = Path(__file__).parent / "counterparts" / "apicurio" / "install.sh"
_PROGRAM = _INSTALLER.parents[3] / "build" / "counterparts" / "apicurio" / "program"
_JAVA = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class SchemaRegistry:
    """One registry; `start` and `end` it.

    Attributes:
        url: Where its API is.
    """

    def __init__(self) -> None:
        subprocess.run(["sh", str(_INSTALLER)], check=True, capture_output=True, timeout=600)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/apis/ccompat/v7"
        self._process: subprocess.Popen[bytes] | None = None
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def start(self) -> None:
        """Start it; returns when it answers."""
        (jar,) = _PROGRAM.glob("*-runner.jar")
        settings = ["-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={self._port}", "-Dquarkus.log.level=WARN"]
        self._process = Server(
            ["java", *_JAVA, *settings, "-jar", jar.name],
            cwd=_PROGRAM, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 90
        while True:
            try:
                self.ask("GET", "/subjects")
            except OSError:
                assert self._process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            else:
                return

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Ask its API, and return what it answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        with self._open(urllib.request.Request(self.url + path, data, headers, method=method), timeout=10) as answer:
            return json.load(answer)

    def schema(self, number: int) -> str:
        """The schema with a number."""
        return str(self.ask("GET", f"/schemas/ids/{number}")["schema"])

    def end(self) -> None:
        """End it; it forgets everything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
