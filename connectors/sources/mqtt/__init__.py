"""MQTT source: 3.1.1 and 5, QoS 0, 1 and 2; payloads as JSON, plain text, CSV, CBOR, MessagePack, Protobuf and Sparkplug B.

A message is acknowledged (PUBACK, PUBREC) when the journal has it on disk, in receipt order and never on a later connection.
What the broker sends again after a crash, because the acknowledgement got lost, is recognized and not journalled twice. That
a QoS 2 message is done with (PUBCOMP) is said when it is on disk that its packet id may come anew.
"""

from connectors.sources.mqtt.brokers import MqttReader
from connectors.sources.mqtt.config import MqttConfig, SparkplugSettings, Subscription

__all__ = ["MqttConfig", "MqttReader", "SparkplugSettings", "Subscription"]
