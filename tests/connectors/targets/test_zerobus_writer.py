"""The writer with the official SDK against the ZeroBus emulator, a process of its own with real Delta tables."""

import asyncio
import contextlib
import itertools
import json
import math
import os
import struct
import subprocess
import sys
import time
from typing import Any

import pyarrow as pa
import pytest

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    RejectedRecords,
    TransientError,
)
from connectors.targets.zerobus.encode import MAX_BYTES, MAX_RECORDS
from normalization.reading import Columns, Tag, TagTable, numbers, repeat, table, view
from tests.connectors.targets.zerobus_emulator import (
    CLIENT,
    FORMATS,
    ROOT,
    SECRET,
    UNHEARD,
    Emulator,
    names,
    no_proxy,
    until,
    writer,
)

TAGS = TagTable()
VALUES = [
    0.0,
    -0.0,
    1.5,
    math.nan,
    math.inf,
    -math.inf,
    5e-324,
    1.7976931348623157e308,
    0,
    -1,
    2**63 - 1,
    -(2**63),
    2**63,
    2**64 - 1,
    True,
    False,
    None,
    "",
    "text",
    "grün ✓ \x00 \n",
    b"",
    bytes(range(256)),
    [1, 2.5, None, math.nan],
    {"a": [1, {"b": "c"}]},
]


def batch(values: list[Any], first: int = 0, *, tags: int = 3, **options: Any) -> pa.RecordBatch:
    columns = Columns()
    for i, value in enumerate(values):
        tag = TAGS.intern(Tag("press", "opcua", "plc", f"ns=2;i={i % tags}", f"tag {i % tags}", "°C", path="a/b/c"))
        columns.add(
            tag,
            value,
            quality=i % 5,
            status=None if i % 3 else i * 1000,
            source_time=None if i % 4 == 3 else 1_760_000_000_000_000 + i * 86_400_000_000 // 4,
            flags=i % 32,
            properties=None if i % 2 else '{"n":1}',
            **options,
        )
    facts = columns.to_batch([1_760_000_000_123_456] * len(values), first).columns
    n = len(values)
    return view(
        facts,
        repeat("gateway", n),
        repeat("opcua-0-1", n),
        TAGS,
        numbers(facts[1], facts[2], facts[3]),
        pa.array([i % 4 for i in range(n)], pa.int32()),
    )


def comparable(rows: pa.Table | pa.RecordBatch) -> list[dict[str, Any]]:
    """The rows by sequence; floats by their bits, so that NaN equals NaN and -0.0 is not 0.0."""
    found = [
        {k: struct.pack("<d", v) if isinstance(v, float) else v for k, v in row.items()} for row in rows.to_pylist()
    ]
    return sorted(found, key=lambda row: row["sequence"])


def sequences(rows: pa.Table) -> list[int]:
    return sorted(rows.column("sequence").to_pylist())


@pytest.mark.parametrize("record_format", FORMATS)
async def test_every_type_of_value_is_in_the_delta_table_as_it_was_read(emulator, record_format):
    name = emulator.create()
    target = writer(emulator, name, record_format)
    sent = batch(VALUES)
    await target.open()
    await target.write(sent, 1)
    await target.write(sent.slice(0, 0), 2)  # nothing to send is nothing wrong
    await target.close()
    assert comparable(emulator.rows(name)) == comparable(table(sent))


def test_the_sdk_writes_nothing_to_the_screen(emulator):
    # A process of its own: the SDK's log is set up once, when it is first imported.
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from connectors.contract import Context\n"
        "from connectors.targets.zerobus import ZeroBusConfig\n"
        "async def main():\n"
        "    target = ZeroBusConfig.model_validate_json(sys.argv[1]).writer(Context('g', Path()))\n"
        "    await target.open()\n"
        "    await target.close()\n"
        "asyncio.run(main())\n"
    )
    own = {
        "table": emulator.create(),
        "workspace_url": emulator.url,
        "client_id": CLIENT,
        "client_secret": SECRET,
    }
    config = json.dumps({"endpoint": emulator.endpoint, "provider_config": own})
    environment = {key: value for key, value in os.environ.items() if key != "RUST_LOG"}
    command = [sys.executable, "-c", code, config]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("record_format", FORMATS)
async def test_several_writes_under_way_are_each_durable_once(emulator, record_format):
    name = emulator.create()
    target = writer(emulator, name, record_format)
    await target.open()
    assert target.limits.writes_in_flight == 4
    units = iter(range(24))

    async def forward() -> None:
        for unit in units:
            await target.write(batch([1.5] * 200, unit * 200), unit)

    await asyncio.gather(*(forward() for _ in range(4)))
    await target.close()
    assert sequences(emulator.rows(name)) == list(range(24 * 200))


