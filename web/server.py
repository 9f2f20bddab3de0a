"""The gateway's HTTP port, in a thread of its own: whatever happens to it, data flows on."""

import asyncio
import contextlib
import socket
import ssl
import threading
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import uvicorn
from typing_extensions import override

from delivery.disk import StoreError
from web.access.gate import Gate
from web.access.limits import Limits
from web.app import create_app
from web.protocol import limited
from web.routes.every import every_router
from web.watch import Watch

if TYPE_CHECKING:
    from flows.process import Process

log = structlog.get_logger()

_STOPPED_WITHIN: Final = 5.0


class _Server(uvicorn.Server):
    """Looks once a second whether it is to end, not ten times: a gateway with nothing to do sleeps."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ending: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def end(self) -> None:
        """End now; safe from any thread."""
        self.should_exit = self.force_exit = True
        loop, ending = self._loop, self._ending
        if loop is not None and ending is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                loop.call_soon_threadsafe(ending.set)

    @override
    async def main_loop(self) -> None:
        self._ending, self._loop = asyncio.Event(), asyncio.get_running_loop()
        while not await self.on_tick(0):  # it renews the date of answers
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1.0)


class Port:
    """Serves the API of a gateway in a daemon thread.

    Args:
        process: The gateway.
        limits: What a client may ask for.
    """

    def __init__(self, process: "Process", limits: Limits | None = None) -> None:
        self._process, self._limits = process, limits or Limits.of(process.config.web)
        self._watch = Watch(process)  # at once: the first readings of slow tags do not come again
        self._server: _Server | None = None
        self._tls: ssl.SSLContext | None = None
        self.opened = threading.Event()  # set too when it cannot be opened
        self._thread = threading.Thread(target=self._serve, name="port", daemon=True)

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()

    def stop(self) -> None:
        """Stop listening; requests that are under way are cut off."""
        if self._server is not None:
            self._server.end()
        self._thread.join(_STOPPED_WITHIN)

    def reload_tls(self) -> None:
        """Take certificate and key from their files again, for new connections.

        Raises:
            OSError: They cannot be read, or do not belong together.
        """
        tls = self._process.config.web.tls
        if self._tls is not None and tls is not None:
            self._tls.load_cert_chain(tls.cert_file, tls.key_file)

    def _serve(self) -> None:
        config = self._process.config
        host, port, tls = config.listen, config.port or 0, config.web.tls
        listening: socket.socket | None = None
        try:
            gate = Gate(config, self._limits)
            gate.begin()
            self._process.discovery.audit = partial(_scanned, gate)
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listening = socket.create_server((host, port), family=family)
            gate.tell_setup()
            if tls is not None:
                self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self._tls.minimum_version = ssl.TLSVersion.TLSv1_2
                self._tls.load_cert_chain(tls.cert_file, tls.key_file)
        except (OSError, StoreError) as error:
            said = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            log.error("the port cannot be opened; data flows on without it", host=host, port=port, error=said)
            if listening is not None:
                listening.close()
            self.opened.set()
            return
        self.opened.set()
        app = create_app(gate, every_router(self._process, self._watch))
        settings = uvicorn.Config(
            app,
            host,
            port,
            http=limited(self._limits),
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            date_header=True,
            h11_max_incomplete_event_size=32 * 1024,
        )
        self._server = server = _Server(settings)
        server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
        settings.load()
        settings.ssl = self._tls
        asyncio.run(server.serve(sockets=[listening]))


def _scanned(gate: Gate, *, what: str, who: str, **facts: object) -> None:
    """A network scan began or ended: for the audit, also when the clock began it."""
    gate.audit.note(who or "nobody", what, "this gateway", str(facts.pop("result", "done")), datetime.now(UTC), **facts)
