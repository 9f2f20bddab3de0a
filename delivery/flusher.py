"""The thread that keeps logs durable, so that nobody else waits for more than the rest."""

import threading
from collections.abc import Callable, Sequence
from typing import Self

from delivery.disk import StoreError
from delivery.log import Log


class Flusher:
    """Keeps the logs of one store durable.

    Args:
        logs: The logs.
        interval: Seconds between two syncs while nobody waits.
        name: Name of the thread.
        synced: Called in the thread after each round.
    """

    def __init__(
        self, logs: Sequence[Log], interval: float, name: str, synced: Callable[[], None] = lambda: None
    ) -> None:
        self._logs = tuple(logs)
        self._interval = interval
        self._synced = synced
        self._changed = threading.Condition()
        self._durable = dict.fromkeys(logs, 0)
        self._wanted = dict.fromkeys(logs, 0)
        self._closing = False
        self._error: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Self:
        """Begin."""
        for log in self._logs:
            self._durable[log] = log.sync()
        self._thread.start()
        return self

    def add(self, log: Log) -> None:
        """Keep one more log durable."""
        durable = log.sync()
        with self._changed:
            self._durable[log], self._wanted[log] = durable, 0
            self._logs = (*self._logs, log)

    def durable(self, log: Log) -> int:
        """Number of the last durable record of `log`."""
        return self._durable[log]

    def wait(self, log: Log, number: int) -> None:
        """Return when record `number` of `log` is durable.

        Raises:
            StoreError: It cannot be made durable.
        """
        with self._changed:
            self._wanted[log] = max(self._wanted[log], number)
            self._changed.notify_all()
            while self._durable[log] < number:
                if self._error is not None:
                    raise self._error
                if not self._thread.is_alive():
                    raise StoreError(f"{log.directory} is closed")
                self._changed.wait(1.0)

    def close(self) -> None:
        """Sync what is left and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._closing and all(self._wanted[log] <= self._durable[log] for log in self._logs):
                    self._changed.wait(self._interval)
                closing = self._closing
            try:
                self._sync()
            except StoreError as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            if closing:
                return

    def _sync(self) -> None:
        """Sync what is not durable, and say so."""
        for log in self._logs:
            if log.next_number - 1 > self._durable[log]:
                durable = log.sync()
                with self._changed:
                    self._durable[log] = durable
                    self._changed.notify_all()
        self._synced()
