"""What Kafka says, as the contract's errors."""

import pytest
from confluent_kafka import KafkaError

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, RejectedRecords, TransientError
from connectors.targets.kafka.errors import delivery_error, is_about_the_record, is_decisive

CODES: list[tuple[int, type[DeliveryError]]] = [
    (KafkaError._ALL_BROKERS_DOWN, TransientError),
    (KafkaError._TRANSPORT, TransientError),
    (KafkaError._MSG_TIMED_OUT, TransientError),
    (KafkaError._RESOLVE, TransientError),
    (KafkaError.NOT_LEADER_FOR_PARTITION, TransientError),
    (KafkaError.NOT_ENOUGH_REPLICAS, TransientError),
    (KafkaError.KAFKA_STORAGE_ERROR, TransientError),
    (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, TransientError),
    (KafkaError.UNKNOWN, TransientError),
    (KafkaError._AUTHENTICATION, AuthError),
    (KafkaError.TOPIC_AUTHORIZATION_FAILED, AuthError),
    (KafkaError.CLUSTER_AUTHORIZATION_FAILED, AuthError),
    (KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, AuthError),
    (KafkaError.UNKNOWN_TOPIC_OR_PART, ConfigError),
    (KafkaError.TOPIC_EXCEPTION, ConfigError),
    (KafkaError.PRODUCER_FENCED, ConfigError),
    (KafkaError.UNSUPPORTED_COMPRESSION_TYPE, ConfigError),
    (KafkaError.THROTTLING_QUOTA_EXCEEDED, CapacityError),
    (KafkaError.MSG_SIZE_TOO_LARGE, RejectedRecords),
    (KafkaError.INVALID_RECORD, RejectedRecords),
    (KafkaError.INVALID_TIMESTAMP, RejectedRecords),
]


@pytest.mark.parametrize(("code", "expected"), CODES)
def test_each_code_has_its_place(code: int, expected: type[DeliveryError]) -> None:
    error = KafkaError(code)
    assert type(delivery_error(error, "here")) is expected
    assert is_about_the_record(error) == (expected is RejectedRecords)
    assert is_decisive(error) == (expected is not TransientError)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SSL handshake failed: … certificate verify failed: …", ConfigError),
        ("SSL handshake failed: … tlsv13 alert certificate required: SSL alert number 116", AuthError),
        ("ssl.ca.location failed: error:80000002:system library::No such file or directory", ConfigError),
    ],
)
def test_what_tls_says_tells_whose_certificate_it_is(text: str, expected: type[DeliveryError]) -> None:
    found = delivery_error(KafkaError(KafkaError._SSL, text), "kafka:9093", "and this")
    assert type(found) is expected
    assert str(found).startswith(f"kafka:9093: {text} (and this) (")
