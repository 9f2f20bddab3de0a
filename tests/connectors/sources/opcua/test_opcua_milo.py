"""Security of the OPC UA source against Eclipse Milo and node-opcua: channels, users, certificates."""

import asyncio
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from connectors.contract import Context
from connectors.sources.opcua.certificates import thumbprint
from connectors.sources.opcua.own import RENEWED_BEFORE, application_uri, own_identities
from connectors.sources.opcua.security import POLICIES, ServerRefusedError
from connectors.sources.opcua.session import Session
from connectors.sources.opcua.trust import UntrustedServerError
from tests.connectors.sources.opcua.conftest import Reading, Relay, source
from tests.connectors.sources.opcua.milo_server import DAY, LAB, URI, Made, MiloServer, install
from tests.connectors.sources.opcua.test_opcua_interop import installed, node  # noqa: F401  fixtures

pytestmark = pytest.mark.timeout(180)

GATEWAY_URI = application_uri("test-gateway", "plant")
NODES = [f"nsu={LAB};s=Double"]
USER = {"username": "user1", "password": "secret1"}
MILO = "Eclipse Milo"


def own_certificate(directory: Path) -> bytes:
    """The gateway's certificate, which is made."""
    now = datetime.datetime.now(datetime.UTC)
    return own_identities(directory, GATEWAY_URI, now)[0].certificate.public_bytes(serialization.Encoding.DER)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a source whose certificate every server here trusts."""
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def milo(gateway: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiloServer]:
    install()
    server = MiloServer(tmp_path_factory.mktemp("milo"))
    server.trust(own_certificate(gateway))
    yield server
    server.kill()


async def opened(endpoint: str, directory: Path, **more: Any) -> Session:
    """A session that is logged in; it is closed again."""
    session = Session(source(endpoint, nodes=NODES, timeout=20, **more), Context("test-gateway", directory))
    try:
        await session.open()
    finally:
        await session.close()
    return session


MODES = ("sign", "sign_and_encrypt")
OF_NODE = ("aes256_sha256_rsapss", "basic256sha256", "aes128_sha256_rsaoaep")


@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        pytest.param(p, m, marks=pytest.mark.interop(MILO, f"security policy {p.name}, {m}"))
        for p in POLICIES
        for m in MODES
    ],
)
async def test_values_come_with_every_policy_of_milo(milo, gateway, policy, mode):
    more = {
        "security_policy": policy.name,
        "security_mode": mode,
        "allow_deprecated": policy.deprecated,
        "trust": "all",
    }
    async with Relay(milo.port) as relay:
        config = source(relay.endpoint.replace("/plant", "/milo"), nodes=NODES, timeout=20, **more)
        async with Reading(config, gateway) as intake:
            await intake.until(lambda: intake.last("Double"), 60)
        assert intake.last("Double").value == 1.5
        assert (b"Bifrost plant" in relay.sent) == (mode == "sign")


@pytest.mark.parametrize(
    ("policy", "mode"),
    [
        pytest.param(p, m, marks=pytest.mark.interop("node-opcua", f"security policy {p}, {m}"))
        for p in OF_NODE
        for m in MODES
    ],
)
async def test_a_session_with_every_policy_of_node_opcua(node, gateway, policy, mode):  # noqa: F811
    session = await opened(
        node.endpoint, gateway, security_policy=policy, security_mode=mode, trust="all",
        username="user1", password="secret1",
    )  # fmt: skip
    assert session.namespaces


@pytest.mark.interop(MILO, "`auto` takes the strongest policy, encrypted")
async def test_auto_takes_the_best_of_milo(milo, gateway):
    session = await opened(milo.endpoint, gateway, security_policy="auto", trust="all")
    assert (session.security_policy.URI.rpartition("#")[2], session.security_policy.Mode.name) == (
        "Aes256_Sha256_RsaPss", "SignAndEncrypt"
    )  # fmt: skip


@pytest.mark.interop("node-opcua", "`auto` takes the strongest policy, encrypted")
async def test_auto_takes_the_best_of_node_opcua(node, gateway):  # noqa: F811
    session = await opened(node.endpoint, gateway, security_policy="auto", trust="all")
    assert session.security_policy.URI.endswith("#Aes256_Sha256_RsaPss")


@pytest.mark.threat(13)
@pytest.mark.interop(MILO, "a stronger policy that somebody on the way hides is missed, before the user is named")
async def test_what_the_server_offers_cannot_be_altered_on_the_way(milo, gateway):
    hidden = b"Aes256_Sha256_RsaPss"
    gone: list[asyncio.Event] = []

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        gone.append(ended := asyncio.Event())
        up, down = await asyncio.open_connection("127.0.0.1", milo.port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 20):
                target.write(data.replace(hidden, hidden[::-1]))
            target.close()

        await asyncio.gather(pump(reader, down), pump(up, writer), return_exceptions=True)
        for side in (writer, down):
            side.transport.abort()
        ended.set()

    liar = await asyncio.start_server(relay, "127.0.0.1", 0)
    endpoint = f"opc.tcp://127.0.0.1:{liar.sockets[0].getsockname()[1]}/milo"
    try:
        with pytest.raises(
            ServerRefusedError,
            match="aes256_sha256_rsapss with SignAndEncrypt, and somebody on the way hid it: basic256sha256",
        ):
            await opened(endpoint, gateway, security_policy="auto", trust="all", **USER)
    finally:
        liar.close()
    async with asyncio.timeout(30):
        for ended in gone:
            await ended.wait()


# -- users


@pytest.mark.interop(MILO, "a user logs in by name and password, never in clear")
async def test_a_user_of_milo_logs_in(milo, gateway):
    for mode, more in (("sign_and_encrypt", {}), ("sign", {"allow_deprecated": True})):
        async with Relay(milo.port) as relay:
            endpoint = relay.endpoint.replace("/plant", "/milo")
            await opened(endpoint, gateway, security_policy="auto", security_mode=mode, trust="all", **USER, **more)
            assert b"secret1" not in relay.sent


@pytest.mark.interop(MILO, "a password that only a deprecated policy would protect is not sent")
async def test_milo_wants_the_password_under_a_deprecated_policy(milo, gateway):
    with pytest.raises(ServerRefusedError, match="protected by a deprecated policy only"):
        await opened(milo.endpoint, gateway, security_policy="auto", security_mode="sign", trust="all", **USER)


@pytest.mark.interop(MILO, "a wrong password is said")
async def test_a_wrong_password_of_milo(milo, gateway):
    with pytest.raises(ServerRefusedError, match="refuses user user1"):
        await opened(
            milo.endpoint, gateway, security_policy="auto", trust="all", username="user1", password="wrong"
        )  # fmt: skip


@pytest.mark.interop(MILO, "a user logs in by X.509 certificate, a stranger does not")
@pytest.mark.parametrize("policy", ["auto", "basic256sha256"])
async def test_a_user_logs_in_by_certificate(milo, gateway, tmp_path, policy):
    user, stranger = Made("operator"), Made("operator")
    (milo.folder / "users").mkdir(exist_ok=True)
    (milo.folder / "users" / "operator.der").write_bytes(user.der)
    for made in (user, stranger):
        (tmp_path / "user.pem").write_bytes(made.pem)
        (tmp_path / "user.key").write_bytes(made.key_pem)
        files = {"user_cert_file": tmp_path / "user.pem", "user_key_file": tmp_path / "user.key"}
        if made is user:
            await opened(milo.endpoint, gateway, security_policy=policy, trust="all", **files)
        else:
            with pytest.raises(ServerRefusedError, match="refuses the user of .*user.pem"):
                await opened(milo.endpoint, gateway, security_policy=policy, trust="all", **files)


# -- our certificate


@pytest.mark.interop(MILO, "a certificate of ours that the server does not trust is named, with what to do")
async def test_a_server_that_does_not_trust_us(milo, tmp_path):
    with pytest.raises(ServerRefusedError, match=r"refuses our certificate .*: let it trust .*certificate.der \(SHA-1 .*, urn:bifrost:test-gateway:plant"):  # fmt: skip
        await opened(milo.endpoint, tmp_path, security_policy="auto", trust="all")
    assert (tmp_path / "own" / "certificate.der").exists()


@pytest.mark.interop(MILO, "while the server does not trust a renewed certificate of ours, the one before is used")
async def test_a_renewed_certificate_interrupts_nothing(milo, tmp_path, caplog):
    now = datetime.datetime.now(datetime.UTC)
    (first,) = own_identities(tmp_path, GATEWAY_URI, now - (5 * 365 - 60) * DAY)  # made long ago, ends in 60 days
    assert first.certificate.not_valid_after_utc - now < RENEWED_BEFORE
    milo.trust(first.certificate.public_bytes(serialization.Encoding.DER))
    session = await opened(milo.endpoint, tmp_path, security_policy="auto", trust="all")
    assert "let the server trust" in caplog.text
    assert "the server refuses the renewed certificate" in caplog.text
    assert session.security_policy.host_certificate == first.certificate.public_bytes(serialization.Encoding.DER)
    renewed = (tmp_path / "own" / "certificate.der").read_bytes()
    milo.trust(renewed)
    session = await opened(milo.endpoint, tmp_path, security_policy="auto", trust="all")
    assert session.security_policy.host_certificate == renewed


@pytest.mark.interop(MILO, "a certificate given by the user, of an authority that the server trusts")
async def test_a_certificate_that_is_given(milo, tmp_path):
    root = Made("Plant CA", ca=True)
    given = Made("gateway", root, uri="urn:plant:gateway", hosts=("gateway",))
    (milo.folder / "pki" / "trusted" / "certs" / "root.der").write_bytes(root.der)
    (milo.folder / "pki" / "trusted" / "crl" / "root.crl").write_bytes(
        root.revocation_list().public_bytes(serialization.Encoding.DER)
    )
    (tmp_path / "given.pem").write_bytes(given.pem + root.pem)
    (tmp_path / "given.key").write_bytes(given.key_pem)
    files = {"cert_file": tmp_path / "given.pem", "key_file": tmp_path / "given.key"}
    session = await opened(milo.endpoint, tmp_path, security_policy="auto", trust="all", **files)
    assert session.application_uri == "urn:plant:gateway"
    assert not (tmp_path / "own").exists()


@pytest.mark.interop(MILO, "a certificate given by the user, whose issuer is sent with it and not known to the server")
@pytest.mark.parametrize("policy", [one.name for one in POLICIES if not one.deprecated])
async def test_issuers_are_sent_with_a_certificate_that_is_given(milo, tmp_path, policy):
    root = Made("Plant CA of chains", ca=True)
    middle = Made("Line CA", root, ca=True)
    given = Made("gateway", middle, uri="urn:plant:gateway", hosts=("gateway",))
    trusted = milo.folder / "pki" / "trusted"
    (trusted / "certs" / "chain-root.der").write_bytes(root.der)
    for name, authority in (("chain-root", root), ("chain-middle", middle)):
        crl = authority.revocation_list().public_bytes(serialization.Encoding.DER)
        (trusted / "crl" / f"{name}.crl").write_bytes(crl)
    (tmp_path / "given.key").write_bytes(given.key_pem)
    files = {"cert_file": tmp_path / "given.pem", "key_file": tmp_path / "given.key", "trust": "all"}
    (tmp_path / "given.pem").write_bytes(given.pem)
    with pytest.raises(ServerRefusedError, match="refuses our certificate"):
        await opened(milo.endpoint, tmp_path, security_policy=policy, **files)
    (tmp_path / "given.pem").write_bytes(given.pem + middle.pem)
    session = await opened(milo.endpoint, tmp_path, security_policy=policy, **files)
    assert session.application_uri == "urn:plant:gateway"


# -- the server's certificate


class Plant:
    """A Milo with a certificate of the test's choice, which lets the gateway in, and the gateway's source."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.directory = folder / "data" / "sources" / "plant"
        self.server: MiloServer | None = None

    def start(self, *chain: Made, host: str = "127.0.0.1") -> MiloServer:
        self.server = MiloServer(self.folder / "milo", *chain, host=host)
        self.server.trust(own_certificate(self.directory))
        return self.server

    def put(self, folder: str, *made: Made) -> None:
        place = self.directory / folder
        place.mkdir(parents=True, exist_ok=True)
        for one in made:
            (place / f"{thumbprint(one.certificate)}.der").write_bytes(one.der)

    def put_list(self, folder: str, authority: Made, *revoked: Made) -> None:
        data = authority.revocation_list(*revoked).public_bytes(serialization.Encoding.DER)
        (self.directory / folder / "list.crl").write_bytes(data)

    async def opened(self, **more: Any) -> Session:
        assert self.server is not None
        return await opened(self.server.endpoint, self.directory, security_policy="auto", **more)

    def certs(self, verb: str, digits: str) -> None:
        """Say `bifrost certs` as a person would."""
        assert self.server is not None
        file = self.folder / "gateway.yaml"
        known = {"name": "plant", "protocol": "opcua", "endpoint": self.server.endpoint}
        gateway = {"name": "test-gateway", "directory": str(self.folder / "data")}
        file.write_text(json.dumps({"gateway": gateway, "sources": [known]}))
        command = [sys.executable, "-m", "bifrost", "certs", verb, "plant", digits, "-c", str(file)]
        subprocess.run(command, check=True, timeout=60, capture_output=True)


