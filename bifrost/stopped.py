"""The stores of a gateway that does not run, open for a command."""

import contextlib
from collections.abc import Iterator

from bifrost.run import address
from config.models import NAME_FILE, Configuration
from delivery.disk import StoreError, StoreLockedError
from flows.process import Process


def has_run(config: Configuration) -> bool:
    """Whether there are stores; looking must not make them."""
    return (config.directory / NAME_FILE).exists()


@contextlib.contextmanager
def stores(config: Configuration) -> Iterator[Process]:
    """The stores, closed at the end.

    Raises:
        StoreError: A gateway that does not answer has them.
    """
    process = Process(config)
    try:
        process.open_stores()
    except StoreLockedError as error:
        asked = "it has no HTTP port" if config.port is None else f"it does not answer on {address(config)}"
        raise StoreError(
            f"{error.directory} belongs to process {error.owner}, and {asked}; stop it, or ask it there"
        ) from error
    try:
        yield process
    finally:
        process.close()
