"""Apache Kafka: a message per reading, idempotent and acknowledged by all in-sync replicas."""

from connectors.targets.kafka.config import KafkaConfig, KafkaSettings

__all__ = ["KafkaConfig", "KafkaSettings"]
