"""The MQTT target before mosquitto, and before brokers that answer as few do."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connectors.contract import (
    AuthError,
    CapacityError,
    ConfigError,
    Context,
    DeliveryError,
    RejectedRecords,
    TransientError,
)
from connectors.targets.mqtt import MqttTargetConfig
from connectors.targets.mqtt.writer import MqttWriter
from connectors.wire.mqtt_packets import packet_bounds
from normalization.reading import Quality
from tests.contract.readings import Source
from tests.mosquitto_process import PASSWORD, USER, Mosquitto
from tests.ports import free_port

COUNTERPARTS = Path(__file__).parents[2] / "counterparts"
LOGIN = {"username": USER, "password": PASSWORD}


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    running = Mosquitto(tmp_path / "broker")
    yield running
    running.end()


def writer(endpoint: str, folder: Path, **own: Any) -> MqttWriter:
    config = MqttTargetConfig.model_validate({"endpoint": endpoint, "timeout": "5s", "provider_config": own})
    return MqttWriter(config, Context("line 1", folder))


async def publish(broker: Mosquitto, folder: Path, *batches: Any, **own: Any) -> list[tuple[str, str, str]]:
    target = writer(f"mqtt://127.0.0.1:{broker.port}", folder, **LOGIN, **own)
    await target.open()
    for unit, batch in enumerate(batches):
        await target.write(batch, unit)
    found = await asyncio.to_thread(broker.messages)
    await target.close()
    return found


@pytest.mark.interop("mosquitto", "a target's topics and payloads arrive")
async def test_topics_say_what_kind_of_reading_it_is(broker: Mosquitto, tmp_path: Path, source: Source) -> None:
    batch = source.batch([1.5, 2, "smoke", "door"])
    quality = pa.array([Quality.GOOD, Quality.ALARM, Quality.ALARM, Quality.GOOD], pa.int8())
    properties = pa.array([None, None, '{"event_type":"A"}', '{"event_type":"B","severity":7}'])
    for name, column in (("quality", quality), ("properties", properties)):
        place = batch.schema.get_field_index(name)
        batch = batch.set_column(place, batch.schema.field(place), column)
    own = {"topic_prefix": "plant/{site}", "data_topic": "data", "event_topic": "ev", "alarm_topic": "al"}
    found = await publish(broker, tmp_path, batch, topic="{tag_name}", **own)
    assert [f"{topic} {rest}".split(" {", 1)[0] for _, topic, rest in found] == [
        "plant/plant 1/data/temp 0", "plant/plant 1/al/temp 1", "plant/plant 1/al/temp 2", "plant/plant 1/ev/temp 3",
    ]  # fmt: skip


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.interop("mosquitto", "a target's messages arrive at every quality of service")
async def test_every_quality_of_service_delivers_all(
    broker: Mosquitto, tmp_path: Path, source: Source, qos: int, version: str
) -> None:
    found = await publish(
        broker, tmp_path, source.batch([float(i) for i in range(500)]), qos=qos, version=version, topic="{source}"
    )
    assert len(found) == 500
    assert {one[0] for one in found} == {f"{min(qos, 1)}0"}


@pytest.mark.interop("mosquitto", "retained messages of a target stay, its will says that it is gone")
async def test_retained_messages_and_a_status_that_tells_of_a_break(
    broker: Mosquitto, tmp_path: Path, source: Source
) -> None:
    own = LOGIN | {"retain": True, "topic": "{source}", "status_topic": "status/{gateway}"}
    target = writer(f"mqtt://127.0.0.1:{broker.port}", tmp_path, **own)
    await target.open()
    await target.write(source.batch([1, 2]), 1)

    async def states() -> list[str]:
        found = await asyncio.to_thread(broker.messages)
        return [f"{topic} {rest}" for _, topic, rest in found if topic.startswith("status/")]

    assert await states() == ["status/line 1 online"]
    target._publisher.session.fail(ConnectionError("cable pulled"))
    async with asyncio.timeout(10):
        while len(await states()) < 2:
            await asyncio.sleep(0.02)
    await target.open()
    await target.close()
    assert await states() == ["status/line 1 online", "status/line 1 offline"] + [
        "status/line 1 online", "status/line 1 offline"
    ]  # fmt: skip


@pytest.mark.interop("mosquitto", "a topic that is not allowed is told with MQTT 5")
async def test_a_topic_that_is_not_allowed_is_an_authentication_error(tmp_path: Path, source: Source) -> None:
    acl = tmp_path / "acl"
    acl.write_text(f"user {USER}\ntopic read #\ntopic write mark/#\ntopic write allowed/#\n")
    acl.chmod(0o644)
    broker = Mosquitto(tmp_path / "broker", [f"acl_file {acl}"])
    try:
        target = writer(
            f"mqtt://127.0.0.1:{broker.port}", tmp_path, **LOGIN, version="5", topic_prefix="secret", topic="{source}"
        )
        await target.open()
        with pytest.raises(AuthError, match="may not publish to `secret/telemetry/plc0`"):
            await target.write(source.batch([1.0]), 1)
        await target.close()
    finally:
        broker.end()


@pytest.mark.interop("mosquitto", "a target publishes over WebSocket")
async def test_a_broker_behind_websockets_gets_all(tmp_path: Path, source: Source) -> None:
    port = free_port()
    broker = Mosquitto(tmp_path / "broker", [f"listener {port} 127.0.0.1", "protocol websockets"])
    try:
        target = writer(f"ws://127.0.0.1:{port}", tmp_path, **LOGIN, topic="{source}")
        await target.open()
        await target.write(source.batch([float(i) for i in range(2_000)]), 1)
        assert len(await asyncio.to_thread(broker.messages)) == 2_000
        await target.close()
    finally:
        broker.end()


@pytest.mark.interop("mosquitto", "a second client with the same client id is told")
async def test_a_second_client_with_the_same_name_is_told(broker: Mosquitto, tmp_path: Path, source: Source) -> None:
    own = LOGIN | {"client_id": "one", "version": "5", "topic": "{source}"}
    first, second = (writer(f"mqtt://127.0.0.1:{broker.port}", tmp_path, **own) for _ in range(2))
    errors = []
    await first.open()
    for _ in range(4):
        await second.open()
        with pytest.raises(DeliveryError) as caught:
            await first.write(source.batch([1.0]), 2)
        errors.append(caught.value)
        await first.open()
    await first.close()
    await second.close()
    assert [type(error) for error in errors] == [TransientError] * 3 + [ConfigError]
    assert "client id `one` used twice" in str(errors[-1])


async def test_a_pack_is_as_large_as_the_broker_allows(tmp_path: Path, source: Source) -> None:
    broker = Mosquitto(tmp_path / "broker", ["max_packet_size 2000"])
    try:
        own = LOGIN | {"version": "5", "topic": "{source}", "readings_per_message": 1000}
        target = writer(f"mqtt://127.0.0.1:{broker.port}", tmp_path, **own)
        await target.open()
        with pytest.raises(RejectedRecords) as caught:
            await target.write(source.batch([*range(100), "x" * 3000]), 1)
        assert (caught.value.indices, caught.value.rest_written) == ([100], True)
        found = await asyncio.to_thread(broker.messages)
        assert max(len(rest) for *_, rest in found) < 2000
        assert sum(len(json.loads(rest)) for *_, rest in found) == 100
        await target.close()
    finally:
        broker.end()


# ---------------------------------------------------------------------- brokers that answer as few do


@asynccontextmanager
async def acting(connack: bytes, answer: Callable[[int, bytes], bytes]) -> AsyncIterator[str]:
    """A broker that sends `connack`, and for each later packet what `answer` says of its first byte and content."""

    async def serve(reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        data, first = b"", True
        try:
            while more := await reader.read(65536):
                data += more
                while data and (bounds := packet_bounds(data, 0)) and bounds[1] <= len(data):
                    out.write(connack if first else answer(data[0], data[bounds[0] : bounds[1]]))
                    data, first = data[bounds[1] :], False
        except ConnectionError:
            pass
        finally:
            out.close()
            ended.release()

    ended = asyncio.Semaphore(0)
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with asyncio.timeout(5):
            await ended.acquire()


def packet_id(content: bytes) -> bytes:
    size = int.from_bytes(content[:2], "big")
    return content[2 + size : 4 + size]


def puback(code: int) -> Callable[[int, bytes], bytes]:
    return lambda head, content: b"\x40\x04" + packet_id(content) + bytes([code, 0]) if head & 0xF0 == 0x30 else b""


CONNACK_5 = b"\x20\x03\x00\x00\x00"


async def written(endpoint: str, folder: Path, source: Source, count: int = 3, **own: Any) -> Any:
    target = writer(endpoint, folder, version="5", topic="{source}", **own)
    await target.open()
    try:
        await target.write(source.batch([float(i) for i in range(count)]), 1)
    finally:
        await target.close()


@pytest.mark.parametrize(
    ("code", "error"),
    [(0x80, TransientError), (0x83, TransientError), (0x87, AuthError), (0x97, CapacityError), (0x90, RejectedRecords),
     (0x95, RejectedRecords), (0x99, RejectedRecords)],
)  # fmt: skip
async def test_a_refusal_has_its_place_in_the_tree(
    tmp_path: Path, source: Source, code: int, error: type[DeliveryError]
) -> None:
    async with acting(CONNACK_5, puback(code)) as endpoint:
        with pytest.raises(error) as caught:
            await written(endpoint, tmp_path, source)
        if isinstance(caught.value, RejectedRecords):
            assert (caught.value.indices, caught.value.rest_written) == ([0, 1, 2], True)


@pytest.mark.parametrize("code", [0x00, 0x01, 0x10])
async def test_what_is_no_failure_is_a_success(tmp_path: Path, source: Source, code: int) -> None:
    """No subscribers (0x10), and the 0x01 that mochi-mqtt answers."""
    async with acting(CONNACK_5, puback(code)) as endpoint:
        await written(endpoint, tmp_path, source)


async def test_a_refused_pack_is_sent_again_reading_by_reading(tmp_path: Path, source: Source) -> None:
    def answer(head: int, content: bytes) -> bytes:
        if head & 0xF0 != 0x30:
            return b""
        wrong = b'"value":1,' in content
        return b"\x40\x04" + packet_id(content) + bytes([0x99 if wrong else 0, 0])

    async with acting(CONNACK_5, answer) as endpoint:
        with pytest.raises(RejectedRecords) as caught:
            await written(endpoint, tmp_path, source, 20, readings_per_message=100)
    assert (caught.value.indices, caught.value.rest_written) == ([1], True)


@pytest.mark.parametrize(
    ("code", "error"),
    [(0x84, ConfigError), (0x85, ConfigError), (0x86, AuthError), (0x87, AuthError), (0x88, TransientError),
     (0x97, CapacityError), (0x9B, ConfigError), (0x9F, CapacityError)],
)  # fmt: skip
async def test_a_refused_connection_has_its_place_in_the_tree(
    tmp_path: Path, source: Source, code: int, error: type[DeliveryError]
) -> None:
    async with acting(b"\x20\x03\x00" + bytes([code]) + b"\x00", lambda *_: b"") as endpoint:
        with pytest.raises(error, match="refused the connection"):
            await written(endpoint, tmp_path, source)


@pytest.mark.parametrize(
    ("code", "error"), [(0x8E, ConfigError), (0x95, ConfigError), (0x96, CapacityError), (0x8B, TransientError)]
)
async def test_a_dismissal_has_its_place_in_the_tree(
    tmp_path: Path, source: Source, code: int, error: type[DeliveryError]
) -> None:
    async with acting(CONNACK_5, lambda head, _: b"\xe0\x02" + bytes([code, 0]) if head & 0xF0 == 0x30 else b"") as at:
        with pytest.raises(error):
            await written(at, tmp_path, source)


async def test_the_receive_maximum_of_the_broker_is_kept(tmp_path: Path, source: Source) -> None:
    open_, most = 0, 0

    async def serve(reader: asyncio.StreamReader, out: asyncio.StreamWriter) -> None:
        nonlocal open_, most
        data, waiting, first = b"", b"", True
        while more := await reader.read(65536):
            data += more
            while data and (bounds := packet_bounds(data, 0)) and bounds[1] <= len(data):
                if first:
                    out.write(b"\x20\x06\x00\x00\x03\x21\x00\x07")
                    first = False
                elif data[0] & 0xF0 == 0x30:
                    open_ += 1
                    waiting += b"\x40\x02" + packet_id(data[bounds[0] : bounds[1]])
                data = data[bounds[1] :]
            most = max(most, open_)
            await asyncio.sleep(0.001)
            out.write(waiting)
            open_, waiting = 0, b""
        out.close()
        ended.set()

    ended = asyncio.Event()
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        await written(f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}", tmp_path, source, 200)
        await ended.wait()
    assert most == 7


@pytest.mark.parametrize(
    ("connack", "own", "words"),
    [
        (b"\x20\x05\x00\x00\x02\x24\x01", {"qos": 2}, "set `qos: 1`"),
        (b"\x20\x05\x00\x00\x02\x25\x00", {"retain": True}, "set `retain: false`"),
    ],
)
async def test_what_the_broker_does_not_grant_is_said_when_opening(
    tmp_path: Path, source: Source, connack: bytes, own: dict[str, Any], words: str
) -> None:
    async with acting(connack, lambda *_: b"") as endpoint:
        with pytest.raises(ConfigError, match=words):
            await written(endpoint, tmp_path, source, **own)


async def test_at_qos_0_a_broker_that_does_not_answer_a_ping_has_nothing(tmp_path: Path, source: Source) -> None:
    async with acting(CONNACK_5, lambda *_: b"") as endpoint:
        config = MqttTargetConfig.model_validate(
            {
                "endpoint": endpoint,
                "timeout": "200ms",
                "provider_config": {"version": "5", "qos": 0, "topic": "{source}"},
            }
        )
        target = MqttWriter(config, Context("g", tmp_path))
        await target.open()
        with pytest.raises(TransientError, match="has not answered for 0.2 s"):
            await target.write(source.batch([1.0]), 1)
        await target.close()


async def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    config = MqttTargetConfig.model_validate(
        {"endpoint": "mqtts://127.0.0.1:1", "ca_file": str(tmp_path / "ca.pem"), "timeout": "2s"}
    )
    with pytest.raises(ConfigError, match=r"ca\.pem: No such file .*`ca_file`"):
        await config.writer(Context("g", tmp_path)).open()


async def test_topics_that_no_broker_takes_are_refused_beside_those_that_are_sound(
    broker: Mosquitto, tmp_path: Path, source: Source
) -> None:
    tags = [
        source.tag(0, path=""),
        source.tag(1, path="a+b#c\0d\x01"),
        source.tag(2, path="x" * 70_000),
        source.tag(3, path="$SYS/x"),
    ]
    batch = source.batch([0, 1, 2, 3], tags=tags)
    target = writer(
        f"mqtt://127.0.0.1:{broker.port}",
        tmp_path,
        **LOGIN,
        topic_prefix="",
        data_topic="",
        event_topic="",
        alarm_topic="",
    )
    await target.open()
    with pytest.raises(RejectedRecords) as caught:
        await target.write(batch, 1)
    assert (caught.value.indices, caught.value.rest_written) == ([0, 2, 3], True)
    assert [reason[:22] for reason in caught.value.reasons] == [
        "its topic is empty",
        "its topic has more tha",
        "its topic `$SYS/x` beg",
    ]
    assert [topic for _, topic, _ in await asyncio.to_thread(broker.messages)] == ["a_b_c_d_"]
    await target.close()


async def test_check_says_what_the_broker_grants(broker: Mosquitto, tmp_path: Path) -> None:
    endpoint = f"mqtt://127.0.0.1:{broker.port}"
    (found,) = await writer(endpoint, tmp_path, **LOGIN, version="5").check()
    assert (found.ok, found.detail[:36]) == (True, "answers as MQTT 5, takes QoS 2, 20 m")
    (found,) = await writer(endpoint, tmp_path, username=USER, password="wrong").check()
    assert not found.ok
    assert "check username" in found.detail
    assert await asyncio.to_thread(broker.messages) == []


# ---------------------------------------------------------------------- mochi-mqtt


@pytest.mark.interop("mochi-mqtt", "a target's messages are delivered, also where PUBACK is odd")
@pytest.mark.parametrize("version", ["3.1.1", "5"])
async def test_mochi_takes_messages_and_answers_user_properties_oddly(
    tmp_path: Path, source: Source, version: str
) -> None:
    """Its PUBACK for a message with user properties has reason code 0x01, which there is not."""
    await asyncio.to_thread(subprocess.run, ["sh", str(COUNTERPARTS / "mochi/install.sh")], check=True, timeout=300)
    port = free_port()
    broker = await asyncio.create_subprocess_exec(
        str(COUNTERPARTS.parents[1] / "build/counterparts/mochi/mochi"), str(port),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert broker.stdout is not None
    try:
        assert await broker.stdout.readline() == b"ready\n"
        own = {"version": version, "topic": "{source}"} | ({"identity_properties": True} if version == "5" else {})
        target = writer(f"mqtt://127.0.0.1:{port}", tmp_path, **own)
        await target.open()
        # it stands still while nobody reads what it says
        writing = asyncio.create_task(target.write(source.batch([float(i) for i in range(500)]), 1))
        found = [(await broker.stdout.readline()).decode().split(" ", 1) for _ in range(500)]
        await writing
        await target.close()
    finally:
        broker.kill()
        await broker.communicate()
    assert {topic for topic, _ in found} == {"bifrost/telemetry/plc0", "bifrost/telemetry/plc1"}
    assert sorted(json.loads(payload)["value"] for _, payload in found) == list(range(500))
