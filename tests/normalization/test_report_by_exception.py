"""Report by exception against a plain model of it, and what a reader of the readings that pass can rely on."""

import itertools
import json
import math
import pickle
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from normalization import passing
from normalization.passing import REASONS
from normalization.reading import Columns, Flags, Quality, Tag, TagTable, numbers, repeat, view
from normalization.report import LATE, Exceptions, Reporter, Ruled, left_out
from tests.report_model import SECOND, Given, Model


@pytest.fixture(autouse=True, params=["columns", "one by one"])
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways in which a batch is decided."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passing, "_FEW", 1 if request.param == "columns" else 1000)
        yield


def tag(number: int, rule: dict[str, Any] | None) -> Tag:
    mapping = {} if rule is None else {"report": rule}
    return Tag("s", "mqtt", "d", f"a{number}", f"t{number}", mapping=json.dumps(mapping), path=f"p/t{number}")


def batch_of(tags: TagTable, ids: Sequence[int], readings: Sequence[Given], first: int) -> pa.RecordBatch:
    rows = Columns()
    for one in readings:
        rows.add(ids[one.tag], one.value, quality=one.quality, source_time=one.time, flags=one.flags)
    facts = rows.to_batch(np.full(len(readings), 7, np.int64), first)
    kinds, doubles, integers = (facts.column(name) for name in ("type", "value_double", "value_int"))
    size = len(readings)
    priority = pa.array(np.zeros(size, np.int32))
    return view(
        facts.columns, repeat("gw", size), repeat("mqtt-0", size), tags, numbers(kinds, doubles, integers), priority
    )


@dataclass
class Feed:
    """Readings through a reporter, in batches; their sequence is their position in the whole."""

    rules: Sequence[dict[str, Any] | None]
    state: Any = None
    given: int = 0
    passed: list[tuple[str, int]] = field(default_factory=list)  # shard and sequence, in the order they come out
    reasons: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.tags = TagTable()
        self.ids = [self.tags.intern(tag(number, rule)) for number, rule in enumerate(self.rules)]
        self.reporter = Reporter(self.tags, self.state)

    def take(self, readings: Sequence[Given]) -> None:
        batch = batch_of(self.tags, self.ids, readings, self.given)
        self.given += len(readings)
        found = self.reporter(batch)
        for part in [found.late, batch.filter(pa.array(found.reasons == 0))]:
            if part is not None:
                part.validate(full=True)
                self.passed += zip(part.column("shard").to_pylist(), part.column("sequence").to_pylist(), strict=True)
        self.reasons += [REASONS[number] for number in found.reasons]

    def restarted(self) -> "Feed":
        """The same after a restart, in which tags are numbered otherwise."""
        state = pickle.loads(pickle.dumps(self.reporter.snapshot()))
        made = Feed(self.rules, None, self.given)
        made.tags = TagTable()
        made.tags.intern(tag(99, None))
        made.ids = [made.tags.intern(tag(n, rule)) for n, rule in reversed(list(enumerate(self.rules)))][::-1]
        made.reporter = Reporter(made.tags, state)
        return made


def outcome(rules: Sequence[dict[str, Any] | None], readings: Sequence[Given]) -> list[str]:
    """What becomes of each reading, all in one batch; `late` for those that pass late."""
    feed = Feed(rules)
    feed.take(readings)
    late = {sequence for shard, sequence in feed.passed if shard.endswith(LATE)}
    return ["late" if number in late else reason or "passes" for number, reason in enumerate(feed.reasons)]


def of_numbers(rule: dict[str, Any], *values: Any, every: float = 1.0) -> list[str]:
    return outcome([rule], [Given(0, value, round(n * every * SECOND)) for n, value in enumerate(values)])


# ---------------------------------------------------------------------- each rule


def test_a_tag_without_a_rule_passes_whole() -> None:
    assert outcome([None], [Given(0, 1.0, 0), Given(0, 1.0, 1)]) == ["passes", "passes"]


