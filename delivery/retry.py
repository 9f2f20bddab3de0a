"""When to try again."""

from dataclasses import dataclass

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with full jitter.

    Attributes:
        first: Bound of the first delay, seconds.
        cap: Bound of every delay, seconds.
        slow: Least delay for what only a person can mend (credentials, settings), seconds.
        longest: Bound of what a target may ask for, seconds.
    """

    first: float = 0.5
    cap: float = 60.0
    slow: float = 10.0
    longest: float = 3600.0

    def delay(self, attempt: int, draw: float, error: Exception | None = None) -> float:
        """Seconds to wait before trying again.

        Args:
            attempt: Failures in a row, from 1.
            draw: A random number from 0 to 1.
            error: What happened; its `retry_after` is a lower bound.
        """
        bound = min(self.cap, self.first * 2.0 ** min(attempt - 1, 30))
        if isinstance(error, AuthError | ConfigError):
            return self.slow + draw * bound
        asked = error.retry_after if isinstance(error, TransientError | CapacityError) else None
        return max(draw * bound, min(asked or 0.0, self.longest))


def error_class(error: Exception) -> str:
    """Name of the error's class in metrics and status: transient, auth, config, capacity or unexpected."""
    names: dict[type[DeliveryError], str] = {
        TransientError: "transient",
        AuthError: "auth",
        ConfigError: "config",
        CapacityError: "capacity",
    }
    return next((name for kind, name in names.items() if isinstance(error, kind)), "unexpected")
