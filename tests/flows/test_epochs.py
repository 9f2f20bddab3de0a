"""The epochs of all partitions end together, whatever the flow's pace (docs/decisions/0012)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.clock import Epochs, pace

INTERVAL = 1.0
IDLE = 0.05  # seconds for which the flow waits when nothing arrives


class Flow:
    """How Bytewax ends epochs: each partition's lasts an interval from when it began, and ends when the partition is next asked.

    Args:
        ahead: For each partition by how many seconds its first epoch begins before that of the last one.
    """

    def __init__(self, ahead: list[float]) -> None:
        self.now = 100.0
        self.epochs = Epochs(INTERVAL)
        self.began = [self.now - seconds for seconds in ahead]
        self.ended: list[list[float]] = [[] for _ in ahead]
        for partition, began in enumerate(self.began):
            self.epochs.begin(partition, began)

    def turn(self, step: float) -> None:
        """Ask every partition once, `step` seconds apart, and wait for something to arrive."""
        newest = min(map(len, self.ended))
        for partition, ended in enumerate(self.ended):
            if len(ended) == newest and self.now - self.began[partition] >= INTERVAL:  # one that is ahead is not asked
                self.began[partition] = self.now
                ended.append(self.now)
                self.epochs.begin(partition, self.now)
            self.now += step
        left = self.epochs.due() - self.now
        self.now += min(IDLE, left) if left > 0 else IDLE
        self.now += self.epochs.pause(self.now)


@given(
    st.lists(st.floats(0, 0.45), min_size=2, max_size=6),
    st.lists(st.floats(0.0001, 0.0008), min_size=1, max_size=50),
)
def test_partitions_end_their_epochs_within_a_turn_however_far_apart_they_began(ahead, steps):
    flow = Flow(ahead)
    turns = 0
    while min(map(len, flow.ended)) < 8:
        flow.turn(steps[turns % len(steps)])
        turns += 1
    for ends in zip(*flow.ended, strict=False):
        assert max(ends) - min(ends) <= 2 * max(steps) * len(ahead)


def test_without_a_pause_they_would_stay_apart(monkeypatch):
    monkeypatch.setattr(Epochs, "pause", lambda *_: 0.0)
    flow = Flow([0.3, 0.0])
    while min(map(len, flow.ended)) < 4:
        flow.turn(0.0005)
    assert all(last - first > 0.2 for first, last in zip(*flow.ended, strict=False))


@pytest.mark.parametrize(("now", "pause"), [(100.5, 0.0), (100.694, 0.0), (100.696, 0.305), (101.2, 0.0)])
def test_the_flow_pauses_only_while_the_first_epoch_would_end_before_the_last(now, pause):
    epochs = Epochs(INTERVAL)
    epochs.begin(0, 99.7)
    epochs.begin(1, 100.0)
    assert epochs.pause(now) == pytest.approx(pause)


def test_a_partition_that_has_ended_its_epoch_already_is_not_waited_for():
    epochs = Epochs(INTERVAL)
    for partition in (0, 1):
        epochs.begin(partition, 100.0)
    epochs.begin(0, 101.0)
    assert epochs.pause(101.1) == 0.0


def test_without_an_interval_nothing_pauses():
    epochs = Epochs(float("inf"))
    epochs.begin(0, 100.0)
    assert epochs.pause(1e9) == 0.0
    assert epochs.due() == float("inf")


@pytest.mark.parametrize(
    ("lingers", "seconds"),
    [([], 0.02), ([0.0], 0.02), ([0.5], 0.1), ([0.3, 2.0], 0.06), ([2.0, 0.0], 0.02), ([60.0], 0.1)],
)
def test_the_flow_lets_readings_gather_when_every_target_does(lingers: list[float], seconds: float) -> None:
    assert pace(lingers) == pytest.approx(seconds)
