"""The OPC UA reader against node-opcua, a server that is not built on our client library."""

import asyncio
import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua

from connectors.contract import SourceState
from connectors.sources.opcua.session import ServerRefusedError
from connectors.sources.opcua.trust import UntrustedServerError
from normalization.reading import Quality, ValueType
from tests.connectors.sources.opcua.conftest import Reading, Relay, source
from tests.connectors.sources.opcua.server_process import ServerProcess
from tests.discovery.scans import found_at, loads
from tests.ports import free_port
from tests.recording_intake import RecordingIntake

pytestmark = pytest.mark.interop("node-opcua")

COUNTERPART = Path(__file__).parents[3] / "counterparts" / "opcua-node"
NAMES = {"Double", "Int32", "UInt64", "Text", "Flag", "Array", "Matrix", "State", "Job", "Anything", "Many"}


class NodeServer(ServerProcess):
    """The node-opcua process."""

    LIMIT = 3  # nodes in one request, fewer than any test reads

    def __init__(self, pki: Path) -> None:
        self.port = free_port()
        self._pki = pki
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}/lab"
        self.start()

    def start(self) -> None:
        command = ["node", str(COUNTERPART / "server.js"), str(self.port), str(self._pki), str(self.LIMIT)]
        self.launch(command, "node-opcua", 60)

    def command(self, **command: Any) -> None:
        self.say(json.dumps(command))


@pytest.fixture(scope="module")
def installed() -> None:
    subprocess.run(["/bin/sh", str(COUNTERPART / "install.sh")], check=True, timeout=300, stdout=sys.stderr)


@pytest.fixture(scope="module")
def node(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeServer]:
    server = NodeServer(tmp_path_factory.mktemp("pki"))
    yield server
    server.kill()


def device(endpoint: str, **more: Any) -> Any:
    browse = {"include": ["Device/**"], "tag_name": "name"}
    return source(endpoint, **{"browse": browse, "polling_interval": 0.1, "queue_size": 100, **more})


@pytest.mark.parametrize("mode", ["subscription", "polling"])
async def test_values_of_all_kinds_arrive(node, tmp_path, mode):
    async with Reading(device(node.endpoint, mode=mode), tmp_path) as intake:
        await intake.until(lambda: {r.tag.tag_name for r in intake.readings()} == NAMES, 10)
        value = {name: intake.last(name).value for name in NAMES}
        assert value["Double"] == 1.5
        assert value["Int32"] == -7
        assert (value["UInt64"], intake.last("UInt64").type) == (2**63 + 5, ValueType.UINT64)
        assert value["Text"] == "grün"
        assert value["Flag"] is True
        assert value["Array"] == "[1.0,2.0,3.0]"
        assert value["Matrix"] == "[[1,2,3],[4,5,6]]"
        assert (value["State"], intake.last("State").properties) == (1, '{"enum": "Working"}')
        job = {"Order": "A-1", "Target": {"X": 1, "Y": 2}, "Path": [{"X": 3, "Y": 4}, {"X": 5, "Y": 6}], "State": 2, "Count": 9}  # fmt: skip
        assert json.loads(value["Job"]) == job
        assert json.loads(value["Many"]) == [job]
        assert json.loads(value["Anything"]) == {"Since": "1970-01-01T00:00:00Z", "Length": 2.5}
        assert not [reading for reading in intake.readings() if reading.reject or reading.quality != Quality.GOOD]


async def test_each_change_is_a_reading_and_a_bad_sensor_too(node, tmp_path):
    async with Reading(device(node.endpoint), tmp_path) as intake:
        await intake.until(lambda: intake.readings("Int32"), 10)
        node.command(burst=["Int32", 0, 10, 80])
        await intake.until(lambda: intake.last("Int32").value == 9)
        assert [r.value for r in intake.readings("Int32")][-10:] == list(range(10))
        assert not intake.gaps
        node.command(bad=["Double"])
        await intake.until(lambda: intake.last("Double").quality == Quality.BAD)
        assert (intake.last("Double").value, intake.last("Double").status) == (None, 0x808C0000)
        node.command(set=["Double", 1.5])
        await intake.until(lambda: intake.last("Double").value == 1.5)


