"""What a log does when the disk refuses, and what it says of itself."""

import errno
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from delivery import log as log_module
from delivery.disk import StoreError, StoreFullError
from delivery.log import HEAD, QUARANTINE, Log
from delivery.metrics import REGISTRY
from tests.delivery.test_log import filled, newest, opened, payloads, reread

FULL = [errno.ENOSPC, errno.EDQUOT]


def refusing(error: int, when: Callable[[str], bool] = lambda _: True) -> Callable[..., int]:
    """`os.open` that refuses to create some files."""
    real = os.open

    def open_(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT and when(str(path)):
            raise OSError(error, os.strerror(error))
        return real(path, flags, mode)

    return open_


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def descriptors() -> int:
    """Files that this process has open."""
    return len(files(Path("/proc/self/fd")))


def syncs() -> float:
    return REGISTRY.get_sample_value("bifrost_disk_syncs_total") or 0.0


def test_a_record_may_have_the_largest_size_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "MAX_RECORD", 100)
    log, _ = opened(tmp_path)
    number = log.append(1, [b"x" * 60, memoryview(b"y" * 40)])
    with pytest.raises(StoreError, match=r"a record of 101 bytes is too large"):
        log.append(1, [b"x" * 60, b"y" * 41])
    assert log.append(1, [b"after"]) == number + 1
    log.close()
    assert reread(tmp_path) == [b"x" * 60 + b"y" * 40, b"after"]


@pytest.mark.parametrize("error", [*FULL, errno.EACCES])
def test_a_segment_that_cannot_be_begun_leaves_the_one_before_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    log, _ = opened(tmp_path)
    before = log.append(1, [b"one"])
    kind = StoreFullError if error in FULL else StoreError
    with monkeypatch.context() as small:
        small.setattr(os, "open", refusing(error))
        with pytest.raises(StoreError, match=os.strerror(error)) as raised:
            log.roll()
    assert type(raised.value) is kind
    assert str(tmp_path) in str(raised.value)
    assert log.append(1, [b"two"]) == before + 1
    assert len(log.segments()) == 1
    log.close()
    assert reread(tmp_path) == [b"one", b"two"]


@pytest.mark.parametrize("write", [1, 2])
def test_a_segment_whose_head_finds_no_room_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: int
) -> None:
    log, _ = opened(tmp_path)
    before, size, names = log.append(1, [b"one"]), log.size, files(tmp_path)
    (tmp_path / "reserve").unlink()
    calls, real = [0], os.writev

    def full(fd: int, parts: list[bytes]) -> int:
        calls[0] += 1
        if calls[0] == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, parts)

    open_files = descriptors()
    with monkeypatch.context() as small:
        small.setattr(os, "writev", full)
        with pytest.raises(StoreFullError, match="the disk is full; make room"):
            log.roll()
    assert descriptors() == open_files
    assert files(tmp_path) == names - {"reserve"}
    assert (log.size, log.next_number, len(log.segments())) == (size, before + 1, 1)
    assert log.append(1, [b"two"]) == before + 1
    log.roll()
    assert log.append(1, [b"three"]) == before + 4
    log.close()
    assert [bytes(r.payload) for r in log.read(log.cursor(1)) if r.kind == 1] == [b"one", b"two", b"three"]


