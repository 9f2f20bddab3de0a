"""AMQP 0.9.1 before a real RabbitMQ: what a message looks like, and what becomes of one that is not taken."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import AuthError, CapacityError, ConfigError, PoolUse, RejectedRecords, TransientError
from tests.connectors.targets.amqp_writers import fresh, opened, until, writing
from tests.contract.readings import Source
from tests.contract.relay import Relay
from tests.contract.writers.amqp import service
from tests.ports import free_port
from tests.rabbitmq_server import LARGEST, USER, RabbitServer

pytestmark = pytest.mark.interop("RabbitMQ")


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def server() -> RabbitServer:
    return service()


def declared(server: RabbitServer, name: str, key: str = "#", **arguments: Any) -> None:
    """A topic exchange and a queue of that name, bound by a key."""
    with server.channel() as channel:
        channel.exchange_declare(name, "topic", durable=True)
        channel.queue_declare(name, durable=True, arguments=arguments)
        channel.queue_bind(name, name, key)


async def test_a_message_carries_the_reading_its_identity_and_its_quality(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    tag = source.tag(1, path="plant1/hall.2/press/temp", unit="°C")
    async with opened(writing(tmp_path, exchange=name, queue=name, headers=["source", "unit", "site"])) as writer:
        await writer.write(source.batch([21.5], tags=[tag]), 1)
    ((method, properties, body),) = server.messages(name)
    assert (method.exchange, method.routing_key) == (name, "plant1.hall_2.press.temp")
    assert json.loads(body)["path"] == "plant1/hall.2/press/temp"
    assert properties.message_id == "gateway 1/modbus-0-a1b2/0"
    assert properties.content_type == "application/json"
    assert properties.delivery_mode == 2
    assert properties.timestamp == 1_790_000_000
    assert properties.app_id == "bifrost"
    assert properties.headers == {
        "gateway": "gateway 1", "shard": "modbus-0-a1b2", "sequence": 0, "quality": "GOOD", "source": "plc1", "unit": "°C",
        "site": "plant 1",
    }  # fmt: skip


async def test_readings_of_one_routing_key_share_messages_when_packed(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    settings = {"exchange": name, "queue": name, "message": "packed", "routing_key": "{source}", "pack_bytes": 2048}
    async with opened(writing(tmp_path, **settings)) as writer:
        await writer.write(source.batch([float(i) for i in range(40)]), 1)
    found = server.messages(name)
    assert {method.routing_key for method, _, _ in found} == {"plc0", "plc1"}
    assert all(len(body) <= 2048 for _, _, body in found)
    readings = [reading["sequence"] for _, _, body in found for reading in json.loads(body)]
    assert sorted(readings) == list(range(40))
    for _, properties, body in found:
        inside = [reading["sequence"] for reading in json.loads(body)]
        assert (properties.headers["sequence"], properties.headers["readings"]) == (inside[0], len(inside))
        assert properties.message_id == f"gateway 1/modbus-0-a1b2/{inside[0]}-{inside[-1]}*{len(inside)}"


async def test_a_message_larger_than_a_frame_arrives_whole(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    async with opened(writing(tmp_path, exchange=name, queue=name)) as writer:
        await writer.write(source.batch([1.0, "x" * 280_000, "y" * 140_000, 2.0]), 1)
    assert [len(str(json.loads(body)["value"])) for body in server.take(name)] == [1, 280_000, 140_000, 1]


async def test_a_message_that_no_queue_takes_is_a_config_error_that_names_exchange_and_key(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    declared(server, name, "somewhere.else")
    batch = source.batch([1.0, 2.0, 3.0], tags=[source.tag(1, path=path) for path in ("a/b", "somewhere/else", "c")])
    async with opened(writing(tmp_path, exchange=name)) as writer:
        with pytest.raises(ConfigError) as caught:
            await writer.write(batch, 1)
        for part in (
            "2 messages came back",
            f"exchange `{name}` with routing key `a.b`",
            "`c`",
            "NO_ROUTE",
            "bind a queue",
        ):
            assert part in str(caught.value)
        with server.channel() as channel:
            channel.queue_bind(name, name, "#")
        await writer.write(batch, 1)
    assert {json.loads(body)["sequence"] for body in server.take(name)} == {0, 1, 2}


async def test_a_message_that_no_queue_takes_is_delivered_where_it_is_not_mandatory(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    declared(server, name, "somewhere.else")
    async with opened(writing(tmp_path, exchange=name, mandatory=False)) as writer:
        await writer.write(source.batch([1.0]), 1)
    assert server.take(name) == []


async def test_a_queue_that_is_full_is_a_capacity_error(server: RabbitServer, tmp_path: Path, source: Source) -> None:
    name = fresh()
    declared(server, name, **{"x-max-length": 2, "x-overflow": "reject-publish"})
    async with opened(writing(tmp_path, exchange=name)) as writer:
        with pytest.raises(CapacityError, match=r"refused \d of 5 messages"):
            await writer.write(source.batch([1.0] * 5), 1)
        assert len(server.take(name)) >= 2
        await writer.write(source.batch([1.0]), 2)


async def test_a_queue_that_is_deleted_under_way_is_a_config_error_until_it_is_there_again(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    async with opened(writing(tmp_path, exchange=name, queue=name)) as writer:
        await writer.write(source.batch([1.0]), 1)
        with server.channel() as channel:
            channel.queue_delete(name)
        during = source.batch([2.0])
        with pytest.raises(ConfigError, match="came back"):
            await writer.write(during, 2)
        await writer.open()  # as the forwarder does: it is declared anew
        await writer.write(during, 2)
    assert [json.loads(body)["value"] for body in server.take(name)] == [2.0]


async def test_an_exchange_that_is_missing_is_a_config_error_and_the_next_write_has_a_channel_again(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    batch = source.batch([1.0])
    async with opened(writing(tmp_path, exchange=name, declare="never")) as writer:
        with pytest.raises(ConfigError, match=rf"NOT_FOUND - no exchange '{name}'.*declare: auto"):
            await writer.write(batch, 1)
        declared(server, name)
        await writer.write(batch, 1)
    assert len(server.take(name)) == 1


async def test_what_must_be_there_and_is_not_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="NOT_FOUND"):
        await writing(tmp_path, exchange=fresh(), declare="passive").open()


async def test_an_exchange_of_another_type_is_a_config_error(server: RabbitServer, tmp_path: Path) -> None:
    name = fresh()
    declared(server, name)
    with pytest.raises(ConfigError, match="PRECONDITION_FAILED.*declare: passive"):
        await writing(tmp_path, exchange=name, exchange_type="direct").open()


async def test_a_queue_is_a_quorum_queue_unless_told_and_outlives_the_connection(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    async with opened(writing(tmp_path, exchange=name, queue=name, bindings=["plant 1.#", "x.*"])) as writer:
        await writer.write(source.batch([1.0] * 500), 1)
    with server.channel() as channel:
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
        assert sum(1 for _, _, body in _take_all(channel, name, 500)) == 500


def _take_all(channel: Any, name: str, count: int) -> Iterator[tuple[Any, Any, bytes]]:
    for found in channel.consume(name, auto_ack=True, inactivity_timeout=10):
        assert found[0] is not None
        yield found
        count -= 1
        if not count:
            return


async def test_the_default_exchange_takes_names_of_queues_as_keys(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    settings = {"exchange": "", "routing_key": name, "queue": name, "queue_type": "classic"}
    async with opened(writing(tmp_path, **settings)) as writer:
        await writer.write(source.batch([1.0]), 1)
    assert len(server.take(name)) == 1


async def test_a_routing_key_that_is_too_long_is_a_rejected_reading(tmp_path: Path, source: Source) -> None:
    name = fresh()
    long, sound = source.tag(1, path="a" * 256), source.tag(1, path="a" * 255)
    async with opened(writing(tmp_path, exchange=name, queue=name)) as writer:
        with pytest.raises(RejectedRecords, match="routing key has more than 255 bytes") as caught:
            await writer.write(source.batch([1.0, 2.0], tags=[sound, long]), 1)
        assert (caught.value.indices, caught.value.rest_written) == ([1], False)
        await writer.write(source.batch([1.0], tags=[sound]), 2)


async def test_the_size_that_the_broker_allows_is_learned_from_it_once(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    batch = source.batch(["x" * (LARGEST + 1), 2.0, "y" * (LARGEST + 1)])
    async with opened(writing(tmp_path, exchange=name, queue=name)) as writer:
        for _ in range(2):
            with pytest.raises(RejectedRecords, match=f"more than {LARGEST} bytes") as caught:
                await writer.write(batch, 1)
            assert caught.value.indices == [0, 2]
        await writer.write(batch.slice(1, 1), 2)
    assert [json.loads(body)["value"] for body in server.take(name)] == [2.0]


async def test_a_user_without_rights_is_an_auth_error(server: RabbitServer, tmp_path: Path, source: Source) -> None:
    name = fresh()
    declared(server, name)
    server.control("add_user", name, "secret word")
    stranger = {"username": name, "password": "secret word", "exchange": name, "declare": "never"}
    with pytest.raises(AuthError, match="access to vhost") as caught:
        await writing(tmp_path, **stranger).open()
    assert "secret word" not in str(caught.value)
    server.control("set_permissions", name, "nothing", "nothing", "nothing")
    async with opened(writing(tmp_path, **stranger)) as writer:
        with pytest.raises(AuthError, match="ACCESS_REFUSED"):
            await writer.write(source.batch([1.0]), 1)
    with pytest.raises(AuthError, match="ACCESS_REFUSED"):
        await writing(tmp_path, **stranger | {"declare": "auto"}).open()


async def test_a_virtual_host_that_is_missing_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vhost nowhere not found.*check `vhost`"):
        await writing(tmp_path, f"amqp://127.0.0.1:{service().port}/nowhere").open()


async def test_a_client_certificate_proves_who_the_gateway_is(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    folder = server.folder
    tls = {"ca_file": folder / "ca.crt", "cert_file": folder / "client.crt", "key_file": folder / "client.key"}
    by_certificate = {
        "username": None,
        "password": None,
        "mechanism": "external",
        "tls": tls,
        "exchange": name,
        "queue": name,
    }
    async with opened(writing(tmp_path, f"amqps://127.0.0.1:{server.tls_port}", **by_certificate)) as writer:
        await writer.write(source.batch([1.0]), 1)
    assert f"user '{USER}' authenticated and granted access" in server.log()
    with server.channel() as channel:
        assert channel.queue_declare(name, passive=True).method.message_count == 1


async def test_a_port_without_tls_is_told_apart_from_a_network_that_fails(server: RabbitServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not speak TLS"):
        await writing(tmp_path, f"amqps://127.0.0.1:{server.port}").open()


async def test_of_several_hosts_the_first_that_answers_is_taken(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    endpoint = f"amqp://127.0.0.1:{free_port()},127.0.0.1:{server.port}"
    async with opened(writing(tmp_path, endpoint, exchange=name, queue=name)) as writer:
        await writer.write(source.batch([1.0]), 1)
    with pytest.raises(TransientError, match="Connect call failed"):
        await writing(tmp_path, f"amqp://127.0.0.1:{free_port()}").open()


@contextmanager
def out_of_memory(server: RabbitServer) -> Iterator[None]:
    server.control("set_vm_memory_high_watermark", "absolute", "1")
    try:
        yield
    finally:
        server.control("set_vm_memory_high_watermark", "absolute", "2000000000")


async def test_a_broker_that_blocks_publishers_is_a_capacity_error_and_nothing_is_lost(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = fresh()
    first, second = source.batch([1.0]), source.batch([2.0])
    async with opened(writing(tmp_path, exchange=name, queue=name, timeout=1)) as writer:
        with out_of_memory(server):
            for _ in range(2):  # the first publish tells the broker that this connection publishes
                with pytest.raises(CapacityError, match="takes no messages.*low on memory"):
                    await writer.write(first, 1)
    async with opened(writing(tmp_path, exchange=name, queue=name)) as writer:
        with out_of_memory(server):
            waiting = asyncio.create_task(writer.write(first, 1))
            await until(lambda: writer._connection is not None and writer._connection.blocked)
        await waiting  # it waits no longer than the alarm lasts
        await writer.write(second, 2)
    assert {json.loads(body)["sequence"] for body in server.take(name)} == {0, 1}


async def test_writes_share_a_bounded_pool_of_channels(tmp_path: Path, source: Source) -> None:
    name = fresh()
    async with Relay(service().port) as relay:
        writer = writing(tmp_path, f"amqp://127.0.0.1:{relay.port}", exchange=name, queue=name, channels=2)
        assert writer.limits.writes_in_flight == 2
        assert writer.pool() == PoolUse(2, 0, 0, 0)
        async with opened(writer):
            await writer.write(source.batch([0.0]), 1)
            assert writer.pool() == PoolUse(2, 1, 0, 0)
            relay.freeze()
            writes = [asyncio.create_task(writer.write(source.batch([float(i)]), 2 + i)) for i in range(3)]
            await until(lambda: writer.pool() == PoolUse(2, 2, 2, 1))
            relay.thaw()
            await asyncio.gather(*writes)
            assert writer.pool() == PoolUse(2, 2, 0, 0)


async def test_a_broker_that_says_nothing_is_found_by_its_missing_heartbeats(tmp_path: Path, source: Source) -> None:
    name = fresh()
    async with Relay(service().port) as relay:
        endpoint = f"amqp://127.0.0.1:{relay.port}"
        async with opened(writing(tmp_path, endpoint, exchange=name, queue=name, heartbeat=1)) as writer:
            await writer.write(source.batch([1.0]), 1)
            relay.freeze()
            with pytest.raises(TransientError, match="has said nothing for 2 s"):
                await writer.write(source.batch([2.0]), 2)


async def test_a_frame_without_an_end_is_not_waited_for(tmp_path: Path) -> None:
    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"\x01\0\0\x7f\xff\xff\xff" + bytes(1000))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(hostile, "127.0.0.1", 0)
    async with server:
        endpoint = f"amqp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(TransientError, match="2,147,483,647 bytes, 131,072 were agreed on"):
            await writing(tmp_path, endpoint).open()


async def test_a_check_says_what_is_there_and_makes_nothing(server: RabbitServer, tmp_path: Path) -> None:
    name = fresh()
    missing = await writing(tmp_path, exchange=name, queue=name).check()
    assert [(f.ok, f.subject, f.detail) for f in missing] == [
        (True, "server", f"RabbitMQ {server_version()}, virtual host /"),
        (True, f"exchange `{name}`", "will be made"),
        (True, f"queue `{name}`", "will be made"),
    ]
    required = await writing(tmp_path, exchange=name, declare="passive").check()
    assert [(f.ok, f.subject) for f in required] == [
        (True, "server"), (False, f"exchange `{name}`"), (True, "queue"),
    ]  # fmt: skip
    declared(server, name)
    there = await writing(tmp_path, exchange=name, queue=name).check()
    assert [(f.ok, f.detail) for f in there[1:]] == [(True, "is there"), (True, "is there")]
    (refused,) = await writing(tmp_path, password="wrong").check()
    assert (refused.ok, refused.subject) == (False, "connection")
    assert "wrong" not in refused.detail.replace("wrong credentials", "")


def server_version() -> str:
    from tests.interop import version

    return version("RabbitMQ")
