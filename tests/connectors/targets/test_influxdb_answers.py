"""What InfluxDB 2.7.12 answers: as it was seen, as the stand-in says it, and where BIFROST_INFLUX2 asks for it, as it says it now."""

import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.writers.influxdb import influx2
from tests.influx_server import TOKEN, asked_for_influx2
from tests.influx_stand_in import InfluxStandIn

WRITE = "/api/v2/write?org=plant+1&bucket=answers&precision=ns"
NOW = 1_790_000_000_000_000_000
Ask = Callable[[str, bytes, str], tuple[int, Any]]

# path, body, token, then what it answered
SEEN: list[tuple[str, str, str, str, int, tuple[str, str] | None]] = [
    ("a line", WRITE, f"m v=1 {NOW}\n", TOKEN, 204, None),
    (
        "lines of another type",
        WRITE,
        f"m v=1i {NOW}\nm v=2 {NOW + 1}\nm v=2i {NOW + 2}\n",
        TOKEN,
        422,
        (
            "unprocessable entity",
            (
                'failure writing points to database: partial write: field type conflict: input field "v" on measurement "m" is '
                "type integer, already exists as type float dropped=2"
            ),
        ),
    ),
    (
        "lines of two types in one request",
        WRITE,
        f"n v=1i {NOW}\nn v=2 {NOW + 1}\nn v=2i {NOW + 2}\n",
        TOKEN,
        422,
        (
            "unprocessable entity",
            (
                'failure writing points to database: partial write: field type conflict: input field "v" on measurement "n" is '
                "type float, already exists as type integer dropped=1"
            ),
        ),
    ),
    (
        "lines that are none",
        WRITE,
        f"m v=1 {NOW}\nm v=abc {NOW}\nm  {NOW}\n",
        TOKEN,
        400,
        (
            "invalid",
            f"unable to parse 'm v=abc {NOW}': invalid boolean\nunable to parse 'm  {NOW}': invalid field format",
        ),
    ),
    (
        "a field that is too long",
        WRITE,
        'm t="' + "x" * 2 * 1024**2 + f'" {NOW}\n',
        TOKEN,
        422,
        (
            "unprocessable entity",
            (
                'failure writing points to database: partial write: input field "t" on measurement "m" is too long, 2097152 > '
                "1048576 dropped=1"
            ),
        ),
    ),
    (
        "a precision that is none",
        WRITE.replace("=ns", "=xs"),
        f"m v=1 {NOW}\n",
        TOKEN,
        400,
        ("invalid", "invalid precision; valid precision units are ns, us, ms, and s"),
    ),
    (
        "a bucket that is missing",
        WRITE.replace("answers", "nope"),
        f"m v=1 {NOW}\n",
        TOKEN,
        404,
        ("not found", 'bucket "nope" not found'),
    ),
    (
        "an organization that is missing",
        WRITE.replace("plant+1", "nope"),
        f"m v=1 {NOW}\n",
        TOKEN,
        404,
        ("not found", 'organization name "nope" not found'),
    ),
    ("a wrong token", WRITE, f"m v=1 {NOW}\n", "wrong", 401, ("unauthorized", "unauthorized access")),
]


def stand_in(folder: Path) -> Iterator[Ask]:
    server = InfluxStandIn(folder)
    server.buckets["answers"] = []
    context = ssl.create_default_context(cafile=server.tls["ca_file"])
    context.load_cert_chain(server.tls["cert_file"], server.tls["key_file"])

    def ask(path: str, body: bytes, token: str) -> tuple[int, Any]:
        connection = http.client.HTTPSConnection("localhost", server.port, context=context)
        connection.request("POST", path, body, {"Authorization": f"Token {token}"})
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        return answer.status, json.loads(said) if said else None

    yield ask
    server.end()


def real(_: Path) -> Iterator[Ask]:
    server = influx2()
    (organization,) = json.loads(server.call("GET", "/api/v2/orgs?org=plant+1")[1])["orgs"]
    made = {"orgID": organization["id"], "name": "answers", "retentionRules": []}
    assert server.call("POST", "/api/v2/buckets", json.dumps(made).encode())[0] == 201

    def ask(path: str, body: bytes, token: str) -> tuple[int, Any]:
        status, said = server.call("POST", path, body, Authorization=f"Token {token}")
        return status, json.loads(said) if said else None

    yield ask


SERVERS = [stand_in, *([real] if asked_for_influx2() else [])]


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: f"influxdb {server.__name__}")
def test_it_answers_as_it_was_seen_to(server: Callable[[Path], Iterator[Ask]], tmp_path: Path) -> None:
    asking = server(tmp_path)
    ask = next(asking)
    for what, path, body, token, status, error in SEEN:
        found, said = ask(path, body.encode(), token)
        assert (what, found) == (what, status)
        assert error == (None if said is None else (said["code"], said["message"])), what
    next(asking, None)
