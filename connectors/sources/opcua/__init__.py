"""OPC UA: subscriptions, polling, events and history of one server (OPC 10000-4, -6, -9, -11).

What can be told is in ``config.py``. From one connection to the next: ``reader.py``, ``state.py``, ``watermarks.py``. One connection:
``run.py``, with ``polling.py``, ``subscription.py`` (the publish loop), ``monitoring.py`` and ``items.py`` (what is subscribed to),
``history.py``, ``events.py``. The server: ``session.py``, ``services.py``, ``limits.py``, ``channel.py``, ``handshake.py`` with
``security.py`` and its neighbors. Nodes: ``nodes.py``, ``selection.py``, ``names.py``, ``look.py``. Values: ``notification.py``,
``decode.py``, ``binary.py``, ``datatypes.py``, ``typedict.py``.
"""

from connectors.sources.opcua.config import BrowseConfig, NodeConfig, OpcUaConfig

__all__ = ["BrowseConfig", "NodeConfig", "OpcUaConfig"]
