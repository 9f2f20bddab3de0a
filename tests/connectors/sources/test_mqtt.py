"""The MQTT reader against mosquitto, with mosquitto_pub as the foreign publisher."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import cbor2
import msgspec
import pytest
import trustme
from pydantic import ValidationError

from connectors.contract import Checks, Context, SourceState
from connectors.sources.mqtt import MqttConfig
from normalization.reading import Flags, Quality, ValueType
from tests.connectors.sources.mqtt_harness import config, has_readings, last_state, reading
from tests.mosquitto_broker import Broker
from tests.ports import free_port
from tests.recording_intake import RecordingIntake


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Broker]:
    async with Broker(tmp_path) as running:
        yield running


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.interop("mosquitto", "JSON samples in 3.1.1 and 5")
async def test_json_samples_become_readings(broker: Broker, tmp_path: Path, version: str) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, version=version), intake, tmp_path):
        sample = {"ts": 1700000000123, "value": 21.5, "quality": "good", "unit": "°C"}
        await broker.publish("site1/line2/press/temperature", json.dumps(sample), options=["-q", "1"])
        await broker.publish("site1/line2/press/count", '{"value": 9007199254740993, "quality": "bad"}')
        await broker.publish("site1/line2/press/running", '{"value": true, "timestamp": "2026-01-02T03:04:05.678901Z"}')
        await broker.publish("site1/line2/press/temperature", json.dumps(sample | {"value": 22.5, "ts": 1700000001000}))
        await intake.until(lambda: len(intake.readings()) == 4)
    first, count, running, second = intake.readings()
    assert (first.value, first.type, first.quality) == (21.5, ValueType.DOUBLE, Quality.GOOD)
    assert first.source_time == 1700000000123000
    assert (first.tag.device_id, first.tag.tag_name, first.tag.unit) == ("site1/line2/press", "temperature", "°C")
    assert (first.tag.address, first.tag.protocol) == ("site1/line2/press/temperature", "mqtt")
    assert (count.value, count.quality, count.type) == (9007199254740993, Quality.BAD, ValueType.INT64)
    assert (running.value, running.source_time) == (True, 1767323045678901)
    assert second.tag == first.tag
    assert (second.value, second.source_time) == (22.5, 1700000001000000)
    assert intake.states[0] == (SourceState.CONNECTING, "")


@pytest.mark.interop("mosquitto", "wildcards, formats and names by subscription")
async def test_wildcards_formats_and_names_follow_the_subscription(broker: Broker, tmp_path: Path) -> None:
    subscriptions = [
        {"topic": "a/+/v", "format": "plain", "pattern": "a/{device_id}/{tag_name}"},
        {"topic": "b/#", "format": "json", "value": "d.v[0]", "timestamp": "d.t", "timestamp_format": "ns"},
        {"topic": "c/+", "format": "json", "device_id": "{1}-{-1}", "pattern": "c/{line}"},
    ]
    intake = RecordingIntake()
    async with reading(config(broker, subscriptions=subscriptions), intake, tmp_path):
        await broker.publish("a/m1/v", "-3.25e1")
        await broker.publish("a/m1/other", "1")
        await broker.publish("b/x/y", '{"d": {"v": [7], "t": 1700000000123456789}}')
        await broker.publish("c/l3", '{"ts": 1700000000, "temp": 1.5, "deep": {"er": "x"}, "list": [1, 2]}')
        await broker.publish("a/m1/v", "Overheated ß")
        await intake.until(lambda: len(intake.readings()) == 6)
    plain, path, temp, deep, many, text = intake.readings()
    assert (plain.value, plain.tag.device_id, plain.tag.tag_name) == (-32.5, "m1", "v")
    assert (path.value, path.source_time) == (7, 1700000000123456)
    assert (temp.value, temp.tag.tag_name, temp.tag.device_id, temp.tag.address) == (1.5, "temp", "c-l3", "c/l3#temp")
    assert json.loads(temp.tag.mapping)["line"] == "l3"
    assert temp.source_time == 1700000000000000
    assert (deep.value, deep.tag.tag_name) == ("x", "deep.er")
    assert (many.value, many.type) == ("[1,2]", ValueType.JSON)
    assert text.value == "Overheated ß"


PAYLOADS: dict[str, tuple[dict[str, Any], bytes]] = {
    "JSON array": ({"format": "json"}, json.dumps([{"ts": 1, "value": 1.5}, {"ts": 2, "value": 2.5}]).encode()),
    "CSV": ({"format": "csv", "timestamp_format": "s"}, b"ts,value\r\n1,1.5\r\n2,2.5\r\n"),
    "CBOR": ({"format": "cbor"}, cbor2.dumps([{"ts": 1, "value": 1.5}, {"ts": 2, "value": 2.5}])),
    "MessagePack": (
        {"format": "msgpack", "value": "v[*]", "timestamp": "t[*]"},
        msgspec.msgpack.encode({"t": [1, 2], "v": [1.5, 2.5]}),
    ),
}


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(name, marks=pytest.mark.interop("mosquitto", f"{name} payloads with several samples"))
        for name in PAYLOADS
    ],
)
async def test_a_payload_of_several_samples_is_read(broker: Broker, tmp_path: Path, form: str) -> None:
    settings, payload = PAYLOADS[form]
    intake = RecordingIntake()
    async with reading(config(broker, subscriptions=[{"topic": "#"} | settings]), intake, tmp_path):
        await broker.publish("m", payload, options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) == 2)
        await broker.until_logged(lambda log: log.count("Received PUBACK from gw-plant") == 1)
    assert [(r.value, r.source_time) for r in intake.readings()] == [(1.5, 1_000_000), (2.5, 2_000_000)]


async def test_everything_is_read_without_subscriptions(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with reading(config(broker), intake, tmp_path):
        await broker.publish("x", "21.5")
        await broker.publish("y/z", '{"value": null}')
        await broker.publish("y/z", "")
        await intake.until(lambda: len(intake.readings()) == 3)
    plain, null, cleared = intake.readings()
    assert (plain.value, plain.tag.device_id, plain.tag.tag_name) == (21.5, "x", "x")
    assert (null.value, null.quality) == (None, Quality.BAD)
    assert (cleared.value, cleared.quality) == (None, Quality.BAD)


@pytest.mark.threat(16)
@pytest.mark.interop("mosquitto", "what cannot be read is acknowledged and kept as a dead letter with its bytes")
async def test_what_cannot_be_read_becomes_a_reject_with_its_bytes(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, max_message_size="256KiB"), intake, tmp_path):
        await broker.publish("m", '{"value": 1', options=["-q", "1"])
        await broker.publish("m", b"\xff\xfe\x00", options=["-q", "1"])
        await broker.publish("m", b"[" + b"1," * 200_000 + b"1]", options=["-q", "1"])
        await broker.publish("m", '{"value": 2}', options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) == 4)
        await broker.until_logged(lambda log: log.count("Received PUBACK from gw-plant") == 4)
    broken, binary, large, sound = intake.readings()
    assert broken.reject is not None
    assert broken.reject.startswith("not JSON")
    assert (broken.value, json.loads(broken.properties or "")["topic"]) == (b'{"value": 1', "m")
    assert (binary.value, binary.reject) == (b"\xff\xfe\x00", "not UTF-8 text")
    assert large.reject is not None
    assert "larger than 262144 bytes" in large.reject
    assert large.value.startswith(b"[1,1,")
    assert len(large.value) < 262144
    assert sound.value == 2


@pytest.mark.interop("mosquitto", "properties of version 5 are kept")
async def test_version_5_properties_are_kept(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake()
    options = ["-V", "5", "-D", "publish", "user-property", "batch", "b7", "-D", "publish", "content-type", "text/x"]
    async with reading(config(broker, version=5), intake, tmp_path):
        await broker.publish("m", "1.5", options=options)
        await broker.publish("m", '{"value": 2.5, "operator": "Ann"}', options=options)
        await intake.until(lambda: len(intake.readings()) == 2)
    plain, sample = intake.readings()
    assert json.loads(plain.properties or "") == {"content_type": "text/x", "user": {"batch": "b7"}}
    expected = {"content_type": "text/x", "user": {"batch": "b7"}, "payload": {"operator": "Ann"}}
    assert json.loads(sample.properties or "") == expected


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.interop("mosquitto", "retained messages come once and are marked")
async def test_retained_messages_come_once_and_are_marked(broker: Broker, tmp_path: Path, version: str) -> None:
    intake = RecordingIntake()
    settings = config(broker, version=version)
    await broker.publish("r/1", "1.5", options=["-r", "-q", "1"])
    async with reading(settings, intake, tmp_path):
        await broker.publish("r/2", "2.5")
        await intake.until(lambda: len(intake.readings()) == 2)
    async with reading(settings, intake, tmp_path, last_state(intake)):
        await broker.publish("r/3", "3.5")
        await intake.until(lambda: len(intake.readings()) == 3)
    assert [(r.value, r.flags) for r in intake.readings()] == [(1.5, Flags.RETAINED), (2.5, 0), (3.5, 0)]


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.interop("mosquitto", "messages sent while the gateway was away arrive")
async def test_messages_sent_while_the_reader_is_down_arrive(broker: Broker, tmp_path: Path, version: str) -> None:
    intake = RecordingIntake()
    settings = config(broker, version=version)
    async with reading(settings, intake, tmp_path):
        pass
    await broker.publish_lines("d/x", [str(i) for i in range(100)], options=["-q", "1"])
    async with reading(settings, intake, tmp_path, last_state(intake)):
        await intake.until(lambda: len(intake.readings()) == 100)
    assert [r.value for r in intake.readings()] == list(range(100))


@pytest.mark.interop("mosquitto", "PUBACK after the message is on disk, in receipt order")
async def test_nothing_is_acknowledged_before_it_is_on_disk(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake(hold=True)
    async with reading(config(broker), intake, tmp_path):
        await intake.until(lambda: intake.open)  # the subscriptions, which are remembered
        intake.release()
        for i in range(3):
            await broker.publish("m", str(i), options=["-q", "1"])
            await intake.until(partial(has_readings, intake, i + 1))
        assert "Received PUBACK" not in broker.log()
        assert len(intake.open) == 3
        later, intake.open = intake.open[1:], intake.open[:1]
        later[0].set_result(None)  # an intake that is out of order does not make the reader so
        await asyncio.sleep(0)
        assert "Received PUBACK" not in broker.log()
        intake.release()
        await broker.until_logged(lambda log: log.count("Received PUBACK") == 2)
        later[1].set_result(None)
        await broker.until_logged(lambda log: log.count("Received PUBACK") == 3)
    acknowledged = [line.split("Mid: ")[1][0] for line in broker.log().splitlines() if "Received PUBACK" in line]
    assert acknowledged == ["1", "2", "3"]


@pytest.mark.parametrize(("uncommitted", "again"), [(0, 0), (2, 2)])
@pytest.mark.interop("mosquitto", "a message that is sent again after a crash is journalled once")
async def test_a_message_whose_acknowledgement_was_lost_in_a_crash_is_journalled_once(
    broker: Broker, tmp_path: Path, uncommitted: int, again: int
) -> None:
    intake = RecordingIntake(hold=True)
    async with reading(config(broker), intake, tmp_path):
        for i in range(5):
            await broker.publish("m", '{"value": 1}', options=["-q", "1"])  # the same content, five messages
            await intake.until(partial(has_readings, intake, i + 1))
    assert "Received PUBACK" not in broker.log()
    # the journal has them all, or all but the last two and the state at the end
    committed = intake.appended[: len(intake.appended) - uncommitted - 1]
    state = next(state for _, state in reversed(committed) if state is not None)
    resumed = RecordingIntake()
    async with reading(config(broker), resumed, tmp_path, state):
        await broker.publish("m", '{"value": 2}', options=["-q", "1"])
        await resumed.until(lambda: resumed.last("m") and resumed.readings()[-1].value == 2)
        await broker.until_logged(lambda log: log.count("Received PUBACK") == 6)
    assert [r.value for r in resumed.readings()] == [1] * again + [2]
    assert [r.flags for r in resumed.readings()] == [Flags.RESENT] * again + [0]


@pytest.mark.interop("mosquitto", "nothing is acknowledged on a later connection")
async def test_a_lost_connection_is_never_acknowledged_later_and_nothing_doubles(
    broker: Broker, tmp_path: Path
) -> None:
    intake = RecordingIntake(hold=True)
    task = asyncio.create_task(config(broker).reader(Context("gw", tmp_path)).run(intake, None))
    await intake.until(lambda: intake.open)
    intake.release()
    await broker.publish("m", "1", options=["-q", "1"])
    await intake.until(lambda: len(intake.readings()) == 1)
    await broker.stop()
    await intake.until(lambda: intake.states[-1][0] == SourceState.DOWN)
    assert not task.done()  # it waits until what it handed over is on disk
    await broker.start()
    intake.release()
    with pytest.raises(ConnectionError, match="connection"):
        await task
    assert "Received PUBACK" not in broker.log()
    intake.hold = False
    async with reading(config(broker), intake, tmp_path, last_state(intake)):
        await broker.publish("m", "2", options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) == 2)
        await broker.until_logged(lambda log: log.count("Received PUBACK") == 2)
    assert [r.value for r in intake.readings()] == [1, 2]


@pytest.mark.interop("mosquitto", "a session that the broker forgot is subscribed again")
async def test_a_session_that_the_broker_forgot_is_subscribed_again(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with reading(config(broker), intake, tmp_path):
        await broker.publish("m", "1", options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) == 1)
    await broker.stop()
    (tmp_path / "mosquitto.db").unlink()
    await broker.start()
    async with reading(config(broker), intake, tmp_path, last_state(intake)):
        await broker.publish("m", "2", options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) == 2)


@pytest.mark.interop("mosquitto", "changed subscriptions take effect on an old session")
async def test_changed_subscriptions_take_effect_on_an_old_session(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, subscriptions=[{"topic": "a/#"}, {"topic": "b/#"}]), intake, tmp_path):
        await broker.publish("a/1", "1")
        await intake.until(lambda: len(intake.readings()) == 1)
    settings = config(broker, subscriptions=[{"topic": "b/#"}, {"topic": "c/#"}])
    async with reading(settings, intake, tmp_path, last_state(intake)):
        for topic in ("a/1", "b/1", "c/1"):
            await broker.publish(topic, "2", options=["-q", "1"])
        await intake.until(lambda: len(intake.readings()) == 3)
    assert [r.tag.address for r in intake.readings()] == ["a/1", "b/1", "c/1"]


@pytest.mark.interop("mosquitto", "back-pressure stops reading and keeps the connection")
async def test_back_pressure_stops_reading_and_keeps_the_connection(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake(hold=True)
    async with reading(config(broker, max_unacknowledged=10, keepalive=1), intake, tmp_path) as task:
        await broker.publish_lines("m", [str(i) for i in range(100)])
        await intake.until(lambda: len(intake.readings()) > 10)
        held = len(intake.readings())
        await broker.publish_lines("m", [str(i) for i in range(100, 200)])
        await broker.until_logged(lambda log: log.count("Received PINGREQ from gw-plant") >= 4)  # 2 s: dead without
        assert not task.done()
        assert len(intake.readings()) == held
        intake.hold = False
        intake.release()
        await intake.until(lambda: len(intake.readings()) == 200)
    assert [r.value for r in intake.readings()] == list(range(200))


@pytest.mark.interop("mosquitto", "TLS with client certificate and password")
async def test_tls_with_client_certificate_and_password(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = authority.issue_cert("127.0.0.1")
    server.private_key_pem.write_to_path(tmp_path / "server.key")
    for part in server.cert_chain_pems:
        part.write_to_path(tmp_path / "server.pem", append=True)
    client = authority.issue_cert("gateway@plant")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    command = ["mosquitto_passwd", "-b", "-c", str(tmp_path / "passwd"), "ann", "s3cret"]
    await asyncio.to_thread(subprocess.run, command, check=True)
    for name in ("server.key", "passwd"):
        (tmp_path / name).chmod(0o644)
    secure = [
        f"cafile {tmp_path}/ca.pem",
        f"certfile {tmp_path}/server.pem",
        f"keyfile {tmp_path}/server.key",
        "require_certificate true",
        "allow_anonymous false",
        f"password_file {tmp_path}/passwd",
    ]
    tls = {"ca_file": tmp_path / "ca.pem", "cert_file": tmp_path / "client.pem"}
    async with Broker(tmp_path, secure) as broker:
        good = {"endpoint": f"mqtts://127.0.0.1:{broker.port}", "username": "ann", "password": "s3cret", "tls": tls}
        intake = RecordingIntake()
        options = ["--cafile", f"{tmp_path}/ca.pem", "--cert", f"{tmp_path}/client.pem"]
        options += ["--key", f"{tmp_path}/client.pem", "-u", "ann", "-P", "s3cret", "-q", "1"]
        async with reading(config(broker, **good), intake, tmp_path):
            await broker.publish("m", "1.5", options=options)
            large = json.dumps({"value": "x" * 300_000})
            await broker.publish("m", large, options=options)
            await intake.until(lambda: len(intake.readings()) == 2)
            await broker.until_logged(lambda log: log.count("Received PUBACK") == 2)
        assert len(intake.readings()[1].value) == 300_000
        wrong_settings: list[dict[str, Any]] = [
            {"password": "wrong"},
            {"tls": {"ca_file": tmp_path / "ca.pem"}},
            {"tls": {}},
        ]
        for wrong in wrong_settings:
            with pytest.raises(ConnectionError):
                async with reading(config(broker, **good | wrong), RecordingIntake(), tmp_path):
                    pass


@pytest.mark.parametrize("version", ["3.1.1", "5"])
@pytest.mark.interop("mosquitto", "a refused subscription is reported, the others work")
async def test_a_refused_subscription_is_reported_and_the_others_work(tmp_path: Path, version: str) -> None:
    plugin = await asyncio.to_thread(lambda: next(Path("/usr/lib").rglob("mosquitto_dynamic_security.so")))
    allowed = {"acltype": "subscribePattern", "topic": "ok/#", "allow": True}
    rules = {
        "defaultACLAccess": {"publishClientSend": True, "publishClientReceive": True, "subscribe": False},
        "groups": [{"groupname": "all", "roles": [{"rolename": "reader"}]}],
        "roles": [{"rolename": "reader", "acls": [allowed]}],
        "anonymousGroup": "all",
    }
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    (tmp_path / "rules.json").chmod(0o644)
    secured = ["allow_anonymous true", f"plugin {plugin}", f"plugin_opt_config_file {tmp_path}/rules.json"]
    async with Broker(tmp_path, secured) as broker:
        intake = RecordingIntake()
        wanted = [{"topic": "secret/#"}, {"topic": "ok/#"}]
        settings = config(broker, version=version, subscriptions=wanted)
        async with reading(settings, intake, tmp_path):
            await broker.publish("ok/1", "1")
            await intake.until(lambda: intake.readings())
        state, detail = intake.states[-1]
        assert (state, "`secret/#` is refused" in detail) == (SourceState.CONNECTED, True)
        reader = settings.reader(Context("gw", tmp_path))
        assert isinstance(reader, Checks)
        findings = await reader.check()
        assert [f.ok for f in findings] == [True, False, True]
        assert findings[1].subject == "subscription `secret/#`"
        await broker.stop()
        assert [f.ok for f in await reader.check()] == [False]


async def test_a_broker_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    settings = MqttConfig.model_validate({"name": "plant", "endpoint": f"tcp://127.0.0.1:{free_port()}"})
    intake = RecordingIntake()
    with pytest.raises(ConnectionError, match=settings.endpoint):
        await settings.reader(Context("gw", tmp_path)).run(intake, None)
    assert intake.states[-1][0] == SourceState.DOWN


@pytest.mark.threat(16)
async def test_more_topics_than_allowed_become_dead_letters(broker: Broker, tmp_path: Path) -> None:
    intake = RecordingIntake()
    async with reading(config(broker, max_tags=2), intake, tmp_path):
        for topic in ("a", "b", "c", "a"):
            await broker.publish(topic, '{"value": 1}')
        await intake.until(lambda: len(intake.readings()) == 4)
    rejects = [(r.reject, json.loads(r.properties or "{}").get("topic")) for r in intake.readings()]
    assert rejects == [(None, None), (None, None), ("more than 2 topics (`max_tags`)", "c"), (None, None)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subscriptions": [{"topic": "a", "qos": 3}]}, "Input should be 0, 1 or 2"),
        ({"subscriptions": [{"topic": "a/#/b"}]}, "stands alone as the last level"),
        ({"subscriptions": [{"topic": "a"}, {"topic": "a"}]}, "subscribed to twice: a"),
        ({"subscriptions": [{"topic": "a", "pattern": "{sight}/a"}]}, "`{sight}` is no place"),
        ({"subscriptions": [{"topic": "a", "pattern": "{tag}/{tag_name}"}]}, "has a place twice"),
        ({"subscriptions": [{"topic": "a", "pattern": "{tag}/#/a"}]}, "`#` stands alone as the last level"),
        ({"subscriptions": [{"topic": "a", "pattern": "{metadata.a b}"}]}, "is no place"),
        ({"subscriptions": [{"topic": "a", "tag_name": "{0}"}]}, "write levels of the topic"),
        ({"endpoint": "http://broker"}, "is not an MQTT endpoint"),
        ({"endpoint": "mqtt://user:secret@broker"}, "have settings of their own"),
        ({"tls": {}}, "has no TLS; write mqtts://"),
        ({"password": "x"}, "`password` without `username`"),
        ({"version": "3.1"}, "Input should be '3.1.1' or '5'"),
        ({"adress": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused_with_the_reason(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as refused:
        MqttConfig.model_validate({"name": "plant", "endpoint": "mqtt://broker"} | settings)
    assert message in str(refused.value)


def test_the_seed_source_loads() -> None:
    loaded = MqttConfig.model_validate(
        {
            "name": "plant1_mqtt",
            "protocol": "mqtt",
            "endpoint": "mqtt://10.1.1.101:1883",
            "site": "plant1",
            "area": "production",
            "line": "line2",
        }
    )
    assert (loaded.clean_session, loaded.line) == (False, "line2")