def test_a_disk_that_fails_is_told_from_a_full_one_and_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = opened(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(os, "writev", lambda fd, parts: os.write(fd, parts[0]))
        broken.setattr(os, "write", _io_error(os.write))
        with pytest.raises(StoreError, match="Input/output error") as raised:
            log.append(1, [b"one"], urgent=True)
    assert type(raised.value) is StoreError
    assert (tmp_path / "reserve").exists(), "it is for full disks"
    number = log.append(1, [b"two"])
    log.close()
    log, _ = opened(tmp_path)
    assert [(r.number, bytes(r.payload)) for r in log.read(log.cursor(1)) if r.kind == 1] == [(number, b"two")]


def _io_error(real: Callable[..., int]) -> Callable[..., int]:
    calls = [0]

    def write(fd: int, data: bytes) -> int:
        calls[0] += 1
        if calls[0] > 1:
            raise OSError(errno.EIO, "Input/output error")
        return real(fd, data[:10])

    return write


def test_what_the_system_takes_in_pieces_is_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = opened(tmp_path)
    real_writev, real_write = os.writev, os.write
    with monkeypatch.context() as piecemeal:
        piecemeal.setattr(os, "writev", lambda fd, parts: real_writev(fd, [bytes(parts[0])[:20]]))
        piecemeal.setattr(os, "write", lambda fd, data: real_write(fd, data[:7]))
        log.append(1, [b"in pieces ", memoryview(b"of several"), b" parts"])
    log.append(1, [b"whole"])
    log.close()
    assert reread(tmp_path) == [b"in pieces of several parts", b"whole"]


def test_a_log_works_without_its_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def full(fd: int, offset: int, length: int) -> None:
        assert (offset, length) == (0, log_module.RESERVE)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr(os, "posix_fallocate", full)
        before = descriptors()
        log, _ = opened(tmp_path)
        assert descriptors() == before + 1
    assert not (tmp_path / "reserve").exists()
    log.append(1, [b"one"], urgent=True)
    log.close()
    monkeypatch.setattr(os, "open", refusing(errno.EACCES, lambda path: path.endswith("reserve")))
    log, found = opened(tmp_path)
    assert payloads(found) == [b"one"]
    assert not (tmp_path / "reserve").exists()


def test_the_files_are_for_the_gateway_alone(tmp_path: Path) -> None:
    log, _ = opened(tmp_path / "log")
    modes = {path.name == "reserve": path.stat().st_mode & 0o777 for path in (tmp_path / "log").iterdir()}
    assert modes == {True: 0o600, False: 0o600}
    assert (tmp_path / "log" / "reserve").stat().st_size == log_module.RESERVE
    log.close()


def test_a_start_that_the_disk_refuses_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path, 3)

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    log = Log(tmp_path, lambda: b"head")
    list(log.recover())
    before = descriptors()
    with pytest.raises(StoreError, match=f"^{tmp_path}: Input/output error$"):
        log.begin()
    assert descriptors() == before


