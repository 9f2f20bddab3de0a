"""The writer with the official SDK against the ZeroBus emulator, a process of its own with real Delta tables."""

import asyncio
import contextlib
import itertools
import json
import math
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from connectors.contract import (
    AuthError,
    CapacityError,
    Checks,
    ConfigError,
    Context,
    Finding,
    RejectedRecords,
    TransientError,
)
from connectors.targets.zerobus import ZeroBusConfig, ddl
from connectors.targets.zerobus.encode import MAX_BYTES
from connectors.targets.zerobus.writer import ZeroBusWriter
from normalization.reading import Columns, Tag, TagTable, numbers, repeat, table, view

ROOT = Path(__file__).parents[3]
FORMATS = ("protobuf", "arrow")
CLIENT, SECRET = "gateway-app", "gateway-secret"
# What the SDK says at times when it is refused before its first message has gone out; it lost the status then.
UNHEARD = "Failed to send stream-open request"
_names = (f"main.plant.t{number}" for number in itertools.count())


class Emulator:
    """The emulator process and its admin API."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = (0, 0)
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "simulator.zerobus"),
                *("--port", str(self._ports[0]), "--http-port", str(self._ports[1])),
                *("--data-dir", str(self._directory)),
                *("--client-id", CLIENT, "--client-secret", SECRET, "--commit-seconds", "0.1"),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], 60)
        line = self._process.stdout.readline() if ready else ""
        assert line.startswith("ready "), line
        facts = json.loads(line.removeprefix("ready "))
        self.endpoint, self.url = facts["endpoint"], facts["unity_catalog_url"]
        self._ports = (int(self.endpoint.rsplit(":", 1)[1]), int(self.url.rsplit(":", 1)[1]))

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(20)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, method=method), timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def faults(self, **knobs: Any) -> None:
        self.call("PATCH", "/admin/faults", knobs)

    def create(self, drop: tuple[str, ...] = (), add: tuple[dict[str, Any], ...] = ()) -> str:
        name = next(_names)
        self.call("POST", "/tables", {"name": name, "ddl": ddl(name).split(";\n")[0] + ";"})
        if drop or add:
            self.call("PATCH", f"/tables/{name}", {"drop": drop, "add": add})
        return name

    def grant(self, verb: str, name: str, privilege: str = "MODIFY") -> None:
        self.call("POST", f"/admin/grants/{verb}", {"client_id": CLIENT, "securable": name, "privilege": privilege})

    def rows(self, name: str) -> pa.Table:
        self.call("GET", f"/tables/{name}/count")  # returns when all that was acknowledged is in the table
        return DeltaTable(self.call("GET", f"/tables/{name}")["path"]).to_pyarrow_table()


@contextlib.contextmanager
def no_proxy() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with no_proxy():
        emulator = Emulator(tmp_path_factory.mktemp("zerobus"))
        yield emulator
        emulator.kill()


@pytest.fixture
def emulator(shared: Emulator) -> Iterator[Emulator]:
    yield shared
    shared.call("DELETE", "/admin/faults")


def writer(emulator: Emulator, name: str, record_format: str = "protobuf", **changes: Any) -> ZeroBusWriter:
    own = {
        "table": name,
        "workspace_url": emulator.url,
        "client_id": CLIENT,
        "client_secret": SECRET,
        "record_format": record_format,
        "ack_timeout": "10s",
    }
    config = ZeroBusConfig.model_validate(
        {"endpoint": emulator.endpoint, "timeout": "10s", "provider_config": own | changes}
    )
    made = config.writer(Context("gateway", Path("unused")))
    assert isinstance(made, ZeroBusWriter)
    return made


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
    target = writer(emulator, name, record_format)
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
    while error is None or UNHEARD in str(error):
        emulator.faults(fail_create=[status])
        (error,) = await asyncio.gather(target.open(), return_exceptions=True)
    assert type(error) is expected
    await target.open()  # had the SDK tried again by itself, this would not be the second attempt
    await target.close()


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
    name = next(_names)
    columns = [
        {"name": "sequence", "type_text": "bigint"},
        {"name": "value", "type_text": "double", "nullable": False},
    ]
    emulator.call("POST", "/tables", {"name": name, "columns": columns})
    target = writer(emulator, name, record_format)
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


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(condition):  # another process does what is waited for
            await asyncio.sleep(0.02)


# --- preflight


async def problems(target: Checks) -> dict[str, str]:
    return {finding.subject: finding.detail for finding in await target.check() if not finding.ok}


@pytest.mark.parametrize("record_format", FORMATS)
async def test_preflight_of_a_sound_table_finds_nothing_wrong(emulator, record_format):
    found = await writer(emulator, emulator.create(), record_format).check()
    assert all(finding.ok for finding in found), found
    assert [f.subject for f in found] == [
        "endpoint",
        "workspace_url",
        "token",
        "table",
        "columns",
        "grants",
        "stream",
    ]


async def test_preflight_names_settings_that_are_missing(emulator):
    found = await writer(emulator, "a.b.c", client_id=None, client_secret=None).check()
    assert [f.subject for f in found] == ["settings"]
    assert "client_id, client_secret" in found[0].detail


async def test_preflight_names_an_endpoint_that_cannot_be_reached(emulator):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{unused.getsockname()[1]}"
        found = await problems(writer(emulator, emulator.create(), workspace_url=dead))
    assert list(found) == ["workspace_url"]
    assert "firewall" in found["workspace_url"]


async def test_preflight_names_credentials_that_are_refused(emulator):
    found = await problems(writer(emulator, emulator.create(), client_secret="wrong"))
    assert list(found) == ["token"]
    assert "client_secret" in found["token"]


async def test_preflight_names_a_table_that_is_not_there_and_how_to_make_it(emulator):
    found = await problems(writer(emulator, "main.plant.nowhere"))
    assert list(found) == ["table"]
    assert "bifrost zerobus ddl main.plant.nowhere" in found["table"]


@pytest.mark.parametrize("privilege", ["SELECT", "MODIFY"])
async def test_preflight_names_the_grant_that_is_missing_and_the_statement_that_gives_it(emulator, privilege):
    name = emulator.create()
    emulator.grant("revoke", name, privilege)
    found = await problems(writer(emulator, name))
    assert list(found) == ["grants"]
    catalog, schema, plain = name.split(".")
    assert found["grants"].endswith(f"GRANT {privilege} ON TABLE `{catalog}`.`{schema}`.`{plain}` TO `{CLIENT}`;")


async def test_preflight_names_columns_that_are_missing_or_of_another_type(emulator):
    name = emulator.create(drop=("shard", "sequence", "unit", "value"))
    emulator.call("PATCH", f"/tables/{name}", {"add": [{"name": "value", "type_text": "string"}]})
    found: list[Finding] = await writer(emulator, name).check()
    columns = {finding.detail: finding.ok for finding in found if finding.subject == "columns"}
    wrong, identity, left_out = columns
    assert "`value` is STRING, readings need DOUBLE" in wrong
    assert "lacks shard, sequence" in identity
    assert "lacks unit" in left_out
    assert list(columns.values()) == [False, False, True]


async def test_preflight_says_what_the_service_says_when_it_opens_no_stream(emulator):
    target = writer(emulator, emulator.create())
    found = {"stream": UNHEARD}
    while UNHEARD in found["stream"]:
        emulator.faults(fail_create=["UNIMPLEMENTED"])
        found = await problems(target)
    assert list(found) == ["stream"]
    assert "zerobus ddl" in found["stream"]