def test_without_any_key_every_change_passes() -> None:
    assert of_numbers({}, 1.0, 1.0, 1.5, 1.5, 1.0) == ["passes", "unchanged", "passes", "unchanged", "passes"]


def test_a_deadband_compares_with_the_last_value_that_passed() -> None:
    assert of_numbers({"deadband": 0.5}, 1.0, 1.3, 1.5, 1.51, 1.1, 1.0) == [
        "passes", "deadband", "deadband", "passes", "deadband", "passes",
    ]  # fmt: skip


def test_a_percent_deadband_is_of_the_last_value_and_the_larger_of_both_counts() -> None:
    assert of_numbers({"deadband_percent": 10}, 100, 110, 111, 100, 99) == [
        "passes", "deadband", "passes", "deadband", "passes",
    ]  # fmt: skip
    assert of_numbers({"deadband_percent": 10, "deadband": 1}, 0.0, 0.9, 1.1, 2.0, 2.2) == [
        "passes", "deadband", "passes", "deadband", "passes",
    ]  # fmt: skip


def test_intervals_bound_how_often_a_number_passes() -> None:
    assert of_numbers({"min_interval": 2.0}, 1, 2, 2, 3, 4) == [
        "passes", "min_interval", "passes", "min_interval", "passes",
    ]  # fmt: skip
    assert of_numbers({"max_interval": 3.0, "deadband": 5}, 1, 2, 3, 1, 1) == [
        "passes", "deadband", "deadband", "passes", "unchanged",
    ]  # fmt: skip


def test_a_change_of_quality_passes_at_once_and_so_does_the_way_back() -> None:
    rule = {"deadband": 100, "min_interval": 100}
    bad = [Quality.GOOD, Quality.GOOD, Quality.BAD, Quality.BAD, Quality.GOOD]
    assert outcome([rule], [Given(0, 1.0, n, quality) for n, quality in enumerate(bad)]) == [
        "passes", "unchanged", "passes", "unchanged", "passes",
    ]  # fmt: skip
    gone = [Given(0, 1.0, 5), Given(0, None, 1, Quality.STALE), Given(0, 1.0, 6)]
    assert outcome([rule], gone) == ["passes", "passes", "passes"]


@pytest.mark.parametrize("values", [(True, False), ("a", "b"), (b"a", b"b"), ([1], [1, 2]), (math.nan, math.inf)])
def test_what_is_no_number_passes_when_it_changes_whatever_the_intervals(values: tuple[Any, Any]) -> None:
    one, two = values
    rule = {"deadband": 100, "min_interval": 100}
    assert of_numbers(rule, one, one, two, one) == ["passes", "unchanged", "passes", "passes"]


def test_integers_beyond_a_double_are_told_apart() -> None:
    assert of_numbers({}, 2**62, 2**62 + 1, 2**62 + 1) == ["passes", "passes", "unchanged"]


def test_what_is_old_historical_a_gap_or_unusable_passes_and_changes_nothing() -> None:
    rule = {"deadband": 5}
    readings = [
        Given(0, 10.0, 100),
        Given(0, 50.0, 50),
        Given(0, 70.0, 200, flags=Flags.HISTORICAL),
        Given(0, 11.0, 101),
        Given(0, None, 40, Quality.STALE, Flags.GAP),
        Given(0, None, 40, Quality.STALE, Flags.GAP),
    ]
    assert outcome([rule], readings) == ["passes", "passes", "passes", "deadband", "passes", "passes"]


def test_a_swinging_door_passes_the_corners_of_a_signal() -> None:
    rule = {"swinging_door": 0.1, "max_interval": 1000}
    assert of_numbers(rule, 0.0, 1.0, 2.0, 3.0, 2.0, 1.0, 1.0, 1.0) == [
        "passes", "swinging_door", "swinging_door", "late", "swinging_door", "late", "swinging_door", "swinging_door",
    ]  # fmt: skip


