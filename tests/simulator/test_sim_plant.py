import asyncio
import math
from itertools import pairwise

import pytest

from simulator.pace import Pace
from simulator.plant import Group, ModbusRegister, Plant, Source, Tag, build_plant, describe, value


def _addresses(source: Source) -> list[object]:
    return [tag.address for tag in source.tags()]


def _endpoints(plant: Plant) -> dict[str, str]:
    return {source.name: f"tcp://127.0.0.1:{index + 1}" for index, source in enumerate(plant.sources)}


def _tag(plant: Plant, source: str, name: str) -> tuple[Tag, float]:
    for candidate in plant.sources:
        for group in candidate.groups:
            for tag in group.tags:
                if candidate.name == source and tag.name == name:
                    return tag, group.period
    raise LookupError(name)


def test_the_default_plant_has_four_sources_and_two_thousand_readings_a_second():
    plant = build_plant()
    assert [source.protocol for source in plant.sources] == ["opcua", "mqtt", "sparkplug", "modbus"]
    assert sum(1 for source in plant.sources for _ in source.tags()) == 400
    assert plant.rate == pytest.approx(2400)


@pytest.mark.parametrize(
    ("tags", "rate", "counts"),
    [
        (5000, 5000.0, {"opcua": 4, "mqtt": 2, "sparkplug": 2, "modbus": 2}),
        (8, 16.0, {"sparkplug": 4}),
        (1001, 250.0, {"modbus": 3, "mqtt": 4}),
        (37, 1850.0, {"opcua": 1}),
    ],
)
def test_a_plant_has_the_tags_rate_and_sources_asked_for_and_no_name_twice(tags, rate, counts):
    plant = build_plant(tags=tags, rate=rate, sources=counts)
    description = describe(plant, _endpoints(plant))
    assert len(plant.sources) == sum(counts.values())
    assert plant.rate == pytest.approx(rate)
    assert len(description["tags"]) == tags
    assert len({tag["path"] for tag in description["tags"]}) == tags
    assert len({(tag["source"], tag.get("unit_id"), tag["address"]) for tag in description["tags"]}) == tags
    for source in plant.sources:
        assert len(set(_addresses(source))) == sum(1 for _ in source.tags())
        assert len({group.name for group in source.groups}) == len(source.groups)


def test_paths_follow_the_template_and_leave_out_empty_places():
    plant = build_plant()
    description = describe(plant, _endpoints(plant))
    paths = {tag["path"] for tag in description["tags"]}
    assert {
        "plant1/production/line1/plc1/temperature/reactor_temp",
        "plant1/production/line2/robot1/speed/conveyor_speed",
        "site2/utilities/boiler1/pressure/steam_pressure",
    } <= paths
    sources = {source["name"]: source for source in description["sources"]}
    for tag in description["tags"]:
        places = sources[tag["source"]] | tag
        filled = description["template"].format_map(places)
        assert tag["path"] == filled.replace("//", "/")


def test_a_description_leaves_out_sources_that_do_not_run():
    plant = build_plant()
    description = describe(plant, {"modbus1": "tcp://127.0.0.1:502"})
    assert [source["name"] for source in description["sources"]] == ["modbus1"]
    assert {tag["source"] for tag in description["tags"]} == {"modbus1"}


def test_the_same_plant_gives_the_same_readings():
    one, other = build_plant(), build_plant()
    assert one == other
    tag, period = _tag(one, "opcua1", "reactor_temp")
    readings = [value(tag, n, period) for n in range(1, 500)]
    assert readings == [value(tag, n, period) for n in range(1, 500)]
    assert len(set(readings)) > 400
    assert all(105 <= reading <= 135 for reading in readings)


def test_signals_are_plausible():
    plant = build_plant()
    counter, period = _tag(plant, "mqtt1", "cycle_count")
    assert [value(counter, n, period) for n in (1, 2, 3)] == [1, 2, 3]
    state, period = _tag(plant, "modbus1", "state")
    assert {value(state, n, period) for n in range(1, 5000)} == {0, 1, 2, 3, 4}
    alarm, period = _tag(plant, "sparkplug1", "overheat_alarm")
    assert {value(alarm, n, period) for n in range(1, 9000)} == {True, False}
    pressure, period = _tag(plant, "opcua1", "vessel_pressure")
    bad = [n for n in range(1, 971) if value(pressure, n, period) is None]
    assert len(bad) == 10
    assert all(later - earlier == 97 for earlier, later in pairwise(bad))
    spectrum, period = _tag(plant, "opcua1", "vibration_spectrum")
    assert len(value(spectrum, 7, period)) == 8
    recipe, period = _tag(plant, "opcua1", "recipe")
    assert set(value(recipe, 7, period)) == {"id", "name", "target"}


def test_a_reading_of_a_ledger_plant_is_its_number():
    plant = build_plant(ledger=True)
    types = set()
    for source in plant.sources:
        for group in source.groups:
            for tag in group.tags:
                number = value(tag, 2**53 - 1, group.period)
                assert number == 2**53 - 1
                assert isinstance(number, float if tag.type == "float64" else int)
                types.add(tag.type)
    assert types == {"int64", "float64"}


def test_modbus_registers_do_not_overlap_and_use_every_type_and_order():
    plant = build_plant(tags=200, rate=200, sources={"modbus": 2})
    for source in plant.sources:
        taken: dict[tuple[int, str], int] = {}
        tags = list(source.tags())
        for tag in tags:
            place = tag.address
            assert isinstance(place, ModbusRegister)
            assert place.register >= taken.get((place.unit_id, place.table), 0)
            taken[place.unit_id, place.table] = place.register + place.length
        places = [tag.address for tag in tags if isinstance(tag.address, ModbusRegister)]
        assert {place.table for place in places} == {"coil", "discrete", "holding", "input"}
        orders = {(place.byte_order, place.word_order) for place in places if place.length > 1}
        assert len(orders) == 4
        assert {tag.type for tag in tags} >= {"int16", "uint16", "int32", "uint32", "int64", "uint64"}
        assert {tag.type for tag in tags} >= {"float32", "float64", "string", "bool"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tags": 6}, "too few"),
        ({"sources": {"bacnet": 1}}, "bacnet"),
        ({"sources": {"opcua": 0}}, "at least one source"),
        ({"rate": 0.0}, "readings/s"),
        ({"tags": 247 * 24 + 1, "sources": {"modbus": 1}}, "too many for one Modbus source"),
        ({"tags": 10, "rate": 501.0}, "at most 50"),
        ({"rate": math.nan}, "readings/s"),
    ],
)
def test_a_plant_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_plant(**arguments)


async def test_a_source_gives_as_many_readings_a_second_as_it_promises():
    (source,) = build_plant(tags=200, rate=2000.0, sources={"mqtt": 1}).sources
    given: list[tuple[int, int]] = []
    enough = asyncio.Event()

    async def emit(group: Group, _first: int, _n: int, time: int) -> bool:
        given.append((time, len(group.tags)))
        if given[-1][0] - given[0][0] > 2_000_000:
            enough.set()
        return True

    running = asyncio.create_task(Pace(source).run(emit))
    async with asyncio.timeout(20):
        await enough.wait()
    running.cancel()
    seconds = (given[-1][0] - given[0][0]) / 1e6
    assert source.rate == pytest.approx(2000.0)
    assert sum(count for _, count in given) / seconds == pytest.approx(2000.0, rel=0.1)
