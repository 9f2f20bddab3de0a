"""What went wrong, as the contract's errors: one table for the SDK, Unity Catalog and the token endpoint. Pure."""

import re
from typing import Final

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError

# The SDK tells a gRPC status by the description that its gRPC library has for it, and by nothing else.
_STATUS: Final = {
    "The operation completed successfully": "OK",
    "The operation was cancelled": "CANCELLED",
    "Unknown error": "UNKNOWN",
    "Client specified an invalid argument": "INVALID_ARGUMENT",
    "Deadline expired before operation could complete": "DEADLINE_EXCEEDED",
    "Some requested entity was not found": "NOT_FOUND",
    "Some entity that we attempted to create already exists": "ALREADY_EXISTS",
    "The caller does not have permission to execute the specified operation": "PERMISSION_DENIED",
    "Some resource has been exhausted": "RESOURCE_EXHAUSTED",
    "The system is not in a state required for the operation's execution": "FAILED_PRECONDITION",
    "The operation was aborted": "ABORTED",
    "Operation was attempted past the valid range": "OUT_OF_RANGE",
    "Operation is not implemented or not supported": "UNIMPLEMENTED",
    "Internal error": "INTERNAL",
    "The service is currently unavailable": "UNAVAILABLE",
    "Unrecoverable data loss or corruption": "DATA_LOSS",
    "The request does not have valid authentication credentials": "UNAUTHENTICATED",
}
_BY_STATUS: Final[dict[str, type[DeliveryError]]] = {
    "INVALID_ARGUMENT": ConfigError,  # a schema that does not fit; readings are kept until it does
    "NOT_FOUND": ConfigError,
    "UNIMPLEMENTED": ConfigError,
    "OUT_OF_RANGE": ConfigError,
    "UNAUTHENTICATED": AuthError,
    "PERMISSION_DENIED": AuthError,
    "RESOURCE_EXHAUSTED": CapacityError,
}
_BY_HTTP: Final[dict[int, type[DeliveryError]]] = {
    400: AuthError,  # the token endpoint's invalid_client, invalid_authorization_details …
    401: AuthError,
    403: AuthError,
    404: ConfigError,
    408: TransientError,
    429: CapacityError,
}
# The SDK's own words in front of what it says; the rest of a message belongs to the service and is not read.
_BY_PREFIX: Final[dict[str, type[DeliveryError]]] = {
    "Token fetch failed": TransientError,
    "Specified UC token": AuthError,
    "Stream is in invalid state": TransientError,
    "Failed to open a channel": TransientError,
    "Failed to establish TLS": TransientError,
    "Connection timeout": TransientError,
}
_ENDS: Final = (
    "Server requested graceful stream rotation",
    "Stream closed by server without errors",
    "Server closed the stream",
    "Stream timeout reached",
    'message: "Failed to send batch"',  # the SDK's sender noticed the end before its receiver did
)
_DEAD: Final = ('message: "Stream closed"', 'message: "Stream is closing or closed"')


class HttpError(Exception):
    """An answer of Unity Catalog or the token endpoint that is not 2xx.

    Attributes:
        status: HTTP status.
        retry_after: Seconds from the Retry-After header.
    """

    def __init__(self, status: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def grpc_status(message: str) -> str | None:
    """The gRPC status that an SDK message tells, None when it tells none."""
    start = message.find("code: '")
    if start < 0:
        return None
    description = message[start + len("code: '") :]
    return next((status for text, status in _STATUS.items() if description.startswith(text + "'")), None)


def rotated(error: BaseException) -> bool:
    """Whether the service ended the stream as it does from time to time; no failure, the next stream goes on."""
    return any(words in str(error) for words in _ENDS)


def was_dead(error: BaseException) -> bool:
    """Whether the stream had ended before this request, which was therefore never sent."""
    return any(words in str(error) for words in _DEAD)


def failure(error: BaseException, subject: str) -> DeliveryError:
    """The contract's error for what the SDK, an HTTP request or a time-out raised.

    Args:
        error: What was raised.
        subject: The table, named in the message.
    """
    if isinstance(error, DeliveryError):
        return error
    text = f"{subject}: {str(error).strip() or type(error).__name__}"
    kind: type[DeliveryError]
    retry_after: float | None = None
    if isinstance(error, HttpError):
        kind = _BY_HTTP.get(error.status, TransientError if error.status >= 500 else ConfigError)
        retry_after = error.retry_after
    elif (status := grpc_status(str(error))) is not None:
        kind = _BY_STATUS.get(status, TransientError)
    elif isinstance(error, TimeoutError):
        kind, text = TransientError, f"{subject}: no answer in time"
    elif isinstance(error, OSError):
        kind = TransientError
    else:
        # by name, so that this table works without the SDK
        final = ConfigError if type(error).__name__ == "NonRetriableException" else TransientError
        kind = next((k for prefix, k in _BY_PREFIX.items() if str(error).startswith(prefix)), final)
        http = re.match(r"Specified UC token.*?Client error \((\d{3})\)", str(error))
        if http:
            kind = _BY_HTTP.get(int(http[1]), AuthError)
    if kind in {TransientError, CapacityError}:
        return kind(text, retry_after)
    return kind(text)
