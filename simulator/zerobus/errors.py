"""The one exception with which the emulator turns a client away."""

from collections.abc import Sequence

import grpc

FIELD_NOT_IN_TABLE = "FIELD_NOT_IN_TABLE"
MISSING_REQUIRED_COLUMN = "MISSING_REQUIRED_COLUMN"
TYPE_MISMATCH = "TYPE_MISMATCH"


class Refused(Exception):
    """A request that is answered with a gRPC status.

    Attributes:
        status: the gRPC status code of the answer.
        causes: for a schema that does not fit the table, one word per finding (``FIELD_NOT_IN_TABLE`` …); they travel
            in a ``google.rpc.ErrorInfo`` with reason ``SCHEMA_VALIDATION_FAILED``.
    """

    def __init__(self, status: grpc.StatusCode, message: str, causes: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.causes = tuple(causes)


def invalid(message: str, causes: Sequence[str] = ()) -> Refused:
    """An INVALID_ARGUMENT answer."""
    return Refused(grpc.StatusCode.INVALID_ARGUMENT, message, causes)


def schema_mismatch(findings: Sequence[tuple[str, str]]) -> Refused:
    """The answer to a record schema that does not fit its table.

    Args:
        findings: pairs of cause and sentence, all that were found.
    """
    return invalid(
        "Schema comparison failed: " + "; ".join(sentence for _, sentence in findings),
        sorted({cause for cause, _ in findings}),
    )
