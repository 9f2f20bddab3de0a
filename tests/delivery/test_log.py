import os
import random
import resource
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from delivery import log as log_module
from delivery.disk import DirectoryLock, StoreError, StoreFullError
from delivery.flusher import Flusher
from delivery.log import HEAD, QUARANTINE, Log, Record
from tests.delivery.stores import until


def opened(directory: Path, head: bytes = b"head", segment_bytes: int = 1 << 20) -> tuple[Log, list[Record]]:
    log = Log(directory, lambda: head, segment_bytes)
    found = [Record(r.number, r.kind, memoryview(bytes(r.payload)), r.segment, r.synced) for r in log.recover()]
    log.begin()
    return log, found


def payloads(records: list[Record]) -> list[bytes]:
    return [bytes(record.payload) for record in records if record.kind == 1]


def reread(directory: Path) -> list[bytes]:
    log, found = opened(directory)
    log.close()
    return payloads(found)


def newest(directory: Path) -> Path:
    return max(directory.glob("*.log"))


def filled(directory: Path, count: int, *, sync: bool = True, size: int = 40) -> list[bytes]:
    """A log that holds `count` records and was left by a killed process; returns their payloads."""
    log, _ = opened(directory)
    said = [f"record {i} ".encode() + bytes(random.Random(i).randbytes(size)) for i in range(count)]
    for payload in said:
        log.append(1, [payload])
        if sync:
            log.sync()
    return said


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    said = filled(tmp_path, 20)
    log, found = opened(tmp_path)
    assert payloads(found) == said
    assert [r.number for r in found] == list(range(1, 23))
    assert found[0].kind == HEAD
    assert log.damaged == 0
    assert log.next_number == 25


