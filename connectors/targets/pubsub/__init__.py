"""Google Cloud Pub/Sub: readings as messages with ordering keys, acknowledged by the message ids that the service gives."""

from connectors.targets.pubsub.config import PubSubConfig, PubSubSettings

__all__ = ["PubSubConfig", "PubSubSettings"]