@pytest.mark.parametrize("more", [{}, {"nodes": ["ns=1;s=Int32"], "history": False}])
async def test_a_queue_that_overflowed_is_a_gap_where_no_history_is_read(node, tmp_path, more):
    name = "Int32" if more else "Double"
    config = device(node.endpoint, queue_size=2, publishing_interval=0.5, **more)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.readings(name), 10)
        node.command(burst=[name, 1000, 1020, 60])
        await intake.until(lambda: intake.last(name).value == 1019, 10)
        arrived = [r.value for r in intake.readings(name) if r.value >= 1000]
        assert len(arrived) < 20
        assert {tag.tag_name for gap in intake.gaps for tag in gap.tags} == {name}
        assert all(gap.start <= gap.end for gap in intake.gaps)
        node.command(set=["Double", 1.5])


async def test_a_server_is_refused_until_its_certificate_is_trusted(node, tmp_path):
    config = device(node.endpoint, security_policy="basic256sha256")
    reading = Reading(config, tmp_path)
    with pytest.raises(UntrustedServerError, match="not trusted; move"):
        await reading.start()
    (rejected,) = (tmp_path / "rejected").iterdir()
    assert not reading.intake.readings()
    assert stat.S_IMODE((tmp_path / "own" / "key.pem").stat().st_mode) == 0o600
    rejected.rename(tmp_path / "trusted" / rejected.name)
    async with reading as intake:
        await intake.until(lambda: intake.last("Double"), 10)
    assert not list((tmp_path / "rejected").iterdir())


@pytest.mark.parametrize("mode", ["sign", "sign_and_encrypt"])
async def test_trust_all_takes_any_server_and_the_user_logs_in(node, tmp_path, mode):
    config = device(
        node.endpoint, security_policy="basic256sha256", security_mode=mode, trust="all", username="user1", password="secret1"
    )  # fmt: skip
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.last("Double"), 10)


async def test_a_wrong_password_is_said(node, tmp_path):
    config = device(node.endpoint, security_policy="basic256sha256", trust="all", username="user1", password="wrong")
    reading = Reading(config, tmp_path)
    with pytest.raises(ServerRefusedError, match="refuses user user1"):
        await reading.start()
    assert SourceState.CONNECTED not in [state for state, _ in reading.intake.states]


async def test_a_password_is_encrypted_for_a_trusted_server_only(node, tmp_path):
    """On a channel without security the server offers to have the password encrypted with its certificate."""
    config = device(node.endpoint, username="user1", password="secret1")
    with pytest.raises(UntrustedServerError):
        await Reading(config, tmp_path).start()
    (rejected,) = (tmp_path / "rejected").iterdir()
    rejected.rename(tmp_path / "trusted" / rejected.name)
    async with Reading(config, tmp_path) as intake:
        await intake.until(lambda: intake.last("Double"), 10)


async def test_the_limits_that_all_these_tests_kept_to_are_enforced(node):
    async with Client(node.endpoint) as client:
        nodes = [client.get_node("i=2258")] * 4
        with pytest.raises(ua.uaerrors.BadTooManyOperations):
            await client.read_values(nodes)
        await client.read_values(nodes[:3])


async def test_after_the_server_was_killed_readings_go_on(node, tmp_path):
    config = device(node.endpoint, security_policy="basic256sha256", trust="all", keep_alive_interval=0.5)
    reading = Reading(config, tmp_path)
    try:
        task = reading.start()
        await reading.intake.until(lambda: reading.intake.last("Double"), 10)
        node.kill()
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever the connection died of
            await asyncio.wait_for(task, 5)
        assert reading.intake.states[-1][0] == SourceState.DOWN
        node.start()
        before = len(reading.intake.readings())
        reading.start(reading.intake.appended[-1][1])
        await reading.intake.until(lambda: len(reading.intake.readings()) >= before + len(NAMES), 10)
        gaps = {gap.reason: {tag.tag_name for tag in gap.tags} for gap in reading.intake.gaps}
        assert gaps == {"not connected": NAMES - {"Int32"}, "the server was started again": {"Int32"}}
    finally:
        await reading.stop()


