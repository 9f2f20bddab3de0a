"""A mosquitto beside a test, with a subscriber that keeps every message: mosquitto_sub in a persistent session of its own.

The broker is ended in order and started again, so that what it has taken for the subscriber outlives it, as it says it does.
"""

import itertools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mosquitto_broker import Broker, program
from tests.orphans import Server
from tests.ports import free_port

USER, PASSWORD = "gateway", "right-secret"
_PATIENCE = 30.0
_marks = itertools.count()


def wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Wait until somebody listens on the port."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline, log.read_text(errors="replace")[-3000:]
            time.sleep(0.01)


class Mosquitto:
    """A broker with users, and what was published to it.

    Attributes:
        port: Where clients connect, with TLS if there are settings for it.
        plain: Where the subscriber connects.
    """

    def __init__(self, folder: Path, tls: Sequence[str] = ()) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.plain = free_port()
        self.log = folder / "mosquitto.log"
        self.received = folder / "received"
        passwords = folder / "passwords"
        program()
        subprocess.run(
            ["mosquitto_passwd", "-b", "-c", str(passwords), USER, PASSWORD], check=True, capture_output=True
        )
        passwords.chmod(0o644)
        settings = [
            "allow_anonymous false",
            f"password_file {passwords}",
            "max_queued_messages 0",
            "max_queued_bytes 0",
            *tls,
            f"listener {self.plain} 127.0.0.1",
        ]
        self.port = Broker(folder, ["per_listener_settings false", *settings]).port
        self._process: subprocess.Popen[bytes] | None = None
        self._subscriber: subprocess.Popen[bytes] | None = None
        self.start()
        self._subscribe()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = Server([program(), "-c", str(self.folder / "mosquitto.conf")], stdout=log, stderr=log)
        wait_for(self.plain, self._process, self.log)
        wait_for(self.port, self._process, self.log)

    def stop(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(_PATIENCE)

    def reload(self) -> None:
        """Read certificates again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def _login(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.plain), "-u", USER, "-P", PASSWORD]

    def _subscribe(self) -> None:
        command = ["mosquitto_sub", *self._login(), "-i", "reader", "-c", "-q", "1", "-t", "#", "-F", "%q%r %t %p"]
        with self.received.open("wb") as out:
            self._subscriber = Server(command, stdout=out, stderr=subprocess.DEVNULL, env=os.environ)
        self.messages()

    def messages(self) -> list[tuple[str, str, str]]:
        """All that was published so far: `QoS retained`, topic up to its first space, and the rest."""
        mark = f"mark/{next(_marks)}"
        deadline = time.monotonic() + _PATIENCE
        while not self._has(mark):
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")[-3000:]
            subprocess.run(
                ["mosquitto_pub", *self._login(), "-q", "1", "-t", mark, "-m", "x"], check=True, capture_output=True
            )
            patience = time.monotonic() + 2
            while time.monotonic() < patience and not self._has(mark):
                time.sleep(0.01)
        found = self.received.read_bytes()
        lines = found.decode("utf-8").split("\n")[:-1]
        parts = [line.split(" ", 2) for line in lines]
        return [(one[0], one[1], one[2]) for one in parts if not one[1].startswith("mark/")]

    def _has(self, mark: str) -> bool:
        """Whether this is among the last that came."""
        with self.received.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            return f" {mark} ".encode() in file.read()

    def end(self) -> None:
        for process in (self._subscriber, self._process):
            if process is not None:
                process.kill()
                process.wait()
