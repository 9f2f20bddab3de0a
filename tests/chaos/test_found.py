"""What chaos found once, each as small as it gets."""

from pathlib import Path

import pytest

from tests.chaos import bit_flips
from tests.chaos.bit_flips import STORES, Store
from tests.chaos.gateway import Setup, SourceSetup, TargetSetup
from tests.chaos.lives import WAYS, Way, living, pause


@pytest.mark.parametrize("store", STORES)
def test_a_turned_bit_costs_one_record_at_most(store: Store) -> None:
    found = bit_flips.flip(store, first=3, step=401)
    assert found.flips > 20
    assert (found.not_started, found.wrong_values) == (0, 0)
    assert found.lost_more_than_record == 0, found.examples


@pytest.mark.parametrize("way", WAYS)
def test_a_second_gateway_on_the_directory_leaves_the_first_able_to_start_again(tmp_path: Path, way: Way) -> None:
    (tmp_path / "control").mkdir()
    Setup(str(tmp_path / "data"), [SourceSetup("line", "mqtt", 300)], [TargetSetup("plain")]).save(tmp_path)
    with living(tmp_path, "bifrost_run") as first:
        first.wait_first_delivery()
        with living(tmp_path, way) as second:
            assert second.process.wait(20) != 0, "the second is refused"
        pause(3.0)  # an epoch or two of the first, which the second does not know of
        first.kill()
    with living(tmp_path, "bifrost_run") as again:
        again.wait_first_delivery()
        assert again.alive(), again.said(300)
