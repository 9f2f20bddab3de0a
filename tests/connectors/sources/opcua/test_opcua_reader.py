"""The OPC UA reader against a server of asyncua."""

import asyncio
import datetime
import json
import time

import pytest
from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from connectors.contract import Context, SourceState
from connectors.sources.opcua import subscription
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.session import Session
from normalization.reading import Quality, ValueType
from tests.connectors.sources.opcua.conftest import MACHINE, PLANT, PlantServer, Reading, Relay, source
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

NODES = [
    f"nsu={MACHINE};s={name}"
    for name in ("Temperature", "Speed", "Total", "Enabled", "Order", "Profile", "Matrix", "Blob", "Stamp", "Text")
] + [f"nsu={MACHINE};s=Job", f"nsu={MACHINE};s=State"]


def values(intake: RecordingIntake) -> dict[str, object]:
    return {reading.tag.tag_name: reading.value for reading in intake.readings()}


@pytest.mark.parametrize("mode", ["subscription", "polling"])
async def test_values_of_all_kinds_arrive(plant, tmp_path, mode):
    config = source(plant.endpoint, nodes=NODES, mode=mode, polling_interval=0.1)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: len(values(intake)) == len(NODES))
        last = {name: intake.last(name) for name in values(intake)}
        assert last["Temperature"].value == 20.5
        assert last["Temperature"].tag.unit == "°C"
        assert last["Temperature"].tag.address == f"nsu={MACHINE};s=Temperature"
        assert last["Temperature"].source_time is not None
        assert (last["Speed"].value, last["Speed"].type) == (1500, ValueType.INT64)
        assert (last["Total"].value, last["Total"].type) == (2**63 + 5, ValueType.UINT64)
        assert last["Enabled"].value is True
        assert last["Order"].value == "A-4711 ü"
        assert last["Profile"].value == "[1.0,2.0,3.0]"
        assert last["Matrix"].value == "[[1,2],[3,4]]"
        assert last["Blob"].value == b"\x00\xff"
        assert last["Stamp"].value == "2025-03-04T05:06:07Z"
        assert last["Text"].value == "läuft"
        assert (last["State"].value, last["State"].properties) == (1, '{"enum": "Running"}')
        assert json.loads(last["Job"].value) == {
            "order": 7,
            "at": {"x": 1.5, "label": "a"},
            "path": [{"x": 2.5, "label": "b"}],
        }
        assert {reading.quality for reading in intake.readings()} == {Quality.GOOD}
        assert not [reading for reading in intake.readings() if reading.reject]
        assert [state for state, _ in intake.states] == [SourceState.CONNECTING, SourceState.CONNECTED]


async def test_each_change_is_a_reading(plant, tmp_path):
    config = source(plant.endpoint, nodes=[f"nsu={MACHINE};s=Speed"], queue_size=100)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.readings("Speed"))
        for value in range(1, 31):
            plant.write("Speed", value, ua.VariantType.Int32)
        await intake.until(lambda: intake.last("Speed").value == 30)
        seen = [reading.value for reading in intake.readings("Speed")][1:]
        assert seen == list(range(1, 31))
        assert not intake.gaps


async def test_a_bad_status_is_a_reading_with_its_quality(plant, tmp_path):
    async with Reading(source(plant.endpoint, nodes=[f"nsu={MACHINE};s=Temperature"]), tmp_path) as intake:
        await intake.until(intake.readings)
        plant.write("Temperature", 21.0, ua.VariantType.Double, StatusCode=ua.StatusCode(0x40920000))
        await intake.until(lambda: intake.readings()[-1].value == 21.0)
        assert (intake.readings()[-1].quality, intake.readings()[-1].status) == (Quality.UNCERTAIN, 0x40920000)
        plant.write("Temperature", None, StatusCode=ua.StatusCode(0x808B0000))
        await intake.until(lambda: intake.readings()[-1].quality == Quality.BAD)
        assert (intake.readings()[-1].value, intake.readings()[-1].status) == (None, 0x808B0000)
        plant.write("Temperature", 20.5, ua.VariantType.Double)
        await intake.until(lambda: intake.readings()[-1].value == 20.5)


