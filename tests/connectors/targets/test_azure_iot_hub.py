"""Azure IoT Hub: known answers of its tokens, and a stand-in that checks them and enforces the limits."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from pydantic import ValidationError

from connectors.contract import AuthError, CapacityError, ConfigError, Context, TransientError, Writer
from connectors.targets.azure_iot_hub import AzureIotHubConfig
from connectors.targets.azure_iot_hub.tokens import device_key, token
from tests.certificates import IDENTITY, Authority
from tests.contract.readings import Source
from tests.contract.writers.azure_iot_hub import KEY, WRONG
from tests.iot_clouds import AzureHub

GROUP = "8isrFI1sGsIlvvFSSFRiMfCNzv21fjbE/+ah/lSh3lF8e2YG1Te7w1KpZhJFFXJrqYKi9yegxkqIChbqOS9Egw=="


@pytest.fixture
def certificates(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "certificates")


@pytest.fixture
def service(certificates: Authority) -> Iterator[AzureHub]:
    keys = {"press-1": KEY, "press-1/gateway": KEY, "line-7": device_key(GROUP, "line-7")}
    running = AzureHub(keys, certificates)
    yield running
    running.end()


@pytest.fixture
def source() -> Source:
    return Source()


def target(service: AzureHub, folder: Path, certificate: bool = False, **own: Any) -> Writer:
    assert service.certificates is not None
    files = service.certificates.client()
    given: dict[str, Any] = {"endpoint": f"localhost:{service.port}", "timeout": "5s", "ca_file": files["ca_file"]}
    identity = {"hub": "hub.example", "device_id": "press-1", "shared_access_key": KEY} if not own.get("dps") else {}
    identity = {key: value for key, value in (identity | own).items() if value is not None}
    return AzureIotHubConfig.model_validate(
        given | (files if certificate else {}) | {"provider_config": identity}
    ).writer(Context("g", folder))


# ---------------------------------------------------------------------- known answers


def test_a_key_of_a_group_gives_the_key_that_the_documentation_shows() -> None:
    assert device_key(GROUP, "sn-007-888-abc-mac-a1-b2-c3-d4-e5-f6") == "Jsm0lyGpjaVYVP2g3FnmnmG9dI/9qU24wNoykUmermc="


@pytest.mark.parametrize(
    ("resource", "policy", "expected"),
    [
        (
            "hub.example/devices/press-1",
            "",
            "SharedAccessSignature sr=hub.example%2Fdevices%2Fpress-1&sig=gK2XhNzYq5g416sDeCozelK7E7pxltdn1rYxwZi3EUc%3D&se=1790000000",
        ),
        (
            "0ne1/registrations/line 7",
            "registration",
            "SharedAccessSignature sr=0ne1%2Fregistrations%2Fline%207&sig=APraebigKNPSkww9yovM5nYpI2f11l1z%2F%2BXrwH6XVCY%3D&se=1790000000&skn=registration",
        ),
    ],
)
def test_tokens_are_those_of_openssl(resource: str, policy: str, expected: str) -> None:
    """``printf '%s\\n%s' SR SE | openssl dgst -sha256 -hmac right-secret -binary | base64``, escaped for a URL."""
    assert token(resource, KEY, 1_790_000_000, policy) == expected


# ---------------------------------------------------------------------- messages


async def test_messages_say_what_they_are_and_hold_many_readings(
    service: AzureHub, tmp_path: Path, source: Source
) -> None:
    writer = target(service, tmp_path, properties={"from": "{gateway}/{source}", "a b": "1&2"})
    await writer.open()
    await writer.write(source.batch([*("x" * 5_000 for _ in range(200)), 1.0]), 1)
    await writer.close()
    assert service.broken == []
    place, _, bag = service.published[0].topic.partition("/messages/events/")
    assert place == "devices/press-1"
    assert dict(parse_qsl(bag)) == {"$.ct": "application/json", "$.ce": "utf-8", "from": "gateway 1/plc0", "a b": "1&2"}
    assert sum(len(json.loads(one.payload)) for one in service.published) == 201
    assert 200_000 < max(len(one.payload) for one in service.published) < 256 * 1024


async def test_a_module_has_topics_of_its_own(service: AzureHub, tmp_path: Path, source: Source) -> None:
    writer = target(service, tmp_path, module_id="gateway")
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    await writer.close()
    assert service.published[0].topic.startswith("devices/press-1/modules/gateway/messages/events/")


async def test_a_certificate_is_an_identity(service: AzureHub, tmp_path: Path, source: Source) -> None:
    writer = target(service, tmp_path, certificate=True, device_id=IDENTITY, shared_access_key=None)
    await writer.open()
    await writer.write(source.batch([1.0]), 1)
    await writer.close()
    assert (len(service.published), service.passwords) == (1, [])


async def test_a_token_is_renewed_before_it_runs_out(service: AzureHub, tmp_path: Path, source: Source) -> None:
    writer = target(service, tmp_path, token_lifetime=5)
    await writer.open()
    loop = asyncio.get_running_loop()
    began, unit = loop.time(), 0
    while loop.time() - began < 6:
        unit += 1
        await writer.write(source.batch([float(unit)]), unit)
        await asyncio.sleep(0.05)
    await writer.close()
    assert len(set(service.passwords)) == 2
    assert len(service.published) == unit


async def test_a_token_that_is_refused_is_an_authentication_error(service: AzureHub, tmp_path: Path) -> None:
    for wrong in ({"shared_access_key": WRONG}, {"device_id": "nobody"}):
        writer = target(service, tmp_path, **wrong)
        with pytest.raises(AuthError, match="refused the connection"):
            await writer.open()
        await writer.close()


# ---------------------------------------------------------------------- provisioning and twin


async def test_a_gateway_of_a_group_learns_its_hub(service: AzureHub, tmp_path: Path, source: Source) -> None:
    dps = {"id_scope": "0ne1", "registration_id": "line-7", "group_key": GROUP, "endpoint": f"localhost:{service.port}"}
    writer = target(service, tmp_path, dps=dps)
    for _ in range(2):
        await writer.open()
        await writer.write(source.batch([1.0]), 1)
        await writer.close()
    assert service.registered == ["line-7"]
    assert [one.topic[:16] for one in service.published if one.topic.startswith("dev")] == ["devices/line-7/m"] * 2


async def test_newest_values_are_properties_of_the_twin(service: AzureHub, tmp_path: Path, source: Source) -> None:
    tags = [source.tag(0, path="a.b c"), source.tag(1, path="b"), source.tag(0, path="a.b c")]
    writer = target(service, tmp_path, twin_update=True)
    await writer.open()
    await writer.write(source.batch([1, True, 2], tags=tags), 1)
    assert service.twins == {"press-1": {"a_b_c": 2, "b": True}}
    patches = [one for one in service.published if "PATCH" in one.topic]
    await writer.write(source.batch([True], tags=tags[1:2]), 2)
    assert [one for one in service.published if "PATCH" in one.topic] == patches
    await writer.write(source.batch([3], tags=tags[:1]), 3)
    assert json.loads([one for one in service.published if "PATCH" in one.topic][-1].payload) == {"a_b_c": 3}
    await writer.close()


async def test_a_twin_that_is_full_takes_no_more(service: AzureHub, tmp_path: Path, source: Source) -> None:
    tags = [source.tag(i, path=f"tag {i}") for i in range(20)]
    writer = target(service, tmp_path, twin_update=True)
    await writer.open()
    await writer.write(source.batch(["x" * 4_000] * 20, tags=tags), 1)
    await writer.close()
    assert len(service.twins["press-1"]) == 8


@pytest.mark.parametrize(
    ("status", "error"), [(400, ConfigError), (404, AuthError), (429, CapacityError), (503, TransientError)]
)
async def test_a_refused_property_is_told_before_any_reading_is_sent(
    service: AzureHub, tmp_path: Path, source: Source, status: int, error: type[Exception]
) -> None:
    service.twin_code = status
    writer = target(service, tmp_path, twin_update=True)
    await writer.open()
    with pytest.raises(error, match=f"status {status}"):
        await writer.write(source.batch([1.0]), 1)
    await writer.close()
    assert not [one for one in service.published if one.topic.startswith("devices/")]


# ---------------------------------------------------------------------- settings


def config(**own: Any) -> AzureIotHubConfig:
    return AzureIotHubConfig.model_validate({"provider_config": own})


def test_a_connection_string_says_all() -> None:
    said = f"HostName=plant.azure-devices.net;DeviceId=d;ModuleId=m;SharedAccessKey={KEY};GatewayHostName=edge"
    found = config(connection_string=said)
    own = found.provider_config
    assert (found.hub(), found.url(), own.part("device_id"), own.part("module_id"), own.part("shared_access_key")) == (
        "plant.azure-devices.net", "mqtts://edge", "d", "m", KEY,
    )  # fmt: skip
    assert KEY not in repr(found)
    assert config(connection_string=said.partition(";Gateway")[0], transport="websocket").url() == (
        "wss://plant.azure-devices.net/$iothub/websocket"
    )


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({}, "say who the gateway is"),
        ({"device_id": "d"}, "say which hub"),
        ({"device_id": "d", "hub": "h"}, "neither a key nor a certificate"),
        ({"device_id": "d", "hub": "h", "shared_access_key": "no base64"}, "is no key"),
        ({"connection_string": "HostName=h;SharedAccessKeyName=owner;SharedAccessKey=eA=="}, "a device's own"),
        ({"connection_string": "HostName=h;DeviceId=d;SharedAccessKey=eA==", "device_id": "e"}, "says it all"),
        ({"dps": {"id_scope": "s", "registration_id": "r", "symmetric_key": "eA==", "group_key": "eA=="}}, "not both"),
        ({"dps": {"id_scope": "s", "registration_id": "r", "group_key": "eA=="}, "device_id": "d"}, "leave them"),
        ({"device_id": "d", "hub": "h", "shared_access_key": "eA==", "properties": {"a": "{b}"}}, "is no column"),
    ],
)
def test_settings_that_cannot_work_are_errors(own: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words) as caught:
        config(**own)
    assert "SharedAccessKey=eA" not in str(caught.value.errors(include_input=False))
