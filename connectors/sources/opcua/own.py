"""The source's own certificate: made when it is first needed, renewed before it expires, or given by the user.

In the source's folder::

    own/certificate.der   to be trusted by the server
    own/key.pem           its private key, mode 0600; a renewed certificate has the same one
    own/previous.der      the certificate before, which servers still trust while they do not know the new one
"""

import contextlib
import datetime
import ipaddress
import logging
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from connectors.sources.opcua.certificates import hosts, load, parse, thumbprint, uris, write

_log = logging.getLogger(__name__)

_DAYS: Final = 5 * 365
RENEWED_BEFORE: Final = datetime.timedelta(days=90)  # time for people to have the new one trusted
_WARNED_BEFORE: Final = datetime.timedelta(days=30)


class CertificateError(Exception):
    """A certificate or key of our own cannot be used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its private key.

    Attributes:
        file: Where the certificate lies.
        issuers: Of the certificate, as far as they are sent with it, each after the one that it issued.
    """

    file: Path
    certificate: x509.Certificate
    key: rsa.RSAPrivateKey
    issuers: Sequence[x509.Certificate] = ()

    @property
    def thumbprint(self) -> str:
        """SHA-1 of the certificate, its name in every OPC UA trust list."""
        return thumbprint(self.certificate)


def application_uri(gateway: str, source: str) -> str:
    """The ApplicationUri of a source: in its certificate and in its session (OPC 10000-4 clause 7.2)."""
    return ":".join(["urn", "bifrost", *(re.sub(r"[^A-Za-z0-9_.-]", "-", part) for part in (gateway, source))])


def own_identities(
    directory: Path, uri: str, now: datetime.datetime, further_hosts: Sequence[str] = ()
) -> list[Identity]:
    """The source's own certificate, and behind it the one that it replaced while that is still valid.

    It is made when there is none, and made anew with the same key when it expires soon, is not for `uri`, or lacks one of
    `further_hosts`.

    Args:
        directory: The source's folder.
        uri: ApplicationUri, which goes into the SubjectAltName.
        now: The present, UTC.
        further_hosts: Host names and IP addresses to have in the certificate beside the name of this host.

    Raises:
        CertificateError: What lies there cannot be used.
    """
    folder = directory / "own"
    file, key_file, previous = folder / "certificate.der", folder / "key.pem", folder / "previous.der"
    key = _private_key(key_file, None) if key_file.exists() else None
    current = _our_own(file, key)
    if current is not None and not _fits(current, uri, further_hosts):
        current = None
    old = _our_own(previous, key)
    if key is None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        write(key_file, _pem(key), 0o600)
    # that it is not valid yet is no reason: the clock of a machine that starts may be behind
    if current is None or now >= current.not_valid_after_utc - RENEWED_BEFORE:
        renewed = _self_signed(key, uri, further_hosts, now)
        if current is not None:
            write(previous, current.public_bytes(serialization.Encoding.DER), 0o644)
            _log.warning(
                "the certificate expires on %s and is renewed: let the server trust %s (SHA-1 %s) until then",
                f"{current.not_valid_after_utc:%Y-%m-%d}",
                file,
                thumbprint(renewed),
            )
        write(file, renewed.public_bytes(serialization.Encoding.DER), 0o644)
        current, old = renewed, current
    usable = old is not None and _fits(old, uri, further_hosts) and now < old.not_valid_after_utc
    return [
        Identity(file, current, key),
        *([Identity(previous, old, key)] if old is not None and usable and old != current else []),
    ]


def _our_own(file: Path, key: rsa.RSAPrivateKey | None) -> x509.Certificate | None:
    """The certificate in a file of ours; None when it is of no use with this key."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        certificate = load(file.read_bytes())
        if key is not None and certificate.public_key() == key.public_key():
            return certificate
    return None


def _fits(certificate: x509.Certificate, uri: str, further_hosts: Sequence[str]) -> bool:
    return uri in uris(certificate) and {host.lower() for host in further_hosts} <= hosts(certificate)


def load_identity(cert_file: Path, key_file: Path, password: str | None, now: datetime.datetime, what: str) -> Identity:
    """A certificate with its key that the user gives: DER or PEM; in PEM its issuers may follow.

    Args:
        cert_file: File of the certificate.
        key_file: File of the key.
        password: What the key is encrypted with, if it is.
        now: The present, UTC.
        what: Whose it is, for messages.

    Raises:
        CertificateError: It cannot be read, is not valid now, or the key is not its own.
    """
    try:
        certificate, *issuers = parse(cert_file.read_bytes())
    except (OSError, ValueError) as error:
        msg = f"the certificate of {what} in {cert_file} cannot be read: {error}"
        raise CertificateError(msg) from None
    key = _private_key(key_file, password)
    if key.public_key() != certificate.public_key():
        msg = f"the key in {key_file} is not that of the certificate in {cert_file}"
        raise CertificateError(msg)
    end = certificate.not_valid_after_utc
    if not certificate.not_valid_before_utc <= now < end:
        msg = (
            f"the certificate of {what} in {cert_file} is valid from {certificate.not_valid_before_utc:%Y-%m-%d} "
            f"to {end:%Y-%m-%d}, and not now"
        )
        raise CertificateError(msg)
    if end - now < _WARNED_BEFORE:
        _log.warning("the certificate of %s in %s expires on %s; renew it", what, cert_file, f"{end:%Y-%m-%d}")
    for issued, issuer in pairwise([certificate, *issuers]):
        if issued.issuer != issuer.subject:
            msg = (
                f"in {cert_file}, {issuer.subject.rfc4514_string()} follows {issued.subject.rfc4514_string()} and is not its "
                "issuer; write the certificate first, and behind each one its issuer"
            )
            raise CertificateError(msg)
    return Identity(cert_file, certificate, key, issuers)


def _private_key(file: Path, password: str | None) -> rsa.RSAPrivateKey:
    secret = password.encode() if password is not None else None
    try:
        data = file.read_bytes()
        pem = b"-----BEGIN" in data
        key = (serialization.load_pem_private_key if pem else serialization.load_der_private_key)(data, secret)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        msg = f"the private key in {file} cannot be read: {error}"
        raise CertificateError(msg) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        msg = f"the private key in {file} is not an RSA key, which the security policies ask for"
        raise CertificateError(msg)
    return key


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _self_signed(
    key: rsa.RSAPrivateKey, uri: str, further_hosts: Sequence[str], now: datetime.datetime
) -> x509.Certificate:
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
    names = [
        x509.UniformResourceIdentifier(uri),
        *(_host(name) for name in dict.fromkeys([_this_host(), *further_hosts])),
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # the device's clock may be behind
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
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


def _this_host() -> str:
    return socket.gethostname() or "localhost"


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
