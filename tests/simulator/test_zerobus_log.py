"""The durable log, and Delta tables that are filled from it exactly once."""

import asyncio
import json

import pytest
from deltalake import DeltaTable

from simulator.zerobus import schema, tables, wire
from simulator.zerobus.log import CommitLog, Declaration, LogReader
from simulator.zerobus.tables import Catalog, TableExistsError, TableWriter, UnknownTableError

DECLARATION = Declaration("a.b.c", "id", "json", b"\x01")
NAME = "main.plant.readings"
SCHEMA = schema.from_declaration([{"name": "sequence", "type": "bigint"}])


class Writing:
    """A log with its commit loop running, as an async context manager."""

    def __init__(self, directory, **options):
        self.log = CommitLog(directory, linger=0, **options)

    async def __aenter__(self):
        self.task = asyncio.create_task(self.log.run())
        await asyncio.sleep(0)  # a task that has not begun would be cancelled without a word
        return self.log

    async def __aexit__(self, *_exc):
        self.task.cancel()
        await asyncio.wait({self.task})


def entries(log: CommitLog) -> list[tuple[int, bytes]]:
    return [(entry.lsn, entry.payload) for entry in LogReader(log).read(log.durable, 1 << 30)]


def stream_of(log, declaration=DECLARATION):
    return log.stream(declaration, lambda: None)


async def test_entries_are_read_back_also_by_the_next_process(tmp_path):
    async with Writing(tmp_path) as log:
        first, second = stream_of(log), stream_of(log)
        numbers = [log.append(first, b"a"), log.append(second, b""), log.append(first, bytes(100_000))]
        await log.settled(numbers[-1])
        assert numbers == [1, 2, 3]
        assert entries(log) == [(1, b"a"), (2, b""), (3, bytes(100_000))]
        assert next(LogReader(log).read(3, 1000)).declaration == DECLARATION
    async with Writing(tmp_path) as log:
        assert log.durable == 3
        assert log.append(stream_of(log), b"later") == 4
        await log.settled(4)
        assert [payload for _, payload in entries(log)] == [b"a", b"", bytes(100_000), b"later"]


async def test_a_torn_end_is_left_out_and_its_numbers_are_given_again(tmp_path):
    async with Writing(tmp_path) as log:
        stream = stream_of(log)
        for payload in (b"one", b"two"):
            await log.settled(log.append(stream, payload))
    (segment,) = tmp_path.glob("*.log")
    whole = segment.read_bytes()
    for cut in range(1, len(b"two") + 20, 5):
        segment.write_bytes(whole[:-cut])
        async with Writing(tmp_path) as log:
            assert entries(log) == [(1, b"one")]
            assert log.append(stream_of(log), b"new") == 2
            await log.settled(2)
            assert entries(log) == [(1, b"one"), (2, b"new")]
        for path in log.segments()[1:]:
            path.unlink()
    segment.write_bytes(whole[:-1] + b"X")
    async with Writing(tmp_path) as log:
        assert entries(log) == [(1, b"one")]


async def test_a_group_that_cannot_be_written_is_never_read_and_ends_its_streams(tmp_path):
    async with Writing(tmp_path) as log:
        stream, other = stream_of(log), stream_of(log)
        await log.settled(log.append(stream, b"one"))

        def full() -> None:
            raise OSError(28, "No space left on device")

        log.before_write = full
        await log.settled(log.append(stream, b"lost"))
        assert "No space left" in str(stream.failure)
        log.before_write = lambda: None
        log.append(stream, b"after a lost one")
        await log.settled(log.append(other, b"two"))
        assert other.failure is None
        assert [payload for _, payload in entries(log)] == [b"one", b"two"]


async def test_segments_are_trimmed_and_numbers_go_on(tmp_path):
    async with Writing(tmp_path, segment_bytes=1000) as log:
        stream = stream_of(log)
        reader = LogReader(log)
        seen = []
        for number in range(20):
            await log.settled(log.append(stream, bytes([number]) * 600))
            seen += [entry.lsn for entry in reader.read(log.durable, 1 << 20)]
        assert seen == list(range(1, 21))
        assert len(log.segments()) > 5
        log.trim(10)
        assert min(lsn for lsn, _ in entries(log)) <= 11
        log.trim(20)
        assert len(log.segments()) == 1
    async with Writing(tmp_path) as log:
        assert log.append(stream_of(log), b"") == 21


async def test_a_reader_goes_on_when_the_segment_it_has_finished_is_removed(tmp_path):
    async with Writing(tmp_path, segment_bytes=10) as log:
        stream, reader = stream_of(log), LogReader(log)
        await log.settled(log.append(stream, b"first segment"))
        assert [entry.lsn for entry in reader.read(1, 1 << 20)] == [1]
        await log.settled(log.append(stream, b"second segment"))
        assert log.trim(1) == 1
        assert [entry.payload for entry in reader.read(log.durable, 1 << 20)] == [b"second segment"]


async def test_what_is_queued_when_the_log_ends_is_written(tmp_path):
    async with Writing(tmp_path) as log:
        log.append(stream_of(log), b"last")
    async with Writing(tmp_path) as log:
        assert entries(log) == [(1, b"last")]


async def test_senders_wait_while_too_much_is_queued(tmp_path):
    async with Writing(tmp_path, max_pending=100) as log:
        stream = stream_of(log)
        log.append(stream, bytes(1000))
        await log.room()
        assert log.durable == 1


