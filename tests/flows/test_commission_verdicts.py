"""Verdicts on a tag list, from readings that are made up here."""

from collections.abc import Sequence
from typing import Any

import pytest

from flows.commission import Expected, Observed, Verdict, compare, too_short
from flows.commission_watch import Watch
from normalization.facts import Flags, Quality
from normalization.reading import Columns, Tag, TagTable

START = 1_700_000_000_000_000
TAG = Tag("plc", "opcua", "dev", "ns=2;s=Speed", "speed", "rpm")


def watched(
    *batches: tuple[float, Sequence[tuple[Any, dict[str, Any]]]], tag: Tag = TAG, until: float = 10
) -> Observed:
    """What a watch makes of readings of one tag: when they arrived, and values with what goes with them."""
    table = TagTable()
    watch = Watch(table, "{equipment}/{tag_name}", "g")
    number = table.intern(tag)
    for moment, readings in batches:
        rows = Columns()
        for value, more in readings:
            if value is REJECT:
                rows.add_reject(number, "no number", b"x")
            else:
                rows.add(number, value, **more)
        watch.add(rows, START + round(moment * 1e6))
    (found,) = watch.observed(START + round(until * 1e6))
    return found


REJECT = object()


def every(seconds: float, until: float = 10.0, value: Any = 1.0, **more: Any) -> list[tuple[float, list[Any]]]:
    return [(at * seconds, [(value, more)]) for at in range(int(until / seconds) + 1)]


def at(seconds: float) -> int:
    return START + round(seconds * 1e6)


def judged(seen: Observed, **wanted: Any) -> Verdict:
    (verdict,) = compare([Expected(2, tag="speed", **wanted)], [seen]).verdicts
    return verdict


@pytest.mark.parametrize(
    ("seen", "wanted", "reason"),
    [
        (watched(*every(1)), {"interval": 1.0}, None),
        (watched(*every(1)), {"type": "real", "unit": "rpm", "low": 1.0, "high": 1.0}, None),
        (watched(*every(1, value=3)), {"type": "dint"}, None),
        (watched(*every(1, value=3)), {"type": "number"}, None),
        (watched(*every(1, value=True)), {"type": "dint"}, "type is BOOLEAN, expected dint (INT64 or UINT64)"),
        (watched(*every(1)), {"unit": "1/min"}, "unit is `rpm`, expected `1/min`"),
        (watched(*every(1)), {"low": 1.5}, "value 1 is below 1.5"),
        (watched(*every(1, value=float("nan"))), {"low": 0.0}, "11 readings had no finite number"),
        (watched(*every(1, value="off")), {"high": 1.0}, "no reading had a number to compare with the range"),
        (watched((0, [(1.0, {}), (99.0, {"quality": Quality.BAD})])), {"high": 9.0, "qualities": frozenset()}, None),
        (
            watched((0, [(1.0, {}), (1.0, {"quality": Quality.STALE})])), {},
            "quality was not GOOD in 1 of 2 readings: STALE 1",
        ),
        (watched((0, [(1.0, {}), (REJECT, {})])), {"qualities": frozenset()}, "1 reading could not be used: no number"),
        (watched((0, [(None, {"quality": Quality.BAD})])), {"type": "int", "qualities": frozenset()}, "no reading had a value"),
        # the interval
        (watched(*every(1)), {"interval": 0.5}, "interval is 1 s, expected 500 ms (11 readings in 10 s)"),
        (watched(*every(1)), {"interval": 1.3}, "interval is 1 s, expected 1.3 s (11 readings in 10 s)"),
        (watched(*every(1)), {"interval": 1.1}, None),
        (watched(*every(1)), {"interval": 6.0}, "interval not measured: 10 s of readings is less than two intervals of 6 s"),
        (watched((0, [(1.0, {})])), {"interval": 4.0}, "one reading only in 10 s, expected one every 4 s"),
        (watched(*every(1, 5.0), until=10), {"interval": 1.0}, "silent for the last 5 s, expected a reading every 1 s"),
        (
            watched(*every(0.1, 5.0), *[(moment + 9, batch) for moment, batch in every(0.1, 91.0)], until=100),
            {"interval": 0.1}, "no reading for 4 s, expected one every 100 ms",
        ),
        # ten values a second, in one message each second, each with its own time
        (
            watched(*[(s, [(1.0, {"source_time": at(s - 0.9 + n / 10)}) for n in range(10)]) for s in range(1, 11)]),
            {"interval": 0.1}, None,
        ),
        # the device's clock stands still, so ours counts
        (watched(*every(1, source_time=at(-500))), {"interval": 1.0}, None),
        # what was stored before does not count
        (
            watched((0, [(1.0, {"flags": Flags.RETAINED, "source_time": at(-9999)})]), *every(1)[1:]),
            {"interval": 1.0}, None,
        ),
    ],
)  # fmt: skip
def test_a_reading_is_judged_by_the_row(seen: Observed, wanted: dict[str, Any], reason: str | None) -> None:
    verdict = judged(seen, **wanted)
    assert verdict.reasons == ((reason,) if reason is not None else ())
    assert verdict.result == ("pass" if reason is None else "fail")


