"""Tidying a Delta table: small files are merged, what was merged long ago is deleted, the log is shortened.

The library (1.6) lets two merges at one time both succeed, and a row that both took is there twice from then on. So a
writer *claims* a table before it merges: it commits, as an application transaction, the time until which no other may
merge, and Delta refuses the second of two claims. Each merge renews the claim; one that has run out is anybody's. Other
engines know nothing of claims: where one of them optimizes the table, merging here must be off.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import pyarrow as pa

if TYPE_CHECKING:
    from deltalake import DeltaTable, PostCommitHookProperties

_APP: Final = "bifrost/merge"
_CLAIM: Final = 3_600_000_000  # µs, longer than any merge takes


def no_hooks() -> "PostCommitHookProperties":
    """No checkpoint and no cleaning of the log within a commit: both are done beside, in an order that is safe."""
    from deltalake import PostCommitHookProperties

    return PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


def claim(found: "DeltaTable", mine: int | None, now: int) -> int | None:
    """Take, or keep, the right to merge.

    Args:
        found: The table as it is now.
        mine: What this function gave this writer last time, also before a restart; None when it gave nothing.
        now: Time in µs since the epoch.

    Returns:
        The claim, which is the time until which it holds; None when another writer has it.
    """
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    held = found.transaction_version(_APP)
    # one from the far future is of a clock that was wrong, and would hold for ever
    if held is not None and held != mine and now < held <= now + 2 * _CLAIM:
        return None
    until = now + _CLAIM
    try:
        write_deltalake(
            found,
            pa.Table.from_batches([], pa.schema(found.schema())),
            mode="append",
            commit_properties=CommitProperties(app_transactions=[Transaction(_APP, until)]),
            post_commithook_properties=no_hooks(),
        )
    except CommitFailedError:
        return None
    return until


def merge(found: "DeltaTable", dates: Sequence[str], file_size: int) -> None:
    """Merge the small files of some dates, of all when they are many; who has no `claim` must not."""
    from deltalake import WriterProperties

    found.optimize.compact(
        partition_filters=[("date", "in", list(dates))] if len(dates) <= 100 else None,
        target_size=file_size,
        max_concurrent_tasks=1,
        writer_properties=WriterProperties(compression="ZSTD", compression_level=3),
        post_commithook_properties=no_hooks(),
    )


def sweep(before: "DeltaTable", now: "DeltaTable") -> bool:
    """Delete what was merged long ago and what killed writes left, unless a wrong clock makes new files look old.

    Args:
        before: The table before the last merge; what was added since shows how old new files look.
        now: The table with every commit of this writer in it, which must have none under way.

    Returns:
        Whether the clocks agree and it was done.
    """
    added = {uri.rsplit("/", 1)[1] for uri in now.file_uris()}
    if any(path.rsplit("/", 1)[1] in added for path in before.vacuum(dry_run=True, full=True)):
        return False
    now.vacuum(dry_run=False, full=True, post_commithook_properties=no_hooks())
    return True
