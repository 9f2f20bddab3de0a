"""Bifrost, an industrial gateway. ``from bifrost import Gateway`` runs one in a Python program."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bifrost.gateway import CloudData, Gateway, NotTakenError, Taken

__all__ = ["CloudData", "Gateway", "NotTakenError", "Taken"]


def __getattr__(name: str) -> Any:
    """What a program imports from here; nothing is loaded for the command line."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bifrost import gateway

    return getattr(gateway, name)