@pytest.mark.parametrize("record_format", FORMATS)
async def test_rotation_of_the_stream_is_no_failure_and_loses_nothing(emulator, record_format):
    name = emulator.create()
    emulator.faults(rotate_after_requests=5, rotate_grace_ms=50)
    target = writer(emulator, name, record_format)
    await target.open()
    created = emulator.call("GET", "/admin/counters")["streams_created"]
    units, written = itertools.count(), set()

    async def forward() -> None:
        async with asyncio.timeout(30):
            while emulator.call("GET", "/admin/counters")["streams_created"] < created + 4:
                unit = next(units)
                await target.write(batch([1.5] * 10, unit * 10), unit)
                written.update(range(unit * 10, unit * 10 + 10))

    await asyncio.gather(*(forward() for _ in range(4)))
    await target.close()
    assert set(sequences(emulator.rows(name))) == written


@pytest.mark.parametrize("record_format", FORMATS)
async def test_a_stream_that_ended_while_nothing_was_sent_is_opened_again_by_the_write(emulator, record_format):
    name = emulator.create()
    target = writer(emulator, name, record_format)
    await target.open()
    await target.write(batch([1.5]), 1)
    assert emulator.call("POST", "/admin/streams/abort", {"table": name})["streams"] == 1
    await until(lambda: emulator.call("GET", "/admin/counters")["streams_open"] == 0)
    with contextlib.suppress(TransientError):  # the abort may arrive only after the write has begun
        await target.write(batch([2.5], 1), 2)
    await target.write(batch([3.5], 2), 3)
    await target.close()
    assert {0, 2} <= set(sequences(emulator.rows(name)))


@pytest.mark.parametrize("record_format", FORMATS)
async def test_an_altered_table_is_picked_up_when_the_stream_is_opened_again(emulator, record_format):
    name = emulator.create(drop=("unit", "properties"), add=({"name": "remark", "type_text": "string"},))
    target = writer(emulator, name, record_format, schema_evolution="leave_out")
    await target.open()
    await target.write(batch([1.5]), 1)
    emulator.call("PATCH", f"/tables/{name}", {"add": [{"name": "unit", "type_text": "string"}], "drop": ["status"]})
    with pytest.raises(ConfigError, match="status"):  # `status` is not a column any more; nothing is dropped
        await target.write(batch([2.5], 1), 2)
    await target.open()
    await target.write(batch([2.5], 1), 2)
    await target.close()
    rows = comparable(emulator.rows(name))
    assert [(row["sequence"], row["unit"], row["remark"]) for row in rows] == [(0, None, None), (1, "°C", None)]
    assert "status" not in rows[0]


@pytest.mark.parametrize("record_format", FORMATS)
async def test_a_used_up_quota_is_a_matter_of_capacity(emulator, record_format):
    name = emulator.create()
    target = writer(emulator, name, record_format)
    await target.open()
    emulator.faults(quota_rows_per_s=50)
    with pytest.raises(CapacityError, match="records/s"):
        await target.write(batch([1.5] * 100), 1)
    emulator.faults(quota_rows_per_s=None)
    await target.write(batch([1.5] * 100), 1)
    await target.close()
    assert sequences(emulator.rows(name)) == list(range(100))


@pytest.mark.parametrize("record_format", FORMATS)
async def test_a_revoked_grant_stops_its_table_only(emulator, record_format):
    names = [emulator.create(), emulator.create()]
    revoked, other = (writer(emulator, name, record_format) for name in names)
    await asyncio.gather(revoked.open(), other.open())
    emulator.grant("revoke", names[0])
    with pytest.raises(AuthError, match="lacks MODIFY"):
        await revoked.write(batch([1.5]), 1)
    with pytest.raises(AuthError):
        await revoked.open()
    await other.write(batch([1.5]), 1)
    emulator.grant("restore", names[0])
    await revoked.write(batch([1.5]), 1)
    await asyncio.gather(revoked.close(), other.close())
    assert [sequences(emulator.rows(name)) for name in names] == [[0], [0]]


async def test_a_table_that_is_not_there_is_a_matter_of_configuration(emulator):
    with pytest.raises(ConfigError, match=r"main\.plant\.nowhere.*does not exist"):
        await writer(emulator, "main.plant.nowhere").open()


async def test_a_wrong_secret_is_a_matter_of_credentials(emulator):
    with pytest.raises(AuthError, match="invalid_client"):
        await writer(emulator, emulator.create(), client_secret="wrong").open()


async def test_missing_settings_are_all_named_before_anything_is_sent(emulator):
    target = writer(emulator, "a.b.c", client_id=None, client_secret=None)
    with pytest.raises(ConfigError, match="client_id, client_secret"):
        await target.open()


