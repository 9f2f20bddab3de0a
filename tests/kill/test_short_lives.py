"""What the kill test found: a journal that lives too shortly to let anything go must still have it in a later life."""

import asyncio
from pathlib import Path

from delivery.journal import Journal, shard_of
from delivery.outcome import Outcome
from normalization.reading import Columns, Tag, TagTable

_SOURCES = {"first": shard_of("opcua", "first"), "second": shard_of("modbus", "second")}


async def _fill(journal: Journal, tags: TagTable) -> None:
    for source, shard in _SOURCES.items():
        rows = Columns()
        for value in range(5):
            rows.add(tags.intern(Tag(source, "opcua", "", "a", "a")), value)
        await journal.append(source, shard, rows, None)


def test_trimming_one_shard_after_several_short_lives_keeps_the_readings_of_the_others(tmp_path: Path) -> None:
    tags = TagTable()
    journal = Journal(tmp_path, "gw", tags)
    asyncio.run(_fill(journal, tags))
    journal.close()
    Journal(tmp_path, "gw", TagTable()).close()

    journal = Journal(tmp_path, "gw", TagTable())
    first, second = _SOURCES.values()
    journal.attach(first, None, lambda _: Outcome())
    taken = journal.take(first, 100)
    journal.trim(first, taken[-1].number)
    journal.attach(second, None, lambda _: Outcome())
    left = journal.take(second, 100)
    account = journal.account()
    journal.close()
    assert [entry.rows for entry in taken] == [5]
    assert [entry.rows for entry in left] == [5]
    assert account.waiting == {"second": 5}
