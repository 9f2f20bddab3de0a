"""What both protocols do alike: try the hosts of an endpoint in turn, and tell of a line that everybody can read."""

import ssl
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from connectors.contract import Finding
from connectors.targets.amqp.config import addresses


class Closes(Protocol):
    """A connection that is open, or half open."""

    async def close(self) -> None:
        """Leave."""


C = TypeVar("C", bound=Closes)


async def first_to_take(endpoint: str, make: Callable[[], C], open_at: Callable[[C, str, int], Awaitable[None]]) -> C:
    """A connection to the first host that takes one; what a host refuses is not asked of the next.

    Args:
        endpoint: A URL with hosts.
        make: Makes a connection.
        open_at: Opens it at a host and port.
    """
    lost = OSError("the endpoint names no host")
    for host, port in addresses(endpoint):
        connection = make()
        try:
            await open_at(connection, host, port)
        except OSError as error:
            await connection.close()
            if isinstance(error, ssl.SSLError):
                raise
            lost = error
        except BaseException:
            await connection.close()
            raise
        else:
            return connection
    raise lost


def in_clear(endpoint: str) -> list[Finding]:
    """What is to be said of an endpoint without TLS, unless it is this machine."""
    local = {"localhost", "127.0.0.1"}
    if endpoint.startswith("amqp://") and any(host not in local for host, _ in addresses(endpoint)):
        return [Finding(False, "encryption", "readings and password travel in clear; use amqps://")]
    return []