@pytest.mark.parametrize("mode", ["subscription", "polling"])
async def test_a_bad_node_is_said_and_stops_no_other(plant, tmp_path, mode, caplog):
    nodes = [f"nsu={MACHINE};s=Nowhere", "nsu=http://not.there/;i=1", f"nsu={MACHINE};s=Temperature", "i=2253"]
    config = source(plant.endpoint, nodes=nodes, mode=mode, polling_interval=0.1)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: len({r.tag.address for r in intake.readings()}) == 4)
        last = {reading.tag.address: reading for reading in intake.readings()}
        assert last[nodes[2]].quality == Quality.GOOD
        assert [last[nodes[at]].status for at in (0, 1, 3)] == [0x80340000, 0x80340000, 0x80350000]
        assert {last[nodes[at]].quality for at in (0, 1, 3)} == {Quality.BAD}
        assert last[nodes[0]].tag.tag_name == "Nowhere"
    assert "no such namespace" in caplog.text


async def test_browsing_finds_what_the_patterns_name(plant, tmp_path):
    config = source(
        plant.endpoint,
        browse={"include": ["Hall/*/T*", "Hall/Diagnostics/**"], "exclude": ["**/Text", "**/Diagnostics"]},
        tags=[{"match": "Hall/Press 1/Temperature", "equipment": "press-1"}],
    )
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: len(intake.tags) == 2 and len(intake.readings()) >= 2)
        tags = {intake.tags[at].tag_name: intake.tags[at] for at in range(len(intake.tags))}
        assert set(tags) == {"Hall.Press 1.Temperature", "Hall.Press 1.Total"}
        tag = tags["Hall.Press 1.Temperature"]
        assert (tag.address, tag.unit) == (f"nsu={MACHINE};s=Temperature", "°C")
        assert json.loads(tag.metadata) == {"browse_path": "Hall/Press 1/Temperature"}
        assert json.loads(tag.mapping) == {"equipment": "press-1"}


async def test_a_root_that_is_not_there_is_said_and_costs_the_others_nothing(plant, tmp_path, caplog):
    config = source(plant.endpoint, browse={"roots": [f"nsu={PLANT};s=Nowhere", "nsu=http://no/;i=1", "i=85"]})
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: len(values(intake)) == 13)
    assert f"root nsu={PLANT};s=Nowhere: nothing is browsed there: BadNodeIdUnknown" in caplog.text
    assert "root nsu=http://no/;i=1: the server has no such namespace" in caplog.text


class FewContinuationPoints:
    """Answers browses with two references at a time, and keeps the rest of one node only."""

    def __init__(self, references: dict[ua.NodeId, list[ua.ReferenceDescription]]) -> None:
        self._references = references
        self._rest: list[ua.ReferenceDescription] = []

    def _answer(self, references: list[ua.ReferenceDescription]) -> ua.BrowseResult:
        if len(references) <= 2:
            return ua.BrowseResult(References=references)
        if self._rest:
            return ua.BrowseResult(StatusCode=ua.StatusCode(StatusCodes.BadNoContinuationPoints))
        self._rest = references[2:]
        return ua.BrowseResult(ContinuationPoint=b"more", References=references[:2])

    async def browse(self, parameters: ua.BrowseParameters) -> list[ua.BrowseResult]:
        return [self._answer(self._references[asked.NodeId]) for asked in parameters.NodesToBrowse]

    async def browse_next(self, parameters: ua.BrowseNextParameters) -> list[ua.BrowseResult]:
        assert parameters.ContinuationPoints == [b"more"]
        rest, self._rest = self._rest, []
        return [self._answer(rest)]


async def test_a_server_with_few_continuation_points_is_browsed_to_the_end(tmp_path):
    nodes = [ua.NodeId(name, 2) for name in ("a", "b", "c", "d")]
    references = {
        node: [ua.ReferenceDescription(BrowseName=ua.QualifiedName(f"{node.Identifier}{i}")) for i in range(count)]
        for node, count in zip(nodes, (7, 5, 1, 3), strict=True)
    }
    session = Session(source("opc.tcp://127.0.0.1"), Context("g", tmp_path))
    session.uaclient = FewContinuationPoints(references)
    assert await session.references(nodes) == [references[node] for node in nodes]