def counted(intake: RecordingIntake, first: int) -> list[Any]:
    return [r.value for r in intake.readings("Int32") if r.value is not None and r.value >= first]


async def test_after_a_restart_of_the_gateway_nothing_is_missing_and_nothing_twice(node, tmp_path):
    """The first gateway dies with messages that are not on disk; values go on while there is none."""
    first = Reading(device(node.endpoint), tmp_path, RecordingIntake(hold=True))
    first.start()
    await first.intake.until(lambda: first.intake.readings("Int32"), 10)
    node.command(burst=["Int32", 5000, 5030, 60])
    await first.intake.until(lambda: first.intake.last("Int32").value >= 5005)
    on_disk = next(
        at for at, (rows, _) in enumerate(first.intake.appended) if 5002 in [v for v in rows.value_int if v is not None]
    )
    state = first.intake.appended[on_disk][1]
    kept = [
        v for rows, _ in first.intake.appended[: on_disk + 1] for v in rows.value_int if v is not None and v >= 5000
    ]
    await first.intake.until(lambda: first.intake.last("Int32").value >= 5012)
    await first.stop()
    await asyncio.sleep(0.3)
    second = Reading(device(node.endpoint), tmp_path)
    second.start(state)
    try:
        await second.intake.until(lambda: counted(second.intake, 5029), 10)
        assert [v for v in kept if v < 2**31] + counted(second.intake, 5000) == list(range(5000, 5030))
        assert not second.intake.gaps
        assert not second.intake.readings("Text"), "what did not change is not sent again"
    finally:
        await second.stop()


@pytest.mark.parametrize(("security", "low"), [("none", 6000), ("basic256sha256", 7000)])
async def test_after_a_cut_connection_nothing_is_missing_and_what_was_stale_is_said_again(
    node, tmp_path, security, low
):
    async with Relay(node.port) as relay:
        config = device(
            relay.endpoint.replace("/plant", "/lab"), keep_alive_interval=0.4, security_policy=security, trust="all"
        )
        reading = Reading(config, tmp_path)
        task = reading.start()
        try:
            await reading.intake.until(lambda: {r.tag.tag_name for r in reading.intake.readings()} == NAMES, 10)
            node.command(burst=["Int32", low, low + 50, 60])
            await reading.intake.until(lambda: counted(reading.intake, low))
            relay.flowing.clear()
            with pytest.raises(ConnectionError):
                await asyncio.wait_for(task, 5)
            state, before = reading.intake.appended[-1][1], len(reading.intake.readings("Text"))
            relay.flowing.set()
            reading.start(state)
            await reading.intake.until(lambda: counted(reading.intake, low + 49), 10)
            await reading.intake.until(lambda: len(reading.intake.readings("Text")) > before)
            values = counted(reading.intake, low)
            assert sorted(set(values)) == list(range(low, low + 50))
            assert len(values) - 50 <= 1, "the current value may come twice"
            assert not reading.intake.gaps
        finally:
            await reading.stop()


@pytest.mark.interop("node-opcua", "discovery: endpoints, policies and users")
async def test_a_scan_sees_endpoints_policies_and_users(node, tmp_path):
    found = await found_at(tmp_path, "opcua", node.port)
    offers = {(each["policy"], each["mode"]) for each in found.detail["endpoints"]}
    assert {("None", "none"), ("Basic256Sha256", "sign_and_encrypt")} <= offers
    assert any("anonymous" in each["users"] for each in found.detail["endpoints"])
    assert all(len(each["certificate"]["sha256"]) == 64 for each in found.detail["endpoints"])
    assert found.detail["servers"][0]["application_uri"] == found.detail["application_uri"] != ""
    source = loads(tmp_path, found)
    assert source.endpoint.startswith(f"opc.tcp://127.0.0.1:{node.port}/")
    assert source.security_policy == "auto"
