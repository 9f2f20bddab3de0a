"""Certificates: the source's own, made when it is first needed, and the folder of servers that are trusted.

In the source's folder::

    own/certificate.der   to be trusted by the server          trusted/   servers that are trusted, one file each
    own/key.pem           its private key, mode 0600           rejected/  servers that were refused; move one to trusted/
"""

import datetime
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_DAYS: Final = 5 * 365
_MAX_REJECTED: Final = 100  # a stranger who sends a new certificate with every attempt does not fill the disk


class UntrustedServerError(Exception):
    """The server's certificate is not accepted; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class OwnCertificate:
    """Where the source's certificate and key lie."""

    certificate: Path
    key: Path


def application_uri(gateway: str, source: str) -> str:
    """The ApplicationUri of a source: in its certificate and in its session (OPC 10000-4 clause 7.2)."""
    return ":".join(["urn", "bifrost", *(re.sub(r"[^A-Za-z0-9_.-]", "-", part) for part in (gateway, source))])


def own_certificate(directory: Path, uri: str, now: datetime.datetime) -> OwnCertificate:
    """The source's own certificate, which is made when there is none, or none that is valid for `uri`.

    Args:
        directory: The source's folder.
        uri: ApplicationUri, which goes into the SubjectAltName.
        now: The present, UTC.
    """
    own = OwnCertificate(directory / "own" / "certificate.der", directory / "own" / "key.pem")
    if own.key.exists() and own.certificate.exists():
        certificate = x509.load_der_x509_certificate(own.certificate.read_bytes())
        if uri in _uris(certificate) and certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            return own
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = _self_signed(key, uri, socket.gethostname(), now)
    directory.mkdir(parents=True, exist_ok=True)
    own.key.parent.mkdir(mode=0o700, exist_ok=True)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    _write(own.certificate, certificate.public_bytes(serialization.Encoding.DER), 0o644)
    _write(own.key, pem, 0o600)
    return own


def _write(path: Path, data: bytes, mode: int) -> None:
    partial = path.with_suffix(path.suffix + ".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    partial.replace(path)


def _self_signed(key: rsa.RSAPrivateKey, uri: str, host: str, now: datetime.datetime) -> x509.Certificate:
    """An application instance certificate as OPC 10000-6 clause 6.2.2 asks for it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Bifrost {uri.removeprefix('urn:bifrost:')}"[:64])])
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=True,  # asked of self-signed certificates
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # the device's clock may be behind
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName(host)]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(identifier, critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def leaf(chain: bytes) -> bytes:
    """The first certificate of what a server sends, which may be followed by its issuers (OPC 10000-6 clause 6.2.6)."""
    if len(chain) < 4 or chain[0] != 0x30 or chain[1] != 0x82:
        return chain
    return chain[: int.from_bytes(chain[2:4], "big") + 4]


def certificate_problem(certificate: x509.Certificate, uri: str, now: datetime.datetime) -> str | None:
    """What is wrong with a server's certificate, whoever trusts it; None when nothing is."""
    if now < certificate.not_valid_before_utc:
        return f"it is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if now >= certificate.not_valid_after_utc:
        return f"it expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if uri not in _uris(certificate):
        return f"it is for {', '.join(_uris(certificate)) or 'no application'}, and the server says it is {uri}"
    return None


def check_server(directory: Path, chain: bytes | None, uri: str, now: datetime.datetime) -> None:
    """Accept a server whose certificate lies in the folder `trusted`; file any other under `rejected`.

    Args:
        directory: The source's folder.
        chain: What the server sent, DER.
        uri: ApplicationUri that the server claims.
        now: The present, UTC.

    Raises:
        UntrustedServerError: The server is not trusted, or its certificate is not sound.
    """
    if not chain:
        msg = "the server has no certificate; without one it cannot be trusted"
        raise UntrustedServerError(msg)
    der = leaf(chain)
    try:
        certificate = x509.load_der_x509_certificate(der)
        thumbprint = certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303  a name, as in every OPC UA trust list
        subject = certificate.subject.rfc4514_string()
    except ValueError as error:
        msg = f"the server's certificate cannot be read: {error}"
        raise UntrustedServerError(msg) from None
    trusted, rejected = directory / "trusted", directory / "rejected"
    trusted.mkdir(parents=True, exist_ok=True)
    if not any(_same(file, der) for file in trusted.iterdir()):
        file = rejected / f"{thumbprint}.der"
        rejected.mkdir(exist_ok=True)
        if not file.exists() and sum(1 for _ in rejected.iterdir()) < _MAX_REJECTED:
            _write(file, der, 0o644)
        msg = f"the server's certificate ({subject}, SHA-1 {thumbprint}) is not trusted; move {file} to {trusted} to trust it"
        raise UntrustedServerError(msg)
    problem = certificate_problem(certificate, uri, now)
    if problem is not None:
        msg = f"the server's certificate ({subject}, SHA-1 {thumbprint}) is trusted, but {problem}"
        raise UntrustedServerError(msg)


def _same(file: Path, der: bytes) -> bool:
    if file.suffix.lower() not in (".der", ".pem", ".crt", ".cer"):
        return False
    data = file.read_bytes()
    if b"-----BEGIN CERTIFICATE-----" in data:
        try:
            data = x509.load_pem_x509_certificate(data).public_bytes(serialization.Encoding.DER)
        except ValueError:
            return False
    return data == der
