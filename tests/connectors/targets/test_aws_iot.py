"""AWS IoT Core before a stand-in that enforces its limits: packing, pace, shadows, takeover."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.contract import AuthError, CapacityError, ConfigError, Context, RejectedRecords, TransientError, Writer
from connectors.targets.aws_iot import AwsIotConfig
from connectors.targets.aws_iot.shadow import MOST_STATE, Shadow
from tests.certificates import Authority
from tests.contract.readings import Source
from tests.iot_clouds import AwsIot

SHADOW = "$aws/things/press-1/shadow"


@pytest.fixture
def certificates(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def service(certificates: Authority) -> Iterator[AwsIot]:
    running = AwsIot(certificates)
    yield running
    running.end()


@pytest.fixture
def source() -> Source:
    return Source()


def target(service: AwsIot, folder: Path, timeout: str = "5s", **own: Any) -> Writer:
    assert service.certificates is not None
    given = {
        "endpoint": f"localhost:{service.port}",
        "timeout": timeout,
        "provider_config": {"thing_name": "press-1"} | own,
    }
    return AwsIotConfig.model_validate(given | service.certificates.client()).writer(Context("g", folder))


async def test_many_tags_share_a_message_and_no_limit_is_broken(
    service: AwsIot, tmp_path: Path, source: Source
) -> None:
    writer = target(service, tmp_path)
    await writer.open()
    await writer.write(source.batch([*("x" * 5_000 for _ in range(300)), 1.0]), 1)
    await writer.close()
    assert service.broken == []
    assert sum(len(json.loads(one.payload)) for one in service.published) == 301
    assert {one.topic for one in service.published} == {"bifrost/telemetry/plc0", "bifrost/telemetry/plc1"}
    assert max(len(one.payload) for one in service.published) > 100_000


async def test_messages_keep_their_pace(service: AwsIot, tmp_path: Path, source: Source) -> None:
    writer = target(service, tmp_path, readings_per_message=1)
    await writer.open()
    began = asyncio.get_running_loop().time()
    await writer.write(source.batch([float(i) for i in range(150)]), 1)
    await writer.close()
    assert service.broken == []
    assert len(service.published) == 150
    assert asyncio.get_running_loop().time() - began > 1.4


async def test_a_topic_of_too_many_levels_is_refused_before_the_service_does(
    service: AwsIot, tmp_path: Path, source: Source
) -> None:
    tags = [source.tag(0, path="a/b/c/d/e/f"), source.tag(1, path="a/b/c/d/e/f/g"), source.tag(2, path="x" * 250)]
    writer = target(service, tmp_path, topic="{path}")
    await writer.open()
    with pytest.raises(RejectedRecords) as caught:
        await writer.write(source.batch([1, 2, 3], tags=tags), 1)
    await writer.close()
    assert (caught.value.indices, caught.value.rest_written) == ([1, 2], True)
    assert caught.value.reasons == ["its topic has more than 7 slashes", "its topic has more than 256 bytes"]
    assert [one.topic for one in service.published] == ["bifrost/telemetry/a/b/c/d/e/f"]
    assert service.broken == []


async def test_the_same_writer_connects_once_a_second(service: AwsIot, tmp_path: Path, source: Source) -> None:
    writer = target(service, tmp_path)
    for _ in range(2):
        await writer.open()
        await writer.close()
    assert service.broken == []
    assert service.connects[1] - service.connects[0] >= 1


@pytest.mark.parametrize("port", [8883, 443])
def test_port_443_is_shared_by_the_name_of_the_protocol(port: int, certificates: Authority) -> None:
    config = AwsIotConfig.model_validate(
        {"endpoint": f"x-ats.iot.eu-west-1.amazonaws.com:{port}", "provider_config": {"thing_name": "t"}}
        | certificates.client()
    )
    assert config.address == ("x-ats.iot.eu-west-1.amazonaws.com", port)
    assert config.tls.alpn == (["x-amzn-mqtt-ca"] if port == 443 else [])


async def test_the_name_of_the_protocol_reaches_the_service(service: AwsIot, tmp_path: Path) -> None:
    writer = target(service, tmp_path, tls={"alpn": ["x-amzn-mqtt-ca"]})
    await writer.open()
    await writer.close()
    assert service.alpn == ["x-amzn-mqtt-ca"]


# ---------------------------------------------------------------------- shadows


@pytest.mark.parametrize(("name", "topic"), [(None, f"{SHADOW}/update"), ("plant", f"{SHADOW}/name/plant/update")])
async def test_the_newest_values_are_reported_once_and_then_what_changed(
    service: AwsIot, tmp_path: Path, source: Source, name: str | None, topic: str
) -> None:
    tags = [source.tag(0, path="a"), source.tag(1, path="b"), source.tag(0, path="a"), source.tag(2, path='q"uote')]
    writer = target(service, tmp_path, shadow_update=True, shadow_name=name)
    await writer.open()
    await writer.write(source.batch([1.5, True, 2.5, "on"], tags=tags), 1)
    assert service.shadows == {topic: {"a": 2.5, "b": True, 'q"uote': "on"}}
    await writer.write(source.batch([3.5, True], tags=tags[:2]), 2)
    updates = [json.loads(one.payload)["state"]["reported"] for one in service.published if one.topic == topic]
    assert updates[1:] == [{"a": 3.5}]
    await writer.write(source.batch([3.5, True], tags=tags[:2]), 3)
    assert len([one for one in service.published if one.topic == topic]) == 2
    await writer.close()


async def test_tags_that_do_not_fit_go_to_further_shadows(service: AwsIot, tmp_path: Path, source: Source) -> None:
    tags = [source.tag(i, path=f"plant/area/line/equipment/temperature/tag {i}") for i in range(400)]
    writer = target(service, tmp_path, shadow_update=True)
    await writer.open()
    await writer.write(source.batch([float(i) for i in range(400)], tags=tags), 1)
    await writer.write(source.batch([-1.2345678901234567e-300] * 400, tags=tags), 2)
    await writer.close()
    assert service.broken == []
    assert sorted(service.shadows)[:2] == [f"{SHADOW}/name/readings-2/update", f"{SHADOW}/name/readings-3/update"]
    assert sum(map(len, service.shadows.values())) == 400
    assert all(len(json.dumps({"reported": shadow})) <= MOST_STATE for shadow in service.shadows.values())


@pytest.mark.parametrize(
    ("code", "error"),
    [(400, ConfigError), (401, AuthError), (403, AuthError), (404, ConfigError), (409, TransientError),
     (413, ConfigError), (429, CapacityError), (500, TransientError)],
)  # fmt: skip
async def test_a_rejected_update_is_told_before_any_reading_is_sent(
    service: AwsIot, tmp_path: Path, source: Source, code: int, error: type[Exception]
) -> None:
    service.shadow_code = code
    writer = target(service, tmp_path, shadow_update=True)
    await writer.open()
    with pytest.raises(error, match=f"shadow of `press-1` refuses an update: {code}"):
        await writer.write(source.batch([1.0]), 1)
    assert not [one for one in service.published if not one.topic.startswith("$aws")]
    service.shadow_code = 0
    await writer.write(source.batch([1.0]), 2)
    await writer.close()
    assert len(service.shadows) == 1


async def test_a_shadow_that_does_not_answer_is_told(service: AwsIot, tmp_path: Path, source: Source) -> None:
    service.react = lambda *_: None  # type: ignore[method-assign]
    writer = target(service, tmp_path, timeout="300ms", shadow_update=True)
    await writer.open()
    with pytest.raises(TransientError, match="does the thing exist"):
        await writer.write(source.batch([1.0]), 1)
    await writer.close()


def test_long_values_are_left_out_of_the_shadow_and_named(source: Source) -> None:
    shadow = Shadow("t", None, "{path}")
    (update,) = shadow.updates(source.batch(["x" * 300, 1], tags=[source.tag(0, path="long"), source.tag(1, path="b")]))
    assert json.loads(update.payload)["state"] == {"reported": {"b": 1}}
    assert shadow.newest.long == {"long"}


# ---------------------------------------------------------------------- what goes wrong


async def test_a_client_that_takes_the_name_over_is_told(service: AwsIot, tmp_path: Path, source: Source) -> None:
    service.connect_pace = 0.0
    first, second = target(service, tmp_path), target(service, tmp_path)
    await first.open()
    await second.open()
    with pytest.raises(ConfigError, match="another client connected with the client id `press-1`"):
        await first.write(source.batch([1.0]), 1)
    await first.close()
    await second.close()


@pytest.mark.parametrize(("code", "error"), [(0x87, AuthError), (0x97, CapacityError)])
async def test_a_refused_message_is_told(
    service: AwsIot, tmp_path: Path, source: Source, code: int, error: type[Exception]
) -> None:
    service.refuse["bifrost/"] = code
    writer = target(service, tmp_path)
    await writer.open()
    with pytest.raises(error):
        await writer.write(source.batch([1.0]), 1)
    await writer.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"endpoint": "https://x"}, "is no endpoint of AWS IoT Core"),
        ({"tls_enabled": False}, "speaks TLS only"),
        ({"provider_config": {"thing_name": "t", "region": "us-east-1"}}, "lies in eu-west-1"),
        ({"cert_file": None}, "name the device certificate"),
        ({"provider_config": {"thing_name": "t", "qos": 2}}, "qos"),
        ({"provider_config": {"thing_name": "t", "topic": "a/b/c/d/e/f/{path}"}}, "more than 7 slashes"),
    ],
)
def test_settings_that_cannot_work_are_errors(change: dict[str, Any], words: str) -> None:
    given = {"endpoint": "x-ats.iot.eu-west-1.amazonaws.com", "cert_file": "c", "key_file": "k",
             "provider_config": {"thing_name": "t"}}  # fmt: skip
    AwsIotConfig.model_validate(given)
    with pytest.raises(ValidationError, match=words):
        AwsIotConfig.model_validate(given | change)
