"""Which unit the cluster has: its number and fingerprint, committed in the same transaction as its messages. Blocking.

They are kept as the committed offset of a consumer group in which nobody consumes; its name has a random part. What is kept
decides about a unit before it is sent:

* no number, or a smaller one: the unit is not there;
* the same number and fingerprint: it was committed before a crash or a lost answer;
* anything else: the numbers are those of another spool, which was lost or begun anew. The group gets a new random part.
"""

import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from connectors.targets.delta_log import write_durably
from connectors.targets.kafka.errors import delivery_error


@dataclass(frozen=True, slots=True)
class Note:
    """What a transaction commits beside its messages.

    Attributes:
        offsets: The number of the unit as an offset, its fingerprint beside it.
        group: The consumer group, as librdkafka wants it.
    """

    offsets: list[TopicPartition]
    group: Any


class Units:
    """The units of one target.

    Args:
        properties: How the cluster is reached.
        file: Holds the name of the group.
        prefix: What the name of the group begins with.
    """

    def __init__(self, properties: dict[str, Any], file: Path, prefix: str) -> None:
        self._properties = properties
        self._file = file
        self._prefix = prefix
        self._last: tuple[int, str] | None = None
        self._group: Any = None

    def open(self, deadline: float, where: str) -> None:
        """Ask the cluster; to be called when no transaction of ours is open.

        Raises:
            DeliveryError: The cluster cannot be asked.
        """
        name = self._file.read_text("utf-8").strip() if self._file.exists() else ""
        self._last = None
        if not name:
            self._begin()
            return
        self._group = _metadata(self._properties, name)
        left = max(0.5, deadline - time.monotonic())
        admin = AdminClient(self._properties)
        asked = admin.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(name)], require_stable=True, request_timeout=left
        )
        try:
            found = asked[name].result(left).topic_partitions
        except KafkaException as error:
            raise delivery_error(error.args[0], where) from None
        kept = [(part.offset, part.metadata or "") for part in found if part.offset >= 0]
        self._last = max(kept, default=None)

    def has(self, unit: int, mark: int) -> bool:
        """Whether a unit is there; one that cannot follow the last is the first of another spool."""
        if self._last is None or unit > self._last[0]:
            return False
        if self._last == (unit, f"{mark:x}"):
            return True
        self._begin()
        return False

    def note(self, topic: str, unit: int, mark: int) -> Note:
        """What to commit with a unit of which messages go to `topic`."""
        return Note([TopicPartition(topic, 0, unit, f"{mark:x}")], self._group)

    def taken(self, unit: int, mark: int) -> None:
        """The unit is committed."""
        self._last = unit, f"{mark:x}"

    def _begin(self) -> None:
        name = f"{self._prefix}-{uuid.uuid4().hex}"
        write_durably(self._file, name + "\n")
        self._group, self._last = _metadata(self._properties, name), None


def _metadata(properties: dict[str, Any], group: str) -> Any:
    """The group as librdkafka wants it told; nobody joins it."""
    consumer = Consumer(properties | {"group.id": group})
    try:
        return consumer.consumer_group_metadata()
    finally:
        consumer.close()
