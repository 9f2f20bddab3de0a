"""Certificates, trust and passwords of the OPC UA source."""

import datetime
import stat
from collections.abc import Iterator

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from connectors.sources.opcua import security
from connectors.sources.opcua.security import UntrustedServerError, check_server, own_certificate
from connectors.sources.opcua.session import ServerRefusedError
from tests.connectors.sources.opcua.conftest import (
    MACHINE,
    SERVER_URI,
    PlantServer,
    Reading,
    Relay,
    free_port,
    source,
)

NOW = datetime.datetime(2025, 6, 1, tzinfo=datetime.UTC)
DAY = datetime.timedelta(days=1)


def certificate(
    uri: str = SERVER_URI, begin: datetime.datetime = NOW - DAY, end: datetime.datetime = NOW + DAY
) -> x509.Certificate:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
    return (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), begin, end)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .sign(key, hashes.SHA256())
    )


def der(cert: x509.Certificate) -> bytes:
    return cert.public_bytes(serialization.Encoding.DER)


def test_the_own_certificate_is_made_once_and_names_the_application(tmp_path):
    uri = security.application_uri("gateway 1", "plant")
    assert uri == "urn:bifrost:gateway-1:plant"
    own = own_certificate(tmp_path / "source", uri, NOW)
    assert stat.S_IMODE(own.key.stat().st_mode) == 0o600
    first = own.certificate.read_bytes()
    cert = x509.load_der_x509_certificate(first)
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    key = serialization.load_pem_private_key(own.key.read_bytes(), None)
    assert key.public_key() == cert.public_key()
    assert own_certificate(tmp_path / "source", uri, NOW + DAY).certificate.read_bytes() == first


@pytest.mark.parametrize(("uri", "now"), [("urn:other", NOW), ("urn:a", NOW + 6 * 365 * DAY)])
def test_a_certificate_that_no_longer_fits_is_made_anew(tmp_path, uri, now):
    first = own_certificate(tmp_path, "urn:a", NOW).certificate.read_bytes()
    second = own_certificate(tmp_path, uri, now)
    assert second.certificate.read_bytes() != first
    assert own_certificate(tmp_path, uri, now).certificate.read_bytes() == second.certificate.read_bytes()


@pytest.mark.parametrize("form", ["der", "pem"])
def test_a_trusted_server_is_accepted_also_with_its_chain(tmp_path, form):
    cert = certificate()
    encoding = serialization.Encoding.DER if form == "der" else serialization.Encoding.PEM
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / f"server.{form}").write_bytes(cert.public_bytes(encoding))
    check_server(tmp_path, der(cert) + der(certificate()), SERVER_URI, NOW)
    assert not (tmp_path / "rejected").exists()


@pytest.mark.parametrize(
    ("cert", "claimed", "said"),
    [
        (certificate(begin=NOW - 2 * DAY, end=NOW - DAY), SERVER_URI, "expired"),
        (certificate(begin=NOW + DAY, end=NOW + 2 * DAY), SERVER_URI, "not valid before"),
        (certificate(uri="urn:another"), SERVER_URI, "urn:another"),
    ],
)
def test_a_trusted_certificate_must_be_sound(tmp_path, cert, claimed, said):
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "server.der").write_bytes(der(cert))
    with pytest.raises(UntrustedServerError, match=said):
        check_server(tmp_path, der(cert), claimed, NOW)


def test_an_unknown_server_is_filed_under_rejected(tmp_path):
    cert = certificate()
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "another.der").write_bytes(der(certificate()))
    (tmp_path / "trusted" / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nnonsense")
    with pytest.raises(UntrustedServerError, match="not trusted"):
        check_server(tmp_path, der(cert), SERVER_URI, NOW)
    assert [file.read_bytes() for file in (tmp_path / "rejected").iterdir()] == [der(cert)]


def test_strangers_do_not_fill_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(security, "_MAX_REJECTED", 2)
    for _ in range(4):
        with pytest.raises(UntrustedServerError):
            check_server(tmp_path, der(certificate()), SERVER_URI, NOW)
    assert len(list((tmp_path / "rejected").iterdir())) == 2


@pytest.mark.parametrize("chain", [None, b"", b"nonsense", b"\x30\x82\xff\xff" + bytes(10)])
def test_no_certificate_or_nonsense_is_refused(tmp_path, chain):
    with pytest.raises(UntrustedServerError):
        check_server(tmp_path, chain, SERVER_URI, NOW)


# -- against a server of asyncua


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlantServer]:
    server = PlantServer(free_port(), tmp_path_factory.mktemp("server")).start()
    yield server
    server.stop()


NODES = [f"nsu={MACHINE};s=Temperature"]
USER = {"username": "operator", "password": "correct"}


@pytest.mark.parametrize("mode", ["sign", "sign_and_encrypt"])
async def test_signed_and_encrypted_sessions(secured, tmp_path, mode):
    async with Relay(secured.port) as relay:
        more = {"security_policy": "basic256sha256", "security_mode": mode, "trust": "all", **USER}
        async with Reading(source(relay.endpoint, nodes=NODES, **more), tmp_path) as intake:
            await intake.until(lambda: intake.readings())
        assert b"correct" not in relay.sent


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


async def test_a_policy_that_is_not_offered_is_said(plant, tmp_path):
    config = source(plant.endpoint, nodes=NODES, security_policy="basic256sha256", trust="all")
    with pytest.raises(ServerRefusedError, match="only None/None_"):
        await Reading(config, tmp_path).start()


async def test_an_untrusted_server_sees_no_session(secured, tmp_path):
    async with Relay(secured.port) as relay:
        config = source(relay.endpoint, nodes=NODES, security_policy="basic256sha256")
        with pytest.raises(UntrustedServerError):
            await Reading(config, tmp_path).start()
        assert b"Bifrost plant" not in relay.sent
    (rejected,) = (tmp_path / "rejected").iterdir()
    assert rejected.read_bytes() == (secured._certificates / "certificate.der").read_bytes()
