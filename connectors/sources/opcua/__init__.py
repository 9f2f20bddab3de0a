"""OPC UA: subscriptions and polling of one server (OPC 10000-4, -6).

``config.py`` what can be told · ``reader.py`` from one connection to the next · ``run.py`` what one connection does ·
``subscription.py`` the publish loop · ``session.py`` and ``channel.py`` the connection · ``security.py`` certificates ·
``nodes.py`` which nodes, and what is known about them · ``names.py`` node ids and patterns · ``datatypes.py`` the server's
structures and enumerations · ``notification.py`` messages taken apart · ``decode.py`` their values to readings · ``binary.py``
values from bytes.
"""

from connectors.sources.opcua.config import BrowseConfig, NodeConfig, OpcUaConfig

__all__ = ["BrowseConfig", "NodeConfig", "OpcUaConfig"]
