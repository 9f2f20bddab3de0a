"""The ZeroBus emulator as a process of its own, and writers to its tables."""

import asyncio
import contextlib
import itertools
import json
import select
import signal
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from connectors.contract import Context
from connectors.targets.zerobus import ZeroBusConfig, ddl
from connectors.targets.zerobus.writer import ZeroBusWriter
from tests.certificates import Authority
from tests.orphans import Server

ROOT = Path(__file__).parents[3]
FORMATS = ("protobuf", "arrow")
CLIENT, SECRET = "gateway-app", "gateway-secret"
# What the SDK says at times when it is refused before its first message has gone out; it lost the status then.
UNHEARD = "Failed to send stream-open request"
names = (f"main.plant.t{number}" for number in itertools.count())


class Emulator:
    """The emulator process and its admin API."""

    def __init__(self, directory: Path, tls: Authority | None = None) -> None:
        self._directory, self._tls = directory, tls
        self._ports = (0, 0)
        self.start()

    def start(self) -> None:
        self._process = Server(
            [
                *(sys.executable, "-m", "simulator.zerobus"),
                *("--port", str(self._ports[0]), "--http-port", str(self._ports[1])),
                *("--data-dir", str(self._directory)),
                *("--client-id", CLIENT, "--client-secret", SECRET, "--commit-seconds", "0.1"),
                *self._secured(),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 60)
        line = self._process.stdout.readline() if ready else ""
        assert line.startswith("ready "), line
        facts = json.loads(line.removeprefix("ready "))
        self.endpoint, self.url = facts["endpoint"], facts["unity_catalog_url"]
        self._ports = (int(self.endpoint.rsplit(":", 1)[1]), int(self.url.rsplit(":", 1)[1]))

    def _secured(self) -> list[str]:
        if self._tls is None:
            return []
        return [
            *("--host", "localhost", "--tls-cert", str(self._tls.server_cert)),
            *("--tls-key", str(self._tls.server_key)),
        ]

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        trusted = ssl.create_default_context(cafile=self._tls.ca) if self._tls is not None else None
        with urllib.request.urlopen(
            urllib.request.Request(self.url + path, data, method=method), timeout=30, context=trusted
        ) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def faults(self, **knobs: Any) -> None:
        self.call("PATCH", "/admin/faults", knobs)

    def create(self, drop: tuple[str, ...] = (), add: tuple[dict[str, Any], ...] = ()) -> str:
        name = next(names)
        self.call("POST", "/tables", {"name": name, "ddl": ddl(name).split(";\n")[0] + ";"})
        if drop or add:
            self.call("PATCH", f"/tables/{name}", {"drop": drop, "add": add})
        return name

    def grant(self, verb: str, name: str, privilege: str = "MODIFY") -> None:
        self.call("POST", f"/admin/grants/{verb}", {"client_id": CLIENT, "securable": name, "privilege": privilege})

    def rows(self, name: str) -> pa.Table:
        self.call("GET", f"/tables/{name}/count")  # returns when all that was acknowledged is in the table
        return DeltaTable(self.call("GET", f"/tables/{name}")["path"]).to_pyarrow_table()


@contextlib.contextmanager
def no_proxy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        yield


def writer(emulator: Emulator, name: str, record_format: str = "protobuf", **changes: Any) -> ZeroBusWriter:
    own = {
        "table": name,
        "workspace_url": emulator.url,
        "client_id": CLIENT,
        "client_secret": SECRET,
        "record_format": record_format,
        "ack_timeout": "10s",
    }
    config = ZeroBusConfig.model_validate(
        {"endpoint": emulator.endpoint, "timeout": "10s", "provider_config": own | changes}
    )
    made = config.writer(Context("gateway", Path("unused")))
    assert isinstance(made, ZeroBusWriter)
    return made


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):  # another process does what is waited for
            await asyncio.sleep(0.02)
