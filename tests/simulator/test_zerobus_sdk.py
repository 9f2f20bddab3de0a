"""The unmodified official SDK against the emulator, which runs as its own process; rows are read back from Delta."""

import base64
import contextlib
import json
import os
import threading
import time
import urllib.parse
import urllib.request
import uuid

# the SDK reads these when it is first used
os.environ["RUST_LOG"] = "off"
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"

import grpc
import pyarrow as pa
import pytest
import zerobus
from deltalake import DeltaTable
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from simulator.zerobus import wire
from simulator.zerobus.process import EmulatorError, EmulatorProcess

COLUMNS = [
    {"name": "gateway", "type": "string", "nullable": False},
    {"name": "sequence", "type": "bigint", "nullable": False},
    {"name": "value", "type": "double"},
    {"name": "good", "type": "boolean"},
    {"name": "time", "type": "timestamp"},
    {"name": "day", "type": "date"},
    {"name": "raw", "type": "binary"},
    {"name": "tags", "type": "array<string>"},
    {"name": "properties", "type": "map<string,string>"},
    {"name": "place", "type": "struct<site:string,level:int>"},
]
F = descriptor_pb2.FieldDescriptorProto


def row_class(*fields: tuple[str, int, int, int]):
    """A proto2 row message, with package and nested messages as a compiled .proto has them."""
    file = descriptor_pb2.FileDescriptorProto(name="row.proto", package="plant.v1", syntax="proto2")
    row = file.message_type.add(name="Row")
    for name, number, kind, label in fields or (
        ("gateway", 1, F.TYPE_STRING, 2),
        ("sequence", 2, F.TYPE_INT64, 2),
        ("value", 3, F.TYPE_DOUBLE, 1),
        ("good", 4, F.TYPE_BOOL, 1),
        ("time", 5, F.TYPE_INT64, 1),
        ("day", 6, F.TYPE_INT32, 1),
        ("raw", 7, F.TYPE_BYTES, 1),
        ("tags", 8, F.TYPE_STRING, 3),
    ):
        row.field.add(name=name, number=number, type=kind, label=label)
    if not fields:
        nested = ".plant.v1.Row."
        row.field.add(name="properties", number=9, type=F.TYPE_MESSAGE, label=3, type_name=f"{nested}PropertiesEntry")
        row.field.add(name="place", number=10, type=F.TYPE_MESSAGE, label=1, type_name=f"{nested}Place")
        entry = row.nested_type.add(name="PropertiesEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=F.TYPE_STRING, label=1)
        entry.field.add(name="value", number=2, type=F.TYPE_STRING, label=1)
        place = row.nested_type.add(name="Place")
        place.field.add(name="site", number=1, type=F.TYPE_STRING, label=1)
        place.field.add(name="level", number=2, type=F.TYPE_INT32, label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("plant.v1.Row"))


Row = row_class()
ARROW = pa.schema([("gateway", pa.string()), ("sequence", pa.int64()), ("value", pa.float64())])


def arrow_rows(gateway: str, start: int, count: int) -> pa.RecordBatch:
    sequence = pa.array(range(start, start + count))
    return pa.record_batch([pa.array([gateway] * count), sequence, sequence.cast(pa.float64())], schema=ARROW)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory):
    with EmulatorProcess(tmp_path_factory.mktemp("zerobus"), options=["--commit-seconds=0.2"]) as process:
        yield process


@pytest.fixture
def table(emulator, request):
    """A fresh table in the shared emulator, whose knobs are off again afterwards."""
    name = f"main.plant.{request.node.name.partition('[')[0]}_{uuid.uuid4().hex[:8]}"
    emulator.create_table(name, COLUMNS)
    yield name
    emulator.reset_faults()


def sdk_of(emulator) -> zerobus.ZerobusSdk:
    return zerobus.ZerobusSdk(emulator.endpoint, emulator.unity_catalog_url, application_name="bifrost-tests/1")


