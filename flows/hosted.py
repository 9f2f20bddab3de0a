"""A gateway inside somebody else's process: leaving it ends its threads, where a gateway of its own ends the process."""

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Final, Never

import structlog
from bytewax.inputs import AbortExecution
from bytewax.recovery import RecoveryConfig
from bytewax.run import cli_main
from typing_extensions import override

from config.models import Configuration
from delivery.disk import StoreError
from flows.gateway import gateway
from flows.posted import CloudData, Taken
from flows.process import Process, prepare_recovery, recovery_directory

log = structlog.get_logger()

_EPOCH: Final = timedelta(seconds=1)
_STOPS_WITHIN: Final = 15.0


class Hosted(Process):
    """What a gateway's flow lives on, in threads that can be ended.

    Args:
        config: The gateway's configuration.
    """

    def __init__(self, config: Configuration) -> None:
        super().__init__(config)
        self._left = asyncio.Event()
        self._flow = threading.Thread(target=self._run_flow, name="flow", daemon=True)
        self._ended = threading.Event()
        self._problem: BaseException | None = None

    def begin(self, patience: float) -> None:
        """Run; returns when the sources are read and readings are taken.

        Args:
            patience: Seconds that this may take.

        Raises:
            StoreError: The directory belongs to another process, or cannot be used.
        """
        os.environ.pop("BYTEWAX_DATAFLOW_API_ENABLED", None)  # any value would open a port without authentication
        self.claim()
        try:
            prepare_recovery(recovery_directory(self.config), self.config.gateway)
        except SystemExit as refusal:
            raise StoreError(str(refusal)) from None
        self._flow.start()
        begun = self._reads.wait
        for _ in range(max(1, round(patience / 0.05))):
            if begun(0.05):
                return
            if self._ended.is_set():
                break
        problem = self._problem
        if isinstance(problem, StoreError):
            raise problem
        raise StoreError(f"the gateway did not start: {problem or 'it took too long'}")

    def end(self) -> None:
        """Stop reading, finish what the flow holds, close the stores and end the threads.

        Raises:
            StoreError: The stores were not closed in time; what they hold is safe, and comes again at the next start.
        """
        if self._flow.ident is None:  # it never ran
            self._release()
            return
        self.drain()
        self._flow.join(_STOPS_WITHIN)
        if self._port is not None:
            self._port.stop()
        self.live = None
        if self.loop is not None and not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._left.set)
        if self._flow.is_alive():
            raise StoreError(
                "the gateway did not stop in time; what it holds is safe, and comes again at the next start"
            )
        self._release()
        if isinstance(self._problem, StoreError):
            raise self._problem

    def _release(self) -> None:
        if self._directory_lock is not None:
            self._directory_lock.release()
            self._directory_lock = None

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self._flow.is_alive() and not self._ended.is_set()

    def hand(self, readings: Sequence[CloudData], target: str | None) -> "concurrent.futures.Future[Taken]":
        """Take readings; the result is there when they are durable. See `flows.posted.Posted.take`."""
        assert self.loop is not None  # noqa: S101 - it reads
        return asyncio.run_coroutine_threadsafe(self.posted.take(readings, target), self.loop)

    def _run_flow(self) -> None:
        recovery = RecoveryConfig(recovery_directory(self.config), timedelta(0))  # type: ignore[no-untyped-call]
        try:
            self.run(
                lambda: cli_main(gateway(self), epoch_interval=_EPOCH, recovery_config=recovery),  # type: ignore[no-untyped-call]
                _EPOCH.total_seconds(),
                rebuilds=True,
            )
        except BaseException as problem:  # noqa: BLE001 - what Bytewax makes of an error is no Exception
            self._problem = self._problem or problem
            if not self.draining:
                log.error("the flow ended", error=str(self._problem))
        finally:
            self._ended.set()

    @override
    async def _read(self) -> None:
        reading = asyncio.create_task(super()._read())
        left = asyncio.create_task(self._left.wait())
        await asyncio.wait([reading, left], return_when=asyncio.FIRST_COMPLETED)
        reading.cancel()
        left.cancel()
        await asyncio.wait([reading, left])
        if not reading.cancelled():
            reading.result()

    @override
    def fail(self, error: StoreError) -> Never:
        self._problem = self._problem or error
        super().fail(error)
        raise error

    @override
    def exit(self, code: int) -> None:
        if threading.current_thread() is self._flow:
            raise AbortExecution
        if code:  # a thread beside the flow has ended, and nothing works without it
            self._problem = self._problem or StoreError("reading stopped; the log says why")
        self.drain()
