"""What librdkafka is told."""

import logging
import re
from typing import Any, Final

from connectors.targets.kafka.config import KafkaConfig, SaslSettings

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9._\-]")
_SILENT: Final = logging.getLogger("bifrost.librdkafka")
_SILENT.setLevel(logging.CRITICAL + 1)  # the forwarder tells what fails, once; librdkafka tells every attempt


def name_of(gateway: str) -> str:
    """A gateway's name as it may stand in a client id."""
    return _NOT_IN_NAMES.sub("_", f"bifrost-{gateway}")


def connecting(config: KafkaConfig, gateway: str) -> dict[str, Any]:
    """Properties of every client: where the brokers are, and how to log on. Files of certificates are read at each start."""
    own = config.provider_config
    given: dict[str, Any] = {
        "bootstrap.servers": config.endpoint,
        "client.id": name_of(gateway),
        "security.protocol": f"{'SASL_' if own.sasl else ''}{'SSL' if own.tls else 'PLAINTEXT'}",
        "socket.timeout.ms": min(60_000, _ms(config.timeout)),
        "socket.connection.setup.timeout.ms": min(30_000, _ms(config.timeout)),
        "socket.nagle.disable": True,
        "reconnect.backoff.max.ms": 1_000,
        "topic.metadata.propagation.max.ms": min(
            5_000, _ms(config.timeout / 2)
        ),  # a missing topic is told before time is up
        "allow.auto.create.topics": False,
        "log.connection.close": False,
        "logger": _SILENT,
    }
    if own.tls is not None:
        files = {"ca": own.tls.ca_file, "certificate": own.tls.cert_file, "key": own.tls.key_file}
        given |= {f"ssl.{name}.location": str(path) for name, path in files.items() if path is not None}
        given["enable.ssl.certificate.verification"] = own.tls.verify
    if own.sasl is not None:
        given |= _logging_on(own.sasl)
    return given | own.properties


def _logging_on(sasl: SaslSettings) -> dict[str, Any]:
    given: dict[str, Any] = {"sasl.mechanism": sasl.mechanism}
    if sasl.mechanism == "OAUTHBEARER":
        given |= {
            "sasl.oauthbearer.method": "oidc",
            "sasl.oauthbearer.token.endpoint.url": sasl.token_url,
            "sasl.oauthbearer.client.id": sasl.client_id,
            "sasl.oauthbearer.client.secret": sasl.client_secret.get_secret_value() if sasl.client_secret else "",
        }
        if sasl.scope:
            given["sasl.oauthbearer.scope"] = sasl.scope
        if sasl.ca_file is not None:
            given["https.ca.location"] = str(sasl.ca_file)
        if sasl.extensions:
            given["sasl.oauthbearer.extensions"] = ",".join(f"{key}={value}" for key, value in sasl.extensions.items())
        return given
    password = sasl.password.get_secret_value() if sasl.password else ""
    return given | {"sasl.username": sasl.username, "sasl.password": password}


def producing(config: KafkaConfig, gateway: str, rows: int) -> dict[str, Any]:
    """Properties of the producer: idempotent, acknowledged by all in-sync replicas, done within the target's time-out.

    Args:
        config: The target.
        gateway: Name of the gateway.
        rows: Readings in one write, at most.
    """
    own = config.provider_config
    given = connecting(config, gateway) | {
        "acks": "all",
        "enable.idempotence": True,
        "max.in.flight": 5,
        "message.timeout.ms": _ms(config.timeout) + 1_000,  # the writer gives up before: one clock decides
        "request.timeout.ms": min(30_000, _ms(config.timeout)),
        "message.max.bytes": own.message_max_bytes,
        "partitioner": own.partitioner,
        "compression.type": own.compression,
        "linger.ms": own.batch_wait * 1000,
        "queue.buffering.max.messages": max(100_000, 2 * rows),
        "queue.buffering.max.kbytes": max(65_536, 4 * own.message_max_bytes // 1024),
        "delivery.report.only.error": True,  # `flush` waits for all reports, and tells of those that are not good
    }
    if own.transactions == "unit":
        given |= {
            "transactional.id": own.transactional_id or f"{name_of(gateway)}-{config.name}",
            "transaction.timeout.ms": _ms(config.timeout) + 10_000,
        }
    return given | own.properties


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
