"""OPC UA: subscriptions and polling of one server (OPC 10000-4, -6).

``config.py`` what can be told · ``reader.py`` the run · ``session.py`` the connection · ``security.py`` certificates ·
``nodes.py`` which nodes, and what is known about them · ``names.py`` node ids and patterns · ``datatypes.py`` the server's
structures and enumerations · ``decode.py`` messages to readings · ``binary.py`` values from bytes.
"""

from connectors.sources.opcua.config import BrowseConfig, NodeConfig, OpcUaConfig

__all__ = ["BrowseConfig", "NodeConfig", "OpcUaConfig"]
