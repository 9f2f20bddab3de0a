"""The source's own certificate: made, kept, renewed, or given."""

import datetime
import ipaddress
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from connectors.sources.opcua.certificates import uris
from connectors.sources.opcua.own import (
    RENEWED_BEFORE,
    CertificateError,
    application_uri,
    load_identity,
    own_identities,
)
from tests.connectors.sources.opcua.milo_server import DAY, Made

NOW = datetime.datetime(2025, 6, 1, tzinfo=datetime.UTC)


def names(certificate):
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_it_is_made_once_and_names_the_application(tmp_path):
    uri = application_uri("gateway 1", "plant")
    assert uri == "urn:bifrost:gateway-1:plant"
    (own,) = own_identities(tmp_path / "source", uri, NOW)
    key_file = tmp_path / "source" / "own" / "key.pem"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert names(own.certificate).get_values_for_type(x509.UniformResourceIdentifier) == [uri]
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    assert key.public_key() == own.certificate.public_key()
    (again,) = own_identities(tmp_path / "source", uri, NOW + DAY)
    assert again.certificate == own.certificate == x509.load_der_x509_certificate(own.file.read_bytes())


def test_it_is_renewed_in_time_with_the_same_key_and_the_old_one_stays_while_it_is_valid(tmp_path, caplog):
    (first,) = own_identities(tmp_path, "urn:a", NOW)
    end = first.certificate.not_valid_after_utc
    (still,) = own_identities(tmp_path, "urn:a", end - RENEWED_BEFORE - DAY)
    assert still.certificate == first.certificate
    assert not caplog.messages
    renewed, old = own_identities(tmp_path, "urn:a", end - RENEWED_BEFORE)
    assert old.certificate == first.certificate
    assert renewed.certificate.public_key() == first.certificate.public_key()
    assert renewed.certificate.not_valid_after_utc > end
    (said,) = caplog.messages
    assert "let the server trust" in said
    assert renewed.thumbprint in said
    assert f"{end:%Y-%m-%d}" in said
    assert [one.certificate for one in own_identities(tmp_path, "urn:a", end - DAY)] == [
        renewed.certificate,
        first.certificate,
    ]
    assert [one.certificate for one in own_identities(tmp_path, "urn:a", end)] == [renewed.certificate]


def test_a_clock_that_is_behind_makes_no_new_one(tmp_path):
    (first,) = own_identities(tmp_path, "urn:a", NOW)
    (again,) = own_identities(tmp_path, "urn:a", NOW - 50 * 365 * DAY)
    assert again.certificate == first.certificate


def test_another_application_is_another_certificate_with_the_same_key(tmp_path):
    (first,) = own_identities(tmp_path, "urn:a", NOW)
    (second,) = own_identities(tmp_path, "urn:b", NOW)
    assert uris(second.certificate) == ["urn:b"]
    assert second.certificate.public_key() == first.certificate.public_key()


def test_further_hosts_are_in_it(tmp_path):
    (first,) = own_identities(tmp_path, "urn:a", NOW)
    (second,) = own_identities(tmp_path, "urn:a", NOW, ["Gateway.plant", "10.1.1.5", "fe80::1"])
    assert second.certificate != first.certificate
    assert "Gateway.plant" in names(second.certificate).get_values_for_type(x509.DNSName)
    assert names(second.certificate).get_values_for_type(x509.IPAddress) == [
        ipaddress.ip_address("10.1.1.5"), ipaddress.ip_address("fe80::1")
    ]  # fmt: skip
    (third,) = own_identities(tmp_path, "urn:a", NOW, ["10.1.1.5"])
    assert third.certificate == second.certificate


@pytest.mark.parametrize("left", [b"", b"half a certificate"])
def test_a_damaged_certificate_is_made_anew(tmp_path, left):
    (first,) = own_identities(tmp_path, "urn:a", NOW)
    first.file.write_bytes(left)
    (second,) = own_identities(tmp_path, "urn:a", NOW)
    assert second.certificate.public_key() == first.certificate.public_key()


def test_a_key_that_cannot_be_read_is_said_and_left_as_it_is(tmp_path):
    (tmp_path / "own").mkdir()
    key = tmp_path / "own" / "key.pem"
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nnonsense\n")
    with pytest.raises(CertificateError, match=r"key.pem cannot be read"):
        own_identities(tmp_path, "urn:a", NOW)
    assert b"nonsense" in key.read_bytes()


# -- given by the user

ROOT = Made("Plant CA", ca=True)
GIVEN = Made("gateway", ROOT, uri="urn:given")
PRESENT = datetime.datetime.now(datetime.UTC)


def load(folder, certificate, key, password=None, now=PRESENT):
    (folder / "c").write_bytes(certificate)
    (folder / "k").write_bytes(key)
    return load_identity(folder / "c", folder / "k", password, now, "source press")


def private(made, encoding=serialization.Encoding.PEM, password=None):
    secret = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return made.key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, secret)


def test_in_der_and_pem_and_with_a_password(tmp_path):
    assert load(tmp_path, GIVEN.der, private(GIVEN, serialization.Encoding.DER)).certificate == GIVEN.certificate
    given = load(tmp_path, GIVEN.pem + ROOT.pem, private(GIVEN, password=b"geheim"), "geheim")
    assert given.certificate == GIVEN.certificate
    assert given.issuers == [ROOT.certificate]


@pytest.mark.parametrize(
    ("certificate", "key", "password", "said"),
    [
        (b"nonsense", GIVEN.key_pem, None, "certificate of source press in .* cannot be read"),
        (GIVEN.der, b"nonsense", None, "private key in .* cannot be read"),
        (GIVEN.der, private(GIVEN, password=b"geheim"), None, "private key in .* cannot be read"),
        (GIVEN.der, private(GIVEN, password=b"geheim"), "falsch", "private key in .* cannot be read"),
        (GIVEN.der, ROOT.key_pem, None, "is not that of the certificate"),
        (GIVEN.pem + Made("Other CA", ca=True).pem, GIVEN.key_pem, None, "CN=Other CA follows CN=gateway and is not its issuer"),
        (Made("g", key=ec.generate_private_key(ec.SECP256R1())).der, private(Made("g", key=ec.generate_private_key(ec.SECP256R1()))), None, "not an RSA key"),
        (Made("g", key=GIVEN.key, begin=PRESENT - 3 * DAY, end=PRESENT - DAY).der, GIVEN.key_pem, None, "valid from .* and not now"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(tmp_path, certificate, key, password, said):
    with pytest.raises(CertificateError, match=said):
        load(tmp_path, certificate, key, password)


def test_its_end_is_said_in_time(tmp_path, caplog):
    load(tmp_path, GIVEN.der, GIVEN.key_pem)
    assert f"expires on {GIVEN.certificate.not_valid_after_utc:%Y-%m-%d}; renew it" in caplog.text