async def test_without_nodes_all_variables_outside_namespace_0_are_read(plant, tmp_path):
    async with Reading(source(plant.endpoint), tmp_path) as intake:
        await intake.until(lambda: len(values(intake)) == 13)
        assert set(values(intake)) == {f"Hall.Press 1.{n.rpartition('=')[2]}" for n in NODES} | {
            "Hall.Diagnostics.Load"
        }


async def test_more_variables_than_max_nodes_are_left_out_and_said(plant, tmp_path, caplog):
    async with Reading(source(plant.endpoint, browse={"max_nodes": 5}), tmp_path) as intake:
        await intake.until(lambda: len(values(intake)) == 5)
    assert "max_nodes = 5" in caplog.text


async def test_browsing_ends_at_its_depth(plant, tmp_path):
    config = source(plant.endpoint, browse={"max_depth": 2})
    reading = Reading(config, tmp_path)
    with pytest.raises(LookupError, match="no variables"):
        await reading.start()


@pytest.mark.parametrize("mode", ["subscription", "polling"])
async def test_the_time_is_the_source_s_or_the_server_s(plant, tmp_path, mode):
    measured = datetime.datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
    passed_on = measured + datetime.timedelta(seconds=9)
    plant.write("Temperature", 20.5, ua.VariantType.Double, SourceTimestamp=measured, ServerTimestamp=passed_on)
    for choice, expected in (("source", measured), ("server", passed_on)):
        config = source(plant.endpoint, nodes=[f"nsu={MACHINE};s=Temperature"], timestamps=choice, mode=mode)
        async with Reading(config, tmp_path) as intake:
            await intake.until(intake.readings)
            assert intake.readings()[0].source_time == int(expected.timestamp() * 1_000_000)


async def test_a_node_carries_its_mapping_and_interval(plant, tmp_path):
    node = {"id": f"nsu={MACHINE};s=Speed", "interval": "200ms", "tag_name": "spindle", "unit": "rpm", "line": "L1"}
    async with Reading(source(plant.endpoint, nodes=[node]), tmp_path) as intake:
        await intake.until(lambda: intake.readings("spindle"))
        tag = intake.tags[0]
        assert (tag.unit, json.loads(tag.mapping)) == ("rpm", {"line": "L1"})


async def test_polls_keep_their_own_pace(plant, tmp_path):
    nodes = [
        {"id": f"nsu={MACHINE};s=Speed", "interval": 0.05},
        {"id": f"nsu={MACHINE};s=Temperature", "interval": 0.2},
    ]
    async with Reading(source(plant.endpoint, nodes=nodes, mode="polling"), tmp_path) as intake:
        await intake.until(lambda: len(intake.readings("Temperature")) == 5)
        fast = len(intake.readings("Speed"))
        assert 10 <= fast <= 24


async def test_a_full_journal_stops_the_reading_and_loses_nothing(plant, tmp_path, monkeypatch):
    monkeypatch.setattr(subscription, "_LATE", 0.3)
    intake = RecordingIntake(hold=True)
    config = source(plant.endpoint, nodes=[f"nsu={MACHINE};s=Speed"], queue_size=1000, publishing_interval=0.02)
    reading = Reading(config, tmp_path, intake)
    reading.start()
    try:
        await intake.until(lambda: intake.readings("Speed"))
        for value in range(40):
            plant.write("Speed", value, ua.VariantType.Int32)
            await asyncio.sleep(0.03)
        held = len(intake.appended)
        assert held <= 25
        intake.hold = False
        intake.release()
        await intake.until(lambda: intake.last("Speed").value == 39)
        assert [r.value for r in intake.readings("Speed")][1:] == list(range(40))
        assert len(intake.appended) > held
    finally:
        await reading.stop()


