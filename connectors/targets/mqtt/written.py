"""What the writers would publish of a batch, by the same encoders and without a connection. Pure."""

import pyarrow as pa

from connectors.contract import Context
from connectors.dry_run import Written
from connectors.targets.mqtt.config import MqttTargetConfig
from connectors.targets.mqtt.edge_writer import edge_name, new_edge
from connectors.targets.mqtt.writer import message_form
from connectors.wire.mqtt_messages import MessageEncoder
from connectors.wire.mqtt_outgoing import MAX_PACKET
from connectors.wire.sparkplug_messages import decode_payload


def written(config: MqttTargetConfig, batch: pa.RecordBatch, context: Context) -> list[Written]:
    """The messages; of a Sparkplug edge node those of a session that has just begun: births, then data."""
    own = config.provider_config
    if own.payload == "sparkplug":
        edge = new_edge(own.sparkplug, edge_name(own.sparkplug, context.gateway), None)
        edge.next_session()
        now = int(batch.column("received_time").view(pa.int64())[0].as_py()) // 1000
        messages = [*edge.births(now, first=True), *edge.data(batch, now)]
        return [
            Written(one.topic, one.payload, {"qos": 0, "retain": False, "message": str(decode_payload(one.payload))})
            for one in messages
        ]
    most = own.max_packet_size or MAX_PACKET
    messages_, wrong = MessageEncoder(message_form(own)).encode(batch, most)
    return messages_.written(wrong, qos=own.qos, retain=own.retain)
