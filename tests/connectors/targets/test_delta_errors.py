"""The Delta target in an object store, and where its library's errors have their place."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import SchemaMismatchError

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    Context,
    DeliveryError,
    TransientError,
    Writer,
)
from connectors.targets.delta import DeltaConfig, DeltaWriter
from connectors.targets.delta_errors import delivery_error, of_the_library
from tests.connectors.targets.s3_store import S3Store, s3_store
from tests.contract.readings import Source


@pytest.fixture
def store() -> Iterator[S3Store]:
    with s3_store() as running:
        yield running


def in_store(store: S3Store) -> DeltaConfig:
    settings = {"endpoint": "s3://bucket/plant", "storage_options": store.options, "timeout": "1s"}
    return DeltaConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, AuthError),
        (403, AuthError),
        (404, ConfigError),
        (429, CapacityError),
        (500, TransientError),
        (503, TransientError),
        (507, CapacityError),
    ],
)
async def test_answers_of_an_object_store_become_the_errors_of_the_contract(
    store: S3Store, tmp_path: Path, status: int, expected: type[DeliveryError]
) -> None:
    store.refuse = status
    writer = in_store(store).writer(Context("g", tmp_path))
    with pytest.raises(DeliveryError) as error:
        await writer.open()
    await writer.close()
    assert type(error.value) is expected
    assert "s3://bucket/plant" in str(error.value)
    assert "secret-canary" not in str(error.value)


async def test_an_object_store_that_cannot_be_reached_is_a_transient_error(store: S3Store, tmp_path: Path) -> None:
    store.socket.close()
    writer = in_store(store).writer(Context("g", tmp_path))
    with pytest.raises(TransientError):
        await writer.open()
    assert isinstance(writer, DeltaWriter)
    [finding] = await writer.check()
    assert not finding.ok
    await writer.close()


async def nine_commits(store: S3Store, directory: Path) -> Writer:
    """A writer that merges after each four commits, and has made nine."""
    config = in_store(store).model_copy(update={"compact_every": 4, "timeout": 5.0})
    writer, source = config.writer(Context("g", directory)), Source()
    await writer.open()
    for unit in range(1, 10):
        await writer.write(source.batch([float(unit)]), unit)
    return writer


def assert_nine(found: DeltaTable) -> None:
    values = pa.RecordBatchReader.from_stream(found.scan()).read_all()["value"].to_pylist()
    assert sorted(values) == [float(unit) for unit in range(1, 10)]


async def test_small_files_are_merged_and_the_log_is_shortened_in_an_object_store_too(
    store: S3Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.late = 3 * 3600  # the log may go, which is kept for an hour, and no file, which are kept for a day
    writer = await nine_commits(store, tmp_path)
    async with asyncio.timeout(10):
        while f"bucket/plant/readings/_delta_log/{0:020}.json" in store.objects:
            await asyncio.sleep(0.02)
    await writer.close()
    assert caplog.text == ""
    found = DeltaTable("s3://bucket/plant/readings", storage_options=store.options)
    assert len(found.file_uris()) < 9
    assert_nine(found)


async def test_a_store_whose_clock_is_days_behind_makes_nothing_be_deleted(
    store: S3Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is being written would look as if it had been left behind long ago."""
    store.late = 3 * 86_400
    writer = await nine_commits(store, tmp_path)
    async with asyncio.timeout(10):
        while "until the clocks of this machine and of the store agree" not in caplog.text:
            await asyncio.sleep(0.02)
    await writer.close()
    found = DeltaTable("s3://bucket/plant/readings", storage_options=store.options)
    assert_nine(found)
    assert sum(name.endswith(".parquet") and "_delta_log" not in name for name in store.objects) > 9, "the merged too"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Unable to copy data to file: No space left on device (os error 28)", CapacityError),
        ("Unable to open file: Permission denied (os error 13)", AuthError),
        ("Unknown scheme: foo. Known schemes: s3", ConfigError),
        ("Could not create local directory: /a/t Error: Os { code: 20, kind: NotADirectory }", ConfigError),
        ("Failed to parse parquet: Unable to copy data to file: File too large (os error 27)", CapacityError),
        ("Kernel error: Unsupported: Feature 'weirdFeature' is not supported", ConfigError),
        ("Invalid data found: 1 rows failed validation check. Preview of invalid data: 4711", ConfigError),
        ("Cast error: Can't cast value 1099511627776 to type Int32", ConfigError),
        ("Failed to commit transaction: Concurrent transaction failed.", TransientError),
        ("something that nobody has seen before", TransientError),
    ],
)
def test_words_of_the_library_become_the_errors_of_the_contract(text: str, expected: type[DeliveryError]) -> None:
    error = delivery_error(OSError(text), "here")
    assert type(error) is expected
    assert "4711" not in str(error)  # readings are not for a log


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Exception("External error: what the library has no class for"), True),
        (SchemaMismatchError("x"), True),
        (OSError("x"), True),
        (NotImplementedError("x"), True),
        (AttributeError("a mistake of ours"), False),
    ],
)
def test_errors_of_the_library_are_told_from_mistakes_of_ours(error: Exception, *, expected: bool) -> None:
    assert of_the_library(error) is expected
