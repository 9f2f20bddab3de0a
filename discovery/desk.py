"""Scans of one gateway: begun by people or by the clock, one at a time, stopped at will; what they found is kept on disk."""

import asyncio
import contextlib
import fcntl
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from delivery.disk import StoreError, make_directory, write_durably
from discovery.coverage import Place, ScanRefusedError, chosen, covered
from discovery.draft import Draft, draft
from discovery.guard import Guard, Network, network_of
from discovery.scan import Hit, Scan, probes
from discovery.servers import Server, StoreBrokenError, from_bytes, iso, merged, to_bytes
from discovery.settings import DiscoverySection
from discovery.talk import Manner

log = structlog.get_logger()

FILE: Final = "discovery.json"
BY_CLOCK: Final = "discovery.interval"  # who asks for the scans that nobody asks for
_STOPPED: Final = 5.0  # seconds to wait for a scan that was cancelled to write down what it found
_LATER: Final = 60.0  # seconds until the clock tries again, when a scan was running

Audit = Callable[..., None]
"""Gets what is done (``what``), who does it (``who``) and what else is known, by name."""


class ScanRunningError(StoreError):
    """A scan of this gateway runs already."""


class NoServerError(LookupError):
    """No server of this id is known, or there is nothing to draft; the message says which."""


def _silent(**_: object) -> None:
    pass


class _Running:
    """A scan that runs, and what it has found so far."""

    def __init__(self, networks: Sequence[Network], *, whole: bool) -> None:
        self.networks, self.whole = networks, whole
        self.began = datetime.now(UTC)
        self.hits: list[Hit] = []
        self.asked: set[Place] = set()
        self.scan: Scan | None = None
        self.stopped = False
        self.result = "failed"
        self.ended = threading.Event()
        self.cancel: Callable[[], object] | None = None
        self.lock = threading.Lock()

    def note(self, place: Place, hit: Hit | None) -> None:
        with self.lock:
            self.asked.add(place)
            if hit is not None:
                self.hits.append(hit)

    def seen(self) -> tuple[list[Hit], set[Place]]:
        with self.lock:
            return [*self.hits], {*self.asked}


