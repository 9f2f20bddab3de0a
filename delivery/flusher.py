"""The thread that keeps a log durable, so that nobody else waits for more than the rest."""

import threading
from collections.abc import Callable
from typing import Self

from delivery.disk import StoreError
from delivery.log import Log


class Flusher:
    """A thread that keeps a log durable, so that `wait` waits only for the rest.

    Args:
        log: The log.
        interval: Seconds between two syncs while nobody waits.
        name: Name of the thread.
        synced: Called in the thread after each sync.
    """

    def __init__(self, log: Log, interval: float, name: str, synced: Callable[[], None] = lambda: None) -> None:
        self._log = log
        self._interval = interval
        self._synced = synced
        self._changed = threading.Condition()
        self._durable = 0
        self._wanted = 0
        self._closing = False
        self._error: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> Self:
        """Begin."""
        self._durable = self._log.sync()
        self._thread.start()
        return self

    @property
    def durable(self) -> int:
        """Number of the last durable record."""
        return self._durable

    def wait(self, number: int) -> None:
        """Return when record `number` is durable.

        Raises:
            StoreError: It cannot be made durable.
        """
        with self._changed:
            self._wanted = max(self._wanted, number)
            self._changed.notify_all()
            while self._durable < number:
                if self._error is not None:
                    raise self._error
                if not self._thread.is_alive():
                    raise StoreError(f"{self._log.directory} is closed")
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
                if not self._closing and self._wanted <= self._durable:
                    self._changed.wait(self._interval)
                closing = self._closing
            if self._log.next_number - 1 > self._durable:
                try:
                    durable = self._log.sync()
                except StoreError as error:
                    with self._changed:
                        self._error = error
                        self._changed.notify_all()
                    return
                with self._changed:
                    self._durable = durable
                    self._changed.notify_all()
                self._synced()
            if closing:
                return
