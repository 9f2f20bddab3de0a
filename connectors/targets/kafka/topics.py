"""Topics: whether they are there, and making them. Blocking; call it in a worker thread."""

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from connectors.contract import ConfigError
from connectors.targets.kafka.config import KafkaSettings
from connectors.targets.kafka.errors import delivery_error
from connectors.targets.kafka.sender import Sender

_NOT_THERE = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC}  # noqa: SLF001 - librdkafka's own
_SOON = 0.05


def missing(sender: Sender, topics: Iterable[str], deadline: float, where: str) -> list[str]:
    """Those of the topics that are not there.

    Raises:
        DeliveryError: The cluster cannot be reached, or does not let the gateway see one of them.
    """
    found = []
    for topic in topics:
        error = sender.metadata(topic, deadline).topics[topic].error
        while error is not None and error.code() == KafkaError.LEADER_NOT_AVAILABLE and time.monotonic() < deadline:
            time.sleep(_SOON)
            error = sender.metadata(topic, deadline).topics[topic].error
        if error is not None and error.code() not in _NOT_THERE:
            raise delivery_error(error, f"{where} {topic}")
        if error is not None:
            found.append(topic)
    return found


def make(properties: dict[str, Any], topics: list[str], own: KafkaSettings, deadline: float, where: str) -> None:
    """Make topics; one that somebody else has made meanwhile is as good.

    Raises:
        DeliveryError: The cluster does not make one of them.
    """
    if own.create == "never":
        raise ConfigError(f"{where}: there is no topic {', '.join(topics)} (make it, or set `create: auto`)")
    left = max(1.0, deadline - time.monotonic())
    wanted = [NewTopic(topic, own.partitions or -1, own.replication or -1, config=own.topic_config) for topic in topics]
    admin = AdminClient(properties)  # kept until its answers are there
    for topic, future in admin.create_topics(wanted, request_timeout=left).items():
        try:
            future.result(left)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise delivery_error(error.args[0], f"{where} {topic}") from None


def settings_of(properties: dict[str, Any], topic: str, timeout: float) -> Mapping[str, str]:
    """The settings of a topic.

    Raises:
        KafkaException: The gateway may not see them.
    """
    resource = ConfigResource(ResourceType.TOPIC, topic)
    admin = AdminClient(properties)
    found = _only(admin.describe_configs([resource], request_timeout=timeout)).result(timeout)
    return {name: str(entry.value) for name, entry in found.items()}


def allowed(properties: dict[str, Any], topic: str, timeout: float) -> set[str] | None:
    """What the gateway's user may do with a topic, as `WRITE`; None when the cluster does not tell.

    Raises:
        KafkaException: The gateway may not even see it.
    """
    admin = AdminClient(properties)
    asked = admin.describe_topics(TopicCollection([topic]), include_authorized_operations=True, request_timeout=timeout)
    found = _only(asked).result(timeout)
    return None if found.authorized_operations is None else {one.name for one in found.authorized_operations}


def _only(futures: "dict[Any, Future[Any]]") -> "Future[Any]":
    return next(iter(futures.values()))