async def test_operation_limits_are_respected(tmp_path):
    server = PlantServer(free_port()).start()
    asked: list[tuple[str, int]] = []
    try:
        server.limit(reads=3, browses=2, items=4)
        from asyncua.server.internal_session import InternalSession

        class Watched(InternalSession):
            async def read(self, params):
                asked.append(("read", len(params.NodesToRead)))
                return await super().read(params)

            async def browse(self, params):
                asked.append(("browse", len(params.NodesToBrowse)))
                return await super().browse(params)

            async def create_monitored_items(self, params):
                asked.append(("items", len(params.ItemsToCreate)))
                return await super().create_monitored_items(params)

        create = server.server.iserver.create_session

        def watched(*args, **kwargs):
            session = create(*args, **kwargs)
            session.__class__ = Watched
            return session

        server.server.iserver.create_session = watched
        async with Reading(source(server.endpoint), tmp_path) as intake:
            await intake.until(lambda: len(values(intake)) == 11)
        async with Reading(source(server.endpoint, mode="polling"), tmp_path) as intake:
            await intake.until(lambda: len(values(intake)) == 11)
    finally:
        server.stop()
    largest = {kind: max(count for k, count in asked if k == kind) for kind in ("read", "browse", "items")}
    assert largest == {"read": 3, "browse": 2, "items": 4}


async def test_intervals_and_queue_sizes_reach_the_server(plant, tmp_path):
    asked: list[tuple[float, int]] = []
    published: list[float] = []
    service = plant.server.iserver.subscription_service
    create_items, create = service.create_monitored_items, service.create_subscription

    async def watched_items(params, *more):
        asked.extend(
            (i.RequestedParameters.SamplingInterval, i.RequestedParameters.QueueSize) for i in params.ItemsToCreate
        )
        return await create_items(params, *more)

    async def watched(params, *more, **named):
        published.append(params.RequestedPublishingInterval)
        return await create(params, *more, **named)

    service.create_monitored_items, service.create_subscription = watched_items, watched
    try:
        nodes = [f"nsu={MACHINE};s=Speed", {"id": f"nsu={MACHINE};s=Temperature", "interval": "1s"}]
        for sampling in (0.25, None):
            config = source(
                plant.endpoint, nodes=nodes, publishing_interval=0.2, sampling_interval=sampling, queue_size=7
            )
            async with Reading(config, tmp_path) as intake:
                await intake.until(lambda: len(values(intake)) == 2)
    finally:
        service.create_monitored_items, service.create_subscription = create_items, create
    assert asked == [(250.0, 7), (1000.0, 7), (-1.0, 7), (1000.0, 7)]  # -1 is the publishing interval
    assert published == [200.0, 200.0]


async def test_after_a_restart_readings_go_on_with_namespaces_in_another_order_and_a_gap(tmp_path):
    port = free_port()
    server = PlantServer(port).start()
    nodes = [f"nsu={MACHINE};s=Temperature"]
    reading = Reading(source(f"opc.tcp://127.0.0.1:{port}/plant", nodes=nodes), tmp_path)
    try:
        task = reading.start()
        await reading.intake.until(reading.intake.readings)
        server.stop()
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever the connection died of
            await asyncio.wait_for(task, 5)
        assert reading.intake.states[-1][0] == SourceState.DOWN
        with pytest.raises(OSError):  # noqa: PT011  refused
            await asyncio.wait_for(reading.start(), 5)
        server = PlantServer(port, swapped=True).start()
        before = len(reading.intake.readings())
        state = reading.intake.appended[-1][1]
        reading.start(state)
        await reading.intake.until(lambda: len(reading.intake.readings()) > before)
        assert reading.intake.readings()[-1].value == 20.5
        assert len(reading.intake.tags) == 1
        (gap,) = reading.intake.gaps
        assert (gap.tags[0].tag_name, gap.start) == ("Temperature", json.loads(state)["last_reading"])
    finally:
        await reading.stop()
        server.stop()