# ---- tables


def request(*sequences: int) -> bytes:
    records = [json.dumps({"sequence": n}).encode() for n in sequences]
    batch = {"offset_id": 0, "json_batch": {"records": records}}
    return wire.EphemeralStreamRequest(ingest_record_batch=batch).SerializeToString()


def rows(table) -> list[int]:
    return sorted(DeltaTable(table.path).to_pyarrow_table()["sequence"].to_pylist())


def writer_of(catalog, log) -> tuple[TableWriter, list[str]]:
    reports: list[str] = []
    return TableWriter(catalog, log, 60, reports.append), reports


async def logged(log, table, *requests: bytes) -> None:
    stream = log.stream(Declaration(table.name, table.table_id, "json", b""), lambda: None)
    lsn = 0
    for payload in requests:
        lsn = log.append(stream, payload)
    await log.settled(lsn)


async def test_the_log_reaches_the_table_once_however_often_it_is_read(tmp_path):
    async with Writing(tmp_path / "log") as log:
        catalog = Catalog(tmp_path / "tables", log.identity)
        table = catalog.create(NAME, SCHEMA)
        await logged(log, table, request(1, 2), request(3))
        writer_of(catalog, log)[0]._step()
        await logged(log, table, request(4))
        # another process, that knows nothing but the disk
        again = Catalog(tmp_path / "tables", log.identity)
        for _ in range(2):
            writer_of(again, log)[0]._step()
        assert rows(table) == [1, 2, 3, 4]


async def test_a_commit_that_was_made_but_reported_as_failed_is_not_repeated(tmp_path, monkeypatch):
    async with Writing(tmp_path / "log") as log:
        catalog = Catalog(tmp_path / "tables", log.identity)
        table = catalog.create(NAME, SCHEMA)
        writer, reports = writer_of(catalog, log)
        await logged(log, table, request(1, 2))
        write = tables.write_deltalake

        def committed_then_failed(*arguments, **options):
            write(*arguments, **options)
            raise OSError("checkpoint failed")

        monkeypatch.setattr(tables, "write_deltalake", committed_then_failed)
        writer._step()
        monkeypatch.setattr(tables, "write_deltalake", write)
        assert "checkpoint failed" in reports[0]
        assert "checkpoint failed" in table.error
        await logged(log, table, request(3))
        writer._step()
        assert rows(table) == [1, 2, 3]
        assert table.error == ""


async def test_one_table_that_cannot_be_written_does_not_hold_up_another(tmp_path):
    async with Writing(tmp_path / "log", segment_bytes=100) as log:
        catalog = Catalog(tmp_path / "tables", log.identity)
        broken = catalog.create("main.plant.broken", SCHEMA)
        sound = catalog.create(NAME, SCHEMA)
        writer, reports = writer_of(catalog, log)
        await logged(log, broken, request(1))
        log_directory = broken.path / "_delta_log"
        log_directory.rename(broken.path / "away")
        broken.path.chmod(0o500)
        await logged(log, sound, request(2))
        try:
            broken.error = "before"  # makes the writer look at the table again
            writer._step()
        finally:
            broken.path.chmod(0o700)
            (broken.path / "away").rename(log_directory)
        assert reports
        assert rows(sound) == [2]
        for number in range(3, 6):
            await logged(log, sound, request(number))
            writer._step()
        assert rows(broken) == [1]
        assert rows(sound) == [2, 3, 4, 5]
        assert len(log.segments()) <= 2


async def test_a_table_that_was_dropped_and_made_again_does_not_get_the_old_rows(tmp_path):
    async with Writing(tmp_path / "log") as log:
        catalog = Catalog(tmp_path / "tables", log.identity)
        old = catalog.create(NAME, SCHEMA)
        await logged(log, old, request(1))
        with pytest.raises(TableExistsError):
            catalog.create(NAME, SCHEMA)
        catalog.drop(NAME)
        with pytest.raises(UnknownTableError):
            catalog.drop(NAME)
        new = catalog.create(NAME, SCHEMA)
        await logged(log, new, request(2))
        writer_of(catalog, log)[0]._step()
        assert rows(new) == [2]


async def test_small_commits_are_compacted_and_old_segments_removed(tmp_path):
    async with Writing(tmp_path / "log", segment_bytes=100) as log:
        catalog = Catalog(tmp_path / "tables", log.identity)
        table = catalog.create(NAME, SCHEMA)
        writer, _ = writer_of(catalog, log)
        for number in range(tables._COMPACT_AFTER + 1):
            await logged(log, table, request(number))
            writer._step()
        assert table.compactions == 1
        assert len(DeltaTable(table.path).file_uris()) < 5
        assert rows(table) == list(range(tables._COMPACT_AFTER + 1))
        assert len(log.segments()) <= 2


async def test_drain_waits_for_the_table(tmp_path):
    async with Writing(tmp_path / "log") as log:
        catalog = Catalog(tmp_path / "tables", log.identity)
        table = catalog.create(NAME, SCHEMA)
        writer, _ = writer_of(catalog, log)
        await logged(log, table, request(1))
        assert not await asyncio.to_thread(writer.drain, 1, 0.05)
        writer.start()
        assert await asyncio.to_thread(writer.drain, 1, 10)
        assert rows(table) == [1]
        await logged(log, table, request(2))
        await asyncio.to_thread(writer.stop)
        assert rows(table) == [1, 2]
