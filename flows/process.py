"""The process around the flow: stores, the I/O thread with the readers, the forwarders, signals and the port.

Building a flow opens nothing. `Process.start` is called when Bytewax builds the first partition and starts what the flow
lives on; a rebuild of the flow finds it running. `Process.drain` stops reading, lets the flow finish what it was given,
and leaves without an end of stream, so that open windows go on at the next start.
"""

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import structlog
from bytewax.inputs import AbortExecution

from config.desk import ConfigDesk
from config.loader import load_or_exit, remembered_name
from config.logs import configure
from config.models import NAME_FILE, Configuration
from config.yaml_nodes import ProblemsError
from connectors.settings import SourceConfig
from delivery import metrics
from delivery.account import Account, settle_accounts
from delivery.clock import AgeClock
from delivery.dead_letters import DeadLetterStore
from delivery.disk import DirectoryLock, StoreError, write_durably
from delivery.forwarder import Forwarder
from delivery.journal import SHARDS, Journal
from delivery.spans import SPANS
from delivery.spool import Spool
from discovery.desk import DiscoveryDesk
from flows import main_module, report
from flows.allocator import give_back
from flows.applying import Applying
from flows.change import ChangeRefusedError
from flows.clock import Epochs, lead, pace, repeatedly
from flows.cluster import Cluster, LeftError, members_of
from flows.gauges import Gauges
from flows.heartbeat import Heartbeat
from flows.intake import SourceIntake
from flows.kubernetes_leases import leases_of
from flows.liveness import stands_still
from flows.options import check_bytewax_options, cluster_options, prepare_recovery
from flows.posted import Posted, router_of
from flows.readers import Readers
from flows.renewed import LOOK, Renewed
from flows.replays import resume_replays
from flows.spools import file_name, kept
from flows.targets import Targets
from flows.telling import teller, trace
from normalization.normalizer import Normalizer
from normalization.reading import TagTable
from normalization.rules import Router

if TYPE_CHECKING:
    from flows.telemetry.teller import Teller
    from web.server import Port

log = structlog.get_logger()

__all__ = ["Process", "file_name", "prepare_recovery", "recovery_directory", "under_bytewax"]

_LEAVE_AT_LATEST: Final = 4.0  # seconds after the signal
_CLOSE_AT_LATEST: Final = 0.5  # seconds after that
_FORWARDER_PATIENCE: Final = 3.0
_NOTE_AGES: Final = 300.0
_GIVE_BACK: Final = 60.0
_DISK_FULL: Final = ("DiskFull", "extended_code: 4874")  # in what Bytewax says; 4874 is SQLITE_IOERR_SHMSIZE
_FULL_PAUSE: Final = 1.0
_IDLE_WAIT: Final = 0.05


@dataclass(slots=True)
class _Turn:
    """Where a worker's turns stand."""

    number: int = 0
    partitions: int = 0
    empty: int = 0  # partitions in a row that had nothing to give
    more: bool = False
    seen: int = 0  # arrivals at the journal
    began: float = 0.0


