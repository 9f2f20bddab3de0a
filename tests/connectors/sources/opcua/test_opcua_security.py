"""Security of the OPC UA source against a server of asyncua: channels, passwords, and whom it talks to."""

from collections.abc import Iterator

import pytest

from connectors.sources.opcua.security import ServerRefusedError
from connectors.sources.opcua.trust import UntrustedServerError
from tests.connectors.sources.opcua.conftest import MACHINE, PlantServer, Reading, Relay, source
from tests.ports import free_port


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantServer]:
    server = PlantServer(free_port(), tmp_path_factory.mktemp("server")).start()
    yield server
    server.stop()


NODES = [f"nsu={MACHINE};s=Temperature"]
USER = {"username": "operator", "password": "correct"}


@pytest.mark.threat(12)
@pytest.mark.parametrize("mode", ["sign", "sign_and_encrypt"])
async def test_signed_and_encrypted_sessions(secured, tmp_path, mode):
    async with Relay(secured.port) as relay:
        more = {"security_policy": "basic256sha256", "security_mode": mode, "trust": "all", **USER}
        async with Reading(source(relay.endpoint, nodes=NODES, **more), tmp_path) as intake:
            await intake.until(lambda: intake.readings())
        assert b"correct" not in relay.sent


@pytest.mark.threat(12)
async def test_a_password_is_not_sent_in_clear(plant, tmp_path):
    """The server without certificate offers nothing that would encrypt it."""
    async with Relay(plant.port) as relay:
        with pytest.raises(ServerRefusedError, match="in clear"):
            await Reading(source(relay.endpoint, nodes=NODES, **USER), tmp_path).start()
        assert b"Bifrost plant" in relay.sent  # it got as far as a session
        assert b"correct" not in relay.sent
        allowed = source(relay.endpoint, nodes=NODES, **USER, allow_clear_password=True)
        async with Reading(allowed, tmp_path) as intake:
            await intake.until(lambda: intake.readings())
        assert b"correct" in relay.sent


async def test_a_wrong_password_is_said(secured, tmp_path):
    more = {"security_policy": "basic256sha256", "trust": "all", "username": "operator", "password": "wrong"}
    with pytest.raises(ServerRefusedError, match="refuses user operator"):
        await Reading(source(secured.endpoint, nodes=NODES, **more), tmp_path).start()


@pytest.mark.threat(13)
async def test_a_policy_that_is_not_offered_is_said(plant, tmp_path):
    config = source(plant.endpoint, nodes=NODES, security_policy="basic256sha256", trust="all")
    with pytest.raises(
        ServerRefusedError, match="does not offer basic256sha256 with sign_and_encrypt, only None/None_"
    ):
        await Reading(config, tmp_path).start()


@pytest.mark.threat(13)
async def test_auto_is_never_none(plant, tmp_path):
    async with Relay(plant.port) as relay:
        config = source(relay.endpoint, nodes=NODES, security_policy="auto", trust="all")
        with pytest.raises(
            ServerRefusedError, match="does not offer security, only None/None_; to send .* in clear, write"
        ):
            await Reading(config, tmp_path).start()
        assert b"Bifrost plant" not in relay.sent


@pytest.mark.threat(10)
async def test_an_untrusted_server_sees_no_session(secured, tmp_path):
    async with Relay(secured.port) as relay:
        config = source(relay.endpoint, nodes=NODES, security_policy="basic256sha256")
        with pytest.raises(UntrustedServerError):
            await Reading(config, tmp_path).start()
        assert b"Bifrost plant" not in relay.sent
    (rejected,) = (tmp_path / "rejected").iterdir()
    assert rejected.read_bytes() == (secured._certificates / "certificate.der").read_bytes()
