"""Sparkplug B host: the state machine that turns an edge node's messages into readings.

* `nodes`: what is known of an edge node and its devices,
* `host`: what each message changes, and the readings that it gives (pure).
"""

from connectors.sources.sparkplug.host import SparkplugHost
from connectors.sources.sparkplug.nodes import Missed, RebirthRequest

__all__ = ["Missed", "RebirthRequest", "SparkplugHost"]
