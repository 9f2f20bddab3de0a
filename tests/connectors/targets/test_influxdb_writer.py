"""Writing to a real InfluxDB 1.x, and to a stand-in for 2.x and 3.x that answers what a test tells it to."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from connectors.contract import AuthError, CapacityError, ConfigError, Context, DeliveryError, TransientError
from connectors.targets.influxdb import InfluxConfig
from tests.connectors.targets.influxdb_writers import config_1, opened, rejected
from tests.contract.readings import BASE_TIME, Source, rows
from tests.contract.writers.influxdb import Imitated, influx1, series_rows
from tests.influx_server import Influx1, running

pytestmark = pytest.mark.interop("InfluxDB")
HOUR = 3_600_000_000


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)[:60].replace('"', "")


@pytest.fixture
def imitated(tmp_path: Path) -> Iterator[Imitated]:
    found = Imitated(tmp_path, "2.x")
    yield found
    found.server.end()


def values(server: Influx1, database: str, measurement: str = "reading") -> list[Any]:
    found = series_rows(server.query(f'SELECT * FROM "{measurement}" GROUP BY *', db=database))
    return [row.value for row in sorted(found, key=lambda row: row.sequence)]


async def test_two_readings_of_a_tag_at_one_time_are_two_points(database: str) -> None:
    source, server = Source(), influx1()
    batch = source.batch([1.0, 2.0, 3.0], tags=[source.tag(0)] * 3, source_times=[BASE_TIME] * 3)
    async with opened(config_1(server, database)) as writer:
        await writer.write(batch, 1)
        await writer.write(batch, 1)
        assert values(server, database) == [1.0, 2.0, 3.0]
    (series,) = server.query('SELECT value FROM "reading" GROUP BY *', db=database)
    assert [when - BASE_TIME * 1000 for when, _ in series["values"]] == [0, 1, 2]


async def test_of_two_readings_of_a_tag_at_one_time_the_later_stays_where_that_is_asked_for(database: str) -> None:
    source, server = Source(), influx1()
    batch = source.batch([1.0, 2.0], tags=[source.tag(0)] * 2, source_times=[BASE_TIME] * 2)
    async with opened(config_1(server, database, same_time="overwrite")) as writer:
        await writer.write(batch, 1)
    assert values(server, database) == [2.0]


async def test_a_field_that_has_another_type_at_the_server_rejects_its_readings_alone(database: str) -> None:
    source, server = Source(), influx1()
    async with opened(config_1(server, database)) as writer:
        server.call("POST", f"/write?db={database}", f"reading value_int=1 {BASE_TIME}000\n".encode())
        batch = source.batch([1.0, 2, "three", 4, True])
        found = await rejected(writer, batch)
        assert (found.indices, found.rest_written) == ([1, 3], True)
        assert (
            'input field "value_int" on measurement "reading" is type integer, already exists as type float'
            in found.reasons[0]
        )
    (kept,) = server.query('SELECT count(sequence) FROM "reading"', db=database)
    assert kept["values"][0][1] == 3


async def test_readings_older_than_the_retention_are_rejected_and_the_others_are_written(database: str) -> None:
    source, server = Source(), influx1()
    recent = time.time_ns() // 1000
    times = [recent, recent - 5 * HOUR, recent - 1, recent - 6 * HOUR, recent - 7 * HOUR]
    config = config_1(server, database, retention_policy="short", retention="1h")
    async with opened(config) as writer:
        found = await rejected(writer, source.batch([1.0] * 5, source_times=times))
        assert (found.indices, found.rest_written) == ([1, 3, 4], True)
        assert "beyond retention policy" in found.reasons[0]
        kept = server.query('SELECT * FROM "short"."reading" GROUP BY *', db=database)
        assert len(series_rows(kept)) == 2
        findings = await writer.check()
        assert any("deletes readings after 0.0416667 days" in finding.detail for finding in findings)


async def test_a_database_that_is_missing_is_made_or_is_a_config_error(database: str) -> None:
    source, server = Source(), influx1()
    async with opened(config_1(server, database, create="never")) as writer:
        with pytest.raises(ConfigError, match="database not found"):
            await writer.write(source.batch([1.0]), 1)
        assert [f.ok for f in await writer.check() if f.subject == "database"] == [False]
    async with opened(config_1(server, database, retention_policy="ten years", retention="3650d")) as writer:
        await writer.write(source.batch([1.0]), 1)
    (policies,) = server.query(f'SHOW RETENTION POLICIES ON "{database}"')
    assert ["ten years", "87600h0m0s"] in [policy[:2] for policy in policies["values"]]


async def test_a_user_who_may_write_and_nothing_else_can_write(database: str) -> None:
    source, server = Source(), influx1()
    server.call("POST", "/query?q=" + quote(f'CREATE DATABASE "{database}"'))
    server.call("POST", "/query?q=" + quote("CREATE USER line WITH PASSWORD 'l'"))
    refused = config_1(server, database, username="line", password="l")
    async with opened(refused) as writer:
        with pytest.raises(AuthError, match="grant"):
            await writer.write(source.batch([1.0]), 1)
    server.call("POST", "/query?q=" + quote(f'GRANT WRITE ON "{database}" TO line'))
    async with opened(refused) as writer:
        await writer.write(source.batch([1.0]), 1)
    assert values(server, database) == [1.0]


async def test_a_unit_that_is_larger_than_a_body_is_several_requests(imitated: Imitated) -> None:
    source = Source()
    batch = source.batch([float(i) for i in range(200)])
    config = imitated.config(provider_config=imitated.own | {"body_size": "4KiB", "compression": "none"})
    async with opened(_influx(config)) as writer:
        await writer.write(batch, 1)
    sizes = [int(headers["Content-Length"]) for path, headers in imitated.server.requests if "write" in path]
    assert len(sizes) > 5
    assert max(sizes) <= 4096
    assert len(imitated.rows()) == 200


async def test_a_body_that_the_server_finds_too_large_is_halved(imitated: Imitated) -> None:
    source = Source()
    batch = source.batch([1.0, "x" * 5_000, *[2.0] * 100])
    imitated.server.largest = 4_000
    async with opened(_influx(imitated.config())) as writer:
        found = await rejected(writer, batch)
    assert (found.indices, found.rest_written) == ([1], True)
    assert "points batch is too large" in found.reasons[0]
    assert len(imitated.rows()) == 101


@pytest.mark.parametrize("status", [429, 503])
async def test_a_server_that_throttles_says_how_long(imitated: Imitated, status: int) -> None:
    source = Source()
    async with opened(_influx(imitated.config())) as writer:
        imitated.server.next_answers = [
            (status, {"Retry-After": "7"}, b'{"code":"too many requests","message":"slow"}')
        ]
        with pytest.raises(CapacityError) as caught:
            await writer.write(source.batch([1.0]), 1)
        assert caught.value.retry_after == 7.0
        await writer.write(source.batch([2.0]), 1)
    assert [row.value for row in imitated.rows()] == [2.0]


async def test_a_rejection_without_a_word_about_lines_is_searched_for(imitated: Imitated) -> None:
    source = Source()
    batch = source.batch([1.0, 2.0, "x" * 50, 4.0, 5.0, "y" * 60, 7.0])
    imitated.server.longest = 40
    async with opened(_influx(imitated.config())) as writer:
        found = await rejected(writer, batch)
    assert (found.indices, found.rest_written) == ([2, 5], True)
    assert sorted(row.sequence for row in imitated.rows()) == [0, 1, 3, 4, 6]


async def test_lines_that_a_2_x_cannot_parse_keep_it_from_writing_the_others(imitated: Imitated) -> None:
    source = Source()
    async with opened(_influx(imitated.config())) as writer:
        batch = source.batch([1.0, 2.0])
        lines = writer._encoder.encode(batch).payload.decode().splitlines()
        said = {"code": "invalid", "message": f"unable to parse '{lines[1]}': invalid number"}
        imitated.server.next_answers = [(400, {}, json.dumps(said).encode())]
        found = await rejected(writer, batch)
    assert (found.indices, found.rest_written) == ([1], False)
    assert imitated.rows() == []


async def test_a_3_x_names_the_lines_that_it_refuses(tmp_path: Path) -> None:
    source, third = Source(), Imitated(tmp_path, "3.x")
    third.server.longest = 40
    async with opened(_influx(third.config())) as writer:
        found = await rejected(writer, source.batch([1.0, float("nan"), "x" * 50, 4.0]))
        requests = [path for path, _ in third.server.requests if "write" in path]
    third.server.end()
    assert (found.indices, found.rest_written) == ([1, 2], True)
    assert len(requests) == 1
    assert len(third.rows()) == 2


async def test_a_bucket_is_made_and_a_missing_one_is_a_config_error(imitated: Imitated) -> None:
    source = Source()
    own = imitated.own | {"create": "never"}
    async with opened(_influx(imitated.config(provider_config=own))) as writer:
        with pytest.raises(ConfigError, match='bucket "plant" not found'):
            await writer.write(source.batch([1.0]), 1)
    async with opened(_influx(imitated.config(provider_config=imitated.own | {"retention": "30d"}))) as writer:
        await writer.write(source.batch([1.0]), 1)
        findings = {finding.subject: finding for finding in await writer.check()}
    assert imitated.server.buckets == {"plant": [{"type": "expire", "everySeconds": 2_592_000}]}
    assert findings["database"].ok
    assert "after 30 days" in findings["retention"].detail


async def test_a_token_that_may_write_and_sees_nothing_can_write(imitated: Imitated) -> None:
    imitated.server.buckets["plant"] = []
    imitated.server.write_only = True
    async with opened(_influx(imitated.config())) as writer:
        await writer.write(Source().batch([1.0]), 1)
        assert "missing, or hidden" in {f.subject: f.detail for f in await writer.check()}["database"]
    assert len(imitated.rows()) == 1


async def test_a_writer_that_is_not_open_says_so() -> None:
    config = InfluxConfig.model_validate({"provider_config": {"version": "1.x", "database": "d"}})
    writer = config.writer(None)  # type: ignore[arg-type]
    with pytest.raises(TransientError, match="not open"):
        await writer.write(Source().batch([1.0]), 1)


async def test_check_says_what_is_wrong(imitated: Imitated) -> None:
    async def told(**own: Any) -> dict[str, tuple[bool, str]]:
        settings = {key: value for key, value in (imitated.own | own).items() if value is not None}
        async with opened(_influx(imitated.config(provider_config=settings))) as writer:
            return {finding.subject: (finding.ok, finding.detail) for finding in await writer.check()}

    ok, detail = (await told(version="1.x", organization=None, bucket=None, database="d", create="never", token=None))[
        "server"
    ]
    assert not ok
    assert "is InfluxDB v2.7.12; set `version: 2.x`" in detail
    assert (await told())["server"][0]
    ok, detail = (await told(token="wrong-secret", create="never"))["database"]
    assert not ok
    assert "check username, password and token" in detail
    assert "wrong-secret" not in detail
    assert "the later one stays" in (await told(precision="ms"))["time"][1]


async def test_an_authority_that_is_missing_is_a_config_error(imitated: Imitated, tmp_path: Path) -> None:
    tls = imitated.server.tls | {"ca_file": str(tmp_path / "nowhere.pem")}
    writer = imitated.config(provider_config=imitated.own | {"tls": tls}).writer(None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="check `tls`"):
        await writer.open()


async def test_a_series_limit_rejects_the_readings_of_new_series(database: str) -> None:
    with running(Influx1(data="max-series-per-database = 2")) as server:
        source = Source()
        async with opened(config_1(server, database)) as writer:
            await writer.write(source.batch([1.0, 2.0]), 1)
            batch = source.batch([3.0, 4.0, 5.0])
            found = await rejected(writer, batch)
            assert (found.indices, found.rest_written) == ([2], True)
            assert "max-series-per-database limit exceeded" in found.reasons[0]
        assert len(series_rows(server.query('SELECT * FROM "reading" GROUP BY *', db=database))) == 4


async def test_what_was_written_comes_back_by_its_measurement_and_tags(database: str) -> None:
    source, server = Source(), influx1()
    own = {"measurement": "{signal_type}", "tags": ["path", "gateway", "shard", "site"]}
    batch = source.batch([21.5, 22.5])
    async with opened(config_1(server, database, **own)) as writer:
        await writer.write(batch, 1)
    found = series_rows(server.query('SELECT * FROM "temperature" GROUP BY *', db=database))
    assert sorted(found, key=lambda row: row.sequence) == rows(batch)
    assert found[0].path.startswith("plant 1/")


def _influx(config: Any) -> InfluxConfig:
    assert isinstance(config, InfluxConfig)
    return config


async def test_of_an_answer_without_end_only_its_beginning_is_kept(tmp_path: Path) -> None:
    sent = 0

    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            while sent < 200 * 1024**2:
                writer.write(bytes(1024**2))
                await writer.drain()
                sent += 1024**2
        writer.close()

    server = await asyncio.start_server(hostile, "127.0.0.1", 0)
    async with server:
        endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        own = {"version": "1.x", "database": "d"}
        config = InfluxConfig.model_validate({"endpoint": endpoint, "timeout": "20s", "provider_config": own})
        writer = config.writer(Context("gateway 1", tmp_path))
        with pytest.raises(DeliveryError):
            await writer.open()
        await writer.close()
    assert sent < 50 * 1024**2
