"""What went wrong, as the contract's errors: one table of Kafka's codes, and one of what is said without a telling code. Pure."""

import re
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, RejectedRecords, TransientError

Make = Callable[[str], DeliveryError]


def _rejected(text: str) -> DeliveryError:
    return RejectedRecords([], [text])


_LOG_ON: Final = (AuthError, "check `sasl` and `tls`")
_GRANTS: Final = (
    AuthError,
    "grant the gateway's user WRITE and DESCRIBE on the topic, and CREATE where it is to make it",
)
_TRANSACTION: Final = (ConfigError, "another producer uses this `transactional_id`, or the cluster has forgotten it")
_SERVER: Final = (ConfigError, "the cluster cannot do that: check `compression`, `transactions` and its version")
_LIMITS: Final = (ConfigError, "the cluster does not take `partitions`, `replication` or `topic_config`")

# whatever is not listed is worth another try
_CODES: Final[dict[int, tuple[Make, str]]] = {
    KafkaError._AUTHENTICATION: _LOG_ON,  # noqa: SLF001 - librdkafka's own codes begin with _
    KafkaError.SASL_AUTHENTICATION_FAILED: _LOG_ON,
    KafkaError.ILLEGAL_SASL_STATE: _LOG_ON,
    KafkaError.SECURITY_DISABLED: (ConfigError, "the cluster has no ACLs: leave `sasl` out"),
    KafkaError.UNSUPPORTED_SASL_MECHANISM: (ConfigError, "check `sasl.mechanism`"),
    KafkaError._SSL: (ConfigError, "check `tls`"),  # noqa: SLF001
    KafkaError.TOPIC_AUTHORIZATION_FAILED: _GRANTS,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: (AuthError, "grant the gateway's user IDEMPOTENT_WRITE on the cluster"),
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: (AuthError, "grant the gateway's user WRITE on the transactional id"),
    KafkaError.GROUP_AUTHORIZATION_FAILED: (AuthError, "grant the gateway's user READ on the group"),
    KafkaError.UNKNOWN_TOPIC_OR_PART: (ConfigError, "make the topic, or set `create: auto`"),
    KafkaError._UNKNOWN_TOPIC: (ConfigError, "make the topic, or set `create: auto`"),  # noqa: SLF001
    KafkaError._UNKNOWN_PARTITION: (TransientError, "its partitions have changed, or it has been deleted"),  # noqa: SLF001
    KafkaError.TOPIC_EXCEPTION: (ConfigError, "check `topic`"),
    KafkaError.POLICY_VIOLATION: _LIMITS,
    KafkaError.INVALID_PARTITIONS: _LIMITS,
    KafkaError.INVALID_REPLICATION_FACTOR: _LIMITS,
    KafkaError.INVALID_CONFIG: _LIMITS,
    KafkaError.UNSUPPORTED_COMPRESSION_TYPE: _SERVER,
    KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT: _SERVER,
    KafkaError.UNSUPPORTED_VERSION: _SERVER,
    KafkaError._UNSUPPORTED_FEATURE: _SERVER,  # noqa: SLF001
    KafkaError.INVALID_TRANSACTION_TIMEOUT: (ConfigError, "`timeout` is longer than the cluster allows a transaction"),
    KafkaError.PRODUCER_FENCED: _TRANSACTION,
    KafkaError._FENCED: _TRANSACTION,  # noqa: SLF001
    KafkaError._INVALID_ARG: (ConfigError, "check `provider_config`"),  # noqa: SLF001
    KafkaError.THROTTLING_QUOTA_EXCEEDED: (CapacityError, "the cluster throttles the gateway's user"),
    KafkaError.NOT_ENOUGH_REPLICAS: (TransientError, "too few replicas are in sync: look at the brokers"),
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND: (TransientError, "too few replicas are in sync: look at the brokers"),
    KafkaError.MSG_SIZE_TOO_LARGE: (_rejected, "larger than `message_max_bytes`, or than the topic's max.message.bytes"),
    KafkaError.RECORD_LIST_TOO_LARGE: (_rejected, "larger than a segment of the topic"),
    KafkaError.INVALID_MSG_SIZE: (_rejected, ""),
    KafkaError.INVALID_RECORD: (_rejected, "the topic does not take such a record"),
    KafkaError.INVALID_TIMESTAMP: (_rejected, "its time is further away than the topic's message.timestamp.* settings allow"),
    KafkaError._INVALID_DIFFERENT_RECORD: (_rejected, ""),  # noqa: SLF001
}  # fmt: skip
_WORDS: Final[tuple[tuple[str, Make, str], ...]] = (
    (r"alert (certificate|bad certificate|unknown ca|handshake)|certificate required|alert number (42|46|48|116)",
     AuthError, "the broker does not take the client's certificate: check `tls`"),
    (r"OAUTHBEARER|oauthbearer|token endpoint|OIDC", AuthError, "check `sasl`"),
    (r"No such configuration property|Invalid value|cannot be set|not supported in this build|\.location failed",
     ConfigError, "check `provider_config`"),
)  # fmt: skip


def delivery_error(error: KafkaError, where: str, extra: str = "") -> DeliveryError:
    """The place of an error of librdkafka in the tree.

    Args:
        error: What was said.
        where: What was talked to, without secrets.
        extra: What else is known of it.
    """
    text = f"{where}: {' '.join(error.str().split())[:500]}{f' ({extra})' if extra else ''}"
    for pattern, make, advice in _WORDS:
        if re.search(pattern, error.str()):
            return make(f"{text} ({advice})")
    make, advice = _CODES.get(error.code(), (TransientError, ""))
    return make(f"{text} ({advice})" if advice else text)


def is_about_the_record(error: KafkaError) -> bool:
    """Whether the broker refuses the record, or another one that went to it in the same batch."""
    return _CODES.get(error.code(), (TransientError, ""))[0] is _rejected


def is_decisive(error: KafkaError) -> bool:
    """Whether waiting longer is of no use, among the errors that a connection tells of."""
    return not isinstance(delivery_error(error, ""), TransientError)
