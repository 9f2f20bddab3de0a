"""The oracle sees what it is there to see: each kind of damage to a sound world is found, and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pytest

from normalization.reading import Flags
from simulator.ledger import ACKED, RECORD, SENT, SERVED, Account
from tests.kill.oracle import COLUMNS, Run, Verdict, judge

Row = dict[str, Any]
_SECOND: Final = 1_000_000
_SOURCES: Final = ("mqtt", "opcua", "modbus")
_PATIENCE: Final = {"opcua": 0.7, "modbus": 0.7}
_KILLED, _RESTARTED, _CONNECTED, _STOPPED = 10 * _SECOND + 100_000, 11 * _SECOND, 12 * _SECOND, 20 * _SECOND
_SCHEMA: Final = pa.schema(
    [
        *((name, pa.string()) for name in ("gateway", "shard")),
        ("sequence", pa.int64()),
        *((name, pa.string()) for name in ("source", "device_id", "address", "path", "type")),
        ("value", pa.float64()),
        ("value_int", pa.int64()),
        ("quality", pa.string()),
        ("flags", pa.int32()),
        ("source_time", pa.timestamp("us", tz="UTC")),
        ("received_time", pa.timestamp("us", tz="UTC")),
    ]
)


def _tags(source: str) -> list[dict[str, Any]]:
    unit = {"unit_id": 1} if source == "modbus" else {}
    types = ("int64", "float64")
    return [{"address": f"a{i}", "path": f"plant/{source}/a{i}", "type": t} | unit for i, t in enumerate(types)]


class World:
    """A plant that gives out a reading of each tag every half second from 1 s to 20 s, killed at 10.1 s, back at 12 s."""

    def __init__(self) -> None:
        self.runs = [
            Run(0, _KILLED, {source: [_SECOND // 2] for source in _SOURCES}),
            Run(_RESTARTED, 25 * _SECOND, {source: [_CONNECTED] for source in _SOURCES}),
        ]
        self.ledgers = {source: self._account(source) for source in _SOURCES}
        self.delta = self._rows()
        self.zerobus = [dict(row) for row in self.delta]

    def _account(self, source: str) -> Account:
        records = []
        for n in range(1, 39):
            time = n * _SECOND // 2 + _SECOND // 2
            if source == "modbus" and _KILLED < time < _CONNECTED:
                continue  # nobody asks
            for tag in (0, 1):
                records.append((tag, SENT if source == "mqtt" else SERVED, n, time))
                if source == "mqtt":
                    records.append((tag, ACKED, n, time + 100))
        return Account(source, source, _tags(source), np.array(records, RECORD))

    def _rows(self) -> list[Row]:
        rows = []
        for source, account in self.ledgers.items():
            sequence = 0
            for tag, event, n, time in account.records.tolist():
                absent = source == "opcua" and _KILLED - _SECOND // 4 < time < _CONNECTED
                if event == ACKED or absent:
                    continue
                sequence += 1
                late = max(time, _CONNECTED) if _KILLED <= time < _CONNECTED else time
                described = account.tags[tag]
                integer = described["type"] == "int64"
                rows.append(
                    {
                        "gateway": "gw",
                        "shard": f"{source}-0",
                        "sequence": sequence,
                        "source": source,
                        "device_id": "1",
                        "address": described["address"],
                        "path": described["path"],
                        "type": "INT64" if integer else "DOUBLE",
                        "value": float(n),
                        "value_int": n if integer else None,
                        "quality": "GOOD",
                        "flags": 0,
                        "source_time": None if source == "modbus" else time,
                        "received_time": late + 1000,
                    }
                )
        return rows

    def judge(self) -> Verdict:
        delta, zerobus = (_table(rows) for rows in (self.delta, self.zerobus))
        return judge(self.ledgers, self.runs, _STOPPED, delta, zerobus, _PATIENCE)

    def row(self, source: str, number: int, tag: int = 0) -> Row:
        """The row of Delta that has this number."""
        return next(
            r for r in self.delta if (r["source"], r["value"], r["address"]) == (source, float(number), f"a{tag}")
        )

    def both(self, change: Callable[[list[Row]], None]) -> None:
        """Change both targets in the same way."""
        change(self.delta)
        change(self.zerobus)

    def without(self, source: str, number: int) -> None:
        """Neither target has this number of tag 0; the sequences are as if it had never been journalled."""

        def remove(rows: list[Row]) -> None:
            at = next(
                i for i, r in enumerate(rows) if (r["source"], r["value"], r["address"]) == (source, number, "a0")
            )
            shard, sequence = rows[at]["shard"], rows[at]["sequence"]
            del rows[at]
            for row in rows:
                if row["shard"] == shard and row["sequence"] > sequence:
                    row["sequence"] -= 1

        self.both(remove)


def _table(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=_SCHEMA).select(list(COLUMNS))


def _wrong(verdict: Verdict) -> dict[str, int]:
    return {name: count for name, count in verdict.wrong.items() if count}


def test_a_sound_world_has_nothing_wrong_and_its_obligations_are_counted() -> None:
    verdict = World().judge()
    assert _wrong(verdict) == {}
    assert verdict.obligations == {"mqtt": 76, "opcua": 68, "modbus": 70}
    assert verdict.excluded["opcua"]["at a kill"] == 8
    assert verdict.oldest_excused_ms == {"opcua": 100.0, "modbus": 0.0}
    assert verdict.rows == {"delta": 214, "zerobus": 214}


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("mqtt", 1),
        ("mqtt", 21),
        ("mqtt", 38),
        ("opcua", 5),
        ("opcua", 17),
        ("opcua", 23),
        ("modbus", 18),
        ("modbus", 37),
    ],
)
def test_an_obligation_that_is_in_neither_target_is_lost_in_both(source: str, number: int) -> None:
    world = World()
    world.without(source, number)
    verdict = world.judge()
    assert _wrong(verdict) == {"lost": 2}
    assert verdict.lost["delta"][source] == verdict.lost["zerobus"][source] == 1
    assert any(f"{source} a0 number {number}" in example for example in verdict.examples)


@pytest.mark.parametrize("target", ["delta", "zerobus"])
def test_a_reading_that_only_one_target_has_is_lost_in_the_other(target: str) -> None:
    world = World()
    rows: list[Row] = getattr(world, target)
    rows.remove(world.row("modbus", 30))
    wrong = _wrong(world.judge())
    assert wrong == {"lost": 1, "one_sided": 1} | ({"holes": 1} if target == "delta" else {})


def test_what_was_under_way_at_a_kill_is_excused_only_after_the_last_that_arrived() -> None:
    world = World()
    world.without("modbus", 19)  # given out just before the kill, but its neighbor arrived
    assert _wrong(world.judge()) == {"lost": 2}
    for rows in (world.delta, world.zerobus):
        rows[:] = [r for r in rows if (r["source"], r["value"]) != ("modbus", 19.0)]
        for sequence, row in enumerate((r for r in rows if r["source"] == "modbus"), 1):
            row["sequence"] = sequence
    verdict = world.judge()
    assert _wrong(verdict) == {}
    assert verdict.excluded["modbus"]["at a kill"] == 2


@pytest.mark.parametrize(("at", "lost"), [(_CONNECTED - 1, 0), (_CONNECTED, 2)])
def test_an_answer_to_the_dead_is_excused_until_the_next_life_is_connected(at: int, lost: int) -> None:
    world = World()
    modbus = world.ledgers["modbus"]
    records = modbus.records.copy()
    records["n"][records["time"] >= _CONNECTED] += 1
    world.both(_renumber)
    late = np.array([(0, SERVED, 23, at)], RECORD)
    before = records["time"] < _CONNECTED
    world.ledgers["modbus"] = replace(modbus, records=np.concatenate([records[before], late, records[~before]]))
    assert _wrong(world.judge()) == ({"lost": lost} if lost else {})


def _renumber(rows: list[Row]) -> None:
    """Modbus numbers of the second life are larger by one."""
    for row in rows:
        if row["source"] == "modbus" and row["received_time"] > _CONNECTED:
            row["value"] += 1
            row["value_int"] = row["value_int"] and row["value_int"] + 1


def test_a_kill_does_not_excuse_what_is_older_than_the_patience() -> None:
    world = World()
    for rows in (world.delta, world.zerobus):
        rows[:] = [r for r in rows if r["source"] != "opcua" or r["value"] < 14 or r["value"] > 22]
        for sequence, row in enumerate((r for r in rows if r["source"] == "opcua"), 1):
            row["sequence"] = sequence
    verdict = world.judge()
    assert verdict.lost["delta"] == {"mqtt": 0, "opcua": 8, "modbus": 0}  # 14 to 17; 18 and what follows is excused


def test_a_server_that_knows_of_no_subscription_excuses_nothing_while_the_gateway_was_connected() -> None:
    world = World()
    opcua = world.ledgers["opcua"]
    records = opcua.records.copy()
    records["event"][records["n"] == 30] = SENT
    world.ledgers["opcua"] = replace(opcua, records=records)
    world.without("opcua", 30)
    assert _wrong(world.judge()) == {"lost": 2}


def test_readings_published_before_the_session_existed_or_without_puback_are_no_obligations() -> None:
    world = World()
    for run in world.runs:
        run.connected["mqtt"] = [moment + 2 * _SECOND for moment in run.connected["mqtt"]]
    mqtt = world.ledgers["mqtt"]
    acknowledged = (mqtt.records["event"] == ACKED) & (mqtt.records["n"] == 30)
    world.ledgers["mqtt"] = replace(mqtt, records=mqtt.records[~acknowledged])
    for number in (1, 2, 3, 30):
        world.without("mqtt", number)
    verdict = world.judge()
    assert _wrong(verdict) == {}
    assert verdict.excluded["mqtt"] == {"not acknowledged by the broker": 2, "before the first connection": 6}


def test_a_row_twice_is_visible_twice_in_delta_and_a_duplicate_in_zerobus() -> None:
    world = World()
    world.delta.append(dict(world.row("opcua", 7)))
    world.zerobus.append(dict(world.row("opcua", 7)))
    verdict = world.judge()
    assert _wrong(verdict) == {"visible_twice": 1}
    assert verdict.duplicates == {"delta": 1, "zerobus": 1}


def test_a_duplicate_that_differs_is_found() -> None:
    world = World()
    world.zerobus.append(world.row("opcua", 7) | {"priority": 1, "quality": "BAD"})
    assert _wrong(world.judge()) == {"unequal": 1, "altered": 1}


def test_a_reading_that_one_target_got_as_sent_again_is_the_same_reading() -> None:
    world = World()
    world.zerobus[world.zerobus.index(world.row("opcua", 7))] |= {"flags": int(Flags.RESENT)}
    assert _wrong(world.judge()) == {}


@pytest.mark.parametrize(("source", "expected"), [("mqtt", 1), ("modbus", 1)])
def test_a_number_that_comes_again_under_a_new_identity_is_visible_twice(source: str, expected: int) -> None:
    world = World()
    again = world.row(source, 38) | {"sequence": max(r["sequence"] for r in world.delta if r["source"] == source) + 1}
    world.both(lambda rows: rows.append(dict(again)))
    assert _wrong(world.judge()) == {"visible_twice": expected}


@pytest.mark.parametrize(("at", "expected"), [(_CONNECTED, {}), (_CONNECTED + 2 * _SECOND, {"visible_twice": 1})])
def test_opcua_may_repeat_a_node_s_value_where_a_connection_begins_and_nowhere_else(
    at: int, expected: dict[str, int]
) -> None:
    world = World()
    number = 18 if at == _CONNECTED else 25
    told = world.row("opcua", number if at != _CONNECTED else 18)
    before = told["sequence"] + 1  # after tag 1 of the same number
    again = told | {"sequence": before + 1, "received_time": at + 500_500}

    def insert(rows: list[Row]) -> None:
        for row in rows:
            if row["source"] == "opcua" and row["sequence"] > before:
                row["sequence"] += 1
        rows.append(dict(again))

    world.both(insert)
    assert _wrong(world.judge()) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"value": 999.0, "value_int": 999},
        {"value": 7.5},
        {"value_int": None},
        {"type": "DOUBLE"},
        {"quality": "BAD"},
        {"source_time": 1},
        {"received_time": 1},
    ],
)
def test_a_row_that_is_not_what_the_plant_gave_out_is_altered(change: Row) -> None:
    world = World()
    world.both(lambda rows: rows[rows.index(World().row("opcua", 7))].update(change))
    verdict = world.judge()
    assert verdict.altered == {"delta": 1, "zerobus": 1}


@pytest.mark.parametrize("change", [{"path": "plant/elsewhere"}, {"address": "a9"}, {"source": "stranger"}])
def test_a_row_with_the_wrong_name_is_found(change: Row) -> None:
    world = World()
    world.both(lambda rows: rows[rows.index(World().row("modbus", 7))].update(change))
    assert world.judge().misnamed == {"delta": 1, "zerobus": 1}


def test_readings_of_a_tag_in_the_wrong_order_are_found() -> None:
    world = World()

    def swap(rows: list[Row]) -> None:
        first, second = (rows[rows.index(World().row("mqtt", n))] for n in (7, 8))
        first["sequence"], second["sequence"] = second["sequence"], first["sequence"]

    world.both(swap)
    assert _wrong(world.judge()) == {"disordered": 1}


def test_rows_without_a_value_are_neither_obligations_nor_alterations() -> None:
    world = World()
    stale = world.row("opcua", 7) | {"shard": "gateway-0", "sequence": 1, "type": "NULL", "value": None}
    world.both(lambda rows: rows.append(stale | {"value_int": None, "quality": "STALE"}))
    assert _wrong(world.judge()) == {}


def test_a_run_takes_the_moments_of_its_connections_from_the_log() -> None:
    run = Run(0)
    run.note("opcua1", "connecting", "1970-01-01T00:00:00.5Z")
    run.note("opcua1", "connected", "1970-01-01T00:00:01.000002Z")
    run.note("opcua1", "down", "1970-01-01T00:00:02Z")
    assert (run.connected, run.lost) == ({"opcua1": [1_000_002]}, {"opcua1": [2_000_000]})