def open_proto(emulator, table, sdk=None, row=Row, secret=None, **options):
    return (sdk or sdk_of(emulator)).create_stream(
        emulator.client_id,
        secret or emulator.client_secret,
        zerobus.TableProperties(table, row.DESCRIPTOR),
        zerobus.StreamConfigurationOptions(**{"recovery": False, **options}),
    )


def open_json(emulator, table, **options):
    return sdk_of(emulator).create_stream(
        emulator.client_id,
        emulator.client_secret,
        zerobus.TableProperties(table),
        zerobus.StreamConfigurationOptions(**{"recovery": False, **options}),
    )


def open_arrow(emulator, table, schema=ARROW, **options):
    return sdk_of(emulator).create_arrow_stream(
        table,
        schema,
        emulator.client_id,
        emulator.client_secret,
        zerobus.ArrowStreamConfigurationOptions(**{"recovery": False, **options}),
    )


def wait_until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        threading.Event().wait(0.02)


def sequences(path) -> list[int]:
    return DeltaTable(path).to_pyarrow_table(columns=["sequence"])["sequence"].to_pylist()


def table_path(emulator, table):
    return emulator.call("GET", f"/tables/{table}")["path"]


# ---- the three formats


def test_protobuf_rows_arrive_in_delta(emulator, table):
    stream = open_proto(emulator, table)
    full = Row(
        gateway="g1",
        sequence=0,
        value=float("inf"),
        good=False,
        time=1_700_000_000_000_001,
        day=19_000,
        raw=b"\x00\xff",
        tags=["a", "é"],
        properties={"k": "v"},
        place={"site": "north", "level": -3},
    )
    stream.ingest_record_offset(full)
    stream.ingest_records_offset([Row(gateway="g1", sequence=i).SerializeToString() for i in range(1, 1000)])
    stream.flush()
    stream.close()
    assert emulator.count(table) == 1000
    rows = DeltaTable(table_path(emulator, table)).to_pyarrow_table().sort_by("sequence").to_pylist()
    assert [row["sequence"] for row in rows] == list(range(1000))
    first = rows[0]
    assert (first["value"], first["good"], first["raw"]) == (float("inf"), False, b"\x00\xff")
    assert first["time"].isoformat() == "2023-11-14T22:13:20.000001+00:00"
    assert first["day"].isoformat() == "2022-01-08"
    assert (first["tags"], first["properties"], first["place"]) == (
        ["a", "é"],
        [("k", "v")],
        {"site": "north", "level": -3},
    )
    empty = rows[1]
    assert [empty[name] for name in ("value", "good", "time", "day", "raw", "place")] == [None] * 6


def test_json_rows_arrive_in_delta(emulator, table):
    stream = open_json(emulator, table)
    stream.ingest_record_offset('{"gateway":"g1","sequence":0,"value":2,"time":"2023-11-14T22:13:20.5Z","raw":"AP8="}')
    stream.ingest_records_offset(
        [json.dumps({"gateway": "g1", "sequence": i, "properties": {"n": str(i)}}) for i in range(1, 500)]
    )
    stream.flush()
    stream.close()
    assert emulator.count(table) == 500
    rows = DeltaTable(table_path(emulator, table)).to_pyarrow_table().sort_by("sequence").to_pylist()
    assert [row["sequence"] for row in rows] == list(range(500))
    assert (rows[0]["value"], rows[0]["raw"]) == (2.0, b"\x00\xff")
    assert rows[0]["time"].isoformat() == "2023-11-14T22:13:20.500000+00:00"
    assert rows[7]["properties"] == [("n", "7")]


@pytest.mark.parametrize("compression", ["NONE", "ZSTD", "LZ4_FRAME"])
def test_arrow_rows_arrive_in_delta(emulator, table, compression):
    stream = open_arrow(emulator, table, ipc_compression=getattr(zerobus.IPCCompression, compression))
    for start in range(0, 90_000, 30_000):
        stream.ingest_batch(arrow_rows("g1", start, 30_000))
    stream.flush()
    stream.close()
    assert emulator.count(table) == 90_000
    answer = DeltaTable(table_path(emulator, table)).to_pyarrow_table()
    assert sorted(answer["sequence"].to_pylist()) == list(range(90_000))
    assert answer["value"].to_pylist() == [float(n) for n in answer["sequence"].to_pylist()]
    assert answer["good"].null_count == 90_000


