"""A client of the API for tests: requests one after the other, and event streams."""

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self


class NoAnswerError(Exception):
    """The server did not answer."""


@dataclass(frozen=True)
class Answer:
    """What was answered."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return json.loads(self.content)


class Client:
    """Talks to a server on this machine."""

    def __init__(self, port: int, headers: dict[str, str] | None = None) -> None:
        self._port, self._headers = port, headers or {}

    def get(self, path: str) -> Answer:
        return self.ask("GET", path, b"", {})

    def post(
        self, path: str, *, json: Any = None, content: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        body = _dumped(json) if content is None else content
        return self.ask("POST", path, body, headers or {"content-type": "application/json"})

    def ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            connection.request(method, path, body or None, self._headers | headers)
            answer = connection.getresponse()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise NoAnswerError(str(error)) from error
        finally:
            connection.close()

    def events(self, path: str) -> "Events":
        return Events(self._port, path, self._headers)


class Events:
    """An event stream: yields the name and the data of each event."""

    def __init__(self, port: int, path: str, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        self._connection.request("GET", path, headers=headers)
        self._answer = self._connection.getresponse()
        self.status_code = self._answer.status
        self.headers = {k.lower(): v for k, v in self._answer.getheaders()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._answer.close()
        self._connection.close()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        name = ""
        for line in self._answer:
            text = line.decode().rstrip("\n")
            if text.startswith("event: "):
                name = text.removeprefix("event: ")
            elif text.startswith("data: "):
                yield name, json.loads(text.removeprefix("data: "))


def _dumped(body: Any) -> bytes:
    return json.dumps(body).encode()
