"""The wall clock is set while the gateway runs: readings go on, and so do snapshots (docs/decisions/0009)."""

import threading
import time
from collections.abc import Callable

import pytest
from running import acknowledged, check_account, epochs, missing, repeated, running, settle, written

from tests.wall_clock import WallClock

HOUR = 3600
TO_1970 = -int(time.time()) + 86_400
LIMIT = 2.0


def longest_standstill(looks: list[Callable[[], object]], seconds: float) -> list[float]:
    """For how long at most each of some things stayed as it was."""
    pause = threading.Event()
    end = time.monotonic() + seconds
    seen, since, longest = [look() for look in looks], [time.monotonic()] * len(looks), [0.0] * len(looks)
    while time.monotonic() < end:
        pause.wait(0.02)
        for index, look in enumerate(looks):
            found, now = look(), time.monotonic()
            longest[index] = max(longest[index], now - since[index])
            if found != seen[index]:
                seen[index], since[index] = found, now
    return longest


@pytest.mark.threat(30)
@pytest.mark.parametrize(
    ("way", "step"),
    [
        pytest.param("bytewax_run", -HOUR, id="an hour back"),
        pytest.param("bifrost_run", TO_1970, id="to 1970", marks=pytest.mark.exhaustive),
        pytest.param("bytewax_run", HOUR, id="an hour on", marks=pytest.mark.exhaustive),
        pytest.param("bifrost_run", 87_600 * HOUR, id="ten years on"),
    ],
)
def test_a_wall_clock_that_is_set_stalls_neither_readings_nor_snapshots(tmp_path, way, step):
    clock = WallClock(tmp_path)
    with running(tmp_path, way=way, environment=clock.environment) as gateway:
        gateway.deliver(1000)
        gateway.until(lambda: epochs(tmp_path)[1] > 2, "epochs")
        for seconds in (step, 0):  # and back
            clock.set(seconds)
            readings, snapshots = longest_standstill(
                [lambda: written(tmp_path, "first"), lambda: epochs(tmp_path)], 3.5
            )
            assert readings < LIMIT
            assert snapshots < 1.0 + LIMIT  # an epoch is a second
        assert gateway.stop() < 5.0
        assert gateway.said().count("the wall clock was set back") == 1
        assert "Traceback" not in gateway.said()
    settle(tmp_path)
    want = acknowledged(tmp_path)
    for target in ("first", "second"):
        assert missing(tmp_path, target, want) == {}
        assert repeated(tmp_path, target) == 0
    check_account(tmp_path)


@pytest.mark.threat(30)
def test_a_clock_that_was_set_back_before_the_flow_began_is_no_matter(tmp_path):
    clock = WallClock(tmp_path)
    clock.set(-HOUR)
    with running(tmp_path, environment=clock.environment) as gateway:
        gateway.deliver(1000)
        gateway.until(lambda: epochs(tmp_path)[1] > 2, "epochs")
        assert gateway.stop() < 5.0
        assert gateway.said() == ""


def test_two_workers_deliver_while_the_clock_is_back_and_the_log_says_what_waits(tmp_path):
    clock = WallClock(tmp_path)
    two = ("-s", "1", "-b", "0", "-w", "2")
    with running(tmp_path, arguments=two, environment=clock.environment) as gateway:
        gateway.deliver(1000)
        clock.set(TO_1970)
        (readings,) = longest_standstill([lambda: written(tmp_path, "first")], 3.0)
        assert readings < LIMIT
        assert gateway.said().count("makes no snapshot until the clock has caught up") == 1
        assert gateway.stop() < 5.0
    settle(tmp_path)
    want = acknowledged(tmp_path)
    for target in ("first", "second"):
        assert missing(tmp_path, target, want) == {}
        assert repeated(tmp_path, target) == 0
