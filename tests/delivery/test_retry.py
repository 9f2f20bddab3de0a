import math

import pytest

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError
from delivery.breaker import Breaker, BreakerState
from delivery.retry import RetryPolicy, error_class

POLICY = RetryPolicy(first=0.5, cap=60.0, slow=10.0)


@pytest.mark.parametrize(
    ("attempt", "bound"), [(1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (9, 60.0), (10_000, 60.0)]
)
def test_the_delay_doubles_up_to_its_cap_and_is_jittered_in_full(attempt: int, bound: float) -> None:
    assert POLICY.delay(attempt, 1.0) == bound
    assert POLICY.delay(attempt, 0.25, TransientError("gone")) == bound / 4
    assert POLICY.delay(attempt, 0.0) == 0.0


@pytest.mark.parametrize("error", [AuthError("no"), ConfigError("no")])
def test_what_only_a_person_can_mend_is_never_tried_in_haste(error: DeliveryError) -> None:
    assert POLICY.delay(1, 0.0, error) == 10.0
    assert POLICY.delay(1, 1.0, error) == 10.5
    assert POLICY.delay(50, 1.0, error) == 70.0


@pytest.mark.parametrize("kind", [TransientError, CapacityError])
def test_a_target_may_ask_for_a_longer_wait_but_not_for_ever(kind: type[TransientError]) -> None:
    assert POLICY.delay(1, 1.0, kind("later", 120.0)) == 120.0
    assert POLICY.delay(9, 1.0, kind("later", 1.0)) == 60.0
    assert POLICY.delay(1, 1.0, kind("later", math.inf)) == 3600.0
    assert POLICY.delay(1, 1.0, kind("later", -5.0)) == 0.5


def test_errors_have_a_class_in_metrics() -> None:
    errors = [TransientError("x"), AuthError("x"), ConfigError("x"), CapacityError("x"), ValueError("x")]
    assert [error_class(error) for error in errors] == ["transient", "auth", "config", "capacity", "unexpected"]


def test_a_breaker_opens_after_its_threshold_and_lets_one_probe_through() -> None:
    breaker = Breaker(3)
    for _ in range(2):
        breaker.failure()
        breaker.probe()
        assert breaker.state is BreakerState.CLOSED
    breaker.failure()
    assert breaker.state is BreakerState.OPEN
    breaker.probe()
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.failure()
    assert breaker.state is BreakerState.OPEN
    breaker.probe()
    breaker.success()
    assert breaker.state is BreakerState.CLOSED
    breaker.failure()
    breaker.failure()
    assert breaker.state is BreakerState.CLOSED, "failures in a row are counted from the last success"
