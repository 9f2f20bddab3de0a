"""What waits is sent in order: failures are tried again as they ask for, refusals are left out and counted; by proxy, TLS and login."""

import base64
import http.server
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import until

from config.telemetry import RemoteWriteSection
from connectors.contract import TransientError
from delivery import metrics
from delivery.outbox import Outbox
from delivery.retry import RetryPolicy
from flows.telemetry.post import Post, retry_after
from flows.telemetry.sender import Sender, later, later_otlp
from tests.certificates import Authority

Reply = tuple[int, dict[str, str], bytes]
OK: Reply = (204, {}, b"")


class Receiver:
    """Answers as the test says, and keeps what came, also what came through it as through a proxy."""

    def __init__(self, tls: Authority | None = None) -> None:
        self.came: list[tuple[str, dict[str, str], bytes]] = []
        self.times: list[float] = []
        self.tunnels: list[tuple[str, str]] = []
        self.replies: list[Reply] = []
        self.open: set[object] = set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver.open.add(self.connection)
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.times.append(time.monotonic())
                receiver.came.append((self.path, headers, body))
                code, said, text = receiver.replies.pop(0) if receiver.replies else OK
                self.send_response(code)
                for name, value in {**said, "content-length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def do_CONNECT(self) -> None:
                receiver.tunnels.append((self.path, self.headers.get("proxy-authorization", "")))
                host, _, port = self.path.partition(":")
                with socket.create_connection((host, int(port))) as far:
                    self.send_response(200)
                    self.end_headers()
                    ends = {self.connection: far, far: self.connection}
                    while True:
                        for ready in select.select(list(ends), [], [], 30)[0]:
                            data = ready.recv(65536)
                            if not data:
                                self.close_connection = True
                                return
                            ends[ready].sendall(data)

            def log_message(self, *_: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._tls = tls
        if tls is not None:
            self._plain = self._server.socket
            self.renew()
        self.port = self._server.server_port
        self.endpoint = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}/write"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def renew(self) -> None:
        """Show the certificate that the authority has issued last, and ask for one."""
        assert self._tls is not None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(self._tls.ca))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self._tls.server_cert, self._tls.server_key)
        self.context = context
        plain = self._plain

        def accepted() -> tuple[ssl.SSLSocket, object]:
            connection, address = plain.accept()
            connection.settimeout(10)
            return self.context.wrap_socket(connection, server_side=True), address

        self._server.get_request = accepted  # type: ignore[assignment, method-assign]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    found = Receiver()
    yield found
    found.close()


Made = Callable[..., Sender]