def test_arrow_dictionaries_and_large_texts_are_taken(emulator, table):
    schema = pa.schema(
        [
            ("gateway", pa.dictionary(pa.int32(), pa.string())),
            ("sequence", pa.int64()),
            ("raw", pa.large_binary()),
            ("tags", pa.large_list(pa.large_string())),
        ]
    )
    stream = open_arrow(emulator, table, schema)
    gateways = pa.array(["g1", "g2", "g1"]).dictionary_encode()
    columns = [gateways, pa.array([0, 1, 2]), pa.array([b"a", None, b"c"], pa.large_binary())]
    stream.ingest_batch(
        pa.record_batch([*columns, pa.array([["x"], [], None], schema.field("tags").type)], schema=schema)
    )
    stream.flush()
    stream.close()
    rows = sorted(emulator.rows(table), key=lambda row: row["sequence"])
    assert [(row["gateway"], row["raw"], row["tags"]) for row in rows] == [
        ("g1", "61", ["x"]),
        ("g2", None, []),
        ("g1", "63", None),
    ]


# ---- what does not fit


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ([("gateway", 1, 9, 2), ("sequence", 2, 3, 2), ("color", 3, 9, 1)], "color"),
        ([("gateway", 1, 9, 2), ("sequence", 2, 9, 2)], "sequence"),
        ([("gateway", 1, 9, 2), ("value", 3, 1, 1)], "sequence"),
    ],
    ids=["unknown", "mistyped", "missing"],
)
def test_wrong_protobuf_column_is_an_invalid_argument(emulator, table, fields, word):
    with pytest.raises(zerobus.NonRetriableException, match=f"Schema comparison failed.*'{word}'"):
        open_proto(emulator, table, row=row_class(*fields), recovery=True)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ([("gateway", pa.string()), ("sequence", pa.int64()), ("color", pa.string())], "color"),
        ([("gateway", pa.string()), ("sequence", pa.int32())], "sequence"),
        ([("gateway", pa.string())], "sequence"),
    ],
    ids=["unknown", "mistyped", "missing"],
)
def test_wrong_arrow_column_is_an_invalid_argument(emulator, table, fields, word):
    with pytest.raises(zerobus.NonRetriableException, match=f"Schema comparison failed.*'{word}'"):
        open_arrow(emulator, table, pa.schema(fields), recovery=True)


@pytest.mark.parametrize(
    "record",
    ['{"gateway":"g","sequence":"2"}', '{"gateway":"g","sequence":2,"color":1}', '{"gateway":"g"}', '{"gateway":NaN}'],
)
def test_wrong_json_record_ends_the_stream_after_the_sound_ones_are_acknowledged(emulator, table, record):
    stream = open_json(emulator, table)
    stream.ingest_record_offset('{"gateway":"g","sequence":1}')
    stream.ingest_record_offset(record)
    with pytest.raises(zerobus.NonRetriableException, match=r"records\[0\]"):
        stream.flush()
    assert emulator.count(table) == 1


def test_a_null_in_a_not_null_column_is_an_invalid_argument(emulator, table):
    batch = pa.record_batch([pa.array(["g", None]), pa.array([1, 2]), pa.array([1.0, 2.0])], schema=ARROW)
    stream = open_arrow(emulator, table)
    stream.ingest_batch(batch)
    with pytest.raises(zerobus.NonRetriableException, match="gateway"):
        stream.flush()
    optional = row_class(("gateway", 1, F.TYPE_STRING, 1), ("sequence", 2, F.TYPE_INT64, 1))
    stream = open_proto(emulator, table, row=optional)
    stream.ingest_records_offset([optional(gateway="g", sequence=1).SerializeToString(), b""])
    with pytest.raises(zerobus.NonRetriableException, match=r"records\[1\].*gateway"):
        stream.flush()
    assert emulator.count(table) == 0


