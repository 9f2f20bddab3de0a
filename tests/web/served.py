"""A gateway's stores with the port before them, in this process, and clients that ask it."""

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.loader import load
from flows.process import Process
from tests.delivery.stores import until
from tests.ports import free_port
from web.access.accounts import Accounts, utc_now
from web.access.cli_token import cli_token
from web.access.limits import Limits
from web.server import Port

PASSWORD = "correct horse battery"
PLENTY = Limits(rate=100_000.0, burst=100_000.0)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    cookies: tuple[str, ...] = ()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Client:
    """Asks a port; keeps what a login gave it."""

    port: int
    headers: dict[str, str] = field(default_factory=dict)
    address: str = "127.0.0.1"

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request; a body that is not bytes is sent as JSON. Underscores in names of headers are dashes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20, source_address=(self.address, 0))
        sent = dict(self.headers)
        if body is not None:
            sent["content-type"] = "application/json"
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            connection.request(method, path, content, sent)
            answer = connection.getresponse()
            said = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, said, answer.read(), tuple(answer.headers.get_all("set-cookie", ())))
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, None, **headers)

    def log_in(self, user: str, password: str = PASSWORD) -> Answer:
        """Log in, and send what that gives with every request from now on."""
        answer = self.ask("POST", "/api/session", {"user": user, "password": password})
        if answer.status == 200:
            self.keep(answer)
        return answer

    def keep(self, answer: Answer) -> None:
        """Send the cookie and the CSRF token of an answer from now on."""
        self.headers["cookie"] = answer.headers["set-cookie"].split(";")[0]
        self.headers["x-csrf-token"] = answer.json["csrf"]


@dataclass
class Served:
    """A gateway that is served."""

    process: Process
    directory: Path
    port: int

    def client(self, **headers: str) -> Client:
        """A client that nobody knows."""
        return Client(self.port, headers)

    def cli(self) -> Client:
        """The command line."""
        return self.client(authorization=f"Bearer {cli_token(self.directory)}")

    def user(self, role: str, name: str | None = None) -> Client:
        """A user of this role who has logged in."""
        client = self.client()
        name = name or role
        accounts = Accounts(self.directory)
        if accounts.user(name) is None:
            accounts.add_user(name, PASSWORD, role, utc_now())  # type: ignore[arg-type]
        answer = client.log_in(name)
        assert answer.status == 200, answer.body
        return client


def write_config(folder: Path, port: int, more: str = "") -> Path:
    """A gateway with one source that reaches nothing, and a file."""
    path = folder / "gateway.yaml"
    path.write_text(
        f"""\
gateway:
  name: gw
  directory: {folder / "data"}
  port: {port}
  cloud:
    connectors:
      files: {{type: file, endpoint: {folder / "files"}}}
sources:
  - name: line1
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:1
{more}"""
    )
    return path


@contextmanager
def served(
    folder: Path,
    limits: Limits | None = None,
    more: str = "",
    ready: Callable[[int], bool] | None = None,
) -> Iterator[Served]:
    """The stores of a gateway, and its port, which stands for `$PORT` in `more`."""
    port = free_port()
    process = Process(load(write_config(folder, port, more.replace("$PORT", str(port)))))
    process.open_stores()
    server = Port(process, limits)
    server.start()
    try:
        until(lambda: (ready or _listens)(port))
        yield Served(process, process.config.directory, port)
    finally:
        server.stop()
        process.close()


def _listens(port: int) -> bool:
    try:
        return Client(port).get("/health").status == 200
    except OSError:
        return False
