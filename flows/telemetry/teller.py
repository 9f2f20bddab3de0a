"""Takes samples of the metrics and events of the log, and has them sent: one thread looks, one thread each sends.

No reading passes here, and nothing here is waited for: what the gateway counts anyway is looked at every few seconds, as it is when
Prometheus asks for it.
"""

import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import structlog

from config.logs import RECENT
from config.telemetry import FOLDER, OtlpSection, RemoteWriteSection
from delivery import metrics
from delivery.disk import StoreError
from delivery.outbox import Outbox
from flows.telemetry import remote_write
from flows.telemetry.post import Post
from flows.telemetry.sender import Sender, later, later_otlp

if TYPE_CHECKING:
    from flows.process import Process

log = structlog.get_logger()

JOB: Final = "bifrost"
_EVENTS: Final = 1.0  # seconds between two looks at the log
_EVENTS_AT_ONCE: Final = 500
_SYNC: Final = 60.0  # seconds of samples that a power cut may take
_SET_BACK: Final = 3600.0  # seconds: a clock that was further ahead was wrong, and is not waited for
_LAST_WORDS: Final = 1.0  # seconds that the end of the process waits for what was not sent yet


class Teller:
    """Tells of one gateway.

    Args:
        process: The gateway; its directory belongs to this process.

    Raises:
        StoreError: What waits cannot be kept on disk.
    """

    def __init__(self, process: "Process") -> None:
        self._process = process
        telemetry, name = process.config.telemetry, process.config.gateway
        self._interval = telemetry.interval
        self._resource = resource(telemetry.labels, name)
        self._senders: list[Sender] = []
        self._samples: Sender | None = None
        self._points: Sender | None = None
        self._events: Sender | None = None
        if telemetry.remote_write is not None:
            labels = {"job": JOB} | telemetry.labels | {"gateway": name, "instance": name}
            self._series = remote_write.Series(labels)
            self._samples = self._sender("remote_write", telemetry.remote_write, remote_write.HEADERS)
        if telemetry.otlp is not None and (telemetry.otlp.metrics or telemetry.otlp.logs):
            self._begin_otlp(telemetry.otlp)
        self._taken = 0  # number of the newest event that was
        self._closed = False
        self._waits = False  # for a clock that was set back
        self._taking = threading.Lock()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def _begin_otlp(self, section: OtlpSection) -> None:
        try:
            from flows.telemetry import otlp
        except ImportError:  # who wanted spans has said so
            return
        self._otlp = otlp
        if section.metrics:
            self._points = self._sender("metrics", section, otlp.HEADERS)
        if section.logs:
            self._events = self._sender("logs", section, otlp.HEADERS)

    def _sender(self, what: str, section: RemoteWriteSection | OtlpSection, headers: dict[str, str]) -> Sender:
        outbox = Outbox(self._process.config.directory / FOLDER / what, section.buffer)
        if outbox.damaged:
            log.warning("telemetry was damaged, some is lost", what=what, places=outbox.damaged)
        if isinstance(section, RemoteWriteSection):
            made = Sender(what, outbox, Post(section, section.endpoint, headers), later)
        else:
            read: Callable[[bytes], tuple[int, str]] = lambda body: self._otlp.rejected(what, body)  # noqa: E731
            made = Sender(what, outbox, Post(section, otlp_address(section.endpoint, what), headers), later_otlp, read)
        self._senders.append(made)
        return made

    def start(self) -> None:
        """Begin."""
        for sender in self._senders:
            sender.start()
        self._thread.start()

    def show(self) -> None:
        """Set the gauges of what waits."""
        now = time.time()
        for sender in self._senders:
            oldest = sender.outbox.oldest
            metrics.TELEMETRY_BYTES.labels(sender.what).set(sender.outbox.size)
            metrics.TELEMETRY_OLDEST.labels(sender.what).set(0.0 if oldest is None else max(0.0, now - oldest))

    def take_events(self) -> None:
        """Have what the log has got since the last time sent."""
        if self._events is None or self._closed:
            return
        with self._taking:
            found = RECENT.after(self._taken)
            if not found:
                return
            missed = found[0][0] - self._taken - 1
            if missed:
                metrics.TELEMETRY_DROPPED.labels(self._events.what, "overflow").inc(missed)
            self._taken = found[-1][0]
            events, now = [event for _, event in found], time.time()
            for at in range(0, len(events), _EVENTS_AT_ONCE):
                some = events[at : at + _EVENTS_AT_ONCE]
                self._events.put(*self._otlp.logs_request(some, self._resource, int(now * 1e9)), now)

    def rest(self) -> None:
        """Look at nothing more: the stores close."""
        self._ends.set()

    def close(self) -> None:
        """Say that the series end, have what waits sent if that works within a second, and stop."""
        self._ends.set()
        self._thread.join(_LAST_WORDS)
        if self._samples is not None and (now := self._time(self._samples.outbox.newest)) is not None:
            self._samples.put(*self._series.end(now), now / 1000)
        self.take_events()
        self._closed = True
        latest = time.monotonic() + _LAST_WORDS
        for sender in self._senders:
            try:
                sender.close(max(0.0, latest - time.monotonic()))
            except StoreError as error:
                log.warning("telemetry has no room", what=sender.what, error=str(error))

    def _run(self) -> None:
        due = synced = time.monotonic()
        while not self._ends.is_set():
            try:
                self.take_events()
                now = time.monotonic()
                if now >= due:
                    due = max(due + self._interval, now)
                    self._sample()
                if now - synced >= _SYNC:
                    synced = now
                    for sender in self._senders:
                        sender.outbox.sync()
            except Exception:  # the edge of this thread: what it meets is told, and data flows on
                if not self._ends.is_set():  # else the stores have closed under it
                    log.exception("telemetry was not taken")
            pause = due - time.monotonic()
            self._ends.wait(max(0.0, min(pause, _EVENTS) if self._events is not None else pause))

    def _sample(self) -> None:
        if self._samples is None and self._points is None:
            return
        self._process.refresh_metrics()
        families, moment = list(metrics.REGISTRY.collect()), time.time()
        if self._points is not None:
            began = int(self._process.started * 1e9)
            request = self._otlp.metrics_request(families, self._resource, began, int(moment * 1e9))
            self._points.put(*request, moment)
        if self._samples is None:
            return
        now = self._time(self._samples.outbox.newest)
        if now is not None:
            self._samples.put(*self._series.request(families, now), now / 1000)
        elif not self._waits:
            log.warning("telemetry waits until the clock has caught up")
        if now is None:
            points = sum(len(family.samples) for family in families)
            metrics.TELEMETRY_DROPPED.labels(self._samples.what, "clock").inc(points)
        self._waits = now is None

    def _time(self, newest: float) -> int | None:
        return sample_time(time.time(), newest)


def sample_time(now: float, newest: float) -> int | None:
    """Time of a sample, ms since the epoch; None when it would not be after that of the one before, for the clock was set back.

    Args:
        now: The time, seconds since the epoch.
        newest: The time of the sample before.
    """
    behind = newest - now
    return int(now * 1000) if int(now * 1000) > int(newest * 1000) or behind > _SET_BACK else None


def otlp_address(endpoint: str, signal: str) -> str:
    """Address of a signal of OTLP, also when the endpoint is that of one already.

    Args:
        endpoint: What the configuration says.
        signal: ``metrics``, ``logs`` or ``traces``.
    """
    head, _, last = endpoint.rstrip("/").rpartition("/")
    if last in ("metrics", "logs", "traces") and head.endswith("/v1"):
        return f"{head}/{signal}"
    return f"{endpoint.rstrip('/')}/v1/{signal}"


def resource(labels: dict[str, str], gateway: str) -> dict[str, Any]:
    """Whose everything is, as OpenTelemetry names it.

    Args:
        labels: Labels of the configuration.
        gateway: Name of the gateway.
    """
    own = {"service.name": JOB, "service.instance.id": gateway, "service.version": version("bifrost-gateway")}
    return {name: value for name, value in labels.items() if name != "job"} | own