def test_unknown_table_is_not_found(emulator):
    with pytest.raises(zerobus.NonRetriableException, match="cannot be found"):
        open_proto(emulator, "main.plant.nowhere")


# ---- who may write


def test_missing_grant_is_named_and_an_open_stream_loses_it_too(emulator, table):
    grant = {"client_id": emulator.client_id, "securable": table, "privilege": "MODIFY"}
    sdk = sdk_of(emulator)
    stream = open_proto(emulator, table, sdk)
    emulator.call("POST", "/admin/grants/revoke", grant)
    stream.ingest_record_offset(Row(gateway="g", sequence=1))
    with pytest.raises(zerobus.ZerobusException, match="lacks MODIFY"):
        stream.flush()
    with pytest.raises(zerobus.ZerobusException, match=f"lacks MODIFY on TABLE {table}"):
        open_proto(emulator, table)
    emulator.call("POST", "/admin/grants/restore", grant)
    stream = open_proto(emulator, table)
    stream.ingest_record_offset(Row(gateway="g", sequence=2))
    stream.flush()
    stream.close()
    assert [row["sequence"] for row in emulator.rows(table)] == [2]


def test_wrong_secret_is_refused(emulator, table):
    with pytest.raises(zerobus.NonRetriableException, match="401"):
        open_proto(emulator, table, secret="wrong")


def test_the_sdk_replaces_a_token_that_has_expired(emulator, table):
    emulator.set_faults(token_ttl_s=1)
    sdk = sdk_of(emulator)
    before = emulator.counters().get("tokens_minted", 0)
    for number in range(2):
        stream = open_proto(emulator, table, sdk, recovery=True)
        stream.ingest_record_offset(Row(gateway="g", sequence=number))
        stream.flush()
        stream.close()
        expired = time.monotonic() + 1.1
        wait_until(lambda number=number, expired=expired: number or time.monotonic() > expired)
    assert emulator.counters()["tokens_minted"] - before >= 2
    assert emulator.count(table) == 2


def test_the_sdk_replaces_a_token_that_was_revoked(emulator, table):
    sdk = sdk_of(emulator)
    open_proto(emulator, table, sdk).close()
    emulator.call("POST", "/admin/tokens/revoke")
    stream = open_proto(emulator, table, sdk, recovery=True, recovery_backoff_ms=100)
    stream.ingest_record_offset(Row(gateway="g", sequence=1))
    stream.flush()
    stream.close()
    assert emulator.counters()["refused:UNAUTHENTICATED"] >= 1
    assert emulator.count(table) == 1


# ---- faults


@pytest.mark.parametrize("kind", ["proto", "arrow"])
def test_rotation_loses_and_doubles_nothing(emulator, table, kind):
    def rotations() -> int:
        return emulator.counters().get("rotations", 0) - before

    before = emulator.counters().get("rotations", 0)
    emulator.set_faults(
        rotate_after_requests=200, rotate_grace_ms=5000
    )  # rows of which no answer comes in time come again
    if kind == "proto":
        stream = open_proto(emulator, table, recovery=True, recovery_backoff_ms=50)
    else:
        stream = open_arrow(emulator, table, recovery=True, recovery_backoff_ms=50)
    # Without a pause, and more than fits on the way: the SDK sends a row twice that comes when it has just drained a
    # stream that is being closed
    sent = 0
    while sent < 30_000 or rotations() < 2:
        if kind == "proto":
            rows = [Row(gateway="g", sequence=sent + n, raw=bytes(500)) for n in range(20)]
            stream.ingest_records_offset([row.SerializeToString() for row in rows])
        else:
            stream.ingest_batch(arrow_rows("g", sent, 20))
        sent += 20
    stream.flush()
    with contextlib.suppress(zerobus.ZerobusException):  # an Arrow stream cannot be closed while it is rotated
        stream.close()
    assert emulator.count(table) == sent
    assert sorted(sequences(table_path(emulator, table))) == list(range(sent))


