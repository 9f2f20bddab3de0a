"""What a reader measures of a server: its clock, and how long certificates are valid."""

import time

import pytest

from tests.connectors.sources.opcua.conftest import Reading, source
from tests.connectors.sources.opcua.test_opcua_interop import NodeServer, installed, node  # noqa: F401 - fixtures
from tests.wall_clock import WallClock


@pytest.mark.interop("node-opcua", "a server whose clock is wrong is said, and measured")
async def test_a_clock_that_is_wrong_is_said_and_measured(installed, tmp_path, monkeypatch, caplog):  # noqa: F811
    clock = WallClock(tmp_path)
    with monkeypatch.context() as patch:
        for name, value in clock.environment.items():
            patch.setenv(name, value)
        server = NodeServer(tmp_path / "pki")
    try:
        clock.set(3600)
        reading = Reading(source(server.endpoint, nodes=["ns=1;s=Double"]), tmp_path)
        async with reading as intake:
            await intake.until(lambda: reading.reader.measures and intake.readings(), 15)
            assert reading.reader.measures == {"server_clock_ahead_seconds": pytest.approx(3600, abs=10)}
        assert caplog.text.count("s ahead of ours") == 1
    finally:
        server.kill()


async def test_the_ends_of_both_certificates_are_measured(node, tmp_path, caplog):  # noqa: F811
    config = source(node.endpoint, nodes=["ns=1;s=Double"], security_policy="auto", trust="all")
    reading = Reading(config, tmp_path)
    async with reading as intake:
        await intake.until(lambda: len(reading.reader.measures) == 3 and intake.readings(), 15)
        measures = dict(reading.reader.measures)
    assert abs(measures.pop("server_clock_ahead_seconds")) < 5
    assert "of ours" not in caplog.text
    year = 365 * 24 * 3600
    assert measures.pop("own_certificate_end_timestamp_seconds") - time.time() == pytest.approx(5 * year, rel=0.01)
    assert measures.pop("server_certificate_end_timestamp_seconds") > time.time() + year
