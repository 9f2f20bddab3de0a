"""MQTT source: 3.1.1 and 5, QoS 0 and 1, JSON, plain and Sparkplug B payloads.

A QoS 1 message is acknowledged when the journal has it on disk, in receipt order and never on a later connection. What the
broker sends again after a crash, because the acknowledgement got lost, is recognized and not journalled twice.
"""

from connectors.sources.mqtt.config import MqttConfig, SparkplugSettings, Subscription
from connectors.sources.mqtt.reader import MqttReader

__all__ = ["MqttConfig", "MqttReader", "SparkplugSettings", "Subscription"]
