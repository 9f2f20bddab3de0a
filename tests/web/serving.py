"""A gateway that serves the API, in a process of its own."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.ports import free_port
from tests.web.client import Client, NoAnswerError
from web.access.cli_token import cli_token

ROOT = Path(__file__).parents[2]


class Serving:
    """A gateway in a process of its own, and a client of it."""

    def __init__(self, folder: Path, *more: str) -> None:
        self.folder, self.port = folder, free_port()
        with (folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "tests.web.open_gateway", str(folder), str(self.port), *more]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        self.client = Client(self.port)

    def started(self) -> "Serving":
        def answers() -> bool:
            assert self.process.poll() is None, (self.folder / "log").read_text()
            with contextlib.suppress(NoAnswerError, OSError):
                self.client = Client(self.port, {"authorization": f"Bearer {cli_token(self.folder / 'data')}"})
                return self.client.get("/api/cloud/health").status_code == 200
            return False

        until(answers)
        return self

    def post(self, body: Any, path: str = "/api/data", expected: int = 200) -> Any:
        answer = self.client.post(path, json=body)
        assert answer.status_code == expected, answer.text
        return answer.json()

    def get(self, path: str, expected: int = 200) -> Any:
        answer = self.client.get(path)
        assert answer.status_code == expected, answer.text
        return answer.json()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0, (self.folder / "log").read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)


def until(holds: Callable[[], object], seconds: float = 30.0) -> None:
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while not holds():
        assert time.monotonic() < deadline, "not in time"
        pause.wait(0.02)


@contextlib.contextmanager
def gateway(folder: Path, *more: str) -> Iterator[Serving]:
    running = Serving(folder, *more)
    try:
        yield running.started()
    finally:
        if running.process.poll() is None:
            running.kill()