class DiscoveryDesk:
    """Discovery of one gateway.

    Args:
        section: What the configuration says.
        directory: The gateway's directory.
        own_port: Port of the gateway's API, which is never connected to.
        audit: Gets an entry when a scan begins, and when it ends.
        settle: Seconds after the gateway's start before the clock scans: its sources connect first.

    Attributes:
        section: As above; it holds until the gateway's next start, so that the API cannot widen what may be scanned.
        audit: As above; may be set later.
    """

    def __init__(
        self,
        section: DiscoverySection,
        directory: Path,
        own_port: int | None = None,
        audit: Audit | None = None,
        settle: float = 5.0,
    ) -> None:
        self.section, self._directory, self._own_port = section, directory, own_port
        self.audit = audit or _silent
        self._settle = settle
        self._running: _Running | None = None
        self._begin = threading.Lock()
        self._closing = threading.Event()
        self._clock: threading.Thread | None = None

    # ------------------------------------------------------------------ looking

    def servers(self) -> list[Server]:
        """Every server that is known, with what a running scan has found so far.

        Raises:
            StoreError: What is kept cannot be read.
        """
        known, _ = self._kept()
        running = self._running
        if running is None:
            return known
        return merged(known, *running.seen(), datetime.now(UTC))

    def listing(self) -> dict[str, Any]:
        """What the API shows."""
        running, (_, scanned) = self._running, self._kept()
        progress = running.scan.progress if running is not None and running.scan is not None else None
        return {
            "enabled": self.section.enabled,
            "subnets": self.section.network.subnets,
            "running": running is not None,
            "started": iso(running.began) if running is not None else None,
            "progress": asdict(progress) if progress is not None else None,
            "scanned_time": iso(scanned) if scanned is not None else None,
            "servers": [shown(server) for server in self.servers()],
        }

    def draft(self, server_id: str) -> Draft:
        """The draft of a source for a server.

        Raises:
            NoServerError: There is none.
            StoreError: What is kept cannot be read.
        """
        server = next((each for each in self.servers() if each.id == server_id), None)
        if server is None:
            msg = f"no server `{server_id}` is known; scan, or see GET /api/discovery/servers"
            raise NoServerError(msg)
        found = draft(server)
        if found is None:
            msg = (
                f"`{server_id}` is an open port that was not seen to speak {server.protocol}: there is nothing to draft"
            )
            raise NoServerError(msg)
        return found

    # ------------------------------------------------------------------ scanning

    def scan(self, subnets: Sequence[str] | None = None, who: str = "") -> None:
        """Begin a scan, in a thread of its own.

        Args:
            subnets: Parts of what may be scanned; all of it when None.
            who: Who asks for it.

        Raises:
            ScanRefusedError: It is not allowed.
            ScanRunningError: Another one runs.
        """
        running, lock = self._claim(subnets)
        threading.Thread(target=self._run_apart, args=(running, lock, who), name="discovery", daemon=True).start()

    def scan_here(
        self, subnets: Sequence[str] | None = None, who: str = "", began: Callable[[Scan], None] | None = None
    ) -> list[Server]:
        """Scan, in this thread; an interruption stops it, and what was found is kept.

        Args:
            subnets: Parts of what may be scanned; all of it when None.
            who: Who asks for it.
            began: Gets the scan when it begins.

        Raises:
            ScanRefusedError: It is not allowed.
            ScanRunningError: Another one runs.
            StoreError: What was found cannot be kept.
        """
        running, lock = self._claim(subnets)
        self._run(running, lock, who, began)
        return self.servers()

    def stop(self) -> bool:
        """Stop the scan that runs; what it found is kept. Returns whether one ran."""
        running = self._cancel()
        if running is not None:
            running.ended.wait(_STOPPED)
        return running is not None

    def _cancel(self) -> _Running | None:
        running = self._running
        if running is not None:
            running.stopped = True
            if running.cancel is not None:
                running.cancel()
        return running

    def _claim(self, subnets: Sequence[str] | None) -> tuple[_Running, int]:
        if not self.section.enabled:
            raise ScanRefusedError(
                "discovery is off; set discovery.enabled and discovery.network.subnets in the configuration"
            )
        networks = chosen(self.section.network, subnets)
        with self._begin:
            if self._running is not None:
                raise ScanRunningError("a scan runs already; wait for it, or stop it")
            lock = _lock(self._directory)
            self._running = running = _Running(networks, whole=subnets is None)
        return running, lock

    def _run_apart(self, running: _Running, lock: int, who: str) -> None:
        try:
            self._run(running, lock, who)
        except StoreError as error:
            log.error("what a network scan found is not kept", error=str(error))

    def _run(self, running: _Running, lock: int, who: str, began: Callable[[Scan], None] | None = None) -> None:
        try:
            self._scanned(running, who, began)
        finally:
            hits, asked = running.seen()
            facts: dict[str, Any] = {"subnets": _names(running.networks), "asked": len(asked), "open": len(hits)}
            facts["result"] = running.result
            self._running = None
            os.close(lock)
            log.info("network scan ended", who=who, **facts)
            try:
                self.audit(what="network scan ended", who=who, **facts)
            finally:
                running.ended.set()

    def _scanned(self, running: _Running, who: str, began: Callable[[Scan], None] | None) -> None:
        network = self.section.network
        guard = Guard(tuple(network_of(text) for text in network.subnets), self._own_port)
        places = covered(running.networks, network.ports, guard)
        manner = Manner(network.timeout, self.section.mqtt, self.section.modbus)
        facts = {
            "subnets": _names(running.networks),
            "ports": sorted({place.port for place in places}),
            "connections": len(places),
            "per_second": network.max_connections_per_second,
        }
        self.audit(what="network scan began", who=who, **facts)
        log.info("network scan began", who=who, **facts)
        running.scan = Scan(places, guard, manner, network.max_connections_per_second, probes(), running.note)
        if began is not None:
            began(running.scan)
        interrupted = False
        try:
            asyncio.run(self._cancellable(running, running.scan))
        except asyncio.CancelledError:
            running.stopped = True
        except KeyboardInterrupt:
            running.stopped = interrupted = True
        self._keep(running)
        running.result = "stopped" if running.stopped else "complete"
        if interrupted:
            raise KeyboardInterrupt

    async def _cancellable(self, running: _Running, scan: Scan) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.ensure_future(scan.run())

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(task.cancel)

        running.cancel = cancel
        if running.stopped:
            task.cancel()
        await task

    # ------------------------------------------------------------------ what is kept

    def _kept(self) -> tuple[list[Server], datetime | None]:
        path = self._directory / FILE
        try:
            return from_bytes(path.read_bytes())
        except FileNotFoundError:
            return [], None
        except (OSError, StoreBrokenError) as error:
            msg = f"{path} cannot be read: {error}; remove it, and the next scan begins anew"
            raise StoreError(msg) from error

    def _keep(self, running: _Running) -> None:
        known, scanned = self._kept()
        now = datetime.now(UTC)
        servers = merged(known, *running.seen(), now)
        for server in servers:
            if server.seen_time >= iso(running.began) and server.state != "known":
                log.info("network scan found", server=server.id, state=server.state, changes=server.changes)
        data = to_bytes(servers, now if running.whole and not running.stopped else scanned)
        try:
            write_durably(self._directory / FILE, data)
        except OSError as error:
            msg = f"{self._directory / FILE} cannot be written: {error.strerror}"
            raise StoreError(msg) from error

    # ------------------------------------------------------------------ by the clock

    def start(self) -> None:
        """Scan every `interval`, from now on, if the configuration says one."""
        if self.section.enabled and self.section.interval is not None and self.section.network.subnets:
            self._clock = threading.Thread(target=self._tick, name="discovery clock", daemon=True)
            self._clock.start()

    def close(self) -> None:
        """Stop the scan that runs, without waiting for it, and scan no more."""
        self._closing.set()
        self._cancel()

    def _tick(self) -> None:
        interval = self.section.interval or 0.0
        patience = self._first_wait(interval)
        while not self._closing.wait(patience):
            patience = interval
            try:
                self.scan_here(who=BY_CLOCK)
            except ScanRunningError:
                patience = min(_LATER, interval)
            except (StoreError, ScanRefusedError) as error:
                log.error("network scan by interval failed", error=str(error))

    def _first_wait(self, interval: float) -> float:
        """Seconds until the first scan: a restart of the gateway is no reason for one."""
        with contextlib.suppress(StoreError):
            scanned = self._kept()[1]
            if scanned is not None:
                return min(max(self._settle, interval - (datetime.now(UTC) - scanned).total_seconds()), interval)
        return self._settle


def shown(server: Server) -> dict[str, Any]:
    """A server as the API shows it."""
    found = draft(server)
    return {**asdict(server), "changes": list(server.changes), "draft": found.source if found is not None else None}


def _names(networks: Sequence[Network]) -> list[str]:
    return [str(network) for network in networks]


def _lock(directory: Path) -> int:
    """Hold the one scan that a gateway's directory allows, over all processes."""
    try:
        make_directory(directory)
        held = os.open(directory / f"{FILE}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        msg = f"{directory} cannot be written: {error.strerror}"
        raise StoreError(msg) from error
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(held)
        msg = f"another process scans for the gateway in {directory} already; wait for it"
        raise ScanRunningError(msg) from error
    return held
