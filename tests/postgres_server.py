"""A PostgreSQL of its own for tests: on a free port of loopback, in a temporary folder, killed and started again at will.

It does not run as root, which PostgreSQL refuses: where the tests do, it runs as the user of the package.
"""

import contextlib
import os
import pwd
import shutil
import socket
import ssl
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg

from tests.orphans import Server
from tests.ports import free_port

INSTALLER = Path(__file__).parent / "counterparts" / "postgres.sh"
SUPERUSER, PASSWORD = "keeper", "kept secret"
_SSL_REQUEST = struct.pack(">II", 8, 80877103)
_END = "-----END CERTIFICATE-----"
_READY = b"database system is ready to accept connections"


def programs() -> Path:
    """The folder of the server's programs, the newest there are; installed if they are missing."""

    def found() -> list[Path]:
        return sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))

    if not found():
        subprocess.run(["sh", str(INSTALLER)], check=True, capture_output=True, timeout=300)
    return found()[-1].parent


def _user() -> str | None:
    """Who the server runs as; None for who runs the tests."""
    if os.getuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return "nobody"


class PostgresServer:
    """One server; `start` and `end` it, or use it with `with`.

    Args:
        settings: Lines of postgresql.conf.
        tls: Certificate and key of the server in PEM; no TLS without.
        access: Lines of pg_hba.conf that come before those that let in whoever has a password.
    """

    def __init__(
        self, settings: Sequence[str] = (), tls: tuple[bytes, bytes] | None = None, access: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        self._programs, self._user = programs(), _user()
        self._folder = Path(tempfile.mkdtemp(prefix="bifrost-postgres-"))
        self._data = self._folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._log: list[bytes] = []
        self._logging: threading.Thread | None = None
        self._initialize(settings, tls)
        usual = (self._data / "pg_hba.conf").read_text()
        self.replace("pg_hba.conf", "\n".join([*access, usual]).encode())

    def _initialize(self, settings: Sequence[str], tls: tuple[bytes, bytes] | None) -> None:
        password = self._folder / "password"
        password.write_text(PASSWORD + "\n")
        self._data.mkdir(mode=0o700)
        if self._user is not None:
            for path in (self._folder, self._data, password):
                shutil.chown(path, self._user)
        options = [
            "-U",
            SUPERUSER,
            "-A",
            "scram-sha-256",
            f"--pwfile={password}",
            "-E",
            "UTF8",
            "--locale=C",
            "--no-sync",
        ]
        subprocess.run(
            [self._programs / "initdb", "-D", self._data, *options],
            check=True, capture_output=True, user=self._user, cwd=self._folder,
        )  # fmt: skip
        lines = [
            f"port = {self.port}",
            "listen_addresses = '127.0.0.1'",
            "unix_socket_directories = ''",
            "shared_buffers = 32MB",
            "fsync = off",  # tests kill processes, not the machine; on a busy disk a start after a kill took half a minute
            "log_min_messages = warning",
            *settings,
        ]
        if tls is not None:
            for name, content in zip(("server.crt", "server.key"), tls, strict=True):
                self.replace(name, content)
            lines.append("ssl = on")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write("\n".join([*lines, ""]))

    def replace(self, name: str, content: bytes) -> None:
        """Write a file into the server's folder, readable for it alone."""
        path = self._data / name
        path.write_bytes(content)
        path.chmod(0o600)
        if self._user is not None:
            shutil.chown(path, self._user)

    def present(self, certificate: bytes, key: bytes) -> None:
        """Take another certificate while it runs; returns when it shows it."""
        self.replace("server.crt", certificate)
        self.replace("server.key", key)
        self.run("SELECT pg_reload_conf()")
        wanted = ssl.PEM_cert_to_DER_cert(certificate.decode().split("-----END")[0] + _END)
        ends = time.monotonic() + 20
        while self._presented() != wanted:  # the server reads its files when it comes to it
            assert time.monotonic() < ends, self.log()

    def _presented(self) -> bytes | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as plain:
            plain.sendall(_SSL_REQUEST)
            assert plain.recv(1) == b"S", self.log()
            with context.wrap_socket(plain) as connection:
                return connection.getpeercert(binary_form=True)

    def __enter__(self) -> "PostgresServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        ready = threading.Event()
        self._process = Server(
            [self._programs / "postgres", "-D", self._data], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, user=self._user, cwd=self._folder,
        )  # fmt: skip
        self._logging = threading.Thread(target=self._read_log, args=(self._process, ready), daemon=True)
        self._logging.start()
        assert ready.wait(60), self.log()
        assert self._process.poll() is None, self.log()

    def _read_log(self, process: "subprocess.Popen[bytes]", ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self._log.append(line)
                if _READY in line:
                    ready.set()
        ready.set()  # it has ended

    def kill(self) -> None:
        """End it and all its backends at once, without a chance to tidy up."""
        if self._process is None:
            return
        main = psutil.Process(self._process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            main.suspend()  # else it would start others for those that end
            backends = main.children(recursive=True)
            for process in (*backends, main):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(backends, timeout=10)
        self._process.wait()
        self._process = None
        if self._logging is not None:
            self._logging.join(10)

    def end(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def log(self) -> str:
        """What it has logged."""
        return b"".join(self._log).decode(errors="replace")

    @property
    def owner(self) -> str:
        """Who the server runs as."""
        return self._user or pwd.getpwuid(os.getuid()).pw_name

    def url(self, database: str = "postgres") -> str:
        """Where a database is, without user and password."""
        return f"postgresql://127.0.0.1:{self.port}/{database}"

    def connect(self, database: str = "postgres") -> "psycopg.Connection[tuple[Any, ...]]":
        """A connection of the superuser, each statement for itself."""
        return psycopg.connect(
            host="127.0.0.1", port=self.port, dbname=database, user=SUPERUSER, password=PASSWORD, autocommit=True
        )

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run statements; returns the rows of the last one, if it has any."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
