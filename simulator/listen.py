"""Ports to listen on: whether one can be had is said here in one sentence, before a library says it in a page."""

import socket


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket bound to an address; port 0: to any free one.

    Raises:
        OSError: The address cannot be used; the message names it.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise OSError(f"{host}:{port} cannot be used: {reason}") from error
    return bound


def check(host: str, port: int) -> None:
    """See that an address can be listened on.

    Raises:
        OSError: It cannot.
    """
    bound_socket(host, port).close()
