"""A fake of Google Cloud Pub/Sub for tests: pstest of the client library for Go, with the limits of the service and a file that
keeps what was published (`tests/counterparts/pubsub`). On a free port of loopback, killed and started again at will."""

import base64
import json
import shutil
import subprocess
import tempfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.orphans import Server
from tests.ports import free_port

ROOT = Path(__file__).parent.parent
INSTALLER = ROOT / "tests" / "counterparts" / "pubsub" / "install.sh"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class Message:
    """One message that was published."""

    topic: str
    data: bytes
    attributes: dict[str, str]
    ordering_key: str


class PubSubServer:
    """One server; it keeps its ports and what was published when it is killed and started again."""

    def __init__(self) -> None:
        subprocess.run(["sh", str(INSTALLER)], check=True, capture_output=True, timeout=600)
        self.port, self._admin = free_port(), free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="bifrost-pubsub-"))
        self._file = self._folder / "published.jsonl"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def endpoint(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it; returns when it takes calls."""
        program = ROOT / "build" / "counterparts" / "pubsub" / "server"
        self._process = Server(
            [program, "-listen", f"127.0.0.1:{self.port}", "-admin", f"127.0.0.1:{self._admin}", "-file", self._file],
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline().startswith(b"ready"), "the fake did not start"

    def kill(self) -> None:
        """End it, without a chance to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def end(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def fail(self, *faults: dict[str, Any]) -> None:
        """Let the next calls fail: `method`, `code`, `text`, `times`, and `part` that a message must hold."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._admin}/faults", json.dumps(faults).encode())
        _OPENER.open(request, timeout=10).close()

    def messages(self, project: str) -> list[Message]:
        """What was published in a project, in order."""
        start = f"projects/{project}/topics/"
        mine = f'{{"topic":"{start}'.encode()  # the file has what all tests have published
        items = [json.loads(line) for line in self._file.read_bytes().splitlines() if line.startswith(mine)]
        return [
            Message(
                item["topic"].removeprefix(start),
                base64.b64decode(item.get("data", "")),
                item.get("attributes") or {},
                item.get("ordering_key", ""),
            )
            for item in items
            if not item.get("made")
        ]
