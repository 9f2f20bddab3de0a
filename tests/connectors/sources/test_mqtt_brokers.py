"""Several brokers, WebSockets, TLS with ALPN, shared subscriptions, and a broker whose plug is pulled; all against mosquitto."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from structlog.testing import capture_logs

from connectors.contract import Context, SourceState
from connectors.sources.mqtt import MqttConfig
from delivery.journal import Journal
from flows.intake import SourceIntake, supervise
from normalization.reading import TagTable
from tests.connectors.sources.mqtt_harness import config, last_state, reading
from tests.mosquitto_broker import Broker
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

versions = pytest.mark.parametrize("version", ["3.1.1", "5"])


def values(intake: RecordingIntake) -> list[Any]:
    return [r.value for r in intake.readings()]


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(tmp_path) as running:
        yield running


@pytest.fixture
async def brokers(tmp_path: Path) -> AsyncIterator[tuple[Broker, Broker]]:
    async with AsyncExitStack() as stack:
        started = []
        for name in ("first", "second"):
            (tmp_path / name).mkdir()
            started.append(await stack.enter_async_context(Broker(tmp_path / name)))
        yield started[0], started[1]


def pair(brokers: tuple[Broker, Broker], **settings: Any) -> MqttConfig:
    return config(brokers[0], fallback=[f"mqtt://127.0.0.1:{brokers[1].port}"], **settings)


# ---------------------------------------------------------------------- several brokers


@pytest.mark.interop(
    "mosquitto", "the next broker is taken when the first cannot be reached, and the first again later"
)
@versions
async def test_the_next_broker_is_taken_and_the_first_again_with_the_messages_that_each_kept(
    brokers: tuple[Broker, Broker], tmp_path: Path, version: str
) -> None:
    first, second = brokers
    settings, intake = pair(brokers, version=version), RecordingIntake()
    async with reading(settings, intake, tmp_path):
        await first.publish("m", "1", options=["-q", "1"])
        await intake.until(lambda: values(intake) == [1])
    await first.stop()
    async with reading(settings, intake, tmp_path, last_state(intake)):
        await second.publish("m", "2", options=["-q", "1"])
        await intake.until(lambda: values(intake) == [1, 2])
        assert intake.states[-1] == (SourceState.CONNECTED, "")
        assert str(first.port) in [detail for state, detail in intake.states if state is SourceState.DOWN][-1]
    await first.start()
    await first.publish("m", "3", options=["-q", "1"])
    await second.publish("m", "4", options=["-q", "1"])
    async with reading(settings, intake, tmp_path, last_state(intake)):
        await intake.until(lambda: values(intake) == [1, 2, 3])
    await first.stop()
    async with reading(settings, intake, tmp_path, last_state(intake)):
        await intake.until(lambda: values(intake) == [1, 2, 3, 4])


@pytest.mark.interop(
    "mosquitto", "sessions at two brokers are told apart: nothing that was acknowledged late comes twice"
)
async def test_a_session_is_known_again_when_its_broker_is(brokers: tuple[Broker, Broker], tmp_path: Path) -> None:
    first, second = brokers
    settings, intake = pair(brokers), RecordingIntake()
    async with reading(settings, intake, tmp_path):
        intake.hold = True
        await first.publish("m", "1", options=["-q", "1"])
        await intake.until(lambda: values(intake) == [1])
        held, intake.open = intake.open, []
        first.freeze()  # it does not read the acknowledgement
        for future in held:
            future.set_result(None)
        intake.hold = False
        state = last_state(intake)
        await first.kill()
    async with reading(settings, intake, tmp_path, state):
        await second.publish("m", "2", options=["-q", "1"])
        await intake.until(lambda: values(intake) == [1, 2])
    other = config(first, subscriptions=[{"topic": "n"}], fallback=settings.fallback)
    await first.start()
    async with reading(other, intake, tmp_path, last_state(intake)):
        await first.until_logged(lambda log: "Received SUBSCRIBE" in log.rsplit("New connection", 1)[-1])
        await first.publish("n", "3", options=["-q", "1"])
        await intake.until(lambda: 3 in values(intake))
    assert values(intake) == [1, 2, 3]


@pytest.mark.interop("mosquitto", "a source on a fallback goes back when the first broker answers again, if told to")
async def test_a_source_goes_back_when_the_first_broker_answers(brokers: tuple[Broker, Broker], tmp_path: Path) -> None:
    first, _ = brokers
    settings, intake = pair(brokers, failback=0.1), RecordingIntake()
    await first.stop()
    async with reading(settings, intake, tmp_path) as task:
        await asyncio.sleep(0.3)  # it looks in vain
        assert not task.done()
        await first.start()
        with pytest.raises(ConnectionError, match=f"{first.port} answers again"):
            await asyncio.wait_for(task, 10)
    async with reading(settings, intake, tmp_path, last_state(intake)):
        await first.publish("m", "1", options=["-q", "1"])
        await intake.until(lambda: values(intake) == [1])


async def test_no_broker_at_all_is_an_error(tmp_path: Path) -> None:
    ports = free_port(), free_port()
    settings = MqttConfig.model_validate(
        {"name": "plant", "endpoint": f"tcp://127.0.0.1:{ports[0]}", "fallback": [f"tcp://127.0.0.1:{ports[1]}"]}
    )
    intake = RecordingIntake()
    with pytest.raises(ConnectionError, match=str(ports[1])):
        await settings.reader(Context("gw", tmp_path)).run(intake, None)
    details = [detail for state, detail in intake.states if state is SourceState.DOWN]
    assert [str(port) in detail for port, detail in zip(ports, details, strict=True)] == [True, True]


# ---------------------------------------------------------------------- shared subscriptions and sessions


@pytest.mark.interop("mosquitto", "gateways in one group of a shared subscription get each message once")
@versions
async def test_gateways_share_a_subscription(broker: Broker, tmp_path: Path, version: str) -> None:
    wanted = [{"topic": "$share/gateways/plant/+/v", "format": "plain", "pattern": "plant/{device_id}/{tag}"}]
    intakes = [RecordingIntake(), RecordingIntake()]
    async with AsyncExitStack() as stack:
        for number, intake in enumerate(intakes):
            settings = config(broker, version=version, client_id=f"gw{number}", subscriptions=wanted)
            await stack.enter_async_context(reading(settings, intake, tmp_path))
        for number in range(20):
            await broker.publish(f"plant/m{number}/v", str(number), options=["-q", "1"])
        await intakes[0].until(lambda: sum(len(intake.readings()) for intake in intakes) == 20)
    assert sorted(value for intake in intakes for value in values(intake)) == list(range(20))
    assert all(values(intake) for intake in intakes)
    first = intakes[0].readings()[0]
    assert (first.tag.device_id, first.tag.tag_name) == (f"m{first.value}", "v")


@pytest.mark.interop("mosquitto", "filters that were taken out are unsubscribed from in the session that is kept")
@versions
async def test_filters_that_are_gone_are_unsubscribed(broker: Broker, tmp_path: Path, version: str) -> None:
    intake = RecordingIntake()
    before = config(
        broker, version=version, subscriptions=[{"topic": "a/#"}, {"topic": "$share/g/b/#"}, {"topic": "c"}]
    )
    async with reading(before, intake, tmp_path):
        pass
    after = config(broker, version=version, subscriptions=[{"topic": "c"}, {"topic": "d", "qos": 2}])
    async with reading(after, intake, tmp_path, last_state(intake)):
        await broker.until_logged(
            lambda log: "Received UNSUBSCRIBE" in log and "\ta/#" in log and "\t$share/g/b/#" in log
        )
        for topic in ("a/1", "b/1", "c", "d"):
            await broker.publish(topic, f'"{topic}"', options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) == 2)
    assert values(intake) == ["c", "d"]


@asynccontextmanager
async def gateway(settings: MqttConfig, directory: Path) -> AsyncIterator[SourceIntake]:
    """A source under supervision, as in a gateway."""
    tags = TagTable()
    journal = Journal(directory, "gw", tags)
    intake = SourceIntake(settings.name, "mqtt", journal, tags)
    task = asyncio.create_task(supervise(settings, Context("gw", directory), intake, journal))
    try:
        yield intake
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(journal.close)


@pytest.mark.interop("mosquitto", "two gateways with one client id are told as what they are")
@versions
async def test_a_client_id_that_is_used_twice_is_told(broker: Broker, tmp_path: Path, version: str) -> None:
    """mosquitto 2.0 closes the older connection without a reason, in version 5 too."""
    settings, words = config(broker, version=version), "is the client id `gw-plant` used twice?"
    with capture_logs() as logs:
        async with gateway(settings, tmp_path / "one"), gateway(settings, tmp_path / "two"), asyncio.timeout(60):
            while not any(words in str(line) for line in logs):
                await asyncio.sleep(0.05)


# ---------------------------------------------------------------------- the plug is pulled


@pytest.mark.interop("mosquitto", "a broker that is killed and started again is connected to again by itself")
@versions
async def test_a_killed_broker_is_connected_to_again(broker: Broker, tmp_path: Path, version: str) -> None:
    settings = config(broker, version=version)
    async with gateway(settings, tmp_path / "journal") as intake, asyncio.timeout(60):
        for round_ in (1, 2):
            await _until_received(broker, intake, round_)
            await broker.kill()
            while intake.status.state is SourceState.CONNECTED:
                await asyncio.sleep(0.02)
            await broker.start()
        await _until_received(broker, intake, 3)
    assert intake.status.reconnections == 2
    assert intake.status.gaps == 2  # a killed broker forgets the session
    assert intake.status.last_gap is not None
    assert "forgotten the session" in intake.status.last_gap.reason


async def _until_received(broker: Broker, intake: SourceIntake, count: int) -> None:
    while intake.status.state is not SourceState.CONNECTED:
        await asyncio.sleep(0.02)
    await broker.publish("m", str(count), options=["-q", "1"])
    while intake.status.received < count:
        await asyncio.sleep(0.02)


@pytest.mark.interop(
    "mosquitto", "a broker that freezes is noticed by its silence, and its messages come when it goes on"
)
@versions
async def test_a_frozen_broker_is_noticed(broker: Broker, tmp_path: Path, version: str) -> None:
    settings = config(broker, version=version, keepalive=1, connect_timeout=1)
    async with gateway(settings, tmp_path / "journal") as intake, asyncio.timeout(60):
        await _until_received(broker, intake, 1)
        broker.freeze()
        while "silent" not in intake.status.detail:
            await asyncio.sleep(0.02)
        while "no answer" not in intake.status.detail:
            await asyncio.sleep(0.02)
        broker.thaw()
        await _until_received(broker, intake, 2)
    assert intake.status.gaps == 0  # the broker kept the session


# ---------------------------------------------------------------------- WebSockets


@pytest.mark.interop("mosquitto", "over WebSocket")
@versions
async def test_messages_come_over_websocket(tmp_path: Path, version: str) -> None:
    port = free_port()
    async with Broker(
        tmp_path, ["allow_anonymous true", f"listener {port} 127.0.0.1", "protocol websockets"]
    ) as broker:
        intake = RecordingIntake()
        settings = config(broker, endpoint=f"ws://127.0.0.1:{port}/mqtt", version=version, keepalive=1)
        async with reading(settings, intake, tmp_path) as task:
            large = '{"value": "' + "x" * 300_000 + '"}'
            await broker.publish("large", large, options=["-q", "1"])
            await broker.publish_lines("m", [str(i) for i in range(1000)], options=["-q", "1"])
            await intake.until(lambda: len(intake.readings()) == 1001)
            await broker.until_logged(lambda log: log.count("Received PINGREQ from gw-plant") >= 4)  # 2 s: dead without
            await broker.until_logged(lambda log: log.count("Received PUBACK from gw-plant") == 1001)
            assert not task.done()
        await broker.publish("m", "-1", options=["-q", "1"])
        async with reading(settings, intake, tmp_path, last_state(intake)) as task:
            await intake.until(lambda: len(intake.readings()) == 1002)
            await broker.kill()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(task, 10)
    assert len(values(intake)[0]) == 300_000
    assert values(intake)[1:] == [*range(1000), -1]


@pytest.mark.interop("mosquitto", "a broker without WebSocket, or whose port speaks it alone, is told")
async def test_what_speaks_no_websocket_is_told(tmp_path: Path) -> None:
    port = free_port()
    async with Broker(
        tmp_path, ["allow_anonymous true", f"listener {port} 127.0.0.1", "protocol websockets"]
    ) as broker:
        for endpoint in (f"ws://127.0.0.1:{broker.port}", f"mqtt://127.0.0.1:{port}"):
            with pytest.raises(ConnectionError, match=endpoint):
                async with reading(config(broker, endpoint=endpoint, connect_timeout=2), RecordingIntake(), tmp_path):
                    pass


# ---------------------------------------------------------------------- TLS


def certificates(directory: Path, authority: trustme.CA) -> list[str]:
    """Certificate and key of a broker; the settings that name them."""
    server = authority.issue_cert("127.0.0.1")
    server.private_key_pem.write_to_path(directory / "server.key")
    (directory / "server.pem").write_bytes(b"".join(part.bytes() for part in server.cert_chain_pems))
    (directory / "server.key").chmod(0o644)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return [f"cafile {directory}/ca.pem", f"certfile {directory}/server.pem", f"keyfile {directory}/server.key"]


@pytest.mark.interop("mosquitto", "over WebSocket with TLS and a client certificate")
async def test_websocket_with_client_certificate(tmp_path: Path) -> None:
    authority, port = trustme.CA(), free_port()
    authority.issue_cert("gateway@plant").private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    secure = [f"listener {port} 127.0.0.1", "protocol websockets", *certificates(tmp_path, authority)]
    async with Broker(tmp_path, ["allow_anonymous true", *secure, "require_certificate true"]) as broker:
        tls = {"ca_file": tmp_path / "ca.pem", "cert_file": tmp_path / "client.pem"}
        settings, intake = config(broker, endpoint=f"wss://127.0.0.1:{port}/mqtt", tls=tls), RecordingIntake()
        async with reading(settings, intake, tmp_path):
            await broker.publish_lines("m", [str(i) for i in range(1000)], options=["-q", "1"])
            await intake.until(lambda: len(intake.readings()) == 1000)
        assert values(intake) == list(range(1000))
        without = config(broker, endpoint=f"wss://127.0.0.1:{port}/mqtt", tls={"ca_file": tls["ca_file"]})
        with pytest.raises(ConnectionError):
            async with reading(without, RecordingIntake(), tmp_path):
                pass


@pytest.mark.interop("mosquitto", "a certificate of another authority is refused until that is trusted")
async def test_a_certificate_that_changes_is_refused_until_it_is_trusted(tmp_path: Path) -> None:
    secure = certificates(tmp_path, trustme.CA())
    trusted = tmp_path / "trusted.pem"
    trusted.write_bytes((tmp_path / "ca.pem").read_bytes())
    async with Broker(tmp_path, ["allow_anonymous true", *secure]) as broker:
        settings = config(broker, endpoint=f"mqtts://127.0.0.1:{broker.port}", tls={"ca_file": trusted})
        options = ["--cafile", str(tmp_path / "ca.pem"), "-q", "1"]
        async with gateway(settings, tmp_path / "journal") as intake, asyncio.timeout(60):
            while intake.status.state is not SourceState.CONNECTED:
                await asyncio.sleep(0.02)
            await broker.stop()
            certificates(tmp_path, trustme.CA())
            await broker.start()
            while "certificate verify failed" not in intake.status.detail:
                await asyncio.sleep(0.02)
            trusted.write_bytes((tmp_path / "ca.pem").read_bytes())
            await broker.publish("m", "1", options=options)
            while intake.status.received < 1:
                await asyncio.sleep(0.02)


@pytest.mark.interop("mosquitto", "behind a port that is shared by ALPN")
async def test_a_port_that_is_shared_by_alpn_is_told_what_is_meant(broker: Broker, tmp_path: Path) -> None:
    certificates(tmp_path, trustme.CA())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    context.set_alpn_protocols(["http/1.1", "x-amzn-mqtt-ca"])

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """To the broker, if that is what is meant."""
        if writer.get_extra_info("ssl_object").selected_alpn_protocol() != "x-amzn-mqtt-ca":
            writer.close()
            return
        to_broker, from_broker = await asyncio.open_connection("127.0.0.1", broker.port)
        await asyncio.gather(_pipe(reader, from_broker), _pipe(to_broker, writer))

    async with await asyncio.start_server(forward, "127.0.0.1", 0, ssl=context) as server:
        endpoint = f"mqtts://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        tls = {"ca_file": tmp_path / "ca.pem"}
        intake = RecordingIntake()
        async with reading(config(broker, endpoint=endpoint, tls=tls | {"alpn": ["x-amzn-mqtt-ca"]}), intake, tmp_path):
            await broker.publish("m", "1", options=["-q", "1"])
            await intake.until(lambda: values(intake) == [1])
        with pytest.raises(ConnectionError):
            async with reading(config(broker, endpoint=endpoint, tls=tls), RecordingIntake(), tmp_path):
                pass


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
    finally:
        writer.close()