def test_a_unit_that_changes_fails_although_the_last_one_is_right() -> None:
    table = TagTable()
    watch = Watch(table, "{tag_name}", "g")
    for unit in ("bar", "kPa"):
        rows = Columns()
        rows.add(table.intern(Tag("s", "mqtt", "d", "a", "speed", unit)), 1)
        watch.add(rows, START)
    (seen,) = watch.observed(START)
    assert judged(seen, unit="kPa").reasons == ("unit is `bar`, then `kPa`, expected `kPa`",)


def test_a_clock_that_is_ahead_is_remarked_and_passes() -> None:
    verdict = judged(watched(*every(1, source_time=at(3600))))
    assert (verdict.result, verdict.remarks) == ("pass", ("the device's clock is 60 min ahead",))


def test_a_row_means_one_tag_and_a_tag_is_meant_by_one_row() -> None:
    one, two = Observed("a", "d", "x", "speed", "h/speed"), Observed("b", "d", "x", "speed", "k/speed")
    other = Observed("b", "d", "y", "noise")
    rows = [
        Expected(2, tag="speed"),
        Expected(3, tag="speed", source="a"),
        Expected(4, path="k/speed"),
        Expected(5, tag="d/x", source="b"),
        Expected(6, tag="door"),
        Expected(7, tag="door", source="plc"),
    ]
    found = compare(rows, [one, two, other], {"plc": "no route"})
    assert [verdict.result for verdict in found.verdicts] == ["fail", "fail", "fail", "fail", "not seen", "not seen"]
    assert found.verdicts[0].reasons == ("2 tags are meant: a d/x, b d/x; say the source or the address",)
    assert found.verdicts[2].reasons == ("line 2, 5 of the list means the same tag",)
    assert [verdict.reasons for verdict in found.verdicts[4:]] == [("plc: no route",)] * 2
    assert found.unlisted == [other]
    assert found.counts == {"pass": 0, "fail": 4, "not seen": 2, "unlisted": 1}


def test_what_a_watch_remembers_of_texts_and_large_numbers_is_exact() -> None:
    assert watched((0, [(2**63 - 1, {})])).value == str(2**63 - 1)
    assert watched((0, [("=cmd\n|' /C calc", {})])).value == "=cmd\n|' /C calc"
    assert len(watched((0, [("x" * 10_000, {})])).value) == 201


def test_a_list_whose_interval_is_too_long_for_the_watch_is_known_before() -> None:
    assert too_short([Expected(2, tag="a", interval=60.0), Expected(3, tag="b")], 60) == 150
    assert too_short([Expected(2, tag="a", interval=24.0)], 60) is None
