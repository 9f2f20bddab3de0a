"""Files of certificates and keys: read, checked against each other, replaced whole."""

import datetime
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    load_pem_private_key,
    pkcs12,
)

from config.certificates.forms import PrivateKey
from connectors.sources.opcua.certificates import parse, write
from delivery.disk import StoreError, make_directory, sync_directory

_LARGEST: Final = 4 * 1024 * 1024  # bytes of a file that is looked into


class CertificatesError(StoreError):
    """What was asked for cannot be done; the message says why and what to do."""


class NoSuchCertificateError(CertificatesError):
    """There is none like that."""


class AmbiguousCertificateError(CertificatesError):
    """Several are meant, or a name is taken."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a file that is imported holds."""

    chain: list[x509.Certificate]
    key: PrivateKey | None


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate: its id."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """What a file holds; read anew only when it has changed.

    Raises:
        OSError: It cannot be read.
        ValueError: It holds no certificate.
    """
    found = path.stat()
    if found.st_size > _LARGEST:
        msg = f"it has more than {_LARGEST} bytes"
        raise ValueError(msg)
    return _parsed(str(path), found.st_mtime_ns, found.st_size, found.st_ino)


@lru_cache(maxsize=1024)
def _parsed(path: str, _changed: int, _size: int, _inode: int) -> tuple[x509.Certificate, ...]:
    return tuple(parse(Path(path).read_bytes()))


def read_key(path: Path, password: str | None = None) -> PrivateKey:
    """A private key.

    Raises:
        CertificatesError: It cannot be read.
    """
    try:
        return key_of(path.read_bytes(), password)
    except OSError as error:
        raise CertificatesError(f"the private key in {path} cannot be read: {error.strerror}") from None
    except CertificatesError as error:
        raise CertificatesError(f"{path}: {error}") from None


def key_of(data: bytes, password: str | None) -> PrivateKey:
    """A private key in PEM or DER.

    Raises:
        CertificatesError: It is none, or encrypted with another password.
    """
    secret = password.encode() if password else None
    load = load_pem_private_key if b"-----BEGIN" in data else load_der_private_key
    try:
        return _usable(load(data, secret))
    except TypeError:
        said = (
            "the private key is encrypted: give its password" if secret is None else "the private key has no password"
        )
        raise CertificatesError(said) from None
    except (ValueError, UnsupportedAlgorithm):
        wrong = "it holds no private key" if secret is None else "it holds no private key, or the password is wrong"
        raise CertificatesError(wrong) from None


def _usable(key: object) -> PrivateKey:
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise CertificatesError("the private key is neither RSA nor of an elliptic curve")
    return key


def given(data: bytes, key_data: bytes | None, password: str | None) -> Given:
    """What is imported: PEM, DER or PKCS#12; the certificate of the key comes first, behind it its issuers.

    Args:
        data: Certificates, in PEM with the key or without.
        key_data: The key, where it is apart.
        password: What the key, or the PKCS#12 file, is encrypted with.

    Raises:
        CertificatesError: It is none of these, or key and certificate do not belong together.
    """
    if len(data) > _LARGEST or len(key_data or b"") > _LARGEST:
        raise CertificatesError(f"more than {_LARGEST} bytes are no certificate")
    key = key_of(key_data, password) if key_data else None
    try:
        chain = parse(data)
    except ValueError:
        found = _unpacked(data, password)
        if key is None:
            key = found.key
        chain = found.chain
    else:
        if key is None and b"PRIVATE KEY-----" in data:
            key = key_of(data, password)
    if key is not None:
        own = [one for one in chain if one.public_key() == key.public_key()]
        if not own:
            subject = chain[0].subject.rfc4514_string()
            raise CertificatesError(
                f"the private key is not that of the certificate of {subject}: they do not belong together"
            )
        chain = [own[0], *(one for one in chain if one != own[0])]
    return Given(chain, key)


def _unpacked(data: bytes, password: str | None) -> Given:
    try:
        found = pkcs12.load_pkcs12(data, password.encode() if password else None)
    except (ValueError, UnsupportedAlgorithm):
        said = ", or its password is wrong" if password else ", or it is PKCS#12 and needs a password"
        raise CertificatesError(f"this is no certificate in PEM, DER or PKCS#12{said}") from None
    chain = [one.certificate for one in ([found.cert] if found.cert else []) + list(found.additional_certs)]
    if not chain:
        raise CertificatesError("the PKCS#12 file holds no certificate")
    return Given(chain, _usable(found.key) if found.key is not None else None)


def pair_problem(cert_file: Path, key_file: Path, password: str | None) -> str | None:
    """Why a certificate and a key cannot be used together now; None when they can."""
    try:
        certificate = certificates(cert_file)[0]
        key = read_key(key_file, password)
    except (OSError, ValueError, CertificatesError) as error:
        return str(error)
    if certificate.public_key() != key.public_key():
        return f"the key in {key_file} is not that of the certificate in {cert_file}"
    return None


def pem(*chain: x509.Certificate) -> bytes:
    """Certificates as a PEM file."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in chain)


def write_key(path: Path, key: PrivateKey) -> None:
    """Write a key that its owner alone can read."""
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write(path, data, 0o600)
    sync_directory(path.parent)


def replace(path: Path, data: bytes) -> None:
    """Put a certificate in a file's place, whole or not at all."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    write(path, data, mode)
    sync_directory(path.parent)


def set_aside(path: Path, folder: Path, now: datetime.datetime) -> Path:
    """Copy a certificate that is about to be replaced into a folder; returns the copy."""
    make_directory(folder)
    copy = folder / f"{path.stem}-{now:%Y%m%dT%H%M%SZ}{path.suffix}"
    write(copy, path.read_bytes(), 0o644)
    sync_directory(folder)
    return copy


def as_the_gateway(directory: Path) -> None:
    """What is made here must be the gateway's to read.

    Raises:
        CertificatesError: The directory belongs to another user.
    """
    directory = directory.absolute()
    there = next(folder for folder in (directory, *directory.parents) if folder.exists())
    if there.stat().st_uid != os.geteuid():
        raise CertificatesError(f"{there} belongs to another user; run this as the user that the gateway runs as")
