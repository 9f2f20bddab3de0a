"""A source's own certificate that is renewed while it reads: it connects anew with it, and loses nothing."""

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from config.certificates import CertificatesDesk
from config.models import Configuration
from connectors.contract import Context, SourceState
from delivery.journal import Journal
from delivery.outcome import Outcome
from flows.intake import SourceIntake, supervise
from flows.renewed import Renewed
from normalization.reading import TagTable
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer, Relay, source
from tests.ports import free_port


@pytest.fixture
def secured(tmp_path: Path) -> Iterator[PlantServer]:
    (tmp_path / "server").mkdir()
    server = PlantServer(free_port(), tmp_path / "server").start()
    yield server
    server.stop()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def test_a_renewed_certificate_is_shown_to_the_server_without_a_restart(secured, tmp_path):
    tags = TagTable()
    journal = Journal(tmp_path / "journal", "gw", tags)
    for index in range(16):
        journal.attach(index, None, lambda batch: Outcome())
    async with Relay(secured.port) as relay:
        nodes = [f"nsu={MACHINE};s=Temperature"]
        press = source(relay.endpoint, nodes=nodes, security_policy="basic256sha256", trust="all")
        config = replace(Configuration("gw", tmp_path / "data"), sources=(press,))
        folder = config.directory / "sources" / press.name
        intake = SourceIntake(press.name, press.protocol, journal, tags)

        class Gateway:
            def __init__(self) -> None:
                self.config = config

            def reopen(self, sources, targets):
                assert (list(sources), list(targets)) == ([press.name], [])
                intake.reopen()

        renewed = Renewed(Gateway())
        renewed.look()
        reading = asyncio.create_task(supervise(press, Context("gw", folder), intake, journal))
        try:
            await until(lambda: intake.status.received)
            renewed.look()  # the certificate that the source has made for itself
            renewed.look()
            assert intake.status.reconnections == 0
            file = folder / "own" / "certificate.der"
            before = file.read_bytes()
            assert before in relay.sent

            desk = CertificatesDesk(lambda: config)
            (row,) = [row for row in desk.listed()["certificates"] if row["kind"] == "own"]
            desk.renew(row["id"])
            assert file.read_bytes() != before
            await asyncio.to_thread(secured.write, "Temperature", 1.0)
            await until(lambda: intake.status.received == 2)
            renewed.look()
            renewed.look()
            await asyncio.to_thread(secured.write, "Temperature", 2.0)  # while it connects anew
            await until(lambda: intake.status.reconnections == 1)
            await asyncio.to_thread(secured.write, "Temperature", 3.0)
            await until(lambda: intake.status.received == 4)
            assert intake.status.gaps == 0
            assert file.read_bytes() in relay.sent
            assert intake.status.state is SourceState.CONNECTED
            renewed.look()
            renewed.look()
            assert intake.status.reconnections == 1
        finally:
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            journal.close()
