"""The edge node before mosquitto, with Eclipse Tahu's host application as the one that reads it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from connectors.contract import ConfigError, Context, DeliveryError, TransientError, Writer
from connectors.targets.mqtt import MqttTargetConfig
from normalization.reading import Flags
from tests.connectors.sources.sparkplug_edges import install
from tests.contract.readings import Source
from tests.mosquitto_broker import Broker

_BUILT = Path(__file__).parents[3] / "build" / "counterparts" / "sparkplug-tahu"


@pytest.fixture(scope="module")
def installed() -> None:
    install("sparkplug-tahu")


@pytest.fixture
def source() -> Source:
    return Source()


class Host:
    """Tahu's host application, see HostApp.java."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []
        self.logged: list[str] = []

    async def until(self, condition: Callable[["Host"], bool]) -> None:
        assert self._process.stdout is not None
        try:
            async with asyncio.timeout(30):
                while not condition(self):
                    line = await self._process.stdout.readline()
                    assert line, self.logged
                    if line.startswith(b"{"):  # Tahu logs between
                        self.said.append(json.loads(line))
                    else:
                        self.logged.append(line.decode().rstrip())
        except TimeoutError:
            raise AssertionError(self.said[-20:], self.logged[-20:]) from None

    def tell(self, words: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(words.encode() + b"\n")

    def events(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.said if one["event"] == name]

    def data(self) -> list[tuple[str, Any, bool]]:
        return [(one["name"], one["value"], one["historical"]) for one in self.events("onDataMetric")]


@asynccontextmanager
async def tahu(port: int) -> AsyncIterator[Host]:
    process = await asyncio.create_subprocess_exec(
        "java", "-Xmx128m", "-XX:+UseSerialGC", "-cp", f"{_BUILT}/classes:{_BUILT}/lib/*", "HostApp", str(port),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        host = Host(process)
        await host.until(lambda host: bool(host.events("onConnect")))
        yield host
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def node(port: int, folder: Path, timeout: str = "10s", **sparkplug: Any) -> Writer:
    own = {"payload": "sparkplug", "sparkplug": {"group": "G", "node": "N", "metric": "{tag_name}"} | sparkplug}
    config = {"endpoint": f"mqtt://127.0.0.1:{port}", "timeout": timeout, "provider_config": own}
    return MqttTargetConfig.model_validate(config).writer(Context("line 1", folder))


@pytest.mark.interop("Eclipse Tahu", "a host application reads births, data by alias and arrays of our edge node")
async def test_tahu_reads_births_and_data_of_every_type(installed: None, tmp_path: Path, source: Source) -> None:
    values = [1.5, -(2**63), True, "läuft ✓", b"\x00\xff", [1, 2], [0.5], ["a", "ß"], [True, False], None, 2**64 - 1]
    tags = [source.tag(at, tag_name=f"t{at}", source="press") for at in range(len(values))]
    async with Broker(tmp_path) as broker, tahu(broker.port) as host:
        writer = node(broker.port, tmp_path)
        await writer.open()
        await writer.write(source.batch(values, tags=tags, unsigned=[False] * 10 + [True]), 1)
        await writer.write(source.batch([2.5, 3.5], tags=tags[:1] * 2), 2)
        await host.until(lambda host: len(host.data()) >= len(values) + 2)
        births = {one["name"]: one["type"] for one in host.events("onBirthMetric")}
        assert births | {"bdSeq": "Int64", "Node Control/Rebirth": "Boolean"} == births
        assert [births[f"t{at}"] for at in range(len(values))] == [
            "Double", "Int64", "Boolean", "String", "Bytes", "Int64Array", "DoubleArray", "StringArray", "BooleanArray",
            "Double", "UInt64",
        ]  # fmt: skip
        found = {name: value for name, value, _ in host.data()[: len(values)]}
        assert list(found.values()) == [
            1.5, -(2**63), True, "läuft ✓", "AP8=", [1, 2], [0.5], ["a", "ß"], [True, False], None, 2**64 - 1,
        ]  # fmt: skip
        assert [value for name, value, _ in host.data() if name == "t0"] == [1.5, 2.5, 3.5]
        assert not host.events("onStale")
        await writer.close()
        await host.until(lambda host: bool(host.events("onNodeDeath")))


@pytest.mark.interop("Eclipse Tahu", "a host application asks our edge node for a rebirth, and gets it")
async def test_a_rebirth_is_answered_with_all_births(installed: None, tmp_path: Path, source: Source) -> None:
    tags = [source.tag(at, tag_name=f"t{at}", source=f"press{at}") for at in range(2)]
    async with Broker(tmp_path) as broker, tahu(broker.port) as host:
        writer = node(broker.port, tmp_path)
        await writer.open()
        await writer.write(source.batch([1.5, 2.5], tags=tags), 1)
        await host.until(lambda host: len(host.data()) >= 2)
        host.tell("rebirth G N")
        await host.until(lambda host: len(host.events("onNodeBirthComplete")) >= 2)
        await host.until(lambda host: len(host.events("onDeviceBirthComplete")) >= 4)
        numbers = [one["value"] for one in host.events("onBirthMetric") if one["name"] == "bdSeq"]
        assert numbers == [0, 0]
        assert [one["value"] for one in host.events("onBirthMetric") if one["name"] == "t1"] == [2.5, 2.5]
        await writer.write(source.batch([3.5], tags=tags[:1]), 2)
        await host.until(lambda host: len(host.data()) >= 3)
        assert host.data()[-1][:2] == ("t0", 3.5)
        await writer.close()


@pytest.mark.interop(
    "Eclipse Tahu", "a host application sees the next session of our edge node after a break and a restart"
)
async def test_sessions_are_counted_over_breaks_and_restarts(installed: None, tmp_path: Path, source: Source) -> None:
    tags = [source.tag(0, tag_name="t", source="press")]
    async with Broker(tmp_path) as broker, tahu(broker.port) as host:
        first = node(broker.port, tmp_path)
        await first.open()
        await first.write(source.batch([1.5], tags=tags), 1)
        first._publisher.session.fail(ConnectionError("cable pulled"))  # type: ignore[attr-defined]
        await host.until(lambda host: bool(host.events("onNodeDeath")))
        with pytest.raises(DeliveryError):
            await first.write(source.batch([2.5], tags=tags), 2)
        await first.close()
        second = node(broker.port, tmp_path)  # the process began anew
        await second.open()
        late = source.batch([2.5], tags=tags)
        place = late.schema.get_field_index("flags")
        late = late.set_column(place, late.schema.field(place), pa.array([int(Flags.RESENT)], pa.int16()))
        await second.write(late, 2)
        await host.until(lambda host: len(host.data()) >= 2)
        numbers = [one["value"] for one in host.events("onBirthMetric") if one["name"] == "bdSeq"]
        assert numbers == [0, 1]
        assert host.data()[-1] == ("t", 2.5, True)
        await second.close()


@pytest.mark.interop("Eclipse Tahu", "our edge node waits for its primary host, and leaves with it")
async def test_nothing_is_published_without_the_primary_host(installed: None, tmp_path: Path, source: Source) -> None:
    tags = [source.tag(0, tag_name="t", source="press")]
    async with Broker(tmp_path) as broker:
        writer = node(broker.port, tmp_path, "300ms", primary_host="scada")
        with pytest.raises(TransientError, match="primary host is not online"):
            await writer.open()
        async with tahu(broker.port) as host:
            writer = node(broker.port, tmp_path, primary_host="scada")
            await writer.open()
            await writer.write(source.batch([1.5], tags=tags), 1)
            await host.until(lambda host: len(host.data()) == 1)
            host.tell("offline")
            await host.until(lambda host: bool(host.events("onNodeDeath")))
            with pytest.raises(TransientError):
                await writer.write(source.batch([2.5], tags=tags), 2)
            await writer.close()
            host.tell("online")
            await writer.open()
            await writer.write(source.batch([2.5], tags=tags), 2)
            await host.until(lambda host: len(host.data()) == 2)
            await writer.close()


async def test_the_will_is_not_retained_and_births_are_not_either(tmp_path: Path, source: Source) -> None:
    async with Broker(tmp_path) as broker:
        writer = node(broker.port, tmp_path)
        await writer.open()
        await writer.write(source.batch([1.5]), 1)
        writer._publisher.session.fail(ConnectionError("cable pulled"))  # type: ignore[attr-defined]
        await broker.until_logged(lambda log: "Sending PUBLISH" not in log and "closed its connection" in log)
        listening = await asyncio.create_subprocess_exec(
            "mosquitto_sub", "-p", str(broker.port), "-t", "spBv1.0/#", "-W", "1", stdout=asyncio.subprocess.PIPE
        )
        assert (await listening.communicate())[0] == b""
        assert "NDEATH/N', ... " in broker.log() or "NDEATH" in broker.log()
        await writer.close()


async def test_a_state_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "sparkplug-N.json").write_text("{")
    with pytest.raises(ConfigError, match=r"sparkplug-N\.json"):
        await node(1, tmp_path).open()