def test_a_swinging_door_opens_when_the_quality_changes_and_after_the_longest_time() -> None:
    rule = {"swinging_door": 0.1, "max_interval": 3}
    assert of_numbers(rule, 0.0, 1.0, 2.0, 3.0, 4.0) == [
        "passes", "swinging_door", "swinging_door", "passes", "swinging_door",
    ]  # fmt: skip
    readings = [Given(0, float(n), n, Quality.BAD if n == 3 else Quality.GOOD) for n in range(5)]
    assert outcome([rule], readings) == ["passes", "swinging_door", "late", "passes", "passes"]


def test_which_tags_have_a_rule_is_told_per_batch() -> None:
    feed = Feed([None, {"deadband": 1}])
    ruled = Ruled(feed.tags)
    assert not ruled(batch_of(feed.tags, feed.ids, [Given(0, 1.0, 1)], 0))
    assert ruled(batch_of(feed.tags, feed.ids, [Given(0, 1.0, 1), Given(1, 1.0, 1)], 0))
    later = feed.tags.intern(tag(7, {}))
    assert ruled(batch_of(feed.tags, [later], [Given(0, 1.0, 1)], 0))


@pytest.mark.parametrize(
    "mapping", ["not JSON", "[]", '{"report": 7}', '{"report": "all"}', '{"report": {"deadband": []}}']
)
def test_a_mapping_that_says_nothing_usable_is_no_rule(mapping: str) -> None:
    assert Exceptions.of(Tag("s", "mqtt", "d", "a", "t", mapping=mapping, path="p")) is None


# ---------------------------------------------------------------------- against a plain model


RULES: list[dict[str, Any]] = [
    {},
    {"deadband": 1.5},
    {"deadband_percent": 20.0, "deadband": 0.25},
    {"min_interval": 2e-6, "max_interval": 6e-6},
    {"deadband": 2.0, "max_interval": 9e-6},
    {"swinging_door": 1.0, "max_interval": 12e-6},
    {"swinging_door": 0.25, "max_interval": 1.0},
]
values = (
    st.integers(-8, 8).map(lambda n: n / 2)
    | st.integers(-3, 3)
    | st.sampled_from([None, True, False, "a", "b", math.nan, math.inf])
)
steps = st.tuples(
    st.integers(0, len(RULES)),
    values,
    st.integers(0, 4) | st.integers(-3, 4),
    st.sampled_from([Quality.GOOD] * 8 + [Quality.BAD]),
    st.sampled_from([0] * 12 + [Flags.HISTORICAL, Flags.GAP]),
)


@st.composite
def streams(draw: st.DrawFn) -> list[Given]:
    clock = [0] * (len(RULES) + 1)
    made = []
    for number, value, step, quality, flags in draw(st.lists(steps, max_size=60)):
        clock[number] += max(step, 0)
        made.append(Given(number, value, clock[number] + min(step, 0), quality, int(flags)))
    return made


cuts = st.lists(st.integers(0, 60), max_size=6).map(sorted)