class Process:
    """What one gateway's flow lives on.

    Args:
        config: The gateway's configuration.
    """

    def __init__(self, config: Configuration) -> None:
        self.config = config
        self.desk: ConfigDesk | None = None  # where its configuration is changed, when it came from a file
        self.tags = TagTable()
        self.normalizer = Normalizer(self.tags, config.path_template)
        self._routers: dict[int, tuple[Configuration, Router]] = {}  # by thread, with what it was made from
        self.journal: Journal
        self.dead_letters: DeadLetterStore
        self._targets: Targets
        self._readers: Readers
        self.posted = Posted(self)
        self.live: Callable[[pa.RecordBatch], None] | None = None  # is shown what is normalized, when somebody may look
        self.kept: dict[str, dict[str, Any]] = {}  # spools of targets that are not configured, as plain values
        self.opening_kept = threading.Lock()
        self.started = time.time()
        self.draining = False
        self.lead = lead()  # of the wall clock, before the flow began
        self.epochs = Epochs(float("inf"))
        self._epoch = float("inf")
        self._runs_again = self._set_back = False
        self._running = False
        self._opened = False
        self._pace = pace([])
        self._lock = threading.Lock()
        self._leaving = threading.Lock()  # held by the thread that ends the process
        self._drained: set[int] = set()
        self._reads = threading.Event()
        self._stop_reading = asyncio.Event()
        self._reading_ended = threading.Event()
        self._directory_lock: DirectoryLock | None = None
        self._gauges = Gauges()
        self._teller: Teller | None = None
        self._latest = 0.0
        # By thread; Bytewax's own threads get a new Python thread state each time, so that a threading.local would forget.
        self._turns: defaultdict[int, _Turn] = defaultdict(_Turn)
        self._keeping_house: list[asyncio.Task[None]] = []
        self._reporting: asyncio.Task[None] | None = None
        self.applying = Applying(self)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._port: Port | None = None
        self.cluster: Cluster | None = None  # that its flow is part of
        self.discovery = DiscoveryDesk(config.discovery, config.directory, config.port)
        self._heart = Heartbeat(
            self._is_ready, lambda: self.journal.waiting_rows > 0 and not (self.blocked or self.draining)
        )

    # ------------------------------------------------------------------ starting

    def start(self) -> None:
        """Open the stores and start threads; does nothing when they run."""
        with self._lock:
            if self._opened:
                return
            self._running = True
            gc.freeze()  # modules stay: the collector need not look at them again
            pa.set_memory_pool(pa.system_memory_pool())  # the default one keeps some 20 MB that it does not use
            configure(self.config.log_level, self.config.log_format)
            trace(self.config)
            try:
                self.open_stores()
            except StoreError as error:
                self.fail(error)
            self._begin_telling()
            threading.Thread(target=self._io, name="io", daemon=True).start()
            self._targets.start(self.forwarders)
            self.discovery.start()
            if self.config.port is not None:
                from web.server import Port  # nothing of it is needed without a port

                self._port = Port(self)
                self._port.start()

    def _begin_telling(self) -> None:
        try:
            self._teller = teller(self)
        except StoreError as error:
            log.error("telemetry is not sent, its disk fails", error=str(error))
            return
        if self._teller is not None:
            self._teller.start()

    def _is_ready(self) -> bool:
        """Whether sources have begun and the port is open, or cannot be opened."""
        return self._reads.is_set() and (self._port is None or self._port.opened.is_set())

    def _remember_name(self, directory: Path) -> None:
        known = remembered_name(directory)
        if known is None:
            write_durably(directory / NAME_FILE, self.config.gateway.encode())
        elif known != self.config.gateway:
            raise StoreError(
                f"{directory} holds the readings of gateway `{known}`, this one is `{self.config.gateway}`; "
                f"set gateway.name to `{known}`, or give this gateway its own directory"
            )

    def claim(self) -> None:
        """Take the directory for this process: before anything in it is touched, the flow's recovery store too.

        Raises:
            StoreError: It belongs to another process.
        """
        if self._directory_lock is None:
            self._directory_lock = DirectoryLock(self.config.directory)

    def open_stores(self) -> None:
        """Open journal, dead letters and spools.

        Raises:
            StoreError: The directory belongs to another process, or was written by a newer version.
        """
        directory = self.config.directory
        self.claim()
        self._remember_name(directory)
        self.ages = AgeClock(directory / "clock")
        self.journal = Journal(
            directory / "journal", self.config.gateway, self.tags, linger=self.config.commit_interval
        )
        self._own = {self.journal.shard_name(index) for index in range(len(SHARDS))}
        self.dead_letters = DeadLetterStore(
            directory / "dead_letters", self.tags, self._own.__contains__, self.config.dead_letters
        )
        self.journal.on_trimmed.append(self.dead_letters.forget)
        self._targets = Targets(self.journal, self.dead_letters, self.tags, self._own.__contains__, self.ages)
        self._targets.open(self.config, self.config.targets)
        leases = leases_of(self.config)
        self._readers = Readers(self.config.gateway, directory / "sources", self.journal, self.tags, leases)
        self.set_pace()
        resume_replays(self)
        self.kept = kept(self)
        for name, line in self.kept.items():
            log.warning("readings are kept for a target that is not configured", target=name, readings=line["readings"])
        self._opened = True

    def _io(self) -> None:
        try:
            asyncio.run(self._read())
        except Exception:  # the edge of the I/O thread: better to start again than to read nothing
            log.exception("reading stopped, gateway stops")
            self.exit(1)

    async def _read(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._keeping_house = [
            asyncio.create_task(repeatedly(self.ages.note, _NOTE_AGES)),
            asyncio.create_task(repeatedly(give_back, _GIVE_BACK)),
            asyncio.create_task(repeatedly(Renewed(self).look, LOOK)),
            asyncio.create_task(self._heart.reads()),
        ]
        self._report_every(self.config.report_interval)
        for source in self.config.sources:
            self._readers.start(source)
        self._reads.set()
        await self._stop_reading.wait()
        self._report_every(None)
        await self._readers.stop()
        self._reading_ended.set()
        await asyncio.Event().wait()  # futures of the journal still want this loop

    def _report_every(self, interval: float | None) -> None:
        if self._reporting is not None:
            self._reporting.cancel()
        self._reporting = (
            asyncio.create_task(report.keep_reporting(self, interval), name=report.SOURCE) if interval else None
        )

    # ------------------------------------------------------------------ running

    def run(self, flow: Callable[[], object], epoch: float, *, rebuilds: bool = False) -> None:
        """Run the flow, and again from its last snapshot when the wall clock was set back, its disk was full or it changes.

        Args:
            flow: Runs it on one worker, in this thread, until it is left.
            epoch: Seconds between two snapshots.
            rebuilds: Whether `flow` builds the graph each time, so that targets may come and go.
        """
        self._runs_again = again = True
        self._epoch = epoch
        self.applying.rebuilds = rebuilds
        while again:
            if self.applying.pending:
                self.applying.change_targets(self._targets)
            self.begin_flow()
            try:
                flow()
            except BaseException as panic:  # what Bytewax makes of its recovery store's errors is no Exception
                if not any(sign in str(panic) for sign in _DISK_FULL) or self._leaving.locked():
                    raise
                log.error("no room for the flow's snapshots, it begins again at the last one", wait_s=_FULL_PAUSE)
                self.waits_for_room()
                time.sleep(_FULL_PAUSE)
            else:
                again = self._set_back or self.applying.pending

    def run_in_cluster(self, run: Callable[[], object], flow: Any, epoch: float) -> None:
        """Run the flow as a member of its cluster, and again whenever another member has gone; see `Cluster.run`."""
        assert self.cluster is not None  # noqa: S101 - it is a member
        self._epoch = epoch
        self.cluster.run(run, flow)

    def begin_flow(self) -> None:
        """The flow begins, perhaps again."""
        self._set_back = False
        self._turns.clear()
        self._heart.begin()
        self.lead, self.epochs = lead(), Epochs(self._epoch)

    def clock_set_back(self, seconds: float) -> None:
        """Called by a partition: the epoch would last so much longer. Leaves the flow if it is run again.

        Raises:
            AbortExecution: Bytewax is to leave the flow as it is, without an end of stream.
            LeftError: The same in a cluster, where an abort would wait for the other members.
        """
        again = (self._runs_again or self.cluster is not None) and not self._leaving.locked()
        if not self._set_back:
            self._set_back = True
            metrics.CLOCK_SET_BACK.inc()
            flow = "begins again at its last snapshot" if again else "makes no snapshot until the clock has caught up"
            log.warning("the wall clock was set back", seconds=round(seconds, 1), flow=flow)
        if again:
            raise AbortExecution if self.cluster is None else LeftError("the wall clock was set back")

    # ------------------------------------------------------------------ changing

    def apply(self, new: Configuration) -> tuple[str, ...]:
        """Run as another configuration says; see `flows.applying.Applying.apply`."""
        self._reads.wait()
        return self.applying.apply(new, self._targets)

    async def change_reading(self, gone: Collection[str], come: Collection[SourceConfig]) -> None:
        """Read other sources, as the configuration says now."""
        self._report_every(self.config.report_interval)
        await self._readers.change(gone, come)

    @property
    def held(self) -> bool:
        """Whether nothing is read, so that what is held can be delivered."""
        return self._opened and self._readers.held

    def hold(self, *, wanted: bool) -> None:
        """Read nothing, and take nothing that is handed over, until this is called again with False."""
        self._reads.wait()
        assert self.loop is not None  # noqa: S101 - it reads
        sources = None if wanted else self.config.sources
        asyncio.run_coroutine_threadsafe(self._readers.hold(sources), self.loop).result()

    def reopen(self, sources: Collection[str], targets: Collection[str]) -> None:
        """Connect sources and targets anew, because what they were connected with has changed, such as a certificate."""
        for name in targets:
            if name in self.forwarders:
                self.forwarders[name].reopen()
        for name in sources:
            if name in self.intakes and self.loop is not None:
                self.loop.call_soon_threadsafe(self.intakes[name].reopen)

    def renew_port(self) -> None:
        """Have the HTTP port show its renewed certificate to new connections.

        Raises:
            OSError: Certificate and key cannot be read.
        """
        if self._port is not None:
            self._port.reload_tls()

    def leave_to_change(self) -> None:
        """Called by a partition: leaves the flow if its graph is to change.

        Raises:
            AbortExecution: Bytewax is to leave the flow as it is, without an end of stream.
        """
        if self.applying.pending and not self._leaving.locked():
            raise AbortExecution

    def set_pace(self) -> None:
        """Turns follow each other as the targets want their readings."""
        self._pace = pace(forwarder.linger for forwarder in self.forwarders.values())

    # ------------------------------------------------------------------ what the flow asks

    @property
    def router(self) -> Router:
        """This worker's router."""
        worker, config = threading.get_ident(), self.config
        found = self._routers.get(worker)
        if found is None or found[0] is not config:
            found = self._routers[worker] = config, router_of(config)
        return found[1]

    @property
    def spools(self) -> dict[str, Spool]:
        """The targets' spools, by name."""
        return self._targets.spools

    @property
    def forwarders(self) -> dict[str, Forwarder]:
        """The targets' forwarders, by name."""
        return self._targets.forwarders

    @property
    def intakes(self) -> dict[str, SourceIntake]:
        """The sources' intakes, by name."""
        return self._readers.intakes | self.posted.intakes

    @property
    def blocked(self) -> bool:
        """Whether a spool wants nothing more until it has room."""
        return any(spool.blocked for spool in self.spools.values())

    def turn(self) -> int:
        """Number of this worker's turn; in one turn every partition may give readings to the flow once."""
        return self._turns[threading.get_ident()].number

    def wait_idle(self, *, empty: bool, more: bool = False) -> None:
        """Called by every partition: when all of a worker's have nothing to give in this turn, one waits for the next.

        Args:
            empty: The partition has nothing to give in this turn.
            more: It has left something for the next turn.
        """
        turn = self._turns[threading.get_ident()]
        turn.more = turn.more or more
        turn.empty = turn.empty + 1 if empty else 0
        if not empty:
            self._heart.took()
        if turn.empty < turn.partitions:
            return
        turn.empty, turn.number = 0, turn.number + 1
        self._heart.turn(threading.get_ident())
        if not turn.more:
            now, due = time.monotonic(), self.epochs.due()
            latest = due if due > now else float("inf")
            patience = min(_IDLE_WAIT, latest - now)
            arrivals = self.journal.wait_arrival(turn.seen, patience, min(turn.began + self._pace, latest))
            if arrivals != turn.seen:
                turn.seen, turn.began = arrivals, time.monotonic()
        turn.more = False
        pause = self.epochs.pause(time.monotonic())
        if pause and not self.draining:
            time.sleep(pause)

    def waits_for_room(self) -> None:
        """Called by the flow while it stands still for a full disk, which no other process would find less full."""
        self._heart.waits(threading.get_ident())

    def count_partition(self) -> None:
        """A partition lives on this worker."""
        self._turns[threading.get_ident()].partitions += 1
        if self.cluster is not None:
            self.cluster.joined()

    # ------------------------------------------------------------------ looking

    def lives(self, patience: float) -> str:
        """What stands still though it should not, looked at for `patience` seconds; empty when all goes on."""
        turns = None if self._apart else lambda: sum(turn.number for turn in list(self._turns.values()))
        return stands_still(turns, self.loop, patience)

    @property
    def _apart(self) -> bool:
        return self.cluster is not None and self.cluster.apart

    def unready(self) -> str:
        """Why readings are not taken at the moment; empty when they are."""
        if self.draining or not self._opened:
            return "the gateway stops" if self.draining else "the stores are not open yet"
        if self.held:
            return "the gateway reads nothing, to deliver what it holds (bifrost drain --undo)"
        return "" if self._reads.is_set() else "the sources have not begun yet"

    def account(self) -> Account:
        """The account of this gateway."""
        journal = self.journal.account()
        spools = {name: spool.account() for name, spool in self.spools.items()}
        return settle_accounts(journal, spools, self.dead_letters.removed())

    def refresh_metrics(self) -> None:
        """Set the gauges that are counted when somebody looks."""
        self._gauges.refresh(self)
        if self._teller is not None:
            self._teller.show()

    # ------------------------------------------------------------------ stopping

    def drain(self) -> None:
        """Stop reading, finish what the flow holds, leave with exit code 0."""
        if self.draining:
            return
        self._latest = time.monotonic() + _LEAVE_AT_LATEST
        self.draining = True
        self.discovery.close()
        self._heart.stops()
        if not self._running:
            self.exit(0)
        threading.Thread(target=self._leave_late, name="drain", daemon=True).start()
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self._stop_reading.set)
        if self._apart:
            threading.Thread(target=self.leave, name="leave", daemon=True).start()

    def drained(self, index: int) -> None:
        """Everything that shard `index` gave to the flow is durable behind it; the last shard leaves."""
        self._drained.add(index)
        if len(self._drained) == len(SHARDS):
            self.leave() if self.cluster is None else self.cluster.finished()

    def leave(self) -> None:
        """Close the stores and end the process, unless another thread does."""
        if not self._leaving.acquire(blocking=False):
            return
        self._reading_ended.wait(1.0)  # readers acknowledge what is in the journal
        try:
            self.close(patience=min(_FORWARDER_PATIENCE, max(0.0, self._latest - time.monotonic())))
        except StoreError as error:
            log.error("gateway stops", error=str(error))
            self.exit(1)
        self.exit(0)

    def _leave_late(self) -> None:
        time.sleep(_LEAVE_AT_LATEST)
        if self._leaving.acquire(blocking=False):
            log.warning("the flow did not finish in time; what it held comes again at the next start")
            if self._opened:
                threading.Thread(target=self.close, name="close", daemon=True).start()
        time.sleep(_CLOSE_AT_LATEST)
        self.exit(0)

    def close(self, patience: float = 0.0) -> None:
        """Stop the forwarders, give them `patience` seconds, and close the stores."""
        if self._teller is not None:
            self._teller.rest()
        self._targets.shut(patience)
        self.journal.close()
        self.dead_letters.close()
        for spool in self.spools.values():
            spool.close()
        SPANS.close()
        if self._teller is not None:
            self._teller.close()
        if self._directory_lock is not None:
            self._directory_lock.release()
            self._directory_lock = None

    def fail(self, error: StoreError) -> None:
        """A store failed: say so and end the process; the journal brings back what was under way."""
        if self._leaving.locked():
            threading.Event().wait()  # another thread has closed the store and ends the process
        log.error("gateway stops", error=str(error))
        self.exit(1)

    def exit(self, code: int) -> None:
        """End the process, which closes nothing: what is durable is."""
        with contextlib.suppress(Exception):  # a signal may have come while one of them was being written
            sys.stdout.flush()
            sys.stderr.flush()
            if self._teller is not None:
                self._teller.take_events()  # why the process ends is told when it runs again
        os._exit(code)  # Bytewax has no way to leave a flow without an end of stream

    def on_signals(self) -> None:
        """Drain on SIGTERM and SIGINT, run as the files say on SIGHUP; call from the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.drain())
        signal.signal(
            signal.SIGHUP, lambda *_: threading.Thread(target=self.reload, name="reload", daemon=True).start()
        )

    def configured_in(self, path: Path) -> None:
        """Its configuration came from this file, and is changed there."""
        self.desk = ConfigDesk(path, lambda: self.config, self.apply)

    def reload(self) -> None:
        """Run as the configuration's files say now; what is wrong with them is logged, and everything stays as it was."""
        if self.desk is None or not self._opened:
            return
        try:
            self.desk.apply()
        except (ProblemsError, ChangeRefusedError, StoreError, OSError) as error:
            log.error("the configuration was not applied", reason=str(error))


