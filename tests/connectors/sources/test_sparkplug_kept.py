"""The Sparkplug B host: what it knows after a restart, of itself and of the connection."""

from typing import Any

import pytest

from connectors.sources.sparkplug import RebirthRequest
from connectors.wire.sparkplug_values import DataType
from tests.connectors.sources.sparkplug_bench import Bench, bdseq, born, data, metric, payload


def restarted(before: Bench, session_present: bool = True) -> Bench:
    bench = Bench(before.state())
    bench.host.reconnected(session_present)
    return bench


def test_after_a_restart_no_rebirth_is_needed_while_the_session_was_kept() -> None:
    before = Bench()
    born(before)
    assert before.host.changed
    bench = restarted(before)
    assert not before.host.changed
    readings, asked = bench.receive("G/DDATA/N/D", data(2, 9.0))
    assert ([(r.value, r.tag.unit, r.tag.address) for r in readings], asked) == ([(9.0, "°C", "D/temp")], [])
    assert bench.host.unborn(0.0) == []
    assert bench.receive("G/DDATA/N/D", data(4, 9.0), 1.0) == ([], [])
    assert [a.reason for a in bench.expire(9.0)[1]] == ["sequence gap"]
    readings, _ = bench.receive("G/NDEATH/N", payload(None, bdseq(0)))
    assert len(readings) == 3


def test_progress_follows_the_data_without_the_births() -> None:
    before = Bench()
    born(before)
    births = before.host.state()
    for seq in range(2, 40):
        before.values("G/DDATA/N/D", data(seq))
    assert not before.host.changed
    bench = Bench((births, before.host.progress()))
    bench.host.reconnected(session_present=True)
    assert bench.receive("G/DDATA/N/D", data(40))[1] == []
    assert len(before.host.progress()) < 20


def test_an_edge_node_that_sent_while_we_were_away_is_asked_for_its_births_at_once() -> None:
    before = Bench()
    born(before)
    bench = restarted(before)
    readings, asked = bench.receive("G/DDATA/N/D", data(77, 9.0), 1.0)
    assert (readings, [a.reason for a in asked]) == ([], ["sequence gap"]), "its aliases may be others now"
    assert bench.receive("G/DDATA/N/D", data(78, 10.0), 1.5) == ([], [])
    assert bench.host.missed == [], "the time without a connection is a gap already"
    assert bench.values("G/NBIRTH/N", payload(0, bdseq(0), metric(DataType.INT32, 1, "up", 1)), 1.6) == [1]
    swapped = metric(DataType.DOUBLE, 1.0, "temp", 8), metric(DataType.DOUBLE, 2.0, "other", 7)
    readings, _ = bench.receive("G/DBIRTH/N/D", payload(1, *swapped), 1.7)
    assert [(r.tag.tag_name, r.value) for r in readings][:4] == [
        ("other", 9.0), ("other", 10.0), ("temp", 1.0), ("other", 2.0),
    ]  # fmt: skip


def test_who_gives_no_births_is_believed_to_be_as_before() -> None:
    before = Bench()
    born(before)
    bench = restarted(before)
    bench.receive("G/DDATA/N/D", data(77, 9.0), 1.0)
    assert [(r.tag.tag_name, r.value) for r in bench.expire(3.0)[0]] == [("temp", 9.0)]
    assert bench.values("G/DDATA/N/D", data(78, 10.0), 3.1) == [10.0]


@pytest.mark.parametrize("settings", [{"reorder_timeout": 0.0}, {"max_held": 0}])
def test_where_nothing_can_wait_the_births_of_before_are_believed(settings: dict[str, Any]) -> None:
    before = Bench()
    born(before)
    bench = Bench(before.state(), **settings)
    bench.host.reconnected(session_present=True)
    readings, asked = bench.receive("G/DDATA/N/D", data(77, 9.0), 1.0)
    assert ([r.value for r in readings], [a.reason for a in asked]) == ([9.0], ["sequence gap"])
    bench.expire(9.0)
    assert bench.values("G/DDATA/N/D", data(78, 10.0), 9.1) == [10.0]


def test_edge_nodes_that_were_alive_are_asked_when_the_session_is_lost() -> None:
    before = Bench()
    born(before)
    bench = restarted(before, session_present=False)
    assert bench.host.unborn(0.0) == [RebirthRequest("G", "N", "session lost")]
    born(bench)
    bench.receive("G/NDEATH/N", payload(None, bdseq(0)))
    dead = restarted(bench, session_present=False)
    assert dead.host.unborn(0.0) == [], "who died with our knowledge says by itself that it is back"


def test_without_the_session_old_aliases_are_not_believed() -> None:
    before = Bench()
    born(before)
    bench = restarted(before, session_present=False)
    readings, asked = bench.receive("G/DDATA/N/D", data(2, 9.0), 1.0)
    assert (readings, [a.reason for a in asked]) == ([], ["data before birth"])
    assert [r.reject for r in bench.expire(3.0)[0]] == ["alias 7 has no birth"]


def test_messages_that_are_held_survive_a_kill() -> None:
    before = Bench()
    born(before)
    before.receive("G/DDATA/N/D", data(4, 4.0), 1.0)
    assert before.host.holding
    before.receive("G/DDATA/N/E", data(2, 2.0), 1.1)
    bench = restarted(before)
    assert not before.host.holding
    assert bench.host.deadline() is not None
    readings, asked = bench.expire(9.0)
    assert [(r.value, r.reject) for r in readings] == [(4.0, None), (data(2, 2.0), "alias 7 has no birth")]
    assert [a.reason for a in asked] == ["sequence gap"]


def test_a_kill_while_births_are_in_doubt_leaves_them_in_doubt() -> None:
    before = Bench()
    born(before)
    doubtful = restarted(before)
    doubtful.receive("G/DDATA/N/D", data(77, 9.0), 1.0)
    bench = restarted(doubtful)
    assert bench.values("G/DDATA/N/D", data(78, 9.0), 1.0) == []


def test_an_ambiguous_alias_is_not_kept() -> None:
    before = Bench()
    twice = metric(DataType.DOUBLE, 1.0, "a", 7), metric(DataType.DOUBLE, 2.0, "b", 7)
    before.values("G/NBIRTH/N", payload(0, *twice))
    (reading,) = before.receive("G/NDATA/N", payload(1, metric(DataType.DOUBLE, 3.0, alias=7)))[0]
    assert reading.reject == "alias 7 stands for two metrics"
    bench = restarted(before)
    assert bench.values("G/NDATA/N", payload(2, metric(DataType.DOUBLE, 3.0, alias=7))) == []


@pytest.mark.parametrize("state", [(b"junk", b""), (b"", b"junk"), (b"x\x9c", b"")])
def test_a_state_that_is_none_is_refused(state: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the reason
        Bench(state)
