import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from asyncua import Client, ua

from simulator.ledger import SENT, Ledger, read
from simulator.opcua import OpcUaServer
from simulator.plant import Plant, build_plant, describe, describe_tags, value

pytestmark = pytest.mark.asyncio(loop_scope="module")  # a server takes a second to start: one for all


class Collector:
    """What a subscription delivers, by node identifier."""

    def __init__(self) -> None:
        self.values: dict[str, list[ua.DataValue]] = defaultdict(list)

    def datachange_notification(self, node: Any, _value: Any, data: Any) -> None:
        self.values[node.nodeid.Identifier].append(data.monitored_item.Value)


async def subscribe(client: Client, plant: Plant) -> tuple[Collector, Any]:
    """Monitor all tags of the first source."""
    index = await client.get_namespace_index(f"urn:simulator:{plant.name}")
    nodes = []
    for tag in describe_tags(plant, plant.sources[0]):
        uri, _, identifier = tag["node_id"].partition(";s=")
        assert uri == f"nsu=urn:simulator:{plant.name}"
        nodes.append(client.get_node(ua.NodeId(identifier, index)))
    collector = Collector()
    subscription = await client.create_subscription(20, collector, queue_maxsize=100_000)
    await subscription.subscribe_data_change(nodes, queuesize=1000)
    return collector, subscription


@pytest.fixture(scope="module")
def plant() -> Plant:
    return build_plant(tags=30, rate=600, sources={"opcua": 1})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(plant: Plant) -> AsyncIterator[OpcUaServer]:
    async with OpcUaServer(plant, plant.sources[0]) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: OpcUaServer) -> AsyncIterator[Client]:
    connected = Client(server.endpoint)
    connected.session_timeout = 60_000
    await connected.connect()
    yield connected
    await connected.disconnect()


async def test_values_types_units_and_browse_paths_are_those_of_the_description(plant, server, client):
    await client.load_data_type_definitions()
    index = await client.get_namespace_index(f"urn:simulator:{plant.name}")
    types = set()
    for tag in describe(plant, {"opcua1": server.endpoint})["tags"]:
        node = await client.nodes.objects.get_child([f"{index}:{name}" for name in tag["browse_path"]])
        assert node.nodeid.Identifier == tag["node_id"].partition(";s=")[2]
        async with asyncio.timeout(5):
            while (data := await node.read_data_value(raise_on_bad_status=False)).StatusCode.is_bad():
                assert data.StatusCode.name in ("BadWaitingForInitialData", "BadSensorFailure")
        variant = data.Value
        types.add((tag["type"], variant.VariantType.name, variant.is_array))
        if tag["unit"]:
            unit = await node.get_child([f"{index}:EngineeringUnits"])
            assert (await unit.read_value()).DisplayName.Text == tag["unit"]
    assert types >= {
        ("float64", "Double", False),
        ("float32", "Float", False),
        ("uint64", "UInt64", False),
        ("int32", "Int32", False),
        ("enum", "Int32", False),
        ("bool", "Boolean", False),
        ("string", "String", False),
        ("float64[]", "Double", True),
        ("structure", "ExtensionObject", False),
    }


async def test_a_subscription_gets_the_plants_readings_in_order_with_their_time(plant, server, client, until):
    collector, subscription = await subscribe(client, plant)
    await until(lambda: len(collector.values["opcua1.plc1.reactor_temp"]) > 12)
    await subscription.delete()
    tag, period = next(plant.sources[0].tags()), plant.sources[0].groups[0].period
    got = collector.values["opcua1.plc1.reactor_temp"][1:]
    expected = [value(tag, n, period) for n in range(1, 2000)]
    first = expected.index(got[0].Value.Value)
    assert [data.Value.Value for data in got] == expected[first : first + len(got)]
    times = [data.SourceTimestamp for data in got]
    assert times == sorted(set(times))
    counts = [data.Value.Value for data in collector.values["opcua1.plc1.cycle_count"] if data.StatusCode.is_good()]
    assert counts == sorted(counts)
    recipe = collector.values["opcua1.plc1.recipe"][-1].Value.Value
    assert recipe.name.startswith("R-")
    assert isinstance(recipe.target, float)