def test_a_failed_sync_names_the_log_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = opened(tmp_path)

    def refuse(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    words = f"^{tmp_path}: fsync failed \\(Input/output error\\); the disk is suspect, replace it$"
    for _ in range(2):
        with pytest.raises(StoreError, match=words):
            log.sync()
    log.close()
    log.close()


def test_the_size_is_what_lies_on_disk(tmp_path: Path) -> None:
    log, _ = opened(tmp_path, head=b"four", segment_bytes=100)
    log.append(1, [b"x" * 50])
    log.segment()
    log.append(1, [b"x" * 10, b"y" * 5])
    first, second = log.segments()
    on_disk = {path.name: path.stat().st_size for path in tmp_path.glob("*.log")}
    assert sorted(on_disk.values()) == sorted([log.segment_size(first), log.segment_size(second)])
    assert log.segment_size(first) == 2 * (32 + 4) + 32 + 50
    assert log.segment_size(second) == 2 * (32 + 4) + 32 + 15
    assert log.size == log.segment_size(first) + log.segment_size(second)
    assert log.segment_size(second + 1) == 0
    assert [log.segment_of(n) for n in (0, first, second - 1, second, second + 100)] == [
        0,
        first,
        first,
        second,
        second,
    ]
    log.close()


def test_a_segment_is_full_at_its_size_and_not_before(tmp_path: Path) -> None:
    log, _ = opened(tmp_path, head=b"", segment_bytes=2 * 32 + 32 + 10)
    first = log.segment()
    log.append(1, [b"123456789"])
    assert log.segment() == first
    log.roll()
    second = log.segment()
    assert second == first + 3
    log.append(1, [b"1234567890"])
    third = log.segment()
    assert third == second + 3
    assert log.segments() == [first, second, third]
    log.close()


def test_a_segment_may_take_all_of_its_default_size(tmp_path: Path) -> None:
    log = Log(tmp_path, lambda: b"")
    list(log.recover())
    log.begin()
    first = log.segment()
    payload = b"x" * (4 * 1024 * 1024 - 32)
    for _ in range(3):
        log.append(1, [payload])
    assert log.segment() == first
    log.append(1, [payload])
    assert log.segment() > first
    log.close()


def test_each_record_says_what_was_durable_when_it_was_written(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    one = log.append(1, [b"one"])
    assert log.sync() == one
    two = log.append(1, [b"two"])
    three = log.append(1, [b"three"])
    assert log.sync() >= three
    log.append(1, [b"four"])
    found = {bytes(r.payload): r.synced for r in log.read(log.cursor(1)) if r.kind == 1}
    assert found[b"one"] == 0
    assert found[b"two"] == found[b"three"] >= one
    assert found[b"two"] < two
    assert found[b"four"] >= three
    log.close()


def test_each_file_that_is_made_durable_is_counted(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.sync()
    before = syncs()
    log.sync()
    assert syncs() == before + 1
    log.roll()
    log.roll()
    log.sync()
    assert syncs() == before + 4, "two segments that were full, and the newest"
    log.close()


def test_the_names_of_new_segments_are_made_durable_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = opened(tmp_path)
    log.sync()
    seen: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    log.sync()
    assert seen == []
    log.roll()
    log.sync()
    log.sync()
    assert seen == [str(tmp_path)]
    log.close()


def test_descriptors_of_full_segments_are_let_go(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.sync()
    before = descriptors()
    for _ in range(5):
        log.roll()
        log.append(1, [b"x"])
    log.sync()
    assert descriptors() == before
    log.close()
    assert descriptors() == before - 1
    log.close()


def test_skipping_numbers_makes_what_is_before_them_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = opened(tmp_path)
    log.roll()
    log.append(1, [b"before"])
    synced: list[str] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    names = sorted(str(path) for path in tmp_path.glob("*.log"))
    log.skip(100)
    assert sorted(synced) == names
    assert log.next_number == 102
    assert log.segments()[-1] == 100
    log.skip(102)
    assert log.next_number == 102
    assert next(r for r in log.read(log.cursor(100)) if r.kind == HEAD).synced == 99
    log.close()


def test_nothing_is_removed_while_somebody_reads_however_many_do(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.roll()
    log.sync()
    log.sync()
    first = log.segments()[0]
    with log.held():
        with log.held():
            assert not log.drop(first)
        assert not log.drop(first)
    assert log.drop(first)
    assert not log.drop(first)
    log.close()


def test_at_most_eight_damaged_files_are_kept_and_the_newest_of_them(tmp_path: Path) -> None:
    aside = tmp_path / QUARANTINE
    aside.mkdir()
    for n in range(9):
        (aside / f"{n:020d}-00000000.log").write_bytes(b"")
    filled(tmp_path, 3, size=100)
    path = newest(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b"record 1 ")] ^= 4
    path.write_bytes(data)
    damage = REGISTRY.get_sample_value("bifrost_store_damage_total") or 0.0
    log, _ = opened(tmp_path)
    assert log.damaged == 1
    assert REGISTRY.get_sample_value("bifrost_store_damage_total") == damage + 1
    assert len(list(aside.iterdir())) == 8
    assert [p.name for p in aside.iterdir() if p.name <= f"{1:020d}-00000000.log"] == []
    log.close()


def test_a_header_is_as_it_is_described(tmp_path: Path) -> None:
    """Other programs read these files: marker, checksum, kind, length, number, synced."""
    log, _ = opened(tmp_path, head=b"")
    number = log.append(7, [b"payload"])
    log.close()
    path = min(tmp_path.glob("*.log"))
    data = path.read_bytes()
    marker, _, kind, length, found, synced = struct.unpack_from("<4sIB3xIQQ", data, 64)
    assert marker.hex() == path.stem.partition("-")[2]
    assert (kind, length, found, synced) == (7, 7, number, 0)
    assert int(path.stem.partition("-")[0]) == 1


def test_a_segment_that_somebody_removed_is_no_trouble(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.roll()
    log.sync()
    log.sync()
    min(tmp_path.glob("*.log")).unlink()
    assert log.drop(log.segments()[0])
    assert len(log.segments()) == 1
    log.close()


def test_a_disk_on_which_nothing_works_any_more_is_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = opened(tmp_path)

    def broken(*args: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    for name in ("writev", "ftruncate"):
        monkeypatch.setattr(os, name, broken)
    with pytest.raises(StoreError, match="Input/output error"):
        log.append(1, [b"one"])


def test_a_segment_stays_until_a_durable_record_says_that_the_last_of_it_is_durable(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.append(1, [b"durable"])
    log.sync()
    log.append(1, [b"not yet"])
    log.roll()
    first = log.segments()[0]
    assert not log.drop(first)
    log.sync()
    assert not log.drop(first), "the word of it may be lost"
    log.sync()
    assert log.drop(first)
    log.close()


def test_a_full_disk_takes_the_word_that_all_is_durable_into_its_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = opened(tmp_path)
    log.append(1, [b"one"])
    log.roll()
    real = os.writev

    def full(fd: int, parts: list[bytes]) -> int:
        if (tmp_path / "reserve").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, parts)

    monkeypatch.setattr(os, "writev", full)
    log.sync()
    assert not (tmp_path / "reserve").exists()
    log.sync()
    assert log.drop(log.segments()[0])
    assert (tmp_path / "reserve").exists(), "set aside again"


def test_a_disk_that_is_full_to_the_last_byte_can_be_synced_and_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = opened(tmp_path)
    log.append(1, [b"one"])
    log.roll()
    number = log.append(1, [b"two"])
    (tmp_path / "reserve").unlink()

    def full(fd: int, parts: list[bytes]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as small:
        small.setattr(os, "writev", full)
        assert log.sync() == number
        log.close()
    _, found = opened(tmp_path)
    assert payloads(found)[-1] == b"two"
