"""A RabbitMQ of its own for tests: on free ports of loopback, in a temporary folder, killed and started again at will.

It knows AMQP 0.9.1 and, by its plugin, 1.0. One user, who is let in by password or by a certificate with that name.
"""

import contextlib
import datetime
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import trustme

from tests.orphans import Server
from tests.ports import free_port

INSTALLER = Path(__file__).parent / "counterparts" / "rabbitmq.sh"
PROGRAMS = Path("/usr/lib/rabbitmq/bin")
USER, PASSWORD = "keeper", "kept secret"
LARGEST = 300_000  # bytes of a message
_READY = b"Server startup complete"
_LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)


def programs() -> Path:
    """The folder of the server's programs; installed if they are missing."""
    if not (PROGRAMS / "rabbitmq-server").exists():
        subprocess.run(["sh", str(INSTALLER)], check=True, capture_output=True, timeout=300)
    return PROGRAMS


class RabbitServer:
    """One server; `start` and `end` it.

    Args:
        cores: Schedulers of its virtual machine.
    """

    def __init__(self, cores: int = 2) -> None:
        self.port, self.tls_port = free_port(), free_port()
        self._dist_port, self._epmd_port = free_port(), free_port()
        self._programs = programs()
        self.folder = Path(tempfile.mkdtemp(prefix="bifrost-rabbitmq-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._epmd: subprocess.Popen[bytes] | None = None
        self._log: list[bytes] = []
        self._logging: threading.Thread | None = None
        self._environment = os.environ | {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"bifrost{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "none"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(
                self.folder / "advanced.config"
            ),  # a tenth of the time of the other form
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-kernel inet_dist_use_interface {{127,0,0,1}} +sbwt none +sbwtdcpu none +sbwtdio none +S {cores}:{cores}"
            ),
        }
        self.certify()
        self._configure()

    def certify(self, *, expired: bool = False) -> None:
        """Make a new authority, a certificate of the server and one of the user; the server takes them at once."""
        authority = trustme.CA()
        server = authority.issue_cert("localhost", "127.0.0.1", not_after=_LONG_AGO if expired else None)
        client = authority.issue_cert("gateway.plant.example", common_name=USER)
        authority.cert_pem.write_to_path(self.folder / "ca.crt")
        for name, issued in (("server", server), ("client", client)):
            issued.cert_chain_pems[0].write_to_path(self.folder / f"{name}.crt")
            issued.private_key_pem.write_to_path(self.folder / f"{name}.key")
        if self._process is not None:
            self.control("eval", "ssl:clear_pem_cache().")

    def _configure(self) -> None:
        files = ", ".join(
            f'{{{key}, "{self.folder / name}"}}'
            for key, name in (("cacertfile", "ca.crt"), ("certfile", "server.crt"), ("keyfile", "server.key"))
        )
        (self.folder / "enabled_plugins").write_text("[rabbitmq_amqp1_0,rabbitmq_auth_mechanism_ssl].\n")
        (self.folder / "advanced.config").write_text(
            f"""[{{rabbit, [
  {{tcp_listeners, [{{"127.0.0.1", {self.port}}}]}},
  {{ssl_listeners, [{{"127.0.0.1", {self.tls_port}}}]}},
  {{ssl_options, [{files}, {{verify, verify_peer}}, {{fail_if_no_peer_cert, false}}]}},
  {{auth_mechanisms, ['PLAIN', 'EXTERNAL']}},
  {{ssl_cert_login_from, common_name}},
  {{default_user, <<"{USER}">>}}, {{default_pass, <<"{PASSWORD}">>}}, {{loopback_users, []}},
  {{max_message_size, {LARGEST}}},
  {{vm_memory_high_watermark, {{absolute, 2000000000}}}}, {{disk_free_limit, 1000000}},
  {{log, [{{console, [{{enabled, true}}, {{level, info}}]}}, {{file, [{{file, false}}]}}]}}
]}}, {{rabbitmq_amqp1_0, [{{default_user, none}}]}}].
"""
        )

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        if self._epmd is None:
            epmd = shutil.which("epmd") or "/usr/bin/epmd"
            self._epmd = Server(
                [epmd, "-port", str(self._epmd_port), "-address", "127.0.0.1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        ready = threading.Event()
        self._process = Server(
            [self._programs / "rabbitmq-server"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=self._environment, cwd=self.folder, start_new_session=True,
        )  # fmt: skip
        self._logging = threading.Thread(target=self._read_log, args=(self._process, ready), daemon=True)
        self._logging.start()
        assert ready.wait(100), self.log()
        assert self._process.poll() is None, self.log()

    def _read_log(self, process: "subprocess.Popen[bytes]", ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self._log.append(line)
                if _READY in line:
                    ready.set()
        ready.set()  # it has ended

    def kill(self) -> None:
        """End it at once, without a chance to tidy up."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # a session of its own: the shell, the server, its ports
        self._process.wait()
        self._process = None
        if self._logging is not None:
            self._logging.join(10)

    def end(self) -> None:
        """End it and remove its files."""
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait()
            self._epmd = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """What it has logged."""
        return b"".join(self._log).decode(errors="replace")

    def control(self, *command: str) -> str:
        """Run `rabbitmqctl`; returns what it prints."""
        done = subprocess.run(
            [self._programs / "rabbitmqctl", "-q", *command], env=self._environment, cwd=self.folder,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def settle(self) -> None:
        """Bring queues to disk that were made just now; killed before, RabbitMQ forgets them, and what they have confirmed.

        What it has made last waits for what is made next, or for some seconds.
        """
        with self.channel() as channel:
            channel.exchange_declare("settled", durable=True)
            channel.exchange_delete("settled")

    def connect(self) -> pika.BlockingConnection:
        """A connection of the user."""
        credentials = pika.PlainCredentials(USER, PASSWORD)
        return pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", self.port, credentials=credentials))

    @contextlib.contextmanager
    def channel(self) -> Iterator[Any]:
        """A channel of a connection of its own."""
        connection = self.connect()
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()

    def messages(self, queue: str) -> list[tuple[Any, Any, bytes]]:
        """Take what is in a queue, in its order: how it was delivered, its properties, its body."""
        with self.channel() as channel:
            try:
                count = channel.queue_declare(queue, passive=True).method.message_count
            except pika.exceptions.ChannelClosedByBroker as refusal:
                if refusal.reply_code == 404:
                    return []
                raise
            found: list[tuple[Any, Any, bytes]] = []
            while len(found) < count:
                for one in channel.consume(queue, auto_ack=True, inactivity_timeout=10):
                    assert one[0] is not None, f"{count} messages were said to be there, {len(found)} came"
                    found.append(one)
                    if len(found) == count:
                        break
            channel.cancel()
            return found

    def take(self, queue: str) -> list[bytes]:
        """The bodies of `messages`."""
        return [body for _, _, body in self.messages(queue)]
