"""Every status and every kind of failure in the contract's tree."""

import pytest
from zerobus import NonRetriableException, ZerobusException

from connectors.contract import AuthError, CapacityError, ConfigError, TransientError
from connectors.targets.zerobus.errors import HttpError, failure, grpc_status, rotated, was_dead

# The descriptions are those of the SDK's gRPC library, as SDK 1.10.0 was seen to print them.
STATUSES = [
    ("The operation was cancelled", "CANCELLED", TransientError),
    ("Unknown error", "UNKNOWN", TransientError),
    ("Client specified an invalid argument", "INVALID_ARGUMENT", ConfigError),
    ("Deadline expired before operation could complete", "DEADLINE_EXCEEDED", TransientError),
    ("Some requested entity was not found", "NOT_FOUND", ConfigError),
    ("Some entity that we attempted to create already exists", "ALREADY_EXISTS", TransientError),
    ("The caller does not have permission to execute the specified operation", "PERMISSION_DENIED", AuthError),
    ("Some resource has been exhausted", "RESOURCE_EXHAUSTED", CapacityError),
    (
        "The system is not in a state required for the operation's execution",
        "FAILED_PRECONDITION",
        TransientError,
    ),
    ("The operation was aborted", "ABORTED", TransientError),
    ("Operation was attempted past the valid range", "OUT_OF_RANGE", ConfigError),
    ("Operation is not implemented or not supported", "UNIMPLEMENTED", ConfigError),
    ("Internal error", "INTERNAL", TransientError),
    ("The service is currently unavailable", "UNAVAILABLE", TransientError),
    ("Unrecoverable data loss or corruption", "DATA_LOSS", TransientError),
    ("The request does not have valid authentication credentials", "UNAUTHENTICATED", AuthError),
]


@pytest.mark.parametrize(("description", "status", "expected"), STATUSES)
@pytest.mark.parametrize("where", ["Failed to create stream", "Stream is closed"])
def test_a_grpc_status_decides_whatever_the_message_says(where, description, status, expected):
    message = f"{where}: code: '{description}', message: \"code: 'Internal error' not found, permission quota\"."
    assert grpc_status(message) == status
    error = failure(ZerobusException(message), "a.b.c")
    assert type(error) is expected
    assert str(error).startswith("a.b.c: ")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ZerobusException("Token fetch failed: Network error: error sending request"), TransientError),
        (ZerobusException("Token fetch failed: Unity catalog server error (503): {}"), TransientError),
        (NonRetriableException("Specified UC token is in invalid format: Client error (400): {}."), AuthError),
        (NonRetriableException("Specified UC token is in invalid format: Client error (401): {}."), AuthError),
        (NonRetriableException("Specified UC token is in invalid format: Client error (403): {}."), AuthError),
        (NonRetriableException("Specified UC token is in invalid format: Client error (404): {}."), ConfigError),
        (NonRetriableException("Specified UC token is in invalid format: Client error (429): {}."), CapacityError),
        (NonRetriableException("Specified UC token is in invalid format: access_token missing."), AuthError),
        (NonRetriableException("Specified UC table name is invalid: 1 parts."), ConfigError),
        (NonRetriableException("Specified UC endpoint is in invalid format: x."), ConfigError),
        (NonRetriableException("The specified Zerobus endpoint is in invalid format: x."), ConfigError),
        (NonRetriableException("Invalid argument: no such field."), ConfigError),
        (NonRetriableException("Arrow schema does not match the target table: x."), ConfigError),
        (NonRetriableException("Stream is in invalid state: closed"), TransientError),
        (ZerobusException("Failed to open a channel: refused."), TransientError),
        (ZerobusException("Failed to establish TLS connection."), TransientError),
        (ZerobusException("Connection timeout: 30000ms"), TransientError),
        (ZerobusException("something new"), TransientError),
        (NonRetriableException("something new and final"), ConfigError),
        (HttpError(400, "invalid_client"), AuthError),
        (HttpError(401, ""), AuthError),
        (HttpError(403, ""), AuthError),
        (HttpError(404, ""), ConfigError),
        (HttpError(408, ""), TransientError),
        (HttpError(410, ""), ConfigError),
        (HttpError(429, ""), CapacityError),
        (HttpError(500, ""), TransientError),
        (HttpError(503, ""), TransientError),
        (TimeoutError(), TransientError),
        (ConnectionRefusedError("refused"), TransientError),
        (ConfigError("settings"), ConfigError),
    ],
)
def test_a_failure_has_its_place_in_the_tree(error, expected):
    assert type(failure(error, "a.b.c")) is expected


def test_the_services_wish_when_to_come_back_is_kept():
    error = failure(HttpError(429, "slow down", 7.0), "a.b.c")
    assert isinstance(error, CapacityError)
    assert error.retry_after == 7.0


@pytest.mark.parametrize(
    ("description", "words", "ended", "dead"),
    [
        ("The operation completed successfully", "Stream closed by server without errors.", True, False),
        ("The service is currently unavailable", "Server requested graceful stream rotation", True, False),
        ("Unknown error", "Server closed the stream", True, False),
        ("Internal error", "Failed to send batch", True, False),
        ("Internal error", "Stream closed", False, True),
        ("Internal error", "Stream is closing or closed", False, True),
        ("Internal error", "boom", False, False),
        ("The service is currently unavailable", "", False, False),
    ],
)
def test_the_end_of_a_stream_is_told_from_its_failure(description, words, ended, dead):
    error = ZerobusException(f"Stream is closed: code: '{description}', message: \"{words}\"")
    assert rotated(error) is ended
    assert was_dead(error) is dead
