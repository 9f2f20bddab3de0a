"""The emulator as a process: everything put together, started, and brought to a clean end."""

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import uvicorn
from typing_extensions import override

from simulator.listen import bound_socket, check
from simulator.zerobus.admin import build_app
from simulator.zerobus.auth import Authority
from simulator.zerobus.faults import Faults
from simulator.zerobus.ingest import Ingest
from simulator.zerobus.log import CommitLog
from simulator.zerobus.schema import TableSchema
from simulator.zerobus.tables import Catalog, TableWriter

_MAX_REQUEST: Final = (10 << 20) + (64 << 10)  # the service takes 10 MiB; slack for what is around the records
_LOCK_SECONDS: Final = 3.0
_Bound = TypeVar("_Bound")


class StartError(Exception):
    """The emulator cannot start; the message says why."""


@dataclass(frozen=True)
class Settings:
    """How the emulator is to run. Port 0 means any free port."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    http_port: int = 0
    tables: Mapping[str, TableSchema] = field(default_factory=dict)
    clients: Mapping[str, str] = field(default_factory=lambda: {"simulator": "simulator-secret"})
    workspace: str | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    ready_file: Path | None = None
    seconds: float | None = None
    commit_interval: float = 1.0  # seconds between Delta commits
    linger: float = 0.002  # seconds that a group commit of the log gathers


class _HttpServer(uvicorn.Server):
    """uvicorn without its signal handlers: the process has its own."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    @override
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    @override
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, announce: Callable[[str], None], report: Callable[[str], None]) -> None:
    """Run until SIGTERM, SIGINT or the end of `settings.seconds`.

    Args:
        settings: how to run.
        announce: called once with the line ``ready {json}`` when both endpoints answer.
        report: called with a sentence for whoever watches (an unwritable table).

    Raises:
        StartError: the data directory is in use, a port is taken, a certificate cannot be read.
    """
    # The thread that fills the tables is busy in Python: it must not hold up an acknowledgement for 5 ms at a time
    sys.setswitchinterval(0.0005)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    with _locked(settings.data_dir):
        log = CommitLog(settings.data_dir / "log", linger=settings.linger)
        catalog = Catalog(settings.data_dir / "tables", log.identity)
        for name, schema in settings.tables.items():
            if catalog.get(name) is None:
                catalog.create(name, schema)
        faults = Faults()
        log.before_write = faults.before_write
        authority = Authority(settings.data_dir / "token.key", settings.clients, settings.workspace)
        ingest = Ingest(catalog, log, authority, faults)
        writer = TableWriter(catalog, log, settings.commit_interval, report)

        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)

        http_socket = _checked(bound_socket, settings.host, settings.http_port)
        grpc_server, grpc_port = _grpc_server(settings, ingest)
        http_server = _HttpServer(
            uvicorn.Config(
                build_app(catalog, log, writer, authority, faults, ingest),
                log_config=None,
                access_log=False,
                lifespan="off",
                ssl_certfile=settings.tls_cert,
                ssl_keyfile=settings.tls_key,
            )
        )
        committing = asyncio.create_task(log.run())
        writer.start()
        await grpc_server.start()
        http_task = asyncio.create_task(http_server.serve([http_socket]))
        await http_server.up.wait()
        _announce(settings, announce, grpc_port, http_socket.getsockname()[1], catalog)
        try:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), settings.seconds)
        finally:
            ingest.rotate(500)  # clients settle what is under way and go elsewhere
            await grpc_server.stop(1.0)
            http_server.should_exit = True
            await http_task
            committing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await committing
            await asyncio.to_thread(writer.stop)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the data directory; a process that was killed a moment ago may need some time to let go of it."""
    with (directory / "lock").open("w") as file:
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StartError(f"{directory} is in use by another emulator") from error
                time.sleep(0.05)
        yield


def _checked(bind: Callable[[str, int], _Bound], host: str, port: int) -> _Bound:
    try:
        return bind(host, port)
    except OSError as error:
        raise StartError(str(error)) from error


def _grpc_server(settings: Settings, ingest: Ingest) -> tuple[grpc.aio.Server, int]:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", _MAX_REQUEST),
            ("grpc.max_send_message_length", _MAX_REQUEST),
            ("grpc.so_reuseport", 0),
        ]
    )
    server.add_generic_rpc_handlers(ingest.handlers())
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"{host}:{settings.port}"
    _checked(check, settings.host, settings.port)  # gRPC itself would not say why
    try:
        if settings.tls_cert and settings.tls_key:
            credentials = grpc.ssl_server_credentials([(settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())])
            return server, server.add_secure_port(address, credentials)
        return server, server.add_insecure_port(address)
    except (RuntimeError, OSError) as error:
        raise StartError(f"{address} cannot be used: {error}") from error


def _announce(
    settings: Settings, announce: Callable[[str], None], grpc_port: int, http_port: int, catalog: Catalog
) -> None:
    scheme = "https" if settings.tls_cert else "http"
    facts: dict[str, Any] = {
        "endpoint": f"{scheme}://{settings.host}:{grpc_port}",
        "unity_catalog_url": f"{scheme}://{settings.host}:{http_port}",
        "pid": os.getpid(),
        "data_dir": str(settings.data_dir),
        "tables": {table.name: str(table.path) for table in catalog},
    }
    line = json.dumps(facts)
    if settings.ready_file is not None:
        temporary = settings.ready_file.with_name(settings.ready_file.name + ".new")
        temporary.write_text(line)
        temporary.rename(settings.ready_file)
    announce(f"ready {line}")