async def test_a_gap_begins_with_the_last_sign_that_nothing_changed(tmp_path):
    """The subscription is quiet: only keep-alives come."""
    server = PlantServer(free_port()).start()
    config = source(server.endpoint, nodes=[f"nsu={MACHINE};s=Temperature"], keep_alive_interval=0.1)
    reading = Reading(config, tmp_path)
    try:
        task = reading.start()
        await reading.intake.until(reading.intake.readings)
        await asyncio.sleep(1.0)
        quiet = time.time_ns() // 1000
        server.stop()
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever the connection died of
            await asyncio.wait_for(task, 5)
        server = PlantServer(server.port).start()
        state = reading.intake.appended[-1][1]
        reading.start(state)
        await reading.intake.until(lambda: reading.intake.gaps)
        (gap,) = reading.intake.gaps
        assert quiet - 500_000 < gap.start < gap.end
    finally:
        await reading.stop()
        server.stop()


async def test_a_link_that_is_silent_is_noticed_within_twice_the_keep_alive(plant, tmp_path):
    async with Relay(plant.port) as relay:
        nodes = [f"nsu={MACHINE};s=Temperature"]
        reading = Reading(source(relay.endpoint, nodes=nodes, keep_alive_interval=0.5, timeout=5.0), tmp_path)
        task = reading.start()
        await reading.intake.until(reading.intake.readings)
        relay.flowing.clear()
        clock = asyncio.get_running_loop().time
        started = clock()
        await reading.intake.until(lambda: reading.intake.states[-1][0] == SourceState.DOWN)
        assert clock() - started < 2 * 0.5 + 0.3, "a busy machine takes its time"
        with pytest.raises(ConnectionError, match="did not answer|has been silent"):
            await asyncio.wait_for(task, 5)


async def test_a_server_that_sends_without_end_is_cut_off(tmp_path):
    """It announces a chunk of 2 GB; nobody waits for it to arrive."""
    closed = asyncio.Event()

    async def hostile(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(b"ACKF" + (28).to_bytes(4, "little") + bytes(4) + b"\xff\xff\xff\x7f" * 2 + bytes(8))
        await reader.read(65536)
        writer.write(b"MSGF" + (0x7FFFFFFF).to_bytes(4, "little"))
        sent = 0
        try:
            while sent < 64 * 2**20:
                writer.write(b"\0" * 65536)
                sent += 65536
                await writer.drain()
        except OSError:
            closed.set()
        writer.close()

    server = await asyncio.start_server(hostile, "127.0.0.1", 0)
    endpoint = f"opc.tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    try:
        with pytest.raises(ConnectionError, match="a chunk of more than the 65536 bytes that were agreed"):
            await asyncio.wait_for(Reading(source(endpoint), tmp_path).start(), 5)
        await asyncio.wait_for(closed.wait(), 5)
    finally:
        server.close()


async def test_a_value_larger_than_allowed_ends_the_connection_and_not_the_memory(plant, tmp_path):
    """It comes in several chunks; a larger limit takes it."""
    blob = bytes(range(256)) * 1200
    plant.write("Blob", blob, ua.VariantType.ByteString)
    nodes = [f"nsu={MACHINE};s=Blob"]
    try:
        async with Reading(source(plant.endpoint, nodes=nodes), tmp_path) as intake:
            await intake.until(intake.readings)
            assert intake.readings()[0].value == blob
        for limits in ({"max_message_size": 200_000}, {"max_chunk_count": 3}):
            reading = Reading(source(plant.endpoint, nodes=nodes, **limits), tmp_path)
            with pytest.raises(ConnectionError, match=f"see {next(iter(limits))}"):
                await asyncio.wait_for(reading.start(), 5)
            assert not reading.intake.readings()
    finally:
        plant.write("Blob", b"\x00\xff", ua.VariantType.ByteString)


async def test_check_says_what_it_found(plant, tmp_path):
    nodes = [f"nsu={MACHINE};s=Speed", "nsu=http://not.there/;i=1"]
    findings = await Reading(source(plant.endpoint, nodes=nodes), tmp_path).reader.check()
    assert [finding.ok for finding in findings] == [True, False]
    assert "http://not.there/" in findings[1].detail
    findings = await Reading(source(f"opc.tcp://127.0.0.1:{free_port()}"), tmp_path).reader.check()
    assert [finding.ok for finding in findings] == [False]


def test_reader_of_a_config(tmp_path):
    config: OpcUaConfig = source("opc.tcp://host")
    assert config.endpoint == "opc.tcp://host:4840"
    assert config.reader(Context("g", tmp_path)) is not None
