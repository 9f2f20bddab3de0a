"""AMQP: readings as messages of AMQP 0.9.1, which RabbitMQ speaks, or of AMQP 1.0."""

from connectors.targets.amqp.config import AmqpConfig, AmqpSettings

__all__ = ["AmqpConfig", "AmqpSettings"]
