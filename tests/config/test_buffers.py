"""How `buffer` of a target and of all targets become the policy of a spool."""

from typing import get_args

import pytest

from config.models import buffer_policy
from connectors.settings import BufferSettings
from delivery.entry import Compression
from delivery.overflow import BufferPolicy, Overflow
from delivery.waiting import Drain


def test_the_settings_offer_what_a_spool_can() -> None:
    for key, kinds in (("overflow", Overflow), ("drain", Drain)):
        offered = get_args(get_args(BufferSettings.model_fields[key].annotation)[0])
        assert set(offered) == {kind.value for kind in kinds}
    assert set(get_args(get_args(BufferSettings.model_fields["compression"].annotation)[0])) == {
        kind.name.lower() for kind in Compression
    }


def test_what_a_target_says_goes_before_what_holds_for_all() -> None:
    general = BufferSettings(quota="1GiB", overflow="block", expiry="7d", live_share=0.25)
    own = BufferSettings(quota="2MiB", drain="live_first")
    found = buffer_policy(own, general)
    assert (found.quota, found.overflow, found.drain, found.live_share) == (
        2**21,
        Overflow.BLOCK,
        Drain.LIVE_FIRST,
        0.25,
    )
    assert found.expires_after(-5) == found.expires_after(3) == 7 * 86_400


def test_ages_may_differ_by_priority() -> None:
    own = BufferSettings(expiry="1d", expiry_by_priority={3: "30d"})
    found = buffer_policy(own, BufferSettings())
    assert [found.expires_after(n) for n in (-1, 2, 3, 9)] == [86_400, 86_400, 30 * 86_400, 30 * 86_400]
    alone = buffer_policy(BufferSettings(expiry_by_priority={3: "30d"}), BufferSettings())
    assert alone.expires_after(2) is None


@pytest.mark.parametrize(("persistent", "quota"), [(True, 8 * 2**30), (False, 256 * 2**20)])
def test_without_a_word_a_plant_is_safe(persistent: bool, quota: int) -> None:
    found = buffer_policy(BufferSettings(), BufferSettings(), persistent=persistent)
    assert found == BufferPolicy(quota=quota, free_disk=512 * 2**20)
