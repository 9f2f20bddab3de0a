"""How the settings of Pub/Sub are read, and whom the service is told to believe."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from connectors.contract import AuthError, ConfigError, Context
from connectors.targets.pubsub import PubSubConfig
from connectors.targets.pubsub.writer import PubSubWriter, emulator
from tests.pubsub_guard import key_file, new_key

CONTEXT = Context("gateway 1", Path())


def read(endpoint: str | None = None, **own: Any) -> PubSubConfig:
    return PubSubConfig.model_validate({"provider_config": own} | ({"endpoint": endpoint} if endpoint else {}))


def test_without_settings_readings_go_to_one_topic_in_the_order_of_each_path() -> None:
    own = read().provider_config
    assert (own.topic, own.ordering_key, own.payload, own.create) == ("readings", "{path}", "reading", "auto")
    assert read().writer(CONTEXT).limits.writes_in_flight == 1
    assert read(ordering_key="").writer(CONTEXT).limits.writes_in_flight > 1


@pytest.mark.parametrize(
    ("endpoint", "own", "words"),
    [
        (None, {"topic": "goog-x"}, "cannot be the name of a topic"),
        (None, {"topic": "ab"}, "3 to 255 letters"),
        (None, {"topic": "plant/{site}x{"}, "a brace is not closed"),
        (None, {"topic": "plant-{sit}"}, "sit is no column"),
        (None, {"ordering_key": "{pth}"}, "pth is no column"),
        (None, {"attributes": ["pth"]}, "pth is no column of a tag"),
        (None, {"request_size": "11MB"}, "less than or equal to 10000000"),
        ("projects/x", {}, "write a host"),
        ("http://user@host", {}, "write a host"),
    ],
)
def test_settings_that_cannot_be_are_an_error(endpoint: str | None, own: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(endpoint, **own)
    assert words in str(caught.value)


def test_an_emulator_is_named_by_the_endpoint_or_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    assert emulator(read()) is None
    assert emulator(read("http://localhost:8085/")) == "localhost:8085"
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", "localhost:9000")
    assert emulator(read()) == "localhost:9000"
    assert emulator(read("europe-west1-pubsub.googleapis.com")) is None


async def test_a_service_account_is_read_from_its_file_and_names_the_project(tmp_path: Path) -> None:
    writer = PubSubWriter(
        read("europe-west1-pubsub.googleapis.com", credentials_file=str(account(tmp_path)), topic="x-{site}")
    )
    await writer.open()
    assert writer._project == "plant-telemetry"
    await writer.close()


def account(folder: Path) -> Path:
    """The key file of a service account that nobody knows."""
    return key_file(folder / "account.json", new_key())


async def test_application_default_credentials_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PUBSUB_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account(tmp_path)))
    writer = PubSubWriter(read(topic="x-{site}"))
    await writer.open()
    assert writer._project == "plant-telemetry"
    await writer.close()


@pytest.mark.parametrize("content", [None, "{}", "no json", '{"type": "service_account"}'])
async def test_credentials_that_are_none_are_an_auth_error(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "account.json"
    if content is not None:
        file.write_text(content)
    writer = PubSubWriter(read("pubsub.googleapis.com", credentials_file=str(file)))
    with pytest.raises(AuthError, match="credentials_file"):
        await writer.open()
    await writer.close()


async def test_a_project_that_nobody_names_is_a_config_error() -> None:
    writer = PubSubWriter(read("http://localhost:1"))
    with pytest.raises(ConfigError, match="set `project`"):
        await writer.open()
    await writer.close()