def test_a_record_may_be_larger_than_what_is_read_at_once(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    large = [random.Random(n).randbytes(n * 700_000) for n in (1, 2, 3)]
    for payload in large:
        log.append(1, [payload[:10], memoryview(payload)[10:]])
    assert [bytes(r.payload) for r in log.read(log.cursor(1)) if r.kind == 1] == large
    log.close()
    assert reread(tmp_path) == large


@pytest.mark.parametrize("synced", [True, False])
def test_a_torn_tail_loses_only_the_last_record(tmp_path: Path, synced: bool) -> None:
    said = filled(tmp_path / "whole", 4, sync=synced)
    segment = newest(tmp_path / "whole")
    data = segment.read_bytes()
    last = len(data) - 32 - len(said[-1])
    for end in range(last, len(data)):
        for tail in (b"", b"\0" * (len(data) - end)):
            torn = tmp_path / "torn"
            shutil.copytree(tmp_path / "whole", torn)
            (torn / segment.name).write_bytes(data[:end] + tail)
            log, found = opened(torn)
            assert payloads(found) == said[:-1]
            assert log.torn == (end != last or bool(tail))
            assert log.damaged == 0
            log.append(1, [b"after"])
            log.close()
            assert reread(torn) == [b"after"]  # the newest HEAD stands for what is before it
            shutil.rmtree(torn)


def test_a_flipped_bit_loses_only_its_record(tmp_path: Path) -> None:
    said = filled(tmp_path / "whole", 6, size=10)
    log, _ = opened(tmp_path / "whole")
    log.close()
    path = min((tmp_path / "whole").glob("*.log"))
    data = path.read_bytes()
    newer = [p for p in (tmp_path / "whole").glob("*.log") if p != path]
    for other in newer:
        other.unlink()
    rng = random.Random(7)
    flipped = tmp_path / "flipped"
    flipped.mkdir()
    for position in range(len(data)):
        changed = bytearray(data)
        changed[position] ^= 1 << rng.randrange(8)
        (flipped / path.name).write_bytes(changed)
        log, found = opened(flipped)
        kept = payloads(found)
        assert set(kept) <= set(said), "a payload that was never written"
        assert kept == [p for p in said if p in kept]
        in_head = position < 2 * (32 + 4)
        in_last = position >= len(data) - 32 - len(said[-1])
        assert len(kept) >= len(said) - (0 if in_head else 1), position
        assert any(r.kind == HEAD for r in found), "one of the two HEADs must do"
        assert log.torn or log.damaged == 1
        assert log.next_number > len(said) + 2 - in_last
        log.append(1, [b"after"])
        assert [bytes(r.payload) for r in log.read(log.cursor(log.next_number - 1)) if r.kind == 1] == [b"after"]
        log.close()
        shutil.rmtree(flipped)
        flipped.mkdir()


@pytest.mark.parametrize("size", [512, 4096])
def test_a_zeroed_block_loses_only_the_records_in_it(tmp_path: Path, size: int) -> None:
    said = filled(tmp_path / "whole", 150, size=100)
    path = newest(tmp_path / "whole")
    data = path.read_bytes()
    for start in range(0, len(data), size):
        zeroed = tmp_path / "zeroed"
        shutil.copytree(tmp_path / "whole", zeroed)
        (zeroed / path.name).write_bytes(data[:start] + b"\0" * len(data[start : start + size]) + data[start + size :])
        log, found = opened(zeroed)
        kept = payloads(found)
        assert kept == [p for p in said if p in kept]
        assert len(kept) >= len(said) - size // 130 - 2
        log.close()
        shutil.rmtree(zeroed)


def test_a_payload_cannot_pass_for_a_record(tmp_path: Path) -> None:
    """Somebody may send the bytes of another log as a value; damage around it must not bring them to life."""
    filled(tmp_path / "other", 3)
    forged = newest(tmp_path / "other").read_bytes()
    log, _ = opened(tmp_path / "log")
    log.append(1, [forged])
    log.append(1, [b"sound"])
    log.close()
    path = newest(tmp_path / "log")
    data = bytearray(path.read_bytes())
    head = data.index(forged) - 32
    data[head + 20] ^= 1  # the record's length
    path.write_bytes(data)
    assert reread(tmp_path / "log") == [b"sound"]


def test_segments_that_are_missing_in_the_middle_lose_only_themselves(tmp_path: Path) -> None:
    log, _ = opened(tmp_path, segment_bytes=300)
    said = []
    for i in range(30):
        log.segment()
        said.append(f"record {i:04d} ".encode() * 5)
        log.append(1, [said[-1]])
        log.sync()
    paths = sorted(tmp_path.glob("*.log"))
    gone = paths[len(paths) // 2]
    lost = [p for p in said if p in gone.read_bytes()]
    gone.unlink()
    assert lost
    log, _ = opened(tmp_path)
    assert [bytes(r.payload) for r in log.read(log.cursor(1)) if r.kind == 1] == [p for p in said if p not in lost]


def test_the_newest_segment_may_be_missing(tmp_path: Path) -> None:
    log, _ = opened(tmp_path, segment_bytes=300)
    for i in range(30):
        log.segment()
        log.append(1, [f"record {i:04d} ".encode() * 5])
        log.sync()
    newest(tmp_path).unlink()
    log, found = opened(tmp_path)
    assert found[0].kind == HEAD
    assert payloads(found)
    log.append(1, [b"after"])
    assert [r.number for r in log.read(log.cursor(log.next_number - 1)) if r.kind == 1] == [log.next_number - 1]


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 40, 71])
def test_a_head_torn_at_the_beginning_of_a_segment_falls_back_to_the_one_before(tmp_path: Path, kept: int) -> None:
    said = filled(tmp_path, 5)
    log, _ = opened(tmp_path, head=b"later head")  # a new run, whose HEAD never reached the disk
    os.close(log._fd)
    with newest(tmp_path).open("r+b") as file:
        file.truncate(min(kept, 41))
    log, found = opened(tmp_path)
    assert payloads(found) == said
    assert bytes(found[0].payload) == b"head"
    first = log.next_number
    log.append(1, [b"after"])
    log.close()
    _, found = opened(tmp_path)
    assert payloads(found) == [b"after"]
    assert found[-2].number == first, "no number is given twice"


def test_a_head_does_not_hide_records_that_were_lost_in_front_of_it(tmp_path: Path) -> None:
    """A power cut may keep a new segment and lose the unsynced end of the one before."""
    log, _ = opened(tmp_path, segment_bytes=400)
    log.append(1, [b"synced" * 10])
    log.sync()
    log.append(1, [b"lost" * 80])
    first = log.segment()  # rolls
    log.append(1, [b"speaks of the lost one"])
    old, new = sorted(tmp_path.glob("*.log"))
    assert first > 3
    os.truncate(old, old.stat().st_size - 10)
    log, found = opened(tmp_path)
    assert payloads(found) == [b"synced" * 10]
    assert not new.exists()
    log.append(1, [b"after"])
    log.close()
    assert reread(tmp_path) == [b"after"]


