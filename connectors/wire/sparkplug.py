"""Sparkplug B: topics, and what a host application publishes (specification 3.0, §4 and §5)."""

import json
from typing import Final, NamedTuple

from typing_extensions import override

from connectors.wire.sparkplug_messages import message_class
from connectors.wire.sparkplug_values import DataType, set_value

NAMESPACE: Final = "spBv1.0"
MESSAGE_TYPES: Final = frozenset({"NBIRTH", "NDEATH", "DBIRTH", "DDEATH", "NDATA", "DDATA", "NCMD", "DCMD"})
REBIRTH: Final = "Node Control/Rebirth"


class Topic(NamedTuple):
    """A Sparkplug topic (§4): group, message type, edge node, and the device or an empty string."""

    group: str
    kind: str
    node: str
    device: str

    @override
    def __str__(self) -> str:
        return "/".join((NAMESPACE, *filter(None, self)))


def parse_topic(topic: str) -> Topic | None:
    """The parts of ``spBv1.0/group/type/node[/device]``; None for anything else, such as STATE."""
    parts = topic.split("/")
    if len(parts) not in {4, 5} or parts[0] != NAMESPACE or parts[2] not in MESSAGE_TYPES or not all(parts):
        return None
    device = parts[4] if len(parts) == 5 else ""
    if (parts[2][0] == "D") != bool(device):
        return None
    return Topic(parts[1], parts[2], parts[3], device)


def rebirth_command(now_ms: int) -> bytes:
    """Payload of the NCMD that asks an edge node for its births (§5.9)."""
    payload = message_class()(timestamp=now_ms)
    metric = payload.metrics.add(name=REBIRTH, timestamp=now_ms)
    set_value(metric, DataType.BOOLEAN, True)
    return bytes(payload.SerializeToString())


def state_topic(host_id: str) -> str:
    """Where a host application says whether it is online (§4)."""
    return f"{NAMESPACE}/STATE/{host_id}"


def state_payload(online: bool, timestamp: int) -> bytes:
    """What a host application publishes there; `timestamp` is ms since the epoch (§6.4)."""
    return json.dumps({"online": online, "timestamp": timestamp}, separators=(",", ":")).encode()


def says_offline(payload: bytes) -> bool:
    """Whether a message on a STATE topic takes its host application for offline; one that says nothing sound does too."""
    try:
        return bool(json.loads(payload)["online"] is not True)
    except (ValueError, KeyError, TypeError, RecursionError):
        return True