def test_open_streams_can_be_rotated_and_aborted_at_will(emulator, table):
    stream = open_proto(emulator, table, recovery=True, recovery_backoff_ms=50)
    stream.ingest_record_offset(Row(gateway="g", sequence=1))
    stream.flush()
    created = emulator.counters()["streams_created"]
    assert emulator.call("POST", "/admin/streams/rotate", {"table": table, "grace_ms": 100}) == {"streams": 1}
    wait_until(lambda: emulator.counters()["streams_created"] == created + 1)
    assert emulator.call("POST", "/admin/streams/abort", {"table": table, "status": "UNAVAILABLE"}) == {"streams": 1}
    wait_until(lambda: emulator.counters()["streams_created"] == created + 2)
    stream.ingest_record_offset(Row(gateway="g", sequence=2))
    stream.flush()
    stream.close()
    assert sorted(row["sequence"] for row in emulator.rows(table)) == [1, 2]


def test_aborted_streams_are_recovered_by_the_sdk_at_least_once(emulator, table):
    emulator.set_faults(abort_after_requests=100, abort_status="UNAVAILABLE", abort_times=2)
    stream = open_proto(emulator, table, recovery=True, recovery_backoff_ms=50)
    for number in range(500):
        stream.ingest_record_offset(Row(gateway="g", sequence=number))
    stream.flush()
    stream.close()
    emulator.count(table)
    assert set(sequences(table_path(emulator, table))) == set(range(500))
    assert emulator.counters()["aborted:UNAVAILABLE"] >= 2


@pytest.mark.parametrize(
    ("status", "final"), [("INVALID_ARGUMENT", True), ("UNAVAILABLE", False), ("RESOURCE_EXHAUSTED", False)]
)
def test_refused_creation_has_the_status_that_was_asked_for(emulator, table, status, final):
    emulator.set_faults(fail_create=[status])
    if final:
        with pytest.raises(zerobus.NonRetriableException, match="fault knob"):
            open_proto(emulator, table, recovery=True, recovery_backoff_ms=50)
    else:
        open_proto(emulator, table, recovery=True, recovery_backoff_ms=50).close()
    assert emulator.call("GET", "/admin/faults")["fail_create"] == []


def test_oauth_failure_reaches_the_client(emulator, table):
    emulator.set_faults(oauth_status=401)
    with pytest.raises(zerobus.NonRetriableException):
        open_proto(emulator, table)


def test_quota_is_resource_exhausted_and_keeps_what_was_within_it(emulator, table):
    emulator.set_faults(quota_rows_per_s=1000)
    stream = open_proto(emulator, table)
    rows = [Row(gateway="g", sequence=n).SerializeToString() for n in range(600)]
    stream.ingest_records_offset(rows)
    stream.ingest_records_offset(rows)
    with pytest.raises(zerobus.ZerobusException, match="records/s"):
        stream.flush()
    assert emulator.counters()["refused:RESOURCE_EXHAUSTED"] >= 1
    assert emulator.count(table) == 600


def test_dropped_acknowledgements_leave_the_rows_unacknowledged_but_stored(emulator, table):
    emulator.set_faults(drop_acks=True)
    stream = open_proto(emulator, table, server_lack_of_ack_timeout_ms=500)
    stream.ingest_record_offset(Row(gateway="g", sequence=1))
    with pytest.raises(zerobus.ZerobusException, match=r"(?i)ack"):
        stream.flush()
    assert [Row.FromString(record).sequence for record in stream.get_unacked_records()] == [1]
    assert emulator.count(table) == 1


def test_acknowledgements_can_be_delayed(emulator, table):
    emulator.set_faults(ack_delay_ms=300)
    stream = open_proto(emulator, table)
    started = time.monotonic()
    stream.ingest_record_offset(Row(gateway="g", sequence=1))
    stream.flush()
    assert 0.3 <= time.monotonic() - started < 3
    stream.close()


