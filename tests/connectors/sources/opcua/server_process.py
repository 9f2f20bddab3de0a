"""A server that is not ours as a process: it says `ready`, and takes commands as lines."""

import subprocess
import threading
from collections.abc import Sequence

import pytest


class ServerProcess:
    """The process; it can be killed and started again.

    Attributes:
        process: The process.
        output: The lines that it has printed.
    """

    process: "subprocess.Popen[str]"
    output: list[str]

    def launch(self, command: Sequence[str], name: str, patience: float) -> None:
        """Start it and wait, `patience` seconds at most, until it is ready."""
        self.output = []
        self._ready = threading.Event()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(patience) or self.process.poll() is not None:
            self.kill()
            pytest.fail(f"{name} did not start:\n" + "".join(self.output))

    def _read(self) -> None:
        for line in self.process.stdout:
            self.output.append(line)
            if line.startswith("ready"):
                self._ready.set()
        self._ready.set()

    def say(self, line: str) -> None:
        """Give it a line."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        self.process.stdin.close()
        self.process.stdout.close()