@pytest.mark.parametrize("record_format", FORMATS)
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("INVALID_ARGUMENT", ConfigError),
        ("NOT_FOUND", ConfigError),
        ("UNIMPLEMENTED", ConfigError),
        ("OUT_OF_RANGE", ConfigError),
        ("UNAUTHENTICATED", AuthError),
        ("PERMISSION_DENIED", AuthError),
        ("RESOURCE_EXHAUSTED", CapacityError),
        ("UNAVAILABLE", TransientError),
        ("INTERNAL", TransientError),
        ("ABORTED", TransientError),
        ("FAILED_PRECONDITION", TransientError),
        ("DEADLINE_EXCEEDED", TransientError),
        ("UNKNOWN", TransientError),
    ],
)
async def test_the_sdk_tells_each_status_and_tries_once_only(emulator, record_format, status, expected):
    target = writer(emulator, emulator.create(), record_format)
    error: BaseException | None = None
    # who is not known is asked for a new token, once
    statuses = [status] * 2 if status == "UNAUTHENTICATED" else [status]
    while error is None or UNHEARD in str(error):
        emulator.faults(fail_create=statuses)
        (error,) = await asyncio.gather(target.open(), return_exceptions=True)
    assert type(error) is expected
    await target.open()  # had the SDK tried again by itself, this would not be the second attempt
    await target.close()


@pytest.mark.parametrize("record_format", FORMATS)
@pytest.mark.parametrize("end", ["expired", "revoked"])
async def test_a_token_that_is_no_longer_good_is_replaced_within_the_write(emulator, record_format, end):
    emulator.faults(token_ttl_s=1 if end == "expired" else 3600)
    name = emulator.create()
    target = writer(emulator, name, record_format)
    await target.open()
    minted = time.monotonic()
    await target.write(batch([1.5]), 1)
    if end == "revoked":
        emulator.call("POST", "/admin/tokens/revoke")
    await until(lambda: end == "revoked" or time.monotonic() - minted > 1.1)
    await target.write(batch([2.5], 1), 2)  # an open stream outlives its token
    emulator.call("POST", "/admin/streams/rotate", {"table": name, "grace_ms": 0})
    await until(lambda: emulator.call("GET", "/admin/counters")["streams_open"] == 0)
    with contextlib.suppress(TransientError):  # the SDK did not hear why it was refused
        await target.write(batch([3.5], 2), 3)
    await target.write(batch([4.5], 3), 4)
    await target.close()
    assert {0, 1, 3} <= set(sequences(emulator.rows(name)))


@pytest.mark.parametrize("record_format", FORMATS)
async def test_closing_does_not_wait_for_a_service_that_does_not_acknowledge_and_loses_nothing(
    emulator, record_format, monkeypatch
):
    monkeypatch.setattr("connectors.targets.zerobus.writer._CLOSING", 0.3)
    name = emulator.create()
    target = writer(emulator, name, record_format)
    await target.open()
    emulator.faults(drop_acks=True)
    under_way = asyncio.create_task(target.write(batch([1.5] * 10), 1))
    await until(lambda: emulator.call("GET", "/admin/counters").get(f"rows:{name}") == 10)
    begun = time.monotonic()
    await target.close()
    assert time.monotonic() - begun < 3
    under_way.cancel()
    await asyncio.gather(under_way, return_exceptions=True)
    emulator.faults(drop_acks=False)
    await target.open()
    await target.write(batch([1.5] * 10), 1)
    await target.close()
    assert set(sequences(emulator.rows(name))) == set(range(10))


@pytest.mark.parametrize("record_format", FORMATS)
async def test_closing_waits_for_acknowledgements_that_are_on_their_way(emulator, record_format):
    name = emulator.create()
    target = writer(emulator, name, record_format)
    await target.open()
    emulator.faults(ack_delay_ms=300)
    under_way = asyncio.create_task(target.write(batch([1.5] * 10), 1))
    await until(lambda: emulator.call("GET", "/admin/counters").get(f"rows:{name}") == 10)
    await target.close()
    await under_way
    assert sequences(emulator.rows(name)) == list(range(10))


async def test_a_write_of_more_records_than_a_request_may_have_is_cut(emulator):
    name = emulator.create()
    target = writer(emulator, name)
    await target.open()
    requests = emulator.call("GET", "/admin/counters").get("requests", 0)
    await target.write(batch([1.5]).take(pa.array([0] * (MAX_RECORDS + 1))), 1)
    await target.close()
    assert emulator.call("GET", "/admin/counters")["requests"] - requests > 1
    assert emulator.call("GET", f"/tables/{name}/count")["count"] == MAX_RECORDS + 1