def test_a_full_disk_acknowledges_nothing_and_stores_nothing(emulator, table):
    stream = open_proto(emulator, table)
    emulator.set_faults(disk_full=True)
    stream.ingest_record_offset(Row(gateway="g", sequence=1))
    with pytest.raises(zerobus.ZerobusException, match="could not be stored"):
        stream.flush()
    emulator.reset_faults()
    stream = open_proto(emulator, table)
    stream.ingest_record_offset(Row(gateway="g", sequence=2))
    stream.flush()
    stream.close()
    assert [row["sequence"] for row in emulator.rows(table)] == [2]


# ---- the table changes


def test_added_dropped_column_and_dropped_table(emulator, table):
    stream = open_proto(emulator, table)
    stream.ingest_record_offset(Row(gateway="g", sequence=1, value=1.5))
    emulator.call("PATCH", f"/tables/{table}", {"add": [{"name": "color", "type": "string"}]})
    stream.ingest_record_offset(Row(gateway="g", sequence=2, value=2.5))
    stream.flush()
    with_color = row_class(("gateway", 1, 9, 2), ("sequence", 2, 3, 2), ("color", 3, 9, 1))
    second = open_proto(emulator, table, row=with_color)
    second.ingest_record_offset(with_color(gateway="g", sequence=3, color="red"))
    second.flush()
    second.close()
    rows = sorted(emulator.rows(table), key=lambda row: row["sequence"])
    assert [(r["sequence"], r["value"], r["color"]) for r in rows] == [(1, 1.5, None), (2, 2.5, None), (3, None, "red")]

    emulator.call("PATCH", f"/tables/{table}", {"drop": ["value"]})
    stream.ingest_record_offset(Row(gateway="g", sequence=4))
    with pytest.raises(zerobus.NonRetriableException, match="'value' does not exist in Delta schema"):
        stream.flush()
    assert "value" not in emulator.rows(table)[0]
    assert emulator.count(table) == 3

    third = open_proto(emulator, table, row=with_color)
    emulator.call("DELETE", f"/tables/{table}")
    third.ingest_record_offset(with_color(gateway="g", sequence=5))
    with pytest.raises(zerobus.ZerobusException, match="dropped"):
        third.flush()
    emulator.create_table(table, COLUMNS)
    assert emulator.count(table) == 0


def test_unity_catalog_describes_the_table_to_who_has_a_token(emulator, table):
    credentials = f"{emulator.client_id}:{emulator.client_secret}"
    form = urllib.parse.urlencode({"grant_type": "client_credentials", "scope": "all-apis"}).encode()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler())
    request = urllib.request.Request(f"{emulator.unity_catalog_url}/oidc/v1/token", data=form)
    request.add_header("Authorization", "Basic " + base64.b64encode(credentials.encode()).decode())
    token = json.load(opener.open(request))["access_token"]
    url = f"{emulator.unity_catalog_url}/api/2.1/unity-catalog/tables/{table}"
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    columns = json.load(opener.open(request))["columns"]
    assert [(c["name"], c["type_text"], c["nullable"]) for c in columns] == [
        (c["name"], c["type"], c.get("nullable", True)) for c in COLUMNS
    ]
    with pytest.raises(EmulatorError, match="401"):
        emulator.call("GET", f"/api/2.1/unity-catalog/tables/{table}")


# ---- below the SDK


def raw_stream(emulator, table, *messages: bytes, token: str = "", header: str | None = None) -> grpc.RpcError:
    """Send messages as a client of our own would; returns the error that ends the stream."""
    with grpc.insecure_channel(emulator.endpoint.removeprefix("http://")) as channel:
        method = channel.stream_stream("/databricks.zerobus.Zerobus/EphemeralStream")
        metadata = [("x-databricks-zerobus-table-name", header or table)]
        if token:
            metadata.append(("authorization", f"Bearer {token}"))
        with pytest.raises(grpc.RpcError) as caught:
            list(method(iter(messages), metadata=metadata, timeout=10))
        return caught.value


