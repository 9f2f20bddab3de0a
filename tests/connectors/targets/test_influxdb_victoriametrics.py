"""VictoriaMetrics, real: it keeps numbers, with twelve digits or more of a double, so that it is not in the contract suite."""

import signal

import pytest

from connectors.contract import Context
from connectors.targets.influxdb import InfluxConfig
from tests.connectors.targets.influxdb_writers import opened, rejected
from tests.contract.readings import BASE_TIME, SAMPLES, Source
from tests.influx_server import VictoriaMetrics, running

pytestmark = pytest.mark.interop("VictoriaMetrics")
FIELDS = ["quality", "sequence", "source_time"]


def config(server: VictoriaMetrics, **own: object) -> InfluxConfig:
    settings = {"version": "victoriametrics", "fields": FIELDS} | own
    return InfluxConfig.model_validate({"endpoint": server.url, "timeout": "10s", "provider_config": settings})


def by_sequence(server: VictoriaMetrics) -> dict[int, dict[str, float]]:
    """What is there of each reading, by the name of the field."""
    points: dict[tuple[str, int], dict[str, float]] = {}
    for sample in server.samples():
        name = str(sample["__name__"]).removeprefix("reading_")
        points.setdefault((sample["path"], sample["time"]), {})[name] = sample["sample"]
    return {int(point.pop("sequence")): point for point in points.values()}


async def test_numbers_come_back_and_what_it_cannot_keep_is_rejected() -> None:
    with running(VictoriaMetrics()) as server:
        batch = Source().samples()
        async with opened(config(server)) as writer:
            found = await rejected(writer, batch)
            kept = by_sequence(server)
            server.kill(signal.SIGTERM)
            server.start()
            assert by_sequence(server) == kept
    refused = {SAMPLES[row].name: why for row, why in zip(found.indices, found.reasons, strict=True)}
    assert found.rest_written
    assert {name for name, why in refused.items() if "cannot hold this integer" in why} == {
        "largest integer", "smallest integer", "integer above 2^53", "largest unsigned",
    }  # fmt: skip
    assert {name for name, why in refused.items() if why == "this server keeps numbers only"} == {
        "text", "empty text", "text of all sorts", "text of two lines", "bytes", "no bytes", "array", "structure",
    }  # fmt: skip
    assert {SAMPLES[number].name for number in kept} == {sample.name for sample in SAMPLES} - set(refused)
    for number, point in kept.items():
        assert point.pop("source_time") == BASE_TIME + number * 1_001
        sample = SAMPLES[number]
        if sample.value is None:
            assert point == {"quality": 0.0} or list(point) == ["quality"]
            continue
        name = {bool: "value_bool", int: "value_uint" if sample.unsigned else "value_int", float: "value"}
        assert point[name[type(sample.value)]] == pytest.approx(float(sample.value), rel=1e-11, abs=1e-300)


async def test_a_server_that_is_not_there_comes_back_with_what_it_had() -> None:
    source = Source()
    with running(VictoriaMetrics()) as server:
        async with opened(config(server)) as writer:
            await writer.write(source.batch([1.0, 2.0]), 1)
            server.kill(signal.SIGTERM)
            server.start()
            await writer.close()
            await writer.open()
            await writer.write(source.batch([3.0]), 2)
            assert {number: point["value"] for number, point in by_sequence(server).items()} == {0: 1.0, 1: 2.0, 2: 3.0}
            assert all(finding.ok for finding in await writer.check())


def test_it_does_not_know_a_reading_again() -> None:
    settings = {"provider_config": {"version": "victoriametrics"}}
    assert not InfluxConfig.model_validate(settings).writer(Context("g", None)).limits.has_key  # type: ignore[arg-type]
