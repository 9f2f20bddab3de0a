"""Fault knobs and counters: what a test turns, and what it reads."""

import errno
import os
from collections import Counter, deque
from typing import Literal

import grpc
import msgspec

Status = Literal[
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
]


class Knobs(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The faults that are in force; the defaults are none. Every stream, also one that is open, follows them at once."""

    fail_create: list[Status] = []  # statuses with which the next streams are refused, one each
    oauth_status: int | None = None  # HTTP status of the token endpoint instead of a token
    token_ttl_s: float = 3600.0  # life of the tokens that are minted from now on
    drop_acks: bool = False  # records are stored, but no acknowledgement is sent
    ack_delay_ms: float = 0.0  # an acknowledgement waits that long after the records are durable
    rotate_after_requests: int | None = None  # after that many requests a stream is told to close
    rotate_grace_ms: int = 2000  # the duration in the close signal
    abort_after_requests: int | None = None  # a stream is aborted in the place of its next request after that many
    abort_status: Status = "UNKNOWN"
    abort_times: int | None = None  # so many streams are aborted, then no more; null: all
    quota_rows_per_s: float | None = None  # per stream, averaged over a second; above it RESOURCE_EXHAUSTED
    quota_bytes_per_s: float | None = None
    disk_full: bool = False  # the log cannot be written: UNAVAILABLE, nothing is acknowledged


class Faults:
    """The knobs in force and the counters."""

    def __init__(self) -> None:
        self.knobs = Knobs()
        self.counters: Counter[str] = Counter()
        self._failures: deque[Status] = deque()

    def set(self, changes: Knobs) -> None:
        """Put knobs in force."""
        self.knobs = changes
        self._failures = deque(changes.fail_create)

    def next_create_failure(self) -> grpc.StatusCode | None:
        """The status with which the stream that is being created is refused."""
        if not self._failures:
            return None
        status = self._failures.popleft()
        self.knobs.fail_create = list(self._failures)
        return status_code(status)

    def abort_now(self, requests: int) -> grpc.StatusCode | None:
        """The status with which a stream is aborted that has had `requests` requests."""
        knobs = self.knobs
        if knobs.abort_after_requests is None or requests < knobs.abort_after_requests or knobs.abort_times == 0:
            return None
        if knobs.abort_times is not None:
            knobs.abort_times -= 1
        return status_code(knobs.abort_status)

    def before_write(self) -> None:
        """Called before the log is written.

        Raises:
            OSError: ENOSPC, while `disk_full` is set.
        """
        if self.knobs.disk_full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def status_code(name: str) -> grpc.StatusCode:
    """The status of that name."""
    return grpc.StatusCode[name]
