"""Messages that were captured, as the reader would decode them, Sparkplug's state included. Pure."""

from collections.abc import Callable, Sequence

from connectors.dry_run import Captured, CapturedError, Message, Sample
from connectors.sources.mqtt.config import MqttConfig
from connectors.sources.mqtt.formats import storable
from connectors.sources.mqtt.payload import Decoder
from connectors.sources.mqtt.topics import topic_matches
from connectors.sources.sparkplug import SparkplugHost
from connectors.wire.mqtt_packets import RETAIN, Publish, Publishes
from connectors.wire.sparkplug import NAMESPACE, parse_topic
from normalization.quality import text_quality
from normalization.reading import Columns, Quality, Tag


def _format(config: MqttConfig, topic: str) -> str | None:
    """How messages of a topic are read; None where nothing subscribes to it."""
    return next((rule.format for rule in config.rules() if topic_matches(rule.topic, topic)), None)


def row(config: MqttConfig, address: str, device: str, unit: str, tag_name: str) -> Tag | None:
    """The row of a tag: of a topic, of a field of a topic's payload as `topic#field`, or of a Sparkplug metric."""
    found: list[Tag] = []

    def keep(tag: Tag) -> int:
        found.append(tag)
        return 0

    decoder = Decoder(config, keep)
    topic, _, field = address.partition("#")
    if not device and _format(config, topic) not in (None, "sparkplug"):
        decoder.tags_of(topic, [(field, unit)])
        return found[0]
    owner, metric = (device, address) if device else _metric(address)
    group, _, node = owner.partition("/")
    edge, _, own = node.partition("/")
    birth = f"{NAMESPACE}/{group}/DBIRTH/{edge}/{own}" if own else f"{NAMESPACE}/{group}/NBIRTH/{edge}"
    if not metric or parse_topic(birth) is None or _format(config, birth) != "sparkplug":
        return None
    name = metric.removeprefix(f"{own}/") if own else metric
    decoder.sparkplug_tag(owner, f"{own}/{name}" if own else metric, tag_name or name, unit, {})
    return found[0]


def _metric(text: str) -> tuple[str, str]:
    """Owner and address of a metric from `group/node/metric` or `group/node/device/device/metric`."""
    parts = text.split("/")
    own = 1 if len(parts) > 4 and parts[2] == parts[3] else 0
    return "/".join(parts[: 2 + own]), "/".join(parts[2 + own :])


class Replay:
    """Decodes what came on one connection; what an edge node said before is known, as it is to the reader.

    Args:
        config: The source.
        intern: Gives a tag its row of the tag table.
    """

    def __init__(self, config: MqttConfig, intern: Callable[[Tag], int]) -> None:
        self._intern = intern
        self._decoder = Decoder(config, intern)
        self._decoder.on_sparkplug = self._sparkplug
        own = config.sparkplug
        self._host = SparkplugHost(
            self._decoder.sparkplug_tag,
            self._decoder.reject_tag,
            rebirth_interval=own.rebirth_interval,
            reorder_timeout=own.reorder_timeout,
        )
        self._patience = own.reorder_timeout + 1.0
        self._subscribed = [rule.topic for rule in config.rules()]

    def decode(self, captured: Sequence[Captured]) -> list[Columns]:
        """The readings of each; those of a message that waits for others are there when nothing more comes.

        Raises:
            CapturedError: The source does not subscribe to a topic, or gets no such thing.
        """
        found = [self._one(one) for one in captured]
        if found:
            self._host.expire(self._patience, found[-1])
        return found

    def _one(self, captured: Captured) -> Columns:
        rows = Columns()
        if isinstance(captured, Message):
            if not any(topic_matches(name, captured.topic) for name in self._subscribed):
                raise CapturedError(
                    f"nothing subscribes to `{captured.topic}`; the source has {', '.join(self._subscribed)}"
                )
            messages = Publishes()
            head = RETAIN if captured.retained else 0
            messages.add(Publish(captured.topic.encode(), captured.payload, head, 0, b""))
            self._decoder.decode(messages, rows)
        elif isinstance(captured, Sample):
            quality = Quality.GOOD if captured.quality == "" else text_quality(captured.quality)
            tag = self._intern(captured.tag)
            rows.add(tag, storable(captured.value), quality=quality, source_time=captured.time)
        else:
            raise CapturedError("an MQTT source is given by a topic and a payload, or by a tag and a value")
        return rows

    def _sparkplug(self, name: str, payload: bytes, head: int, rows: Columns) -> None:
        topic = parse_topic(name)
        if topic is not None:
            self._host.receive(topic, payload, head, 0.0, rows)