def recovery_directory(config: Configuration) -> Path:
    """Where the flow's recovery store lies under `bifrost run`."""
    return config.directory / "recovery"


def under_bytewax(config: Configuration | None = None) -> Process:
    """The process for a flow that `python -m bytewax.run` starts; elsewhere just a process that nothing has started.

    Args:
        config: A configuration; ``BIFROST_CONFIG`` or config/gateway.yaml when None.
    """
    path = Path(os.environ.get("BIFROST_CONFIG", "config/gateway.yaml"))
    process = Process(config or load_or_exit(path))
    if config is None:
        process.configured_in(path)
    if main_module() == "bytewax.run":
        recovery = check_bytewax_options(sys.argv[1:], os.environ)
        members = members_of(process.config, cluster_options(sys.argv[1:], os.environ))
        if members is not None:
            process.cluster = Cluster(process, members)
        try:
            process.claim()
        except StoreError as error:
            sys.exit(str(error))
        prepare_recovery(recovery, process.config.gateway, members)
        os.environ.pop("BYTEWAX_DATAFLOW_API_ENABLED", None)  # any value would open a port without authentication
        process.on_signals()
        _run_by(process, sys.modules["__main__"])
    return process


def _run_by(process: Process, bytewax_run: Any) -> None:
    """Have `bytewax.run` run the flow by `Process.run`, because it ends the process when a flow was left."""
    run = bytewax_run.cli_main

    def cli_main(**options: Any) -> None:
        epoch = options["epoch_interval"].total_seconds()
        if process.cluster is not None:
            process.run_in_cluster(lambda: run(**options), options["flow"], epoch)
        elif (options.get("workers_per_process") or 1) == 1:
            process.run(lambda: run(**options), epoch)
        else:
            process.epochs = Epochs(epoch)
            run(**options)  # one worker leaving would leave the others waiting

    bytewax_run.cli_main = cli_main