def parts(readings: list[Given], where: list[int]) -> list[list[Given]]:
    edges = [0, *(min(cut, len(readings)) for cut in where), len(readings)]
    return [readings[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(streams(), cuts, st.integers(0, 6))
def test_batches_and_restarts_change_nothing_and_the_model_says_the_same(
    readings: list[Given], where: list[int], restart: int
) -> None:
    rules = [None, *RULES]
    models = [Model(rule) for rule in RULES]
    expected = [
        identity
        for sequence, one in enumerate(readings)
        for identity in ([("mqtt-0", sequence)] if one.tag == 0 else models[one.tag - 1](one, sequence))
    ]
    feed = Feed(rules)
    passed = []
    for number, part in enumerate(parts(readings, where)):
        if number == restart:
            passed += feed.passed
            feed = feed.restarted()
        feed.take(part)
    assert sorted(passed + feed.passed) == sorted(expected)


@pytest.mark.parametrize(("one", "other"), [(0.0, 0), (0, 0.0), (1.0, 1), (2, 2.0)])
def test_a_number_that_becomes_an_integer_or_is_none_any_more_passes(one: float, other: float) -> None:
    feed = Feed([{}])
    for part in parts([Given(0, one, 0), Given(0, other, 1)], []):
        feed.take(part)
    assert [sequence for _, sequence in feed.passed] == [0, 1]


@pytest.mark.parametrize("rule", [{}, {"max_interval": 60}, {"swinging_door": 0.1, "max_interval": 60}])
@pytest.mark.parametrize("beside", [[], [Given(1, "text", 3)]])
def test_equal_values_with_other_bits_are_unchanged(rule: dict[str, Any], beside: list[Given]) -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0xFFF8_0000_0000_0001))[0]
    for one, other in ((0.0, -0.0), (-0.0, 0.0), (math.nan, odd), (odd, math.nan)):
        readings = [Given(0, one, 0), Given(0, other, 1), *beside]
        feed, model = Feed([rule, None]), Model(rule)
        feed.take(readings)
        expected = [identity for at, given in enumerate(readings[:2]) for identity in model(given, at)]
        assert expected == [("mqtt-0", 0)]
        assert [identity for identity in feed.passed if identity[1] < 2] == expected


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 50), st.floats(-100, 100)), min_size=2, max_size=80),
    st.floats(0.01, 50),
    cuts,
)
def test_every_number_behind_a_swinging_door_lies_on_a_line_between_those_that_pass(
    steps: list[tuple[int, float]], door: float, where: list[int]
) -> None:
    times = list(itertools.accumulate(step for step, _ in steps))
    signal = [value for _, value in steps]
    feed = Feed([{"swinging_door": door, "max_interval": 1e9}])
    for part in parts([Given(0, v, t) for v, t in zip(signal, times, strict=True)], where):
        feed.take(part)
    passed = sorted(sequence for _, sequence in feed.passed)
    known = range(passed[0], passed[-1] + 1)
    rebuilt = np.interp([times[n] for n in known], [times[n] for n in passed], [signal[n] for n in passed])
    assert all(abs(rebuilt[i] - signal[n]) <= door * (1 + 1e-9) + 1e-9 for i, n in enumerate(known))


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(-100, 100), min_size=1, max_size=80), st.floats(0, 50))
def test_every_number_behind_a_deadband_is_within_it_of_the_last_that_passed(signal: list[float], band: float) -> None:
    feed = Feed([{"deadband": band}])
    feed.take([Given(0, value, n) for n, value in enumerate(signal)])
    last = 0.0
    for value, reason in zip(signal, feed.reasons, strict=True):
        last = value if not reason else last
        assert abs(value - last) <= band


def test_a_tag_that_never_comes_again_is_forgotten_after_some_starts() -> None:
    feed = Feed([{"deadband": 1}, {"swinging_door": 1, "max_interval": 9}])
    feed.take([Given(0, 1.0, 1), Given(1, 1.0, 1), Given(1, 1.0, 2)])
    state = feed.reporter.snapshot()
    for _ in range(8):
        again = Reporter(TagTable(), state)
        assert len(again) == 2
        state = again.snapshot()
    assert len(Reporter(TagTable(), state)) == 1  # a reading is held back for the other
    later = Feed([{"deadband": 1}, {"swinging_door": 1, "max_interval": 9}], state, 3)
    later.take([Given(1, 9.0, 3), Given(1, -9.0, 4), Given(0, 1.0, 4)])
    assert (f"mqtt-0{LATE}", 3) in later.passed
    assert later.reasons[-1] == ""


def test_a_state_of_a_later_version_is_begun_anew() -> None:
    feed = Feed([{"deadband": 1}], (99, *Reporter(TagTable()).snapshot()[1:]))
    feed.take([Given(0, 1.0, 1), Given(0, 1.0, 1)])
    assert feed.reasons == ["", "unchanged"]


def test_what_is_known_of_readings_only_by_their_tag_is_told_in_the_account() -> None:
    rules = [None, {}, {"swinging_door": 1, "max_interval": 9}]
    assert [left_out(tag(0, rule)) for rule in rules] == ["no rule", "report by exception", "swinging_door"]
