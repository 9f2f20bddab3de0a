"""How the use of a target's pool of connections is shown: to people, and as metrics."""

from pathlib import Path

import pytest

from bifrost import status
from connectors.contract import Context, PoolUse
from connectors.targets.console import ConsoleConfig
from connectors.targets.timescaledb import TimescaleConfig
from delivery import metrics
from delivery.health import pool_use


@pytest.mark.parametrize(
    ("use", "shown"),
    [
        ({"size": 4, "open": 2, "in_use": 1, "waiting": 0}, "1/4"),
        ({"size": 4, "open": 4, "in_use": 4, "waiting": 1_200}, "4/4 +1,200"),
        (None, "–"),
    ],
)
def test_people_see_what_is_in_use_and_what_waits(use: dict[str, int] | None, shown: str) -> None:
    assert status.pool(use) == shown


def test_a_target_has_a_pool_or_none(tmp_path: Path) -> None:
    context = Context("gateway 1", tmp_path)
    assert pool_use(ConsoleConfig().writer(context)) is None
    config = TimescaleConfig.model_validate({"endpoint": "postgresql://db", "provider_config": {"pool_size": 7}})
    assert pool_use(config.writer(context)) == PoolUse(size=7, open=0, in_use=0, waiting=0)


def test_metrics_say_all_of_it() -> None:
    metrics.show_pool("pooled", PoolUse(size=8, open=5, in_use=3, waiting=2))
    found = {
        part: metrics.REGISTRY.get_sample_value(f"bifrost_cloud_pool_{part}", {"connector": "pooled"})
        for part in ("size", "open", "in_use", "waiting")
    }
    assert found == {"size": 8.0, "open": 5.0, "in_use": 3.0, "waiting": 2.0}
