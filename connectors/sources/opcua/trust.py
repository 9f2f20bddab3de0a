"""The folders of a source that say which servers it trusts.

In the source's folder::

    trusted/   servers that are trusted, and authorities (CA) whose servers are trusted; their lists of revoked certificates
    issuer/    authorities that complete a chain and are not trusted themselves; their lists of revoked certificates
    rejected/  certificates that were refused, by their SHA-1

Certificates are files in DER or PEM (.der, .crt, .cer, .pem), lists end in .crl; folders below are looked into. What lies
there is read at every attempt to connect.
"""

import datetime
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from connectors.sources.opcua.certificates import load, parse, thumbprint, write
from connectors.sources.opcua.chain import LONGEST, Expected, Known, judge

_log = logging.getLogger(__name__)

_MAX_REJECTED: Final = 100  # a stranger who sends a new certificate with every attempt does not fill the disk
_CERTIFICATES: Final = (".der", ".pem", ".crt", ".cer")
_LARGEST: Final = 1024 * 1024  # bytes of a file that is read here
_LARGEST_LIST: Final = 64 * 1024 * 1024
Folder = Literal["trusted", "issuer", "rejected"]


class UntrustedServerError(Exception):
    """The server's certificate is not accepted; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A certificate and the file that it lies in."""

    file: Path
    certificate: x509.Certificate

    @property
    def thumbprint(self) -> str:
        """SHA-1 of the certificate."""
        return thumbprint(self.certificate)


class TrustStore:
    """The folders of one source.

    Args:
        directory: The source's folder.
        source: Its name, for messages.
    """

    def __init__(self, directory: Path, source: str) -> None:
        self.directory = directory
        self.source = source

    def certificates(self, folder: Folder) -> list[Stored]:
        """What lies in a folder, by file name; what is no certificate is logged and left out."""
        found: list[Stored] = []
        for file in self.files(folder):
            try:
                found += [Stored(file, certificate) for certificate in parse(_read(file, _LARGEST))]
            except (OSError, ValueError) as error:
                _log.warning("source %s: %s is no certificate: %s", self.source, file, error)
        return found

    def revocations(self) -> list[x509.CertificateRevocationList]:
        """The lists of revoked certificates."""
        found: list[x509.CertificateRevocationList] = []
        for file in [*self._files("trusted", (".crl",)), *self._files("issuer", (".crl",))]:
            try:
                data = _read(file, _LARGEST_LIST)
                pem = b"-----BEGIN X509 CRL-----" in data[:4096]
                found.append(x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data))
            except (OSError, ValueError) as error:
                _log.warning("source %s: %s is no list of revoked certificates: %s", self.source, file, error)
        return found

    def files(self, folder: Folder) -> list[Path]:
        """The files of certificates in a folder, by name."""
        return self._files(folder, _CERTIFICATES)

    def _files(self, folder: Folder, endings: tuple[str, ...]) -> list[Path]:
        return sorted(f for f in (self.directory / folder).rglob("*") if f.suffix.lower() in endings and f.is_file())

    def check(self, chain: bytes | None, expected: Expected, now: datetime.datetime) -> list[str]:
        """Accept a server, or file its certificate under `rejected`.

        Args:
            chain: What the server sent, DER, one behind the other.
            expected: What its certificate has to be.
            now: The present, UTC.

        Returns:
            What is odd about it, and accepted.

        Raises:
            UntrustedServerError: The server is not trusted, or its certificate is not sound.
        """
        if not chain:
            msg = "the server has no certificate; without one it cannot be trusted"
            raise UntrustedServerError(msg)
        try:
            sent = [load(der) for der in split(chain)]
            named = f"the server's certificate ({sent[0].subject.rfc4514_string()}, SHA-1 {thumbprint(sent[0])})"
        except ValueError as error:
            msg = f"the server's certificate cannot be read: {error}"
            raise UntrustedServerError(msg) from None
        for name in ("trusted", "issuer"):  # to be there for people who want to put something into them
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        trusted = [stored.certificate for stored in self.certificates("trusted")]
        issuers = [stored.certificate for stored in self.certificates("issuer")]
        verdict = judge(sent, Known(trusted, issuers, self.revocations()), expected, now)
        if verdict.problem is None:
            return verdict.warnings
        if sent[0] not in trusted:
            self._reject(sent)
        folder = self.directory / "trusted"
        if verdict.untrusted:
            file = self.directory / "rejected" / f"{thumbprint(sent[0])}.der"
            msg = (
                f"{named} is not trusted; move {file} to {folder}, "
                f"or say `bifrost certs trust {self.source} {thumbprint(sent[0])}`, to trust it"
            )
        elif verdict.missing is not None:
            msg = (
                f"{named} is refused: {verdict.problem}; put the issuer's certificate into {self.directory / 'issuer'}"
            )
        else:
            how = "trusted" if sent[0] in trusted else "by a trusted authority"
            msg = f"{named} is {how}, but {verdict.problem}; the server needs another one"
        raise UntrustedServerError(msg)

    def _reject(self, sent: list[x509.Certificate]) -> None:
        """File what is refused, and the issuers that came with it, for people to look at."""
        folder = self.directory / "rejected"
        known = {stored.certificate for of in ("trusted", "issuer", "rejected") for stored in self.certificates(of)}
        try:
            folder.mkdir(exist_ok=True)
            for certificate in sent:
                if certificate not in known and sum(1 for _ in folder.iterdir()) < _MAX_REJECTED:
                    data = certificate.public_bytes(serialization.Encoding.DER)
                    write(folder / f"{thumbprint(certificate)}.der", data, 0o644)
        except OSError as error:
            _log.warning("source %s: a refused certificate cannot be filed: %s", self.source, error)

    def move(self, stored: Stored, to: Folder) -> Path:
        """Move a certificate into another folder; it takes effect at the next attempt to connect.

        Returns:
            Its new place.

        Raises:
            ValueError: Its file holds other certificates too, which would come along.
        """
        if len(parse(stored.file.read_bytes())) > 1:
            msg = f"{stored.file} holds several certificates; move or split it by hand"
            raise ValueError(msg)
        folder = self.directory / to
        folder.mkdir(parents=True, exist_ok=True)
        return stored.file.replace(folder / f"{stored.thumbprint}.der")


def _read(file: Path, largest: int) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(largest + 1)
    if len(data) > largest:
        msg = f"it has more than {largest} bytes"
        raise ValueError(msg)
    return data


def split(chain: bytes) -> list[bytes]:
    """The certificates that a server sends one behind the other (OPC 10000-6 clause 6.2.6), the server's own first.

    Bytes that are none are kept as the last one; those beyond the longest chain are left out.
    """
    found: list[bytes] = []
    while chain and len(found) < LONGEST:
        size = len(chain)
        if len(chain) >= 4 and chain[:2] == b"\x30\x82":
            size = int.from_bytes(chain[2:4], "big") + 4
        found.append(chain[:size])
        chain = chain[size:]
    return found
