"""Security of the OPC UA source against open62541."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from connectors.sources.opcua.security import ServerRefusedError
from connectors.sources.opcua.trust import UntrustedServerError
from tests.connectors.sources.opcua.conftest import Relay
from tests.connectors.sources.opcua.milo_server import Made
from tests.connectors.sources.opcua.test_opcua_milo import opened, own_certificate
from tests.connectors.sources.opcua.test_opcua_open62541 import PROGRAM, installed  # noqa: F401  a fixture
from tests.ports import free_port

OPEN62541 = "open62541"
POLICIES = ("aes256_sha256_rsapss", "basic256sha256", "aes128_sha256_rsaoaep")
USER = {"username": "user1", "password": "secret1"}


class Secure:
    """The open62541 process, a source's folder whose certificate it lets in, and its own certificate.

    Args:
        folder: For its files.
        client: Certificate that it trusts instead of the source's.
    """

    def __init__(self, folder: Path, client: bytes | None = None) -> None:
        self.gateway = folder / "gateway"
        self.port = free_port()
        self.endpoint = f"opc.tcp://127.0.0.1:{self.port}"
        self.made = Made("open62541", uri="urn:open62541.test:server")
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files = {
            "certificate": self.made.der,
            "key": self.made.key.private_bytes(serialization.Encoding.DER, *plain),
            "client": client or own_certificate(self.gateway),
        }
        for name, data in files.items():
            (folder / f"{name}.der").write_bytes(data)
        command = [str(PROGRAM.with_name("secure")), str(self.port), *(str(folder / f"{name}.der") for name in files)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def secure(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:  # noqa: F811
    server = Secure(tmp_path_factory.mktemp("open62541"))
    yield server
    server.stop()


def of(policy: str, mode: str) -> Any:
    return pytest.param(policy, mode, marks=pytest.mark.interop(OPEN62541, f"security policy {policy}, {mode}"))


@pytest.mark.parametrize(("policy", "mode"), [of(p, m) for p in POLICIES for m in ("sign", "sign_and_encrypt")])
async def test_a_session_with_every_policy(secure, policy, mode):
    async with Relay(secure.port) as relay:
        await opened(relay.endpoint, secure.gateway, security_policy=policy, security_mode=mode, trust="all", **USER)
        assert b"secret1" not in relay.sent
        assert (b"Bifrost plant" in relay.sent) == (mode == "sign")


@pytest.mark.interop(OPEN62541, "`auto` takes the strongest policy, encrypted")
async def test_auto_takes_the_best(secure):
    session = await opened(secure.endpoint, secure.gateway, security_policy="auto", trust="all")
    assert session.security_policy.URI.endswith("#Aes256_Sha256_RsaPss")
    assert session.security_policy.Mode.name == "SignAndEncrypt"


@pytest.mark.interop(OPEN62541, "a certificate of ours that the server does not trust is named, with what to do")
async def test_a_server_that_does_not_trust_us(secure, tmp_path):
    with pytest.raises(ServerRefusedError, match="refuses our certificate .*: let it trust .*certificate.der"):
        await opened(secure.endpoint, tmp_path, security_policy="auto", trust="all")


@pytest.mark.interop(OPEN62541, "a certificate of ours, whose issuer is sent with it and not known to the server")
async def test_issuers_are_sent_with_a_certificate_that_is_given(installed, tmp_path):  # noqa: F811
    root = Made("Plant CA", ca=True)
    middle = Made("Line CA", root, ca=True)
    given = Made("gateway", middle, uri="urn:plant:gateway", hosts=("gateway",))
    (tmp_path / "given.key").write_bytes(given.key_pem)
    files = {"cert_file": tmp_path / "given.pem", "key_file": tmp_path / "given.key", "trust": "all"}
    server = Secure(tmp_path, root.der)
    try:
        (tmp_path / "given.pem").write_bytes(given.pem)
        with pytest.raises(ServerRefusedError, match="refuses our certificate"):
            await opened(server.endpoint, tmp_path, security_policy="auto", **files)
        for policy in POLICIES:
            (tmp_path / "given.pem").write_bytes(given.pem + middle.pem)
            await opened(server.endpoint, tmp_path, security_policy=policy, **files, **USER)
    finally:
        server.stop()


@pytest.mark.interop(OPEN62541, "a password without channel security is encrypted, for a trusted server only")
async def test_a_password_over_a_channel_without_security(secure, tmp_path):
    async with Relay(secure.port) as relay:
        with pytest.raises(UntrustedServerError, match="is not trusted"):
            await opened(relay.endpoint, tmp_path, security_policy="none", **USER)
        (rejected,) = (tmp_path / "rejected").iterdir()
        assert rejected.read_bytes() == secure.made.der
        rejected.rename(tmp_path / "trusted" / rejected.name)
        await opened(relay.endpoint, tmp_path, security_policy="none", **USER)
        assert b"secret1" not in relay.sent