@pytest.fixture
def plant(tmp_path: Path) -> Iterator[Plant]:
    install()
    plant = Plant(tmp_path)
    yield plant
    if plant.server is not None:
        plant.server.kill()


NOW = datetime.datetime.now(datetime.UTC)
ROOT = Made("Plant CA", ca=True)
MIDDLE = Made("Line CA", ROOT, ca=True)


@pytest.mark.interop(MILO, "a server is accepted by an authority: in `trusted`, with the one between in `issuer`")
async def test_a_server_of_a_trusted_authority(plant):
    server = Made("press", MIDDLE)
    plant.start(server)
    plant.put("trusted", ROOT)
    with pytest.raises(UntrustedServerError, match="is not trusted"):
        await plant.opened()
    plant.put("issuer", MIDDLE)
    await plant.opened()
    with pytest.raises(UntrustedServerError, match="no current list of revoked certificates of CN=Line CA"):
        await plant.opened(require_crl=True)
    plant.put_list("issuer", MIDDLE)
    plant.put_list("trusted", ROOT)
    await plant.opened(require_crl=True)
    plant.put_list("issuer", MIDDLE, server)
    with pytest.raises(UntrustedServerError, match="by a trusted authority, but it was revoked by CN=Line CA"):
        await plant.opened()


@pytest.mark.interop(MILO, "a server's own certificate without its issuers is not enough, and the missing one is named")
async def test_a_trusted_server_whose_issuers_are_not_known(plant):
    server = Made("press", MIDDLE)
    plant.start(server)
    plant.put("trusted", server)
    with pytest.raises(
        UntrustedServerError, match="its issuer CN=Line CA is not known.*; put the issuer's certificate"
    ):
        await plant.opened()
    plant.put("issuer", ROOT, MIDDLE)
    await plant.opened()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        pytest.param(made, said, marks=pytest.mark.interop(MILO, f"a trusted server is refused: its certificate {what}"))
        for made, said, what in (
            (Made("press", begin=NOW - 3 * DAY, end=NOW - DAY), "is trusted, but it expired on", "has expired"),
            (Made("press", uri="urn:another"), f"it is for urn:another, and the server says it is {URI}", "is for another application"),
            (Made("press", bits=1024), "1024 bits, and 2048 are needed", "has a short key"),
        )
    ],
)  # fmt: skip
async def test_a_trusted_certificate_that_is_not_sound(plant, made, said):
    plant.start(made)
    plant.put("trusted", made)
    with pytest.raises(UntrustedServerError, match=said):
        await plant.opened()
    await plant.opened(trust="all")


