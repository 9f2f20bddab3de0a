"""The file target beyond the writers' contract: torn ends, full disks, rotation, names of Parquet files."""

import errno
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    Context,
    DeliveryError,
    RejectedRecords,
    TransientError,
    Writer,
)
from connectors.targets.file import FileConfig, delivery_error, whole_lines
from tests.contract.readings import Source, rows, table_rows


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Writer]:
    def writer(**settings: Any) -> Writer:
        config = FileConfig.model_validate({"endpoint": str(tmp_path / "out")} | settings)
        return config.writer(Context("gateway 1", tmp_path / "context"))

    return writer


def values(folder: Path) -> list[Any]:
    return [
        json.loads(line)["value"] for file in sorted(folder.glob("*.jsonl")) for line in file.read_text().splitlines()
    ]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size`: the kernel refuses as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("block", [1, 2, 7, 65_536])
@pytest.mark.parametrize(
    ("content", "whole"),
    [(b"", 0), (b"a", 0), (b"\n", 1), (b"ab\ncd\n", 6), (b"ab\ncdefghijklmn", 3), (b"abcdefgh", 0)],
)
def test_whole_lines_end_with_a_line_feed(content: bytes, whole: int, block: int) -> None:
    assert whole_lines(len(content), lambda start, count: content[start : start + count], block) == whole


async def test_a_torn_last_line_is_cut_and_writing_goes_on_after_it(
    make: Callable[..., Writer], source: Source, tmp_path: Path
) -> None:
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0, 2.0]), 1)
    await writer.close()
    [file] = (tmp_path / "out").glob("*.jsonl")
    with file.open("ab") as out:
        out.write(b'{"gateway":"gateway 1","sh')
    again = make()
    await again.open()
    await again.write(source.batch([3.0]), 2)
    await again.close()
    assert values(tmp_path / "out") == [1.0, 2.0, 3.0]
    assert list((tmp_path / "out").iterdir()) == [file]


async def test_a_torn_line_is_cut_also_where_a_clock_that_was_set_back_gave_the_file_an_older_name(
    make: Callable[..., Writer], source: Source, tmp_path: Path
) -> None:
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    await writer.close()
    older = tmp_path / "out" / "readings-20010101T000000000000Z.jsonl"
    [newer] = (tmp_path / "out").iterdir()
    older.write_bytes(newer.read_bytes() + newer.read_bytes()[:-20])
    again = make()
    await again.open()
    await again.write(source.batch([2.0]), 2)
    await again.close()
    assert [older.read_bytes().count(b"\n"), older.read_bytes()[-1:]] == [1, b"\n"]
    assert newer.read_bytes().count(b"\n") == 2


@pytest.mark.parametrize("form", ["jsonl", "line_protocol"])
async def test_a_write_that_does_not_fit_leaves_no_torn_line(
    make: Callable[..., Writer], source: Source, tmp_path: Path, form: str
) -> None:
    writer = make(format=form)
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    [file] = (tmp_path / "out").iterdir()
    before = file.read_bytes()
    big = source.batch([float(i) for i in range(1000)])
    with largest_file(len(before) + 1000), pytest.raises(CapacityError):
        await writer.write(big, 2)
    assert file.read_bytes() == before
    await writer.write(big, 2)
    await writer.close()
    assert file.read_bytes().count(b"\n") == 1001


async def test_a_file_that_is_large_or_old_enough_is_followed_by_another(
    make: Callable[..., Writer], source: Source, tmp_path: Path
) -> None:
    writer = make(rotate_size=100)
    await writer.open()
    for unit in range(3):
        await writer.write(source.batch([float(unit)]), unit)
    await writer.close()
    assert len(list((tmp_path / "out").iterdir())) == 3
    old = make(rotate_interval="1us")
    await old.open()
    await old.write(source.batch([3.0]), 3)
    await old.close()
    assert len(list((tmp_path / "out").iterdir())) == 4
    assert values(tmp_path / "out") == [0.0, 1.0, 2.0, 3.0]


async def test_a_file_that_somebody_removed_is_not_written_to_any_more(
    make: Callable[..., Writer], source: Source, tmp_path: Path
) -> None:
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    next((tmp_path / "out").iterdir()).unlink()
    await writer.write(source.batch([2.0]), 2)
    await writer.close()
    assert values(tmp_path / "out") == [2.0]


async def test_other_files_in_the_folder_are_left_alone(
    make: Callable[..., Writer], source: Source, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    other = tmp_path / "out" / "readings-zzz.jsonl"
    other.write_text("mine, and no line feed")
    writer = make()
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    await writer.close()
    assert other.read_text() == "mine, and no line feed"


async def test_what_line_protocol_cannot_say_is_rejected_and_the_rest_is_written(
    make: Callable[..., Writer], source: Source, tmp_path: Path
) -> None:
    writer = make(format="line_protocol")
    await writer.open()
    with pytest.raises(RejectedRecords) as rejected:
        await writer.write(source.batch([1.0, float("nan"), 3.0]), 1)
    await writer.close()
    assert rejected.value.indices == [1]
    assert rejected.value.rest_written
    [file] = (tmp_path / "out").iterdir()
    assert file.read_text().count("\n") == 2


async def test_a_parquet_unit_that_is_sent_again_replaces_its_file_alone(
    make: Callable[..., Writer], source: Source, tmp_path: Path
) -> None:
    first, second = source.batch([1.0, "x"]), source.batch([2.0])
    writer = make(format="parquet")
    await writer.open()
    for batch in (first, first, second):  # the numbers of a spool that was begun anew are those of the old one
        await writer.write(batch, 1)
    await writer.close()
    files = sorted((tmp_path / "out").glob("*/*"))
    assert [file.parent.name for file in files] == ["2026-09-21"] * 2
    found = [row for file in files for row in table_rows(pq.ParquetFile(file).read().to_pylist())]
    expected = rows(first) + rows(second)
    assert all(any(one.same(other) for other in found) for one in expected)
    assert len(found) == len(expected)


async def test_a_parquet_file_that_a_crash_left_unfinished_is_removed(
    make: Callable[..., Writer], source: Source, tmp_path: Path
) -> None:
    folder = tmp_path / "out" / "2026-09-21"
    folder.mkdir(parents=True)
    (folder / "unit-000000000001-00.parquet.part").write_bytes(b"PAR1")
    writer = make(format="parquet")
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    await writer.close()
    assert [file.suffix for file in folder.iterdir()] == [".parquet"]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.ENOSPC, CapacityError),
        (errno.EDQUOT, CapacityError),
        (errno.EACCES, AuthError),
        (errno.EROFS, AuthError),
        (errno.ENOTDIR, ConfigError),
        (errno.EIO, TransientError),
        (errno.ESTALE, TransientError),
    ],
)
def test_errors_of_the_operating_system_have_their_place(code: int, expected: type[DeliveryError]) -> None:
    error = delivery_error(OSError(code, os.strerror(code), "/data/x"))
    assert type(error) is expected
    assert str(error).startswith("/data/x: ")


@pytest.mark.parametrize(
    "wrong", [{"rotate_size": 0}, {"format": "csv"}, {"line_protocol": {"precision": "m"}}, {"folder": "x"}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        FileConfig.model_validate(wrong)


@pytest.mark.parametrize("wrong", [{"measurement": "{nothing}"}, {"tags": ["value"]}, {"fields": ["path"]}])
def test_columns_that_there_are_not_are_refused_before_anything_opens(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"cannot be|no column"):
        FileConfig.model_validate({"format": "line_protocol", "line_protocol": wrong})
