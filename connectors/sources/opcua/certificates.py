"""What stands in a certificate, and files of certificates."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

# what reading the extensions of a stranger's certificate may raise
UNREADABLE: Final = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def thumbprint(certificate: x509.Certificate) -> str:
    """SHA-1 of a certificate: a name, as in every OPC UA trust list."""
    return certificate.fingerprint(hashes.SHA1()).hex()  # noqa: S303


def uris(certificate: x509.Certificate) -> list[str]:
    """ApplicationUris that a certificate is for."""
    names = _alternative_names(certificate)
    return names.get_values_for_type(x509.UniformResourceIdentifier) if names is not None else []


def hosts(certificate: x509.Certificate) -> set[str]:
    """Host names and IP addresses that a certificate is for, in small letters."""
    names = _alternative_names(certificate)
    if names is None:
        return set()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return {*(name.lower() for name in names.get_values_for_type(x509.DNSName)), *addresses}


def _alternative_names(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return None


def load(der: bytes) -> x509.Certificate:
    """The certificate in DER.

    Raises:
        ValueError: It is none, or the names in it make no sense.
    """
    with _quiet():
        return _with_names(x509.load_der_x509_certificate(der))


def parse(data: bytes) -> list[x509.Certificate]:
    """Certificates of a file: in PEM, or one in DER. Not for what a stranger sends, which may be both at once.

    Raises:
        ValueError: It is neither, or the names in it make no sense.
    """
    if b"-----BEGIN CERTIFICATE-----" in data:
        with _quiet():
            return [_with_names(certificate) for certificate in x509.load_pem_x509_certificates(data)]
    return [load(data)]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings: a system's authorities have serial numbers, and devices countries, that no standard allows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _with_names(certificate: x509.Certificate) -> x509.Certificate:
    _ = certificate.subject, certificate.issuer  # they are read once and kept
    return certificate


def write(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(path.suffix + ".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
