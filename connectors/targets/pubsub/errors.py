"""What went wrong, as the contract's errors: one table of gRPC's codes, and one of what Google's credentials raise. Pure."""

import re
from collections.abc import Callable, Mapping
from typing import Final

import grpc

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError

_CODES: Final[Mapping[grpc.StatusCode, tuple[Callable[[str], DeliveryError], str]]] = {
    grpc.StatusCode.UNAUTHENTICATED: (AuthError, "check `credentials_file` or the application default credentials"),
    grpc.StatusCode.PERMISSION_DENIED: (
        AuthError,
        "grant roles/pubsub.publisher on the topic to the gateway's account",
    ),
    grpc.StatusCode.NOT_FOUND: (ConfigError, "check `project` and `topic`, or set `create: auto`"),
    grpc.StatusCode.FAILED_PRECONDITION: (ConfigError, "check the topic's settings"),
    grpc.StatusCode.UNIMPLEMENTED: (ConfigError, "check `endpoint`"),
    grpc.StatusCode.INVALID_ARGUMENT: (ConfigError, "check `project` and `topic`"),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (CapacityError, ""),
}
# What the plugin that adds credentials to a call says ends as UNAVAILABLE.
_CREDENTIALS: Final = re.compile(
    r"invalid_grant|invalid_client|unauthorized_client|account (not found|has been deleted|disabled)|Reauthentication|"
    r"could not be found|No access token|invalid[_ ]scope",
    re.IGNORECASE,
)
_CERTIFICATE: Final = re.compile(
    r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|Hostname Verification", re.IGNORECASE
)
_ABOUT_NAMES: Final = re.compile(r"resource name|topic name|project", re.IGNORECASE)


def delivery_error(code: grpc.StatusCode, details: str, where: str) -> DeliveryError:
    """The place of a failed call in the tree.

    Args:
        code: Code of the call.
        details: What the service or the library says.
        where: What was called, without secrets.
    """
    text = f"{where}: {code.name}: {' '.join(details.split())[:600] or 'without a word'}"
    if "metadata from plugin failed" in details and _CREDENTIALS.search(details):
        return AuthError(f"{text} (check `credentials_file` or the application default credentials)")
    if _CERTIFICATE.search(details):
        return ConfigError(f"{text} (check `endpoint` and `ca_file`)")
    make, advice = _CODES.get(code, (TransientError, ""))
    return make(f"{text} ({advice})" if advice else text)


def about_messages(code: grpc.StatusCode, details: str) -> bool:
    """Whether a failed publish is the fault of a message, which halving the request finds."""
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return True
    return code is grpc.StatusCode.INVALID_ARGUMENT and not _ABOUT_NAMES.search(details)


def credentials_error(error: Exception) -> DeliveryError:
    """The place of an error of reading Google's credentials in the tree."""
    text = f"credentials: {' '.join(str(error).split())[:600] or type(error).__name__}"
    if getattr(error, "retryable", False):
        return TransientError(text)
    return AuthError(f"{text} (name a `credentials_file`, or set up the application default credentials)")
