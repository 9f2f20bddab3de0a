"""A spool in memory behaves as one on disk: its tests run again, but for those that leave or look at the disk."""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from normalization.reading import TagTable
from tests.delivery import test_overflow, test_spool
from tests.delivery.stores import deliver_all, new_spool, stream, tag_table

OF_THE_DISK = (
    "crash(",
    "reopened(",
    "small_disk",
    "glob(",
    "monkeypatch",
    "spool.close()\n    spool = ",
    "restart",
    "StoreError",
)


def suite(module: ModuleType) -> list[Any]:
    """Tests of `module` that need a spool and no disk, each with one choice of its parameters."""
    found = []
    for name, test in inspect.getmembers(module, inspect.isfunction):
        source = inspect.getsource(test)
        if not name.startswith("test_") or "new_spool(" not in source or any(word in source for word in OF_THE_DISK):
            continue
        marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
        if not marks:
            found.append(pytest.param(module, test, {}, id=name))
        for mark in marks[:1]:
            found += [
                pytest.param(module, test, {mark.args[0]: value}, id=f"{name}-{value}")
                for value in mark.args[1]
                if len(marks) == 1
            ]
    return found


SUITE = [*suite(test_spool), *suite(test_overflow)]


def test_there_is_a_suite() -> None:
    assert len(SUITE) > 25


@pytest.mark.parametrize(("module", "test", "chosen"), SUITE)
def test_as_on_disk(
    module: ModuleType,
    test: Callable[..., None],
    chosen: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "new_spool", functools.partial(new_spool, persistent=False))
    wanted = {"tmp_path": tmp_path, "table": tag_table(), **chosen}
    test(**{name: value for name, value in wanted.items() if name in inspect.signature(test).parameters})
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_what_was_delivered_takes_no_memory(tmp_path: Path) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    table: TagTable = tag_table()
    spool = new_spool(tmp_path, table, persistent=False, segment_bytes=20_000, entry_rows=50)
    before, size = files(), spool.size
    for start in range(0, 20_000, 500):
        spool.append(stream(table, range(start, start + 500)))
        deliver_all(spool)
        spool.snapshot()
    assert files() <= before + 3
    assert spool.size < size + 100_000
    spool.close()
    assert files() < before