@pytest.fixture
def sending(tmp_path: Path, receiver: Receiver) -> Iterator[Made]:
    """Makes a sender to the receiver that is closed at the end."""
    made: list[Sender] = []

    def make(what: str, again: Callable[[int], bool] = later, **options: object) -> Sender:
        post = Post(RemoteWriteSection(endpoint=receiver.endpoint, timeout=5), receiver.endpoint, {})
        outbox = Outbox(tmp_path / what, 1024**2)
        made.append(Sender(what, outbox, post, again, retry=RetryPolicy(first=0.01, cap=0.05), **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for sender in made:
        sender.close(0.2)


def counted(what: str) -> tuple[float, float]:
    """Points that were sent, and that were refused."""
    sent = metrics.TELEMETRY_SENT.labels(what)._value.get()
    return sent, metrics.TELEMETRY_DROPPED.labels(what, "refused")._value.get()


def test_failures_are_tried_again_in_order_and_refusals_left_out_and_counted(
    receiver: Receiver, sending: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver.replies = [
        (500, {}, b""),
        (503, {}, b"later"),
        (429, {}, b""),
        OK,
        (400, {}, b"out of bounds"),
        (401, {}, b""),
        OK,
    ]
    sender = sending("in order")
    for number in range(4):
        sender.put(b"message %d" % number, 10 + number, float(number))
    sender.start()
    until(lambda: len(receiver.came) == 7, what="messages")
    sender.close(5.0)
    assert [body for _, _, body in receiver.came] == [
        b"message 0", b"message 0", b"message 0", b"message 0", b"message 1", b"message 2", b"message 3",
    ]  # fmt: skip
    assert counted("in order") == (10 + 13, 11 + 12)


def test_who_asks_to_be_left_alone_is(receiver: Receiver, sending: Made) -> None:
    receiver.replies = [(503, {"retry-after": "1"}, b""), OK]
    sender = sending("left alone")
    sender.start()
    sender.put(b"message", 1, 0.0)
    until(lambda: len(receiver.came) == 2, what="messages")
    assert receiver.times[1] - receiver.times[0] >= 1.0


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, None), ("7", 7.0), ("Thu, 01 Jan 1970 00:16:45 GMT", 5.0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0), ("soon", None)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str | None, expected: float | None) -> None:
    assert retry_after(header, 1000.0) == expected


def test_which_answers_are_tried_again() -> None:
    assert [code for code in range(200, 600) if later(code)] == [429, *range(500, 600)]
    assert [code for code in range(200, 600) if later_otlp(code)] == [429, 502, 503, 504]


def test_points_that_were_taken_in_part_are_counted(receiver: Receiver, sending: Made) -> None:
    receiver.replies = [(200, {}, b"three")]
    sender = sending("in part", later_otlp, rejected=lambda body: (3, body.decode()))
    sender.start()
    sender.put(b"message", 10, 0.0)
    until(lambda: counted("in part") == (7, 3), what="counts")


def test_putting_in_waits_for_nobody_and_the_end_neither(receiver: Receiver, sending: Made) -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        receiver.endpoint = f"http://127.0.0.1:{hangs.getsockname()[1]}"
        sender = sending("hangs")
        sender.start()
        sender.put(b"first", 1, 0.0)
        with hangs.accept()[0] as accepted:
            accepted.recv(10)
            began = time.thread_time()
            for number in range(200):
                sender.put(b"message" * 1000, 1, float(number))
            assert time.thread_time() - began < 1.0
            before = time.monotonic()
            sender.close(0.5)
            assert time.monotonic() - before < 3.0


def test_a_login_and_headers_are_sent(receiver: Receiver) -> None:
    for auth, expected in (
        ({"username": "plant", "password": "pä:ss"}, "Basic " + base64.b64encode("plant:pä:ss".encode()).decode()),
        ({"token": "let-me-in"}, "Bearer let-me-in"),
    ):
        section = RemoteWriteSection.model_validate(
            {"endpoint": receiver.endpoint, "auth": auth, "headers": {"X-Scope-OrgID": "plants"}}
        )
        post = Post(section, section.endpoint, {"content-type": "text/plain"})
        assert post.send(b"x").code == 204
        post.close()
        path, headers, _ = receiver.came.pop()
        assert (path, headers["authorization"], headers["x-scope-orgid"]) == ("/write", expected, "plants")
        assert headers["content-type"] == "text/plain"
        assert headers["user-agent"].startswith("bifrost/")


def test_a_connection_that_was_idle_too_long_is_made_anew(receiver: Receiver) -> None:
    section = RemoteWriteSection(endpoint=receiver.endpoint)
    post = Post(section, section.endpoint, {})
    assert post.send(b"1").code == 204
    assert post.send(b"2").code == 204
    assert len(receiver.open) == 1
    for connection in list(receiver.open):
        connection.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]
    assert post.send(b"3").code == 204
    assert [body for _, _, body in receiver.came] == [b"1", b"2", b"3"]
    post.close()


def test_a_proxy_of_the_environment_is_gone_through(
    tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("NO_PROXY", "")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://me:p%40ss@127.0.0.1:{receiver.port}")
    login = "Basic " + base64.b64encode(b"me:p@ss").decode()
    section = RemoteWriteSection(endpoint="http://far.example:9090/write?x=1")
    post = Post(section, section.endpoint, {})
    assert post.send(b"plain").code == 204
    post.close()
    path, headers, _ = receiver.came.pop()
    assert (path, headers["host"]) == ("http://far.example:9090/write?x=1", "far.example:9090")
    assert headers["proxy-authorization"] == login
    authority = Authority(tmp_path)
    far = Receiver(authority)
    section = RemoteWriteSection.model_validate({"endpoint": far.endpoint, "tls": authority.client()})
    post = Post(section, section.endpoint, {})
    assert post.send(b"sealed").code == 204
    post.close()
    assert receiver.tunnels == [(f"127.0.0.1:{far.port}", login)]
    path, headers, body = far.came.pop()
    assert (path, body) == ("/write", b"sealed")
    assert "proxy-authorization" not in headers
    far.close()


def test_renewed_certificates_count_from_the_next_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    authority = Authority(tmp_path)
    receiver = Receiver(authority)
    section = RemoteWriteSection.model_validate({"endpoint": receiver.endpoint, "tls": authority.client()})
    post = Post(section, section.endpoint, {})
    assert [post.send(b"1").code, post.send(b"2").code] == [204, 204]
    assert len(receiver.open) == 1
    authority.issue()
    with pytest.raises(TransientError):  # the server shows its old one still
        post.send(b"3")
    receiver.renew()
    assert post.send(b"3").code == 204
    assert [body for _, _, body in receiver.came] == [b"1", b"2", b"3"]
    named = section.model_copy(update={"tls": section.tls.model_copy(update={"server_name": "elsewhere.example"})})
    post.close()
    with pytest.raises(TransientError, match="elsewhere"):
        Post(named, section.endpoint, {}).send(b"4")
    receiver.close()
