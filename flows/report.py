"""What a gateway says of itself, as readings: the account, and up to when the readings of a source are complete.

They take the way of all readings, so that a rule can send them to a table of their own (``protocol = 'gateway'``) and a job
downstream can tell when an hour is whole.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

from delivery.account import Account
from delivery.journal import shard_of
from normalization.reading import Columns, Tag

if TYPE_CHECKING:
    from flows.process import Process

SOURCE: Final = "_gateway"  # in the account; no source of a configuration can be called so
COMPLETE: Final = "complete_up_to"


def complete_up_to(now: int, journal: int | None, spool: int | None) -> int | None:
    """Time up to which a target has every reading that came, µs since the epoch; None when it cannot be told yet.

    Args:
        now: The time, as the others µs since the epoch.
        journal: When the oldest reading was received that is not behind the flow; None for none, 0 for unknown.
        spool: When the oldest reading was received that is in the target's spool; None for none, 0 for unknown.
    """
    complete = min(moment for moment in (now, journal, spool) if moment is not None)
    return complete or None


def rows(account: Account, complete: Mapping[str, int | None], gateway: str) -> Iterator[tuple[Tag, int]]:
    """Tags and values of a report.

    Args:
        account: The account.
        complete: Time up to which a target has every reading that came, by target.
        gateway: Name of the gateway.
    """
    for source, line in account.sources.items():
        for state, count in line.states().items():
            yield _tag(gateway, source, state), count
    for target, lines in account.targets.items():
        known = complete.get(target)
        for source, of_target in lines.items():
            for state, count in of_target.states().items():
                yield _tag(gateway, source, state, target), count
            if known is not None:
                yield _tag(gateway, source, COMPLETE, target), known


def columns(
    account: Account, complete: Mapping[str, int | None], gateway: str, intern: Callable[[Tag], int], now: int
) -> Columns:
    """A report as a reader would append it.

    Args:
        account: The account.
        complete: Time up to which a target has every reading that came, by target.
        gateway: Name of the gateway.
        intern: Gives the number of a tag.
        now: The time of the report, µs since the epoch.
    """
    made = Columns()
    for tag, value in rows(account, complete, gateway):
        made.add(intern(tag), value, source_time=now)
    return made


def _tag(gateway: str, source: str, name: str, target: str = "") -> Tag:
    address = f"{target}/{name}" if target else name
    path = "/".join(["bifrost", gateway, source, *([target.replace("/", "_")] if target else []), name])
    return Tag(SOURCE, "gateway", source, address, name, path=path)


async def keep_reporting(process: "Process", interval: float) -> None:
    """Append what the gateway says of itself, every `interval` seconds."""
    shard = shard_of("gateway", SOURCE)
    while True:
        await asyncio.sleep(interval)
        account, now = await asyncio.to_thread(process.account), time.time_ns() // 1000
        journal = process.journal.oldest_received()  # before the spools: what leaves it is in them by then
        complete = {
            name: complete_up_to(now, journal, spool.oldest_received()) for name, spool in process.spools.items()
        }
        said = columns(account, complete, process.config.gateway, process.tags.intern, now)
        await process.journal.append(SOURCE, shard, said, None)
