import pytest

from delivery.health import Growth, quantile


def test_quantiles_are_values_that_were_seen() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0], 0.99) == 3.0
    assert quantile([5.0, 1.0, 3.0, 2.0, 4.0], 0.5) == 3.0
    assert quantile(range(1, 101), 0.99) == 100


def test_growth_tells_when_a_bound_is_reached() -> None:
    growth = Growth()
    assert growth.reaches(100.0) is None
    growth.note(10.0, 50.0)
    assert growth.reaches(100.0) is None
    growth.note(20.0, 70.0)
    assert growth.per_second == pytest.approx(2.0)
    assert growth.reaches(100.0) == pytest.approx(15.0)
    growth.note(30.0, 40.0)
    assert growth.reaches(100.0) is None, "it shrinks"
    growth.note(75.0, 130.0)
    assert growth.reaches(100.0) == 0.0, "it is over it; what is older than a minute counts no more"
    assert growth.per_second == pytest.approx(60 / 55)