async def test_bad_readings_have_a_bad_status_and_no_value(plant, server, client, until):
    collector, subscription = await subscribe(client, plant)
    values = collector.values["opcua1.plc1.jacket_temp"]
    await until(lambda: values and values[-1].StatusCode.is_good())
    server.set_bad("jacket_temp", True)
    await until(lambda: values and values[-1].StatusCode.is_bad())
    assert values[-1].StatusCode.name == "BadSensorFailure"
    assert values[-1].Value.Value is None
    server.set_bad("jacket_temp", False)
    await until(lambda: values[-1].StatusCode.is_good())
    await subscription.delete()


async def test_a_client_that_was_dropped_can_come_back(plant, server, until):
    first = Client(server.endpoint)
    first.session_timeout = 60_000
    lost = asyncio.Event()
    first.connection_lost_callback = lambda _error: _note(lost)
    await first.connect()
    server.drop_connections()
    await asyncio.wait_for(lost.wait(), 5)
    await first.disconnect()
    async with Client(server.endpoint) as second:
        assert await second.get_namespace_index(f"urn:simulator:{plant.name}")


async def _note(event: asyncio.Event) -> None:
    event.set()


async def test_a_monitored_value_is_an_obligation_and_every_one_arrives(tmp_path, until):
    plant = build_plant(tags=40, rate=1000, sources={"opcua": 1}, ledger=True)
    source = plant.sources[0]
    ledger = Ledger(tmp_path, source.name, source.protocol, describe_tags(plant, source))
    path = tmp_path / "opcua1.ledger"
    async with OpcUaServer(plant, source, ledger=ledger) as server:
        await until(lambda: len(read(path).records) > 80)
        assert len(read(path).obligations()) == 0
        async with Client(server.endpoint) as client:
            collector, subscription = await subscribe(client, plant)
            await until(lambda: len(read(path).obligations()) > 800)
            server.pause()
            due = read(path).obligations()
            identifiers = [tag["node_id"].partition(";s=")[2] for tag in read(path).tags]

            def missing() -> set[tuple[int, int]]:
                got = {
                    (position, int(data.Value.Value))
                    for position, identifier in enumerate(identifiers)
                    for data in collector.values[identifier]
                    if data.StatusCode.is_good()
                }
                return set(due[["tag", "n"]].tolist()) - got

            await until(lambda: not missing())
            await subscription.delete()
    ledger.close()
    records = read(path).records
    for position in range(40):
        numbers = records[records["tag"] == position]["n"].tolist()
        assert numbers == list(range(1, len(numbers) + 1))
    assert SENT in records["event"]


async def test_a_value_set_for_a_client_that_is_gone_is_no_obligation(tmp_path, until):
    """The session of a client that died lives on, its subscription too, but nobody gets what it queues."""
    plant = build_plant(tags=4, rate=100, sources={"opcua": 1}, ledger=True)
    source = plant.sources[0]
    ledger = Ledger(tmp_path, source.name, source.protocol, describe_tags(plant, source))
    path = tmp_path / "opcua1.ledger"
    async with OpcUaServer(plant, source, ledger=ledger) as server:
        client = Client(server.endpoint)
        client.session_timeout = 10_000
        lost = asyncio.Event()
        client.connection_lost_callback = lambda _error: _note(lost)
        await client.connect()
        await subscribe(client, plant)
        await until(lambda: len(read(path).obligations()) > 8)
        server.drop_connections()
        await asyncio.wait_for(lost.wait(), 5)
        due, given = len(read(path).obligations()), len(read(path).issued())
        await until(lambda: len(read(path).issued()) > given + 16)
        assert len(read(path).obligations()) == due
        await client.disconnect()
    ledger.close()
