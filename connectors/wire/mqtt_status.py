"""A topic that says, retained, whether a client is there: `online` when it has come, `offline` by its will or good-bye. Pure."""

from typing import Final

from connectors.wire.mqtt_names import clean
from connectors.wire.mqtt_outgoing import MAX_TOPIC

ONLINE: Final = b"online"
OFFLINE: Final = b"offline"


def status_topic(template: str, **places: str) -> str:
    """The topic that a setting such as ``plant/gateways/{gateway}`` means.

    Args:
        template: What the setting says.
        places: What may stand in it in braces.
    """
    for place, text in places.items():
        template = template.replace(f"{{{place}}}", clean(place, text))
    return template


def check_status_topic(template: str, *places: str) -> None:
    """Look whether a setting can become a topic.

    Args:
        template: What the setting says.
        places: What may stand in it in braces.

    Raises:
        ValueError: It cannot.
    """
    topic = status_topic(template, **dict.fromkeys(places, "x"))
    known = " and ".join(f"{{{place}}}" for place in places)
    if set("{}") & set(topic):
        raise ValueError(f"`{template}`: what may stand in braces in a status_topic is {known}")
    if wild := [mark for mark in "+#\0" if mark in topic]:
        raise ValueError(f"`{wild[0]}` cannot stand in a topic that is published to")
    if topic.startswith("$") or len(topic.encode()) > MAX_TOPIC:
        raise ValueError(
            f"`{template[:40]}` is no status_topic: it begins with $, which belongs to the broker, or is too long"
        )
