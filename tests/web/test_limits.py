"""Who asks for too much gets less, and keeps nobody else from the port, nor a reading from its way."""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from bifrost.run import ask
from config.loader import load
from config.yaml_nodes import ProblemsError
from tests.ports import free_port
from tests.running_gateway import gateway as running
from tests.running_gateway import until
from tests.web.served import PLENTY, Client, Served, served, write_config
from web.access.cli_token import cli_token
from web.access.limits import Limits, Rates

SECONDS = 3.0
SHORT = Limits(read_timeout=1.0, head_timeout=1.0, rate=100_000.0, burst=100_000.0)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("gateway"), SHORT) as found:
        yield found


def told(connection: socket.socket) -> bytes:
    """What the gateway says until it closes the connection."""
    connection.settimeout(15)
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def head(gateway: Served, method: str = "POST", path: str = "/api/users", *more: str) -> bytes:
    token = cli_token(gateway.directory)
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


# ---------------------------------------------------------------------- each by itself


@pytest.mark.threat(26)
def test_a_body_is_a_megabyte_at_most_whatever_its_head_says(gateway: Served) -> None:
    client = gateway.cli()
    large = json.dumps({"files": {"gateway.yaml": "x" * 1_100_000}}).encode()
    for _ in range(20):  # who sends all of it before looking for the answer sees one each time
        assert client.ask("POST", "/api/config/plan", large).status == 413
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:  # in chunks, so that no length is told
        more = ("Content-Type: application/json", "Transfer-Encoding: chunked")
        connection.sendall(head(gateway, "POST", "/api/users", *more))
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                connection.sendall(chunk)
        assert b" 413 " in told(connection)
    for length in ("-1", "1e3", "99999999999999999999", "0x10"):
        with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
            more = ("Content-Type: application/json", f"Content-Length: {length}")
            connection.sendall(head(gateway, "POST", "/api/users", *more))
            assert told(connection)[:12] in (b"HTTP/1.1 413", b"HTTP/1.1 400"), length


@pytest.mark.threat(26)
def test_a_body_or_head_that_does_not_come_is_not_waited_for(gateway: Served) -> None:
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(head(gateway, "POST", "/api/users", "Content-Type: application/json", "Content-Length: 10"))
        assert b" 408 " in told(connection)
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        assert told(connection) == b""
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        assert told(connection) == b""


@pytest.mark.threat(26)
def test_pages_are_500_at_most(gateway: Served) -> None:
    client = gateway.cli()
    for path in ("/api/audit", "/api/logs", "/api/tags", "/api/dead-letters/each", "/api/spools/peek?target=files"):
        joined = "&" if "?" in path else "?"
        assert client.get(f"{path}{joined}limit=500").status == 200, path
        assert client.get(f"{path}{joined}limit=501").status == 422, path


@pytest.mark.threat(26)
def test_a_client_that_asks_too_often_waits_and_another_does_not(tmp_path: Path) -> None:
    with served(tmp_path, Limits(rate=5.0, burst=20.0)) as gateway:
        eager, other = gateway.client(), gateway.client()
        other.address = "127.0.0.7"
        answers = [eager.get("/health") for _ in range(60)]
        refused = [answer for answer in answers if answer.status == 429]
        assert len(refused) >= 20
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
        assert other.get("/health").status == 200


def test_a_bucket_fills_again() -> None:
    now = 0.0
    rates = Rates(10.0, 20.0, lambda: now)
    assert [rates.take("a") for _ in range(21)].count(0.0) == 20
    assert rates.take("a") == pytest.approx(0.1)
    assert rates.take("b") == 0.0
    now = 1.0
    assert [rates.take("a") for _ in range(11)].count(0.0) == 10


@pytest.mark.threat(26)
def test_text_that_is_half_a_character_is_refused(gateway: Served) -> None:
    client = gateway.cli()
    for body in (
        b'{"name": "\\ud800", "password": "three plain words"}',
        b'{"name": "a", "password": "three plain words \\udfff"}',
    ):
        assert client.ask("POST", "/api/users", body).status == 422
    assert client.ask("POST", "/api/session", b'{"user": "\\ud800", "password": "x"}').status in (401, 422)
    assert client.ask("POST", "/api/config/plan", b"[" * 100_000).status in (400, 422)


# ---------------------------------------------------------------------- attacks on a gateway that works


