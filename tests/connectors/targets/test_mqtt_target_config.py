"""How the settings of an MQTT target are read."""

from typing import Any

import pytest
from pydantic import ValidationError

from connectors.targets.mqtt import MqttTargetConfig


def config(own: dict[str, Any] | None = None, **settings: Any) -> MqttTargetConfig:
    return MqttTargetConfig.model_validate({"endpoint": "mqtt://b", "provider_config": own or {}} | settings)


@pytest.mark.parametrize(
    ("endpoint", "enabled", "url"),
    [
        ("tcp://b:1", None, "tcp://b:1"),
        ("tcp://b:1", False, "tcp://b:1"),
        ("tcp://b:1", True, "tls://b:1"),
        ("mqtt://b", True, "mqtts://b"),
        ("ws://b/x", True, "wss://b/x"),
        ("mqtts://b", None, "mqtts://b"),
        ("tls://b", True, "tls://b"),
    ],
)
def test_tls_is_told_by_the_scheme_or_beside_it(endpoint: str, enabled: bool | None, url: str) -> None:
    assert config(endpoint=endpoint, tls_enabled=enabled).url == url


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"endpoint": "tls://b", "tls_enabled": False}, "means TLS, tls_enabled says no"),
        ({"endpoint": "http://b"}, "is not an MQTT endpoint"),
        ({"endpoint": "mqtt://user:secret@b"}, "user and password have settings of their own"),
        ({"endpoint": None}, "say where the broker is"),
        ({"provider_config": {"topic": "{nowhere}"}}, "nowhere is no column"),
        ({"provider_config": {"topic_prefix": "a/#"}}, "`#` cannot stand in a topic"),
        ({"provider_config": {"topic_prefix": "", "data_topic": "", "topic": ""}}, "a topic would be empty"),
        ({"provider_config": {"message_expiry": "1h"}}, "set version: 5"),
        ({"provider_config": {"version": 5, "identity_properties": True, "readings_per_message": 2}}, "one reading"),
        ({"provider_config": {"sparkplug": {"group": "a/b"}}}, "group"),
        ({"provider_config": {"unknown": 1}}, "unknown"),
    ],
)
def test_settings_that_cannot_work_are_errors(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        config(**settings)


def test_the_password_is_not_shown() -> None:
    found = config({"username": "u", "password": "secret!"})
    assert "secret!" not in repr(found) + str(found.model_dump())


def test_files_of_tls_may_stand_in_both_places() -> None:
    found = config({"tls": {"ca_file": "inner.pem", "verify": False}}, ca_file="outer.pem", cert_file="c", key_file="k")
    tls = found.tls_settings(found.provider_config.tls)
    assert (str(tls.ca_file), str(tls.cert_file), str(tls.key_file), tls.verify) == ("inner.pem", "c", "k", False)


def test_a_trial_is_another_client_and_another_node() -> None:
    found = config({"client_id": "c", "status_topic": "s", "sparkplug": {"node": "n"}}).trial().provider_config
    assert (found.client_id, found.status_topic, found.sparkplug.node) == ("c-doctor", None, "n-doctor")