def table_token(emulator, table, ttl: float = 3600) -> str:
    catalog, schema, _ = table.split(".")
    details = [
        {"type": "unity_catalog_privileges", "object_type": kind, "object_full_path": path, "privileges": privileges}
        for kind, path, privileges in (
            ("CATALOG", catalog, ["USE CATALOG"]),
            ("SCHEMA", f"{catalog}.{schema}", ["USE SCHEMA"]),
            ("TABLE", table, ["SELECT", "MODIFY"]),
        )
    ]
    emulator.set_faults(token_ttl_s=ttl)
    form = {
        "grant_type": "client_credentials",
        "scope": "all-apis",
        "resource": "api://databricks/workspaces/127/zerobusDirectWriteApi",
        "authorization_details": json.dumps(details),
    }
    credentials = base64.b64encode(f"{emulator.client_id}:{emulator.client_secret}".encode()).decode()
    request = urllib.request.Request(
        f"{emulator.unity_catalog_url}/oidc/v1/token",
        data=urllib.parse.urlencode(form).encode(),
        headers={"Authorization": f"Basic {credentials}"},
    )
    return json.load(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request))["access_token"]


def create_message(table: str) -> bytes:
    create = {"table_name": table, "record_type": wire.RECORD_TYPE_JSON}
    return wire.EphemeralStreamRequest(create_stream=create).SerializeToString()


def json_message(offset: int, sequence: int) -> bytes:
    record = json.dumps({"gateway": "g", "sequence": sequence}).encode()
    return wire.EphemeralStreamRequest(ingest_record={"offset_id": offset, "json_record": record}).SerializeToString()


def test_offsets_must_follow_each_other(emulator, table):
    token = table_token(emulator, table)
    error = raw_stream(emulator, table, create_message(table), json_message(0, 1), json_message(2, 2), token=token)
    assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "offset_id is 2, expected 1")
    assert [row["sequence"] for row in emulator.rows(table)] == [1]


def test_tokens_are_checked(emulator, table):
    create = create_message(table)
    expired = table_token(emulator, table, ttl=-1)
    assert raw_stream(emulator, table, create).code() is grpc.StatusCode.UNAUTHENTICATED
    assert raw_stream(emulator, table, create, token="a.b.c").code() is grpc.StatusCode.UNAUTHENTICATED
    error = raw_stream(emulator, table, create, token=expired)
    assert (error.code(), error.details()) == (grpc.StatusCode.UNAUTHENTICATED, "the access token has expired")
    other = table_token(emulator, "main.plant.other")
    assert raw_stream(emulator, table, create, token=other).code() is grpc.StatusCode.PERMISSION_DENIED
    token = table_token(emulator, table)
    error = raw_stream(emulator, table, create_message("main.plant.other"), token=token)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("messages", [[], [b"\xff\xff"], [json_message(0, 1)]], ids=["none", "garbage", "no create"])
def test_a_stream_that_does_not_begin_properly_is_refused(emulator, table, messages):
    error = raw_stream(emulator, table, *messages, token=table_token(emulator, table))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_garbage_after_the_creation_is_refused(emulator, table):
    error = raw_stream(emulator, table, create_message(table), b"\x12\xff\xff", token=table_token(emulator, table))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("open_stream", [open_proto, open_json])
def test_more_records_in_one_request_than_the_service_takes_are_refused(emulator, table, open_stream):
    record = (
        Row(gateway="g", sequence=1).SerializeToString()
        if open_stream is open_proto
        else '{"gateway":"g","sequence":1}'
    )
    stream = open_stream(emulator, table)
    stream.ingest_records_offset([record] * 100_000)
    stream.ingest_records_offset([record] * 100_001)
    with pytest.raises(zerobus.NonRetriableException, match="100001 records in one request"):
        stream.flush()
    assert emulator.count(table) == 100_000


def test_unknown_knobs_are_refused(emulator):
    with pytest.raises(EmulatorError, match=r"422.*colour"):
        emulator.set_faults(colour="red")
