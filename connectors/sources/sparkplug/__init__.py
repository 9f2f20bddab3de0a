"""Sparkplug B host: the state machine that turns an edge node's messages into readings.

* `nodes`: what is known of an edge node and its devices,
* `decode`: the metrics of one message,
* `columns`: the same in arrays, for plain data,
* `held`: the account of what waits,
* `host`: what each message changes, and the readings that it gives (pure),
* `kept`: what is kept between runs,
* `link`: the host at work on one MQTT connection, with its timers, its commands and its own STATE.
"""

from connectors.sources.sparkplug.host import SparkplugHost
from connectors.sources.sparkplug.link import SparkplugLink
from connectors.sources.sparkplug.nodes import Missed, RebirthRequest

__all__ = ["Missed", "RebirthRequest", "SparkplugHost", "SparkplugLink"]