def attack(port: int, act: Callable[[int], None], threads: int) -> Callable[[], None]:
    """Have some threads do something again and again; returns what ends them."""
    ended = threading.Event()

    def go() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                act(port)

    running = [threading.Thread(target=go, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()

    def end() -> None:
        ended.set()
        for thread in running:
            thread.join(10)

    return end


HELD: list[socket.socket] = []


def connects_and_is_silent(port: int) -> None:
    HELD.append(socket.create_connection(("127.0.0.1", port), 2))
    if len(HELD) > 200:
        HELD.pop(0).close()
    threading.Event().wait(0.01)


def sends_a_head_letter_by_letter(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), 2) as connection:
        for letter in b"GET /health HTTP/1.1\r\nX-Slow: " + b"x" * 100:
            connection.send(bytes([letter]))
            threading.Event().wait(0.05)


def sends_a_large_body(port: int) -> None:
    with contextlib.suppress(OSError):
        Client(port).ask("POST", "/api/session", b"x" * 5_000_000)
    threading.Event().wait(0.02)


def sends_nested_lists(port: int) -> None:
    Client(port).ask("POST", "/api/session", b"[" * 900_000)
    threading.Event().wait(0.02)


ATTACKS: list[tuple[Callable[[int], None], int]] = [
    (connects_and_is_silent, 2),
    (sends_a_head_letter_by_letter, 40),
    (sends_a_large_body, 2),
    (sends_nested_lists, 2),
]


@pytest.mark.threat(26)
async def test_attacks_keep_neither_readings_nor_other_clients_back(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, port)

    def ready() -> bool:
        with contextlib.suppress(OSError):
            return Client(port).get("/readyz").status == 200
        return False

    with running(config):
        await until(ready, config)
        other = Client(port, {"authorization": f"Bearer {cli_token(tmp_path / 'data')}"}, "127.0.0.5")
        sent = 0
        for act, threads in ATTACKS:
            end = attack(port, act, threads)
            took = []
            until_then = time.monotonic() + SECONDS
            try:
                while time.monotonic() < until_then:
                    began = time.monotonic()
                    reading = {"device_id": "press", "tag_name": "strokes", "value": sent, "id": f"n{sent}"}
                    answer = other.ask("POST", "/api/data", reading)
                    took.append(time.monotonic() - began)
                    assert answer.status == 200, answer.body
                    sent += 1
                    threading.Event().wait(0.02)
            finally:
                end()
            slow = sorted(took)[int(len(took) * 0.99) - 1]
            assert slow < 1.0, (act.__name__, slow, len(took))
        ledger = other.get("/api/ledger").json
        assert ledger["unaccounted"] == 0
        assert sum(line["journalled"] for line in ledger["sources"].values()) == sent
    for connection in HELD:
        connection.close()
    HELD.clear()


# ---------------------------------------------------------------------- where the port listens


@pytest.mark.parametrize("listen", ["0.0.0.0", "192.0.2.1", '"::"', "gateway.plant.example"])
def test_a_port_for_other_machines_has_tls_or_somebody_said_that_it_needs_none(tmp_path: Path, listen: str) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text(f"gateway: {{name: gw, listen: {listen}}}\n")
    with pytest.raises(ProblemsError, match=r"gateway\.yaml:1:\d+: gateway\.listen: other machines reach the port"):
        load(path)
    for more in ("web_ui: {insecure: true}", "web_ui: {tls: {cert_file: c, key_file: k}}", "web_ui: {enabled: false}"):
        path.write_text(f"gateway: {{name: gw, listen: {listen}}}\n{more}\n")
        assert load(path).listen == listen.strip('"')


def test_with_tls_nothing_is_served_in_clear_and_commands_trust_this_certificate_alone(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("gateway.plant.example")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    (tmp_path / "cert.pem").write_bytes(b"".join(part.bytes() for part in certificate.cert_chain_pems))
    more = "web_ui: {tls: {cert_file: cert.pem, key_file: key.pem}}\n"
    with served(tmp_path, PLENTY, more, ready=lambda port: _speaks_tls(port, authority)) as gateway:
        status = ask(gateway.process.config, "/api/status")
        assert status is not None
        assert status["gateway"] == "gw"
        context = ssl.create_default_context()
        authority.configure_trust(context)
        with (
            socket.create_connection(("127.0.0.1", gateway.port), 10) as connection,
            context.wrap_socket(connection, server_hostname="gateway.plant.example") as encrypted,
        ):
            encrypted.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            said = told(encrypted).decode()
            assert " 200 " in said.splitlines()[0]
            assert "strict-transport-security: max-age=31536000" in said
        with socket.create_connection(("127.0.0.1", gateway.port), 10) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"gw" not in told(connection)
        other = trustme.CA().issue_cert("gateway.plant.example")
        (tmp_path / "cert.pem").write_bytes(other.cert_chain_pems[0].bytes())
        assert ask(gateway.process.config, "/api/status") is None


def _speaks_tls(port: int, authority: trustme.CA) -> bool:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), 5) as connection,
        context.wrap_socket(connection, server_hostname="gateway.plant.example"),
    ):
        return True
    return False