@pytest.mark.interop(MILO, "the host that is configured is used, whatever the server announces (NAT)")
async def test_a_server_that_announces_a_host_nobody_can_reach(plant, caplog):
    server = plant.start(host="press.behind-nat.invalid")
    (plant.directory / "trusted").mkdir()
    (plant.directory / "trusted" / "press.der").write_bytes(server.certificate.public_bytes(serialization.Encoding.DER))
    for policy in ("none", "auto"):
        config = source(server.endpoint, nodes=NODES, security_policy=policy, timeout=20)
        async with Reading(config, plant.directory) as intake:
            await intake.until(lambda: intake.last("Double"), 60)
    await opened(server.endpoint.replace("127.0.0.1", "localhost"), plant.directory, security_policy="auto")
    assert "is accepted, but" not in caplog.text
    await opened(server.endpoint.replace("127.0.0.1", "127.1"), plant.directory, security_policy="auto")
    assert "is accepted, but it is for 127.0.0.1, localhost, and not for 127.1" in caplog.text


@pytest.mark.interop(
    MILO,
    "a certificate that changes in operation is refused, then trusted by `bifrost certs trust`, and readings go on",
)
async def test_the_servers_certificate_changes_in_operation(plant):
    first, second = Made("press"), Made("press")
    server = plant.start(first)
    plant.put("trusted", first)
    config = source(server.endpoint, nodes=NODES, security_policy="auto", timeout=20)
    reading = Reading(config, plant.directory)
    try:
        task = reading.start()
        await reading.intake.until(lambda: reading.intake.last("Double"), 60)
        server.kill()
        with pytest.raises(Exception):  # noqa: B017, PT011  whatever the connection died of
            await asyncio.wait_for(task, 60)
        server.take(second)
        server.start()
        state, seen = reading.intake.appended[-1][1], len(reading.intake.readings())
        with pytest.raises(UntrustedServerError, match="bifrost certs trust plant"):
            await reading.start(state)
        assert len(reading.intake.readings()) == seen
        plant.certs("trust", thumbprint(second.certificate))
        reading.start(state)
        await reading.intake.until(lambda: len(reading.intake.readings()) > seen, 60)
        assert "not connected" in [gap.reason for gap in reading.intake.gaps]
        assert reading.intake.last("Double").value == 1.5
    finally:
        await reading.stop()


@pytest.mark.interop(MILO, "trust that is taken back with `bifrost certs reject` holds at the next attempt")
async def test_trust_is_taken_back(plant):
    made = Made("press")
    plant.start(made)
    plant.put("trusted", made)
    await plant.opened()
    plant.certs("reject", thumbprint(made.certificate)[:8])
    with pytest.raises(UntrustedServerError, match="is not trusted"):
        await plant.opened()
