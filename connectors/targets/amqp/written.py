"""What the writers would publish of a batch, by the same encoders and without a connection. Pure."""

import pyarrow as pa

from connectors.dry_run import Written, refuse
from connectors.targets.amqp.config import AmqpConfig
from connectors.targets.amqp.messages import identities


def written(config: AmqpConfig, batch: pa.RecordBatch) -> list[Written]:
    """The messages, each with where it is sent and its id."""
    own = config.provider_config
    if own.version == "1.0":
        from connectors.targets.amqp.version_1.encode import SectionEncoder

        names, messages = ("address", "subject"), SectionEncoder(own).messages.encode(batch)
    else:
        from connectors.targets.amqp.encode import FrameEncoder

        names, messages = ("routing_key", ""), FrameEncoder(own).messages.encode(batch)
    if messages.rejected:
        refuse(dict(zip(messages.rejected, messages.reasons, strict=True)))
    ids = identities(batch, messages).to_pylist()
    found = []
    for at, (body, identity) in enumerate(zip(messages.bodies.to_pylist(), ids, strict=True)):
        told = {name: one.names[one.index[at]] for name, one in zip(names, messages.names, strict=False) if name}
        place = told.pop("address") if own.version == "1.0" else own.exchange
        found.append(Written(place, body, {**told, "message_id": identity.decode()}))
    return found
