"""Ports of loopback for servers that are killed and started again.

They lie below those that the system gives to clients: a client that keeps trying a dead server's port would otherwise be
given that very port for itself at times, connect to itself, and keep the server from coming back.
"""

import random
import socket
from typing import Final

_PORTS: Final = range(10_000, 32_768)
_given: set[int] = set()


def free_port() -> int:
    """A port that nobody uses right now, and that was not given before."""
    while True:
        port = random.choice(_PORTS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
