"""How the settings of Kafka are read, and what librdkafka is told."""

from typing import Any

import pytest
from pydantic import ValidationError

from connectors.targets.kafka import KafkaConfig
from connectors.targets.kafka.client import producing


def config(endpoint: str = "kafka:9092", **own: Any) -> KafkaConfig:
    return KafkaConfig.model_validate({"name": "events", "endpoint": endpoint, "provider_config": own})


def told(endpoint: str = "kafka:9092", **own: Any) -> dict[str, Any]:
    return producing(config(endpoint, **own), "line 1", 10_000)


@pytest.mark.parametrize(
    ("endpoint", "brokers"),
    [
        ("kafka", "kafka:9092"),
        ("kafka://kafka:9093/", "kafka:9093"),
        ("a:1, b ,[fe80::1]:3", "a:1,b:9092,[fe80::1]:3"),
    ],
)
def test_an_endpoint_names_brokers(endpoint: str, brokers: str) -> None:
    assert told(endpoint)["bootstrap.servers"] == brokers


@pytest.mark.parametrize("endpoint", ["", "http://kafka:9092", "user:secret@kafka:9092", "kafka:port", "a b"])
def test_an_endpoint_that_says_something_else_is_an_error(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="is not a list of brokers"):
        config(endpoint)


def test_the_producer_is_idempotent_and_done_within_the_time_out() -> None:
    found = told()
    assert (found["acks"], found["enable.idempotence"], found["max.in.flight"]) == ("all", True, 5)
    assert (found["message.timeout.ms"], found["security.protocol"]) == (31_000, "PLAINTEXT")
    assert found["client.id"] == "bifrost-line_1"
    assert "transactional.id" not in found
    assert told(transactions="unit")["transactional.id"] == "bifrost-line_1-events"


def test_secrets_are_told_to_nobody_else() -> None:
    found = config(tls={}, sasl={"mechanism": "PLAIN", "username": "u", "password": "pssst"})
    assert "pssst" not in repr(found)
    properties = producing(found, "g", 1)
    assert (properties["security.protocol"], properties["sasl.password"]) == ("SASL_SSL", "pssst")


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ({"properties": {"acks": "1", "linger.ms": "9", "batch.size": "9"}}, "`properties` cannot set acks, linger.ms"),
        ({"format": "avro"}, "`format: avro` needs a `registry`"),
        ({"registry": {"endpoint": "http://r"}}, "`format: json` has no use for a `registry`"),
        ({"tls": {"server_name": "x"}}, "`tls` has no use for server_name"),
        ({"transactional_id": "x"}, "goes with `transactions: unit`"),
        ({"topic": "a b"}, "is no name of a topic"),
        ({"topic": ""}, "is no name of a topic"),
        ({"topic": "{nothing}"}, "nothing is no column"),
        ({"key": "{path"}, "a brace is not closed"),
        ({"sasl": {"mechanism": "PLAIN", "username": "u"}}, "PLAIN needs password"),
        ({"sasl": {"mechanism": "OAUTHBEARER", "client_id": "c"}}, "OAUTHBEARER needs token_url and client_secret"),
        ({"format": "avro", "registry": {"endpoint": "r:8081"}}, "is not a URL of a registry"),
    ],
)
def test_what_does_not_go_together_is_an_error(own: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config(**own)


def test_more_properties_go_to_librdkafka() -> None:
    assert told(properties={"client.rack": "hall 2"})["client.rack"] == "hall 2"
