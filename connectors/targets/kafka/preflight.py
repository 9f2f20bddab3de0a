"""Preflight: what stands between this gateway and its topic, in plain words and with what to do about it. Blocking."""

import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import KafkaException

from connectors.contract import DeliveryError, Finding
from connectors.targets.kafka import topics
from connectors.targets.kafka.client import connecting
from connectors.targets.kafka.config import KafkaConfig, RegistrySettings
from connectors.targets.kafka.encode import RECORD, SCHEMAS
from connectors.targets.kafka.registry import Registry
from connectors.targets.kafka.sender import Sender

_LOCAL = {"localhost", "127.0.0.1", "[::1]"}


def findings(config: KafkaConfig, gateway: str) -> Iterator[Finding]:
    """Look at everything that a write needs, from the brokers to the registry; writes nothing."""
    own, properties = config.provider_config, connecting(config, gateway)
    fixed = None if "{" in own.topic else own.topic
    sender = None
    try:
        sender = Sender(properties, config.endpoint)
        deadline = time.monotonic() + config.timeout
        metadata = sender.metadata(fixed or "bifrost", deadline)
        brokers = ", ".join(f"{broker.host}:{broker.port}" for broker in metadata.brokers.values())
        yield Finding(True, "brokers", f"{len(metadata.brokers)} reached: {brokers}")
        yield from _encryption(config)
        if fixed is None:
            yield Finding(True, "topic", f"{own.topic} is known when readings come")
        elif topics.missing(sender, [fixed], deadline, config.endpoint):
            detail = "will be made" if own.create == "auto" else "is missing; make it, or set `create: auto`"
            yield Finding(own.create == "auto", "topic", f"{fixed} {detail}")
        else:
            yield from _topic(config, fixed, metadata.topics[fixed], properties)
    except DeliveryError as problem:
        yield Finding(False, "connection", str(problem))
    finally:
        if sender is not None:
            sender.close()
    if own.registry is not None:
        yield from _registry(config, own.registry, fixed)


def _encryption(config: KafkaConfig) -> Iterator[Finding]:
    hosts = {broker.rpartition(":")[0] for broker in config.endpoint.split(",")}
    if config.provider_config.tls is None and hosts - _LOCAL:
        yield Finding(False, "encryption", "readings and password travel in clear; set `tls`")


def _topic(config: KafkaConfig, topic: str, found: Any, properties: dict[str, Any]) -> Iterator[Finding]:
    own, timeout = config.provider_config, config.timeout
    replicas = min((len(partition.replicas) for partition in found.partitions.values()), default=0)
    yield Finding(True, "topic", f"{topic} is there, {len(found.partitions)} partitions, {replicas} replicas of each")
    try:
        may = topics.allowed(properties, topic, timeout)
        if may is not None and not may & {"WRITE", "ALL"}:
            yield Finding(False, "grants", f"grant the gateway's user WRITE on the topic {topic}")
        settings = topics.settings_of(properties, topic, timeout)
    except KafkaException as error:
        yield Finding(True, "topic", f"its settings are not shown to the gateway: {error.args[0].str()}")
        return
    in_sync = int(settings.get("min.insync.replicas", "1"))
    if replicas > 1 and in_sync < 2:
        yield Finding(False, "min.insync.replicas", "1: a message is acknowledged while only one broker has it, and lost with "
                      "that broker; set the topic's min.insync.replicas to 2")  # fmt: skip
    elif in_sync > replicas:
        yield Finding(
            False, "min.insync.replicas", f"{in_sync}, but there are {replicas} replicas: nothing can be written"
        )
    else:
        yield Finding(True, "min.insync.replicas", str(in_sync))
    largest = int(settings.get("max.message.bytes", "1048588"))
    if own.message_max_bytes > largest:
        yield Finding(False, "max.message.bytes", f"the topic takes {largest} bytes, `message_max_bytes` is "
                      f"{own.message_max_bytes}: lower it, or raise the topic's")  # fmt: skip
    retention = int(settings.get("retention.ms", "-1"))
    if retention >= 0 and "delete" in settings.get("cleanup.policy", "delete"):
        yield Finding(True, "retention", f"messages go {retention / 86_400_000:g} days after their time, which is that of the "
                      "reading: a backlog that is older goes soon")  # fmt: skip


def _registry(config: KafkaConfig, settings: RegistrySettings, topic: str | None) -> Iterator[Finding]:
    kind, schema = SCHEMAS[config.provider_config.format]
    if topic is None and settings.subject == "topic":
        return
    subject = RECORD if settings.subject == "record" else f"{topic}-value"
    try:
        fits, detail = Registry(settings, config.timeout).is_compatible(subject, kind, schema())
    except DeliveryError as problem:
        yield Finding(False, "registry", str(problem))
    else:
        yield Finding(
            fits, "registry", detail if fits else f"`{subject}` does not take the schema of readings: {detail}"
        )
