"""AMQP 1.0 before a real RabbitMQ, and before a peer that gives every outcome there is."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    DeliveryError,
    RejectedRecords,
    TransientError,
)
from connectors.targets.amqp.version_1.connection import Ended
from connectors.targets.amqp.version_1.errors import ended_error
from connectors.targets.amqp.version_1.types import Described, Symbol, Ubyte, Uint, decode, encode
from tests.connectors.targets.amqp_peer import ACCEPTED, Peer
from tests.connectors.targets.amqp_writers import fresh, opened, sending
from tests.contract.readings import Source
from tests.contract.writers.amqp import service
from tests.rabbitmq_server import LARGEST, RabbitServer


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def server() -> RabbitServer:
    return service()


# ---------------------------------------------------------------------- RabbitMQ


def queued(server: RabbitServer, exchange: str = "", **arguments: Any) -> str:
    """A queue, bound to an exchange if one is named."""
    name = fresh()
    with server.channel() as channel:
        channel.queue_declare(name, durable=True, arguments=arguments)
        if exchange:
            channel.exchange_declare(exchange, "topic", durable=True)
            channel.queue_bind(name, exchange, "#")
    return name


def application_properties(properties: Any) -> dict[str, Any]:
    """The plugin hands them on to readers of 0.9.1 as the bytes that they came in."""
    found: dict[str, Any] = decode(properties.headers["x-amqp-1.0-app-properties"]).value
    return found


@pytest.mark.interop("RabbitMQ", "AMQP 1.0: a message carries reading, identity and quality")
async def test_a_message_carries_the_reading_its_identity_and_its_quality(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    exchange = fresh()
    name = queued(server, exchange)
    tag = source.tag(1, path="plant1/hall.2/temp")
    async with opened(sending(tmp_path, address=f"/exchange/{exchange}", headers=["unit"])) as writer:
        await writer.write(source.batch([21.5], tags=[tag]), 1)
    ((method, properties, body),) = server.messages(name)
    assert method.routing_key == "plant1.hall_2.temp"  # the subject
    assert (json.loads(body)["value"], properties.delivery_mode) == (21.5, 2)
    assert properties.message_id == "gateway 1/modbus-0-a1b2/0"
    assert properties.content_type == "application/json"
    wanted = {"gateway": "gateway 1", "shard": "modbus-0-a1b2", "sequence": 0, "quality": "GOOD", "unit": "°C"}
    assert application_properties(properties) == wanted


@pytest.mark.interop("RabbitMQ", "AMQP 1.0: messages of many frames, and packed ones")
async def test_messages_larger_than_a_frame_and_packed_ones_arrive_whole(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = queued(server)
    address = f"/amq/queue/{name}"
    async with opened(sending(tmp_path, address=address)) as writer:
        await writer.write(source.batch([1.0, "x" * 280_000, 2.0]), 1)
    assert [len(str(json.loads(body)["value"])) for body in server.take(name)] == [1, 280_000, 1]
    settings = {"message": "packed", "pack_bytes": "4KiB", "subject": "{source}"}
    async with opened(sending(tmp_path, address=address, **settings)) as writer:
        await writer.write(source.batch([float(i) for i in range(100)]), 2)
    found = server.messages(name)
    assert sorted(one["value"] for _, _, body in found for one in json.loads(body)) == list(range(100))
    assert all(application_properties(one)["readings"] == len(json.loads(body)) for _, one, body in found)


@pytest.mark.interop("RabbitMQ", "AMQP 1.0: an address per tag")
async def test_each_address_has_a_link(server: RabbitServer, tmp_path: Path, source: Source) -> None:
    names = [queued(server) for _ in range(2)]
    tags = [source.tag(i, tag_name=name) for i, name in enumerate(names)]
    async with opened(sending(tmp_path, address="/amq/queue/{tag_name}")) as writer:
        await writer.write(source.batch([float(i) for i in range(100)], tags=[tags[i % 2] for i in range(100)]), 1)
    assert [[json.loads(body)["value"] for body in server.take(name)] for name in names] == [
        list(range(0, 100, 2)),
        list(range(1, 100, 2)),
    ]


@pytest.mark.interop("RabbitMQ", "AMQP 1.0: what the peer refuses is told apart")
async def test_what_the_broker_refuses_is_told_apart(server: RabbitServer, tmp_path: Path, source: Source) -> None:
    with pytest.raises(ConfigError, match="check `address`"):
        await sending(tmp_path, address=f"/exchange/{fresh()}").open()
    full = queued(server, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    async with opened(sending(tmp_path, address=f"/amq/queue/{full}")) as writer:
        with pytest.raises(DeliveryError) as caught:
            await writer.write(source.batch([1.0] * 4), 1)
        assert not isinstance(caught.value, RejectedRecords)
    with pytest.raises(AuthError, match="login was refused"):
        await sending(tmp_path, password="wrong").open()
    with pytest.raises(ConfigError, match="does not know ANONYMOUS, but"):
        await sending(tmp_path, mechanism="anonymous").open()


@pytest.mark.interop("RabbitMQ", "AMQP 1.0: a message above the size limit")
async def test_a_message_above_the_limit_is_a_rejected_reading(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name = queued(server)
    async with opened(sending(tmp_path, address=f"/amq/queue/{name}", max_message_bytes=LARGEST)) as writer:
        with pytest.raises(RejectedRecords) as caught:
            await writer.write(source.batch([1.0, "x" * LARGEST]), 1)
        assert caught.value.indices == [1]


@pytest.mark.interop("RabbitMQ", "AMQP 1.0: SASL EXTERNAL by client certificate")
async def test_a_client_certificate_proves_who_the_gateway_is(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    name, folder = queued(server), server.folder
    tls = {"ca_file": folder / "ca.crt", "cert_file": folder / "client.crt", "key_file": folder / "client.key"}
    proved = {"username": None, "password": None, "mechanism": "external", "tls": tls, "address": f"/amq/queue/{name}"}
    async with opened(sending(tmp_path, f"amqps://127.0.0.1:{server.tls_port}", **proved)) as writer:
        await writer.write(source.batch([1.0]), 1)
    assert len(server.take(name)) == 1


@pytest.mark.interop("RabbitMQ", "AMQP 1.0: a check says what is there")
async def test_a_check_says_what_is_there(server: RabbitServer, tmp_path: Path) -> None:
    name = queued(server)
    found = await sending(tmp_path, address=f"/amq/queue/{name}").check()
    assert [(one.ok, one.subject) for one in found] == [(True, "server"), (True, f"address `/amq/queue/{name}`")]
    assert "RabbitMQ" in found[0].detail
    (missing,) = await sending(tmp_path, address=f"/exchange/{fresh()}").check()
    assert (missing.ok, missing.subject) == (False, "connection")


@pytest.mark.interop("RabbitMQ", "AMQP 1.0: a queue that the address makes outlasts a restart")
async def test_a_queue_that_the_address_makes_is_durable(server: RabbitServer, tmp_path: Path, source: Source) -> None:
    for address, persistent, durable in ((fresh(), True, "true"), (f"/queue/{fresh()}", False, "false")):
        async with opened(sending(tmp_path, address=address, persistent=persistent)) as writer:
            await writer.write(source.batch([1.0]), 1)
        name = address.removeprefix("/queue/")
        assert f"{name}\t{durable}" in server.control("list_queues", "name", "durable").splitlines()
        assert len(server.take(name)) == 1


@pytest.mark.interop("RabbitMQ", "AMQP 1.0: before 3.13 what no queue takes is accepted and dropped, which is told")
async def test_a_broker_that_accepts_what_no_queue_takes_is_not_written_to_unless_that_is_wanted(
    server: RabbitServer, tmp_path: Path, source: Source
) -> None:
    nowhere = f"/amq/queue/{fresh()}"
    writer = sending(tmp_path, address=nowhere, mandatory=True)
    with pytest.raises(ConfigError, match="when no queue takes it"):
        await writer.open()
    assert [(one.ok, one.subject) for one in await writer.check()][1] == (False, "unroutable messages")
    async with opened(sending(tmp_path, address=nowhere, mandatory=False)) as wanted:
        await wanted.write(source.batch([1.0]), 1)  # which RabbitMQ accepts


@pytest.mark.parametrize(
    ("product", "version", "address", "told"),
    [
        ("RabbitMQ", "3.12.14", "/exchange/x", False),
        ("RabbitMQ", "3.13.0", "/exchange/x", True),
        ("RabbitMQ", "4.1.2", "/queues/x", True),
        ("RabbitMQ", "3.10.8", "/queue/{line}", True),
        ("RabbitMQ", "3.10.8", "x", True),
        ("apache-activemq-artemis", "2.31.0", "/exchange/x", True),
    ],
)
async def test_only_brokers_that_do_not_tell_are_refused(
    tmp_path: Path, product: str, version: str, address: str, told: bool
) -> None:
    about = {Symbol("product"): product, Symbol("version"): version}
    async with Peer(about=about) as peer:
        writer = sending(
            tmp_path, f"amqp://127.0.0.1:{peer.port}", username=None, password=None, address=address, mandatory=True
        )
        assert told is all(finding.ok for finding in await writer.check())


# ---------------------------------------------------------------------- every outcome


def error(condition: str, text: str = "because") -> Described:
    return Described(0x1D, [Symbol(condition), text])


async def written(peer: Peer, folder: Path, source: Source, count: int = 3, **own: Any) -> None:
    settings = {"username": None, "password": None} | own
    async with opened(sending(folder, f"amqp://127.0.0.1:{peer.port}", **settings)) as writer:
        await writer.write(source.batch([float(i) for i in range(count)]), 1)


@pytest.mark.parametrize(
    ("outcome", "kind", "said"),
    [
        (Described(0x26, []), TransientError, "gave a message back"),
        (Described(0x27, [True, False]), TransientError, "gave a message back"),
        (Described(0x27, [True, True]), TransientError, "not to be sent to it again"),
        (Described(0x25, [error("amqp:resource-limit-exceeded")]), CapacityError, "because .*full"),
        (Described(0x25, [error("amqp:not-found")]), ConfigError, "check `address`"),
        (Described(0x25, [error("amqp:unauthorized-access")]), AuthError, "because"),
    ],
)
async def test_a_message_that_is_not_taken_now_is_sent_again(
    tmp_path: Path, source: Source, outcome: Described, kind: type[DeliveryError], said: str
) -> None:
    async with Peer(lambda number: outcome if number == 1 else ACCEPTED) as peer:
        with pytest.raises(kind, match=said):
            await written(peer, tmp_path, source)


@pytest.mark.parametrize("condition", ["amqp:decode-error", "plant:no-such-thing"])
async def test_a_message_that_is_rejected_is_a_rejected_reading_and_the_rest_is_written(
    tmp_path: Path, source: Source, condition: str
) -> None:
    outcome = Described(0x25, [error(condition, "no good")])
    async with Peer(lambda number: outcome if number in {1, 4} else ACCEPTED) as peer:
        with pytest.raises(RejectedRecords) as caught:
            await written(peer, tmp_path, source, 6)
    assert (caught.value.indices, caught.value.rest_written) == ([1, 4], True)
    assert caught.value.reasons == [f"no good ({condition})"] * 2


async def test_credit_is_kept_to_and_waited_for(tmp_path: Path, source: Source) -> None:
    async with Peer(credit=7) as peer:
        await written(peer, tmp_path, source, 100)
        assert len(peer.taken) == 100
    async with Peer(lambda _: None, credit=3) as peer:
        settings: dict[str, Any] = {"username": None, "password": None}
        async with opened(sending(tmp_path, f"amqp://127.0.0.1:{peer.port}", timeout=0.5, **settings)) as writer:
            with pytest.raises(CapacityError, match="`bifrost` gave no credit"):
                await writer.write(source.batch([1.0] * 5), 1)
        assert len(peer.taken) == 3


async def test_a_message_of_many_frames_is_put_together_again(tmp_path: Path, source: Source) -> None:
    async with Peer() as peer:
        async with opened(sending(tmp_path, f"amqp://127.0.0.1:{peer.port}", username=None, password=None)) as writer:
            await writer.write(source.batch(["x" * 10_000]), 1)
        assert [decode(data).field(5) for _, data in peer.taken] == [True, True, False]  # frames of 4,096 bytes
        assert sum(data.count(b"x" * 100) for _, data in peer.taken) >= 97


async def test_without_a_user_the_gateway_is_anonymous(tmp_path: Path, source: Source) -> None:
    async with Peer() as peer:
        await written(peer, tmp_path, source)
        await written(peer, tmp_path, source, username="u", password="p")
        assert (peer.mechanisms, peer.responses) == (["ANONYMOUS", "PLAIN"], [b"", b"\0u\0p"])
        assert peer.targets == ["bifrost"] * 2


async def test_more_addresses_than_links_is_a_config_error(tmp_path: Path, source: Source) -> None:
    tags = [source.tag(i) for i in range(257)]
    async with (
        Peer() as peer,
        opened(
            sending(tmp_path, f"amqp://127.0.0.1:{peer.port}", username=None, password=None, address="{path}")
        ) as writer,
    ):
        with pytest.raises(ConfigError, match="257 addresses"):
            await writer.write(source.batch([1.0] * 257, tags=tags), 1)


@pytest.mark.parametrize(
    ("condition", "kind"),
    [
        ("amqp:connection:forced", TransientError),
        ("amqp:internal-error", TransientError),
        ("amqp:link:detach-forced", TransientError),
        ("", TransientError),
        ("amqp:unauthorized-access", AuthError),
        ("amqp:not-found", ConfigError),
        ("amqp:resource-limit-exceeded", CapacityError),
        ("amqp:link:message-size-exceeded", RejectedRecords),
        ("com.microsoft:server-busy", CapacityError),
    ],
)
def test_the_end_of_a_connection_has_its_place_in_the_tree(condition: str, kind: type[DeliveryError]) -> None:
    assert isinstance(ended_error(Ended(condition, "said so"), "amqp://broker"), kind)


# ---------------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("data", "value"),
    [
        ("40", None),
        ("41", True),
        ("5601", True),
        ("43", 0),
        ("5207", 7),
        ("700000ffff", 65535),
        ("55ff", -1),
        ("81ffffffffffffffff", -1),
        ("823ff8000000000000", 1.5),
        ("a103616263", "abc"),
        ("b10000000161", "a"),
        ("a3026869", "hi"),
        ("a0020001", b"\0\1"),
        ("45", []),
        ("c003024142", [True, False]),
        ("d00000000602", None),
        ("c10602a1016b5201", {"k": 1}),
        ("e00602a301610162", ["a", "b"]),
        ("005324c00100", Described(0x24, [])),
    ],
)
def test_values_are_read_as_the_standard_writes_them(data: str, value: object) -> None:
    if value is None and data != "40":
        with pytest.raises(ValueError, match="ends before"):
            decode(bytes.fromhex(data))
    else:
        assert decode(bytes.fromhex(data)) == value


@pytest.mark.parametrize(
    "value",
    [None, True, False, b"\0" * 300, "ü" * 200, "a", Symbol("s"), ["a", [None, True]], {Symbol("k"): "v"}],
)
def test_what_is_written_is_read_back_equal(value: Any) -> None:
    assert decode(encode(value)) == value


def test_numbers_are_written_in_their_own_width() -> None:
    assert encode(Uint(1)) == b"\x70" + struct.pack(">I", 1)
    assert encode(Ubyte(1)) == b"\x50\x01"
    assert decode(encode(Described(0x10, [Uint(5)]))) == Described(0x10, [5])


@pytest.mark.parametrize("data", ["", "a1", "a105616263", "3f", "d0ffffffffffffffff", "00" * 40 + "40", "a101ff"])
def test_bytes_that_are_no_value_are_an_error_and_no_more(data: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that nothing else is raised is what matters
        decode(bytes.fromhex(data))
