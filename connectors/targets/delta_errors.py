"""What went wrong, as the contract's errors: one table for the deltalake library and the operating system. Pure."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError

# the first pattern that is found in an error's text decides; whatever none knows is worth another try
_ERRORS: Final[Sequence[tuple[str, type[DeliveryError], str]]] = (
    (
        r"No space left|os error (27|28|122)\b|Disk quota|File too large",
        CapacityError,
        "free some space",
    ),
    (r"\b(429|507) |SlowDown|Too Many Requests|TooManyRequests", CapacityError, "the store is throttling"),
    (
        r"\b40[13] |Unauthorized|Forbidden|AccessDenied|Permission ?[Dd]enied|os error (1|13|30)\b|[Cc]redential",
        AuthError,
        "check credentials and permissions",
    ),
    (r"Unknown scheme|Invalid table location|[Uu]nable to (parse|recognise) URL", ConfigError, "check `endpoint`"),
    (r"NoSuchBucket|404 Not Found|[Nn]ot a ?[Dd]irectory|os error 20\b", ConfigError, "check `endpoint`"),
    (r"Could not create local|Missing .*(bucket|region|account)", ConfigError, "check `endpoint` and storage_options"),
    (
        r"Can(no|')t cast|fields does not match|not found in schema|[Ss]chema.*mismatch|Schema error",
        ConfigError,
        "check the table's schema",
    ),
    (r"failed validation check", ConfigError, "a constraint of the table refuses readings: drop it"),
    (r"Unsupported: Feature|[Uu]nsupported (reader|writer) feature", ConfigError, "use a table without that feature"),
)
_VALUES: Final = "Preview of invalid data"  # from here on a message shows readings, which no log is for


def delivery_error(error: Exception, where: str) -> DeliveryError:
    """The place of an error of the deltalake library, or of the operating system, in the tree."""
    text = " ".join(re.sub(r"\x1b\[\d*m|↳", " ", str(error)).split()).split(_VALUES)[0].rstrip()
    for pattern, kind, advice in _ERRORS:
        if re.search(pattern, text):
            return kind(f"{where}: {text[:600]} ({advice})")
    return TransientError(f"{where}: {text[:600]}")


@contextmanager
def contract_errors(where: str) -> Iterator[None]:
    """What the library or the operating system raises inside comes out as a `DeliveryError`."""
    try:
        yield
    except Exception as error:
        if of_the_library(error):
            raise delivery_error(error, where) from error
        raise


def of_the_library(error: Exception) -> bool:
    """Whether the library raised it: it has a class of its own for some errors, and a bare Exception for the rest."""
    from deltalake.exceptions import DeltaError

    return isinstance(error, DeltaError | OSError | ValueError | NotImplementedError) or type(error) is Exception