@pytest.mark.parametrize(
    ("status", "expected"), [(401, AuthError), (404, ConfigError), (429, CapacityError), (503, TransientError)]
)
async def test_the_token_endpoint_has_its_errors_too(emulator, status, expected):
    target = writer(emulator, emulator.create())
    emulator.faults(oauth_status=status)
    with pytest.raises(expected, match=str(status)):
        await target.open()


@pytest.mark.parametrize("record_format", FORMATS)
async def test_a_record_that_is_too_large_is_rejected_and_the_others_are_written(emulator, record_format):
    name = emulator.create()
    target = writer(emulator, name, record_format)
    await target.open()
    half = b"h" * (MAX_BYTES // 2)
    with pytest.raises(RejectedRecords) as rejected:
        await target.write(batch([1.5, b"x" * (MAX_BYTES + 1), half, half, "last"]), 1)
    await target.close()
    assert rejected.value.indices == [1]
    assert "at most" in rejected.value.reasons[0]
    assert rejected.value.rest_written
    rows = emulator.rows(name)
    assert sequences(rows) == [0, 2, 3, 4]
    assert sorted(len(v) for v in rows.column("value_bytes").to_pylist() if v) == [len(half), len(half)]


@pytest.mark.parametrize("record_format", FORMATS)
async def test_a_reading_without_what_the_table_insists_on_is_rejected_and_the_others_are_written(
    emulator, record_format
):
    name = next(names)
    columns = [
        {"name": "sequence", "type_text": "bigint"},
        {"name": "value", "type_text": "double", "nullable": False},
    ]
    emulator.call("POST", "/tables", {"name": name, "columns": columns})
    target = writer(emulator, name, record_format, schema_evolution="leave_out")
    await target.open()
    with pytest.raises(RejectedRecords, match="`value` is NOT NULL") as rejected:
        await target.write(batch([1.5, "text", 2.5, None]), 1)
    assert rejected.value.indices == [1, 3]
    with pytest.raises(RejectedRecords):
        await target.write(batch(["text"], 4), 2)
    await target.close()
    assert sequences(emulator.rows(name)) == [0, 2]


@pytest.mark.parametrize("record_format", FORMATS)
@pytest.mark.parametrize("bound", ["ack_timeout", "flush_timeout"])
async def test_a_service_that_does_not_acknowledge_is_left_in_time(emulator, record_format, bound):
    name = emulator.create()
    target = writer(emulator, name, record_format, **{bound: 0.5})
    await target.open()
    emulator.faults(drop_acks=True)
    begun = time.monotonic()
    with pytest.raises(TransientError):
        await target.write(batch([1.5]), 1)
    assert time.monotonic() - begun < 8
    emulator.faults(drop_acks=False)
    await target.write(batch([1.5]), 1)
    await target.close()
    assert set(sequences(emulator.rows(name))) == {0}


async def test_a_full_disk_at_the_service_is_transient(emulator):
    name = emulator.create()
    target = writer(emulator, name)
    await target.open()
    emulator.faults(disk_full=True)
    with pytest.raises(TransientError, match="stored"):
        await target.write(batch([1.5]), 1)
    emulator.faults(disk_full=False)
    await target.write(batch([1.5]), 1)
    await target.close()
    assert set(sequences(emulator.rows(name))) == {0}


@pytest.mark.parametrize("record_format", FORMATS)
async def test_a_killed_service_is_transient_and_the_same_unit_is_written_when_it_is_back(record_format, tmp_path):
    with no_proxy():
        emulator = Emulator(tmp_path)
        try:
            name = emulator.create()
            target = writer(emulator, name, record_format)
            await target.open()
            acknowledged = batch([1.5] * 50)
            await target.write(acknowledged, 1)
            emulator.faults(ack_delay_ms=5_000)
            unit = batch([2.5] * 50, 50)
            under_way = asyncio.create_task(target.write(unit, 2))
            await until(lambda: emulator.call("GET", "/admin/counters").get("rows", 0) >= 100)
            await asyncio.to_thread(emulator.kill)
            with pytest.raises(TransientError):
                await under_way
            with pytest.raises(TransientError, match="cannot be reached"):
                await target.open()
            await asyncio.to_thread(emulator.start)
            await target.open()
            await target.write(unit, 2)
            await target.close()
            rows = comparable(emulator.rows(name))
            assert {row["sequence"] for row in rows} == set(range(100))
            by_sequence = {row["sequence"]: row for row in comparable(table(unit))}
            assert all(row == by_sequence[row["sequence"]] for row in rows if row["sequence"] >= 50)
        finally:
            emulator.kill()
