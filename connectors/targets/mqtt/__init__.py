"""MQTT: readings published to a broker, as JSON."""

from connectors.targets.mqtt.config import MqttTargetConfig

__all__ = ["MqttTargetConfig"]