def test_unsynced_records_after_a_hole_are_not_believed(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    log.append(1, [b"synced"])
    log.sync()
    log.append(1, [b"in the hole" * 20])
    log.append(1, [b"speaks of it"])
    path = newest(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"in the hole" * 20, b"\0" * 220))
    log, found = opened(tmp_path)
    assert payloads(found) == [b"synced"]
    log.close()


def test_what_a_killed_process_left_unsynced_is_synced_before_it_is_built_upon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 3, sync=False)
    path = newest(tmp_path)
    seen: list[str] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (seen.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    log = Log(tmp_path, lambda: b"head")
    assert len(list(log.recover())) == 5
    log.begin()
    assert str(path) in seen


def test_new_directories_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(os.readlink(f"/proc/self/fd/{fd}")), real(fd))[1])
    log, _ = opened(tmp_path / "data" / "journal")
    log.sync()
    assert {str(tmp_path), str(tmp_path / "data"), str(tmp_path / "data" / "journal")} <= set(seen)


def fill(log: Log, payload: bytes) -> list[int]:
    """Append until the disk is full; returns the numbers."""
    written = []
    with pytest.raises(StoreFullError, match="disk is full"):
        while True:
            written.append(log.append(1, [payload]))
    return written


def test_a_full_disk_leaves_the_log_as_it_was(small_disk: Path) -> None:
    other = small_disk / "other"
    other.write_bytes(b"x" * 300_000)
    log, _ = opened(small_disk / "log")
    written = fill(log, b"y" * 10_000)
    log.sync()
    for _ in range(3):
        with pytest.raises(StoreFullError):
            log.append(1, [b"y" * 10_000])
    other.unlink()
    assert log.append(1, [b"after"]) == written[-1] + 1
    found = [r for r in log.read(log.cursor(1)) if r.kind == 1]
    assert [r.number for r in found] == [*written, written[-1] + 1]
    assert bytes(found[-1].payload) == b"after"
    log.close()
    assert reread(small_disk / "log")[-1] == b"after"


def test_urgent_records_find_room_on_a_full_disk(small_disk: Path) -> None:
    log, _ = opened(small_disk, segment_bytes=200_000)
    written = fill(log, b"y" * 10_000)
    with pytest.raises(StoreFullError):
        log.append(1, [b"y" * 5000])
    assert log.append(2, [b"z" * 5000], urgent=True) == written[-1] + 1
    log.roll()
    log.sync()
    log.sync()
    while log.drop(log.segments()[0]):
        pass
    assert log.append(1, [b"y" * 10_000])
    assert (small_disk / "reserve").stat().st_size == log_module.RESERVE, "set aside again"
    log.close()


