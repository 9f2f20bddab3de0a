"""Holding a source in a store that several gateways share: it is read only while its lease is held.

A holder renews its lease three times as often as it would end. It stops reading when no renewal came through in two thirds of
the lease's time, and another takes the lease when it has seen it unchanged for all of that time by its own clock: a third
of it is left for the reader to close, whatever the clocks of the two say.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

log = structlog.get_logger()

_RELEASE_WITHIN: Final = 1.0  # seconds that a gateway that stops gives the store


class ConflictError(Exception):
    """Somebody else has changed the lease meanwhile."""


class LeaseStoreError(Exception):
    """The store does not answer as it should; the message says how."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease as it is in the store.

    Attributes:
        holder: Name of the gateway that has it; empty when none has.
        version: Another one after each change.
        seconds: How long it holds after a renewal.
        transitions: How often it went to another gateway.
        acquired: When its holder got it, as the store keeps times.
    """

    holder: str
    version: str
    seconds: int
    transitions: int = 0
    acquired: str = ""


class LeaseStore(Protocol):
    """A store of leases. Each call may raise `LeaseStoreError`."""

    async def get(self, source: str) -> Lease | None:
        """The lease of a source; None when there is none."""

    async def put(self, source: str, holder: str, seconds: int, before: Lease | None) -> Lease:
        """Make or renew the lease of a source, if it still is as it was seen before.

        Raises:
            ConflictError: It is not.
        """

    def close(self) -> None:
        """Nothing more is asked of it."""


class Leases:
    """The leases of one gateway. All calls come from the I/O loop.

    Args:
        store: Where they are.
        holder: Name of the gateway.
        seconds: How long a lease holds after a renewal.
    """

    def __init__(self, store: LeaseStore, holder: str, seconds: float) -> None:
        self._store, self._holder, self._seconds = store, holder, max(1, round(seconds))

    async def while_held(
        self, source: str, read: Callable[[], Coroutine[Any, Any, None]], waits: Callable[[str], None]
    ) -> None:
        """Read a source whenever its lease is held; until cancelled.

        Args:
            source: Name of the source.
            read: Reads it until cancelled.
            waits: Is told why it is not read.
        """
        while True:
            lease, renewed = await self._take(source, waits)
            log.info("the source's lease is held", source=source)
            reader = asyncio.create_task(read(), name=source)
            keeper = asyncio.create_task(self._keep(source, lease, renewed), name=f"lease of {source}")
            try:
                await asyncio.wait((reader, keeper), return_when=asyncio.FIRST_COMPLETED)
            finally:
                reader.cancel()
                await asyncio.wait((reader,))  # the lease is renewed until the device was let go
                held = not keeper.done()
                keeper.cancel()
                await asyncio.wait((keeper,))
                if held:
                    await self._release(source)
            why = keeper.result() if not keeper.cancelled() else "the reader ended"
            log.warning("the source's lease is lost, it is not read here", source=source, reason=why)
            waits(why)

    def close(self) -> None:
        """Nothing is held any more."""
        self._store.close()

    async def _take(self, source: str, waits: Callable[[str], None]) -> tuple[Lease, float]:
        """The lease, and when it was taken at the earliest."""
        seen, since = "", 0.0
        while True:
            try:
                began = time.monotonic()
                lease = await self._store.get(source)
                if lease is not None and lease.version != seen:
                    seen, since = lease.version, time.monotonic()
                ended = lease is not None and time.monotonic() - since > lease.seconds
                if lease is None or ended or lease.holder in ("", self._holder):
                    return await self._store.put(source, self._holder, self._seconds, lease), began
                waits(f"gateway `{lease.holder}` reads it")
            except ConflictError:
                pass
            except LeaseStoreError as error:
                waits(f"no lease: {error}")
            await asyncio.sleep(self._seconds / 6)

    async def _keep(self, source: str, lease: Lease, renewed: float) -> str:
        """Renew a lease; returns why it is not held any more, before another can have it."""
        said, pause = "the store does not answer", self._seconds / 3
        while True:
            lasts = renewed + self._seconds * 2 / 3 - time.monotonic()
            if lasts <= 0:
                return f"the lease could not be renewed: {said}"
            await asyncio.sleep(min(pause, lasts))
            began, pause = time.monotonic(), self._seconds / 12
            try:
                async with asyncio.timeout(max(0.0, renewed + self._seconds * 2 / 3 - began)):
                    try:
                        lease = await self._store.put(source, self._holder, self._seconds, lease)
                    except ConflictError:
                        found = await self._store.get(source)
                        if found is not None and found.holder != self._holder:
                            return f"gateway `{found.holder}` has the lease" if found.holder else "the lease was let go"
                        lease = await self._store.put(source, self._holder, self._seconds, found)
                renewed, pause = began, self._seconds / 3
            except (LeaseStoreError, ConflictError) as error:
                said = str(error) or "others change the lease"
            except TimeoutError:
                continue

    async def _release(self, source: str) -> None:
        try:
            async with asyncio.timeout(_RELEASE_WITHIN):
                lease = await self._store.get(source)
                if lease is not None and lease.holder == self._holder:
                    await self._store.put(source, "", self._seconds, lease)
        except (LeaseStoreError, ConflictError, TimeoutError) as error:
            log.warning("the source's lease was not let go and ends by itself", source=source, reason=str(error))
