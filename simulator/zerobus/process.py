"""The emulator as a child process, for tests, benchmarks and the demo: start it, turn its knobs, read its tables, kill it."""

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from simulator.zerobus.cli import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET


class EmulatorError(Exception):
    """The emulator did not start, or answered a call with an error; the message carries what it said."""


class EmulatorProcess:
    """A running emulator. Leaving the ``with`` block stops it.

    Attributes:
        endpoint: URL of the gRPC and Arrow Flight endpoint.
        unity_catalog_url: URL of the OAuth, Unity Catalog and admin endpoint.
        tables: directory of each Delta table that it had when it started.
    """

    client_id = DEFAULT_CLIENT_ID
    client_secret = DEFAULT_CLIENT_SECRET

    def __init__(
        self,
        data_dir: Path,
        tables: Mapping[str, Path] | None = None,
        *,
        port: int = 0,
        http_port: int = 0,
        options: Sequence[str] = (),
        start_seconds: float = 30.0,
    ) -> None:
        """Start an emulator and wait until it can be used.

        Args:
            data_dir: its data directory.
            tables: the file that declares each table.
            port: gRPC port; 0 for any.
            http_port: HTTP port; 0 for any.
            options: further options of the command line.
            start_seconds: how long to wait.

        Raises:
            EmulatorError: it did not start.
        """
        command = [sys.executable, "-m", "simulator.zerobus", f"--data-dir={data_dir}"]
        command += [f"--port={port}", f"--http-port={http_port}"]
        command += [f"--table={name}={file}" for name, file in (tables or {}).items()]
        root = Path(__file__).parents[2]
        path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [*command, *options], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}, text=True
        )
        # a process that hangs while it starts is ended, which ends the wait for its line
        watchdog = threading.Timer(start_seconds, self._process.kill)
        watchdog.start()
        line = self._process.stdout.readline() if self._process.stdout else ""
        watchdog.cancel()
        if not line.startswith("ready "):
            self._process.kill()
            self._end()
            raise EmulatorError(f"the emulator did not start (exit code {self._process.returncode}): {line}")
        facts = json.loads(line[len("ready ") :])
        self.endpoint: str = facts["endpoint"]
        self.unity_catalog_url: str = facts["unity_catalog_url"]
        self.tables = {name: Path(directory) for name, directory in facts["tables"].items()}

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self, seconds: float = 30.0) -> int:
        """End it by SIGTERM (SIGKILL if it does not go in time); returns the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
        return self._end()

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._end()

    def _end(self) -> int:
        code = self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        return code

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the HTTP endpoint; returns the decoded answer, None for an empty one.

        Raises:
            EmulatorError: the answer is an error; the message has its status and body.
        """
        request = urllib.request.Request(  # noqa: S310 - the emulator's own URL
            self.unity_catalog_url + path, method=method, data=None if body is None else json.dumps(body).encode()
        )
        # no proxy: the emulator is on this machine
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=90) as answer:
                content = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise EmulatorError(f"{method} {path}: {error.code} {error.read().decode()}") from None
        return json.loads(content) if content else None

    def create_table(self, name: str, columns: Sequence[Mapping[str, Any]], **more: Any) -> None:
        """Create a table."""
        self.call("POST", "/tables", {"name": name, "columns": list(columns), **more})

    def set_faults(self, **knobs: Any) -> None:
        """Turn fault knobs; those not named stay as they are."""
        self.call("PATCH", "/admin/faults", knobs)

    def reset_faults(self) -> None:
        """Turn all fault knobs off."""
        self.call("DELETE", "/admin/faults")

    def counters(self) -> dict[str, Any]:
        """All counters."""
        return dict(self.call("GET", "/admin/counters"))

    def count(self, table: str) -> int:
        """Rows in a Delta table, after everything accepted has got there."""
        return int(self.call("GET", f"/tables/{table}/count")["count"])

    def rows(self, table: str, limit: int = 100) -> list[dict[str, Any]]:
        """The first rows of a Delta table, after everything accepted has got there."""
        return list(self.call("GET", f"/tables/{table}/rows?limit={limit}")["rows"])