def test_a_store_starts_on_a_full_disk(small_disk: Path) -> None:
    log, _ = opened(small_disk)
    fill(log, b"y" * 10_000)
    log.sync()
    with pytest.raises(OSError, match="space"), (small_disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(b"z" * 100)
    log, found = opened(small_disk)
    assert payloads(found)
    log.sync()


def test_a_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        written = fill(log, b"y" * 7000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert log.append(1, [b"after"]) == written[-1] + 1
    log.close()
    assert len(reread(tmp_path)) == len(written) + 1


def test_a_failed_sync_is_never_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second fsync after a failure says that all is well, though the pages are gone."""
    log, _ = opened(tmp_path)
    log.append(1, [b"one"])

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", refuse)
        with pytest.raises(StoreError, match="fsync failed"):
            log.sync()
    with pytest.raises(StoreError, match="fsync failed"):
        log.sync()


def test_a_flusher_tells_everyone_that_waits_of_a_failed_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, _ = opened(tmp_path)
    flusher = Flusher([log], 10.0, "test").start()

    def refuse(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuse)
    number = log.append(1, [b"one"])
    for _ in range(2):
        with pytest.raises(StoreError, match="fsync failed"):
            flusher.wait(log, number)


def test_waiting_for_a_closed_flusher_is_an_error_and_no_hang(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    flusher = Flusher([log], 10.0, "test").start()
    flusher.close()
    with pytest.raises(StoreError, match="closed"):
        flusher.wait(log, log.append(1, [b"one"]))


def test_a_flusher_makes_everything_durable_by_itself(tmp_path: Path) -> None:
    log, _ = opened(tmp_path)
    flusher = Flusher([log], 0.01, "test").start()
    number = log.append(1, [b"one"])
    until(lambda: flusher.durable(log) >= number)
    flusher.close()


def test_reading_goes_on_while_another_thread_appends_and_rolls(tmp_path: Path) -> None:
    log, _ = opened(tmp_path, segment_bytes=5000)
    count = 3000

    def append() -> None:
        for i in range(count):
            log.segment()
            log.append(1, [f"{i}".encode() * 10])
            if i % 100 == 0:
                log.sync()

    thread = threading.Thread(target=append)
    thread.start()
    cursor, found = log.cursor(1), []
    while thread.is_alive() or len(found) < count:
        found += [bytes(r.payload) for r in log.read(cursor) if r.kind == 1]
        if not thread.is_alive():
            found += [bytes(r.payload) for r in log.read(cursor) if r.kind == 1]
            break
    thread.join()
    assert found == [f"{i}".encode() * 10 for i in range(count)]
    assert len(log.segments()) > 10


def test_a_cursor_stops_before_the_first_record_that_is_not_wanted(tmp_path: Path) -> None:
    log, _ = opened(tmp_path, segment_bytes=100)
    numbers = []
    for i in range(10):
        log.segment()
        numbers.append(log.append(1, [b"x" * 50 + bytes([i])]))
    cursor = log.cursor(numbers[0])
    assert [r.number for r in log.read(cursor, numbers[3]) if r.kind == 1] == numbers[:4]
    assert [r.number for r in log.read(cursor, numbers[3]) if r.kind == 1] == []
    assert [r.number for r in log.read(cursor, numbers[6]) if r.kind == 1] == numbers[4:7]
    assert [r.number for r in log.read(cursor) if r.kind == 1] == numbers[7:]


def test_the_oldest_segments_go_but_never_the_newest(tmp_path: Path) -> None:
    log, _ = opened(tmp_path, segment_bytes=100)
    for _ in range(5):
        log.segment()
        log.append(1, [b"x" * 100])
    assert not log.drop(log.segments()[0]), "the newest does not say yet that what is before it was durable"
    log.sync()
    assert not log.drop(log.segments()[0]), "it says so, but not durably"
    log.sync()
    with log.held():
        assert not log.drop(log.segments()[0]), "somebody reads"
    before = log.segments()
    assert log.drop(log.segments()[0])
    assert log.segments() == before[1:]
    while log.drop(log.segments()[0]):
        pass
    assert log.segments() == before[-1:]
    assert len(list(tmp_path.glob("*.log"))) == 1


def test_numbers_go_on_after_everything_was_dropped(tmp_path: Path) -> None:
    last = 0
    for _ in range(4):
        log, _ = opened(tmp_path, segment_bytes=100)
        number = log.append(1, [b"x"])
        assert number > last
        last = number
        log.sync()
        while log.drop(log.segments()[0]):
            pass
        assert len(log.segments()) == 1
        log.close()


def test_numbers_can_be_skipped(tmp_path: Path) -> None:
    said = filled(tmp_path, 3)
    log, _ = opened(tmp_path)
    log.append(1, [b"before"])
    log.skip(1000)
    assert log.append(1, [b"behind"]) == 1002
    log.skip(500)
    assert log.append(1, [b"more"]) == 1003
    log, found = opened(tmp_path)
    assert payloads(found) == [b"behind", b"more"]
    assert log.damaged == 0
    assert [bytes(r.payload) for r in log.read(log.cursor(1)) if r.kind == 1] == [*said, b"before", b"behind", b"more"]


def test_a_foreign_file_in_the_directory_is_left_alone(tmp_path: Path) -> None:
    said = filled(tmp_path, 3)
    segment = newest(tmp_path)
    (tmp_path / "notes.log").write_text("mine")
    shutil.copy(segment, tmp_path / f"{segment.stem} (copy).log")
    shutil.copy(segment, tmp_path / "00000000000000000900-00000001.log")  # under another name it holds nothing
    log, found = opened(tmp_path)
    assert payloads(found) == said
    assert log.segments()[-1] > 900
    assert (tmp_path / "notes.log").read_text() == "mine"


def test_a_second_process_is_refused_and_told_who_holds_the_directory(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "data")
    code = (
        "import sys; from pathlib import Path; from delivery.disk import DirectoryLock, StoreError\n"
        "try: DirectoryLock(Path(sys.argv[1]))\n"
        "except StoreError as error: print(error)\n"
        "else: print('got it')"
    )
    run = [os.sys.executable, "-c", code, str(tmp_path / "data")]
    refused = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert f"belongs to process {os.getpid()}" in refused
    lock.release()
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "got it\n"


def test_removed_segments_that_come_back_one_by_one_hide_nothing(tmp_path: Path) -> None:
    """A power cut may bring back the first of two removed segments and not the second."""
    log, _ = opened(tmp_path, segment_bytes=200)
    for i in range(3):
        log.append(1, [f"record {i} ".encode() * 20])
        log.sync()
        log.segment()
    first = min(tmp_path.glob("*.log"))
    data = first.read_bytes()
    log.append(1, [b"kept"])
    while len(log.segments()) > 1:
        log.sync()
        log.drop(log.segments()[0])
    first.write_bytes(data)
    log, found = opened(tmp_path)
    assert payloads(found) == [b"kept"]
    assert log.damaged == 0


def test_a_block_that_the_disk_cannot_read_loses_only_the_records_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = filled(tmp_path, 200, size=100)
    real = os.pread

    def bad(fd: int, count: int, position: int) -> bytes:
        if position < 8192 + 4096 and position + count > 8192:
            raise OSError(5, "Input/output error")
        return real(fd, count, position)

    monkeypatch.setattr(os, "pread", bad)
    log, found = opened(tmp_path)
    kept = payloads(found)
    assert kept == [payload for payload in said if payload in kept]
    assert len(said) - 4096 // 130 - 2 <= len(kept) < len(said)
    assert log.damaged == 1


def test_a_damaged_file_is_kept_aside_and_the_log_goes_on(tmp_path: Path) -> None:
    said = filled(tmp_path, 50, size=100)
    path = newest(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b"record 20 ")] ^= 4
    path.write_bytes(data)
    log, found = opened(tmp_path)
    assert payloads(found) == [payload for payload in said if not payload.startswith(b"record 20 ")]
    assert log.damaged == 1
    (kept,) = (tmp_path / QUARANTINE).iterdir()
    assert kept.read_bytes() == bytes(data)
    while len(log.segments()) > 1:
        log.sync()
        log.drop(log.segments()[0])
    assert kept.read_bytes() == bytes(data), "and still there when the log has let go of it"
    log.close()


def test_damage_found_while_reading_is_counted_and_kept_aside(tmp_path: Path) -> None:
    filled(tmp_path, 50, size=100)
    path = newest(tmp_path)
    log, _ = opened(tmp_path)
    data = bytearray(path.read_bytes())
    data[data.index(b"record 20 ")] ^= 4
    path.write_bytes(data)
    for _ in range(2):
        assert len([r for r in log.read(log.cursor(1)) if r.kind == 1]) == 49
    assert log.damaged == 1
    assert [kept.name for kept in (tmp_path / QUARANTINE).iterdir()] == [path.name]
    log.close()


def test_only_some_damaged_files_are_kept_aside(tmp_path: Path) -> None:
    log, _ = opened(tmp_path, segment_bytes=300)
    for i in range(20):
        log.append(1, [f"record {i} ".encode() * 10])
        log.append(1, [b"after"])
        log.sync()
        log.segment()
    log.close()
    for path in sorted(tmp_path.glob("*.log")):
        data = path.read_bytes()
        if b"record" in data:
            path.write_bytes(data.replace(b"record", b"recorD", 1))
    log, _ = opened(tmp_path)
    list(log.read(log.cursor(1)))
    assert log.damaged > 8
    assert len(list((tmp_path / QUARANTINE).iterdir())) == 8
    log.close()
