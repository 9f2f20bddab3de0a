"""MQTT: readings published to a broker, as JSON or as a Sparkplug B edge node."""

from connectors.targets.mqtt.config import MqttTargetConfig

__all__ = ["MqttTargetConfig"]
