"""The readers of a gateway: a task of the I/O loop for each source, which can come, change and go while the others read."""

import asyncio
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from connectors.contract import Context, SourceState
from connectors.settings import SourceConfig
from delivery import metrics
from delivery.journal import Journal
from flows.intake import SourceIntake, supervise
from flows.leases import Leases
from normalization.reading import TagTable

log = structlog.get_logger()

_PATIENCE: Final = 4.0  # seconds that a device may take to let a reader go, before the change is told as made


class Readers:
    """The readers of a gateway's sources. All calls come from the I/O loop.

    Args:
        gateway: Name of the gateway.
        directory: Where each source has a folder of its own.
        journal: Where readings go.
        tags: The process's tag table.
        leases: Where sources are held while they are read; None for nowhere.
    """

    def __init__(
        self, gateway: str, directory: Path, journal: Journal, tags: TagTable, leases: Leases | None = None
    ) -> None:
        self.intakes: dict[str, SourceIntake] = {}
        self._gateway, self._directory, self._journal, self._tags = gateway, directory, journal, tags
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leases = leases
        self._stopped = self.held = False

    def start(self, source: SourceConfig) -> None:
        """Begin to read a source; one of its name that is still closing ends first."""
        if self._stopped or self.held:
            return
        intake = SourceIntake(source.name, source.protocol, self._journal, self._tags)
        context = Context(self._gateway, self._directory / source.name)
        self.intakes = self.intakes | {source.name: intake}  # never changed in place: others look at it at any time
        earlier = self._tasks.get(source.name)
        task = asyncio.create_task(self._read(source, context, intake, earlier), name=source.name)
        self._tasks[source.name] = task

    async def _read(
        self, source: SourceConfig, context: Context, intake: SourceIntake, earlier: "asyncio.Task[None] | None"
    ) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])  # a device or broker would not have two of one name
        reading = partial(supervise, source, context, intake, self._journal)
        if self._leases is None:
            await reading()
        else:
            await self._leases.while_held(source.name, reading, partial(intake.state, SourceState.CONNECTING))

    async def change(self, gone: Iterable[str], come: Iterable[SourceConfig]) -> None:
        """Stop the readers of some sources and begin to read others; one that changed is in both.

        Returns when all that go have let their devices go, or after four seconds: what begins anew waits for its own.
        """
        ending = {name: self._tasks[name] for name in gone if name in self._tasks}
        for task in ending.values():
            task.cancel()
        if ending:
            _, slow = await asyncio.wait(ending.values(), timeout=_PATIENCE)
            for task in slow:
                log.warning("a source is slow to close; it is read anew as soon as it has", source=task.get_name())
        again = list(come)
        for name in set(ending).difference(source.name for source in again):
            del self._tasks[name]
            self.intakes = {other: intake for other, intake in self.intakes.items() if other != name}
            metrics.forget("source", name)
        for source in again:
            self.start(source)

    async def hold(self, again: Iterable[SourceConfig] | None) -> None:
        """Read nothing; returns when all devices were let go.

        Args:
            again: The sources to read from now on, when it is over; None to begin.
        """
        if (again is None) is self.held:
            return
        self.held = again is None
        if again is None:
            log.warning("nothing is read, so that what is held can be delivered")
            await self._end()
            return
        log.info("the sources are read again")
        for source in again:
            self.start(source)

    async def stop(self) -> None:
        """Stop all for good; returns when they have let their devices go."""
        self._stopped = True
        await self._end()
        if self._leases is not None:
            self._leases.close()

    async def _end(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for intake in self.intakes.values():
            intake.state(SourceState.STOPPED)
