"""What people do with certificates: look, make, import, trust, reject, renew, remove. Answers are plain values."""

import datetime
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from config.certificates import forms
from config.certificates.files import (
    AmbiguousCertificateError,
    CertificatesError,
    NoSuchCertificateError,
    as_the_gateway,
    certificates,
    given,
    pem,
    read_key,
    replace,
    set_aside,
    write_key,
)
from config.certificates.forms import Issuer, KeyKind, PrivateKey, Wanted, issue, renewed
from config.certificates.used import FOLDER, Row, materials, pairs, rows
from config.models import Configuration
from connectors.sources.opcua.certificates import UNREADABLE, write
from connectors.sources.opcua.chain import is_authority, signed_by
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.own import application_uri
from connectors.sources.opcua.trust import Folder, Stored, TrustStore
from delivery.disk import make_directory, sync_directory

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_ID: Final = re.compile(r"[0-9a-f]{8,64}")
_PREVIOUS: Final = "previous"
_DER: Final = Encoding.DER


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class CertificatesDesk:
    """The certificates of a gateway.

    Those that are made or imported lie in ``certificates`` below the gateway's directory: ``NAME.pem``, with its issuers behind
    it, and ``NAME.key``, which its owner alone can read.

    Args:
        config: Gives the configuration that holds now.
        now: Gives the present, UTC.
    """

    def __init__(self, config: Callable[[], Configuration], now: Callable[[], datetime.datetime] = _utc_now) -> None:
        self._config = config
        self._now = now

    @property
    def folder(self) -> Path:
        """Where those lie that are made or imported here."""
        return self._config().directory / FOLDER

    def listed(self) -> dict[str, Any]:
        """Those that the configuration uses, that were refused, and that were made and wait for use; the first to end first."""
        now = self._now()
        found = [row.plain(now) for row in rows(self._config())]
        return {"certificates": sorted(found, key=lambda row: (row["kind"] == "rejected", row["days_left"]))}

    # ------------------------------------------------------------------ making

    def create(
        self, name: str, wanted: Wanted, *, by: str | None = None, key: KeyKind | None = None, source: str | None = None
    ) -> dict[str, Any]:
        """Make a certificate and its key.

        Args:
            name: What their files are called.
            wanted: What it holds.
            by: Name of the authority that signs, one of those here; self-signed when None.
            key: Kind of its key; what suits the kind of certificate when None.
            source: The OPC UA source that an application's certificate is for, instead of `wanted.uri`.

        Raises:
            CertificatesError: The wish makes no sense, or the name is taken.
        """
        if source is not None:
            of = self._source(source)
            uri = application_uri(self._config().gateway, of.name)
            hosts = (*wanted.hosts, *of.certificate_hosts)
            wanted = Wanted(wanted.kind, wanted.common_name, wanted.organization, hosts, uri, wanted.days)
        kind = key or forms.KEYS[wanted.kind]
        if (wrong := forms.problem(wanted, kind)) is not None:
            raise CertificatesError(wrong)
        file, key_file = self._places(name)
        issuer = self._authority(by) if by is not None else None
        now = self._now()
        if issuer is not None and now >= issuer.certificate.not_valid_after_utc:
            raise CertificatesError(f"the authority `{by}` has expired; renew it first")
        private = forms.generate(kind)
        try:
            made = issue(wanted, private, issuer, now)
        except ValueError as error:  # a name that does not fit, in the library's words
            raise CertificatesError(f"such a certificate cannot be made: {error}") from None
        self._keep(file, key_file, [made, *([issuer.certificate] if issuer is not None else [])], private)
        return self._told(file, made, now) | {"key_file": str(key_file)}

    def import_(
        self,
        name: str,
        data: bytes,
        *,
        key: bytes | None = None,
        password: str | None = None,
        source: str | None = None,
        to: Literal["trusted", "issuer"] = "trusted",
    ) -> dict[str, Any]:
        """Keep certificates that come from elsewhere: PEM, DER or PKCS#12.

        Args:
            name: What the files are to be called.
            data: The certificates; in PEM and PKCS#12 their key may be with them.
            key: The key, where it is apart.
            password: What the key, or the PKCS#12 file, is encrypted with; it is kept without, readable by its owner alone.
            source: An OPC UA source that is to trust it, or to know it as an issuer; no key is kept then.
            to: Which of the two.

        Raises:
            CertificatesError: It cannot be read, key and certificate do not belong together, or the name is taken.
        """
        found = given(data, key, password)
        now = self._now()
        if source is not None:
            of = self._source(source)
            directory = self._config().directory / "sources" / of.name
            as_the_gateway(directory)
            make_directory(directory / to)
            file = directory / to / f"{Stored(Path(), found.chain[0]).thumbprint}.der"
            write(file, found.chain[0].public_bytes(_DER), 0o644)
            sync_directory(file.parent)
            return self._told(file, found.chain[0], now)
        file, key_file = self._places(name)
        self._keep(file, key_file, found.chain, found.key)
        return self._told(file, found.chain[0], now) | ({"key_file": str(key_file)} if found.key is not None else {})

    def _keep(self, file: Path, key_file: Path, chain: list[x509.Certificate], key: PrivateKey | None) -> None:
        as_the_gateway(file.parent)
        make_directory(file.parent)
        if key is not None:
            write_key(key_file, key)  # before its certificate: a name is taken by the latter
        else:
            key_file.unlink(missing_ok=True)
        replace(file, pem(*chain))

    # ------------------------------------------------------------------ trust

    def trust(self, number: str, *, owner: str | None = None, issuer: bool = False) -> dict[str, Any]:
        """Let an OPC UA source trust a certificate that it refused, or know it as an issuer.

        Args:
            number: Its id, or the first digits of it.
            owner: The source, where several have refused it.
            issuer: Use it to complete chains, without trusting it.

        Raises:
            CertificatesError: There is none like that, or several.
        """
        kinds = ("rejected", "trusted") if issuer else ("rejected", "issuer")
        return self._moved(self._one(number, owner, kinds), "issuer" if issuer else "trusted")

    def reject(self, number: str, *, owner: str | None = None) -> dict[str, Any]:
        """Trust a certificate no longer.

        Raises:
            CertificatesError: There is none like that, or several.
        """
        return self._moved(self._one(number, owner, ("trusted", "issuer")), "rejected")

    def _moved(self, row: Row, to: Folder) -> dict[str, Any]:
        assert row.source is not None  # noqa: S101 - only OPC UA sources have such folders
        store = TrustStore(self._config().directory / "sources" / row.source, row.source)
        try:
            file = store.move(Stored(row.file, row.certificate), to)
        except ValueError as error:
            raise CertificatesError(str(error)) from None
        return self._told(file, row.certificate, self._now())

    # ------------------------------------------------------------------ renewing

    def renew(self, number: str, *, days: int | None = None) -> dict[str, Any]:
        """Replace a certificate of ours by one with other dates: same key, subject, names and usage.

        It is signed by its authority, when that lies here with its key, or by its own key. The old one is kept aside. A running
        gateway connects anew with it.

        Args:
            number: Its id, or the first digits of it.
            days: How long the new one holds; as long as the old one when None.

        Raises:
            CertificatesError: There is none like that, or its authority is not here.
        """
        if days is not None and not 1 <= days <= 36_500:
            raise CertificatesError("days is between 1 and 36500")
        row = self._one(number, None, ("own", "ca"), alone=True)
        return self._renewed(row, days)

    def renew_due(self, within: float, *, days: int | None = None) -> list[dict[str, Any]]:
        """Renew all of ours that end within so many days and can be renewed here.

        Raises:
            CertificatesError: One cannot be replaced.
        """
        now, done = self._now(), []
        for row in rows(self._config()):
            ours = row.kind in ("own", "ca") and not row.place and row.file.name != "previous.der"
            if ours and forms.days_left(row.certificate, now) < within and self._signer(row) is not None:
                done.append(self._renewed(row, days))
        return done

    def _renewed(self, row: Row, days: int | None) -> dict[str, Any]:
        signer = self._signer(row)
        if signer is None:
            issuer = row.certificate.issuer.rfc4514_string()
            raise CertificatesError(
                f"{row.file} was issued by {issuer}, whose key is not here: have it renewed there, and import the new one"
            )
        as_the_gateway(row.file.parent)
        now = self._now()
        if isinstance(signer, Issuer) and now >= signer.certificate.not_valid_after_utc:
            raise CertificatesError(
                f"the authority {row.certificate.issuer.rfc4514_string()} has expired; renew it first"
            )
        try:
            made = renewed(row.certificate, signer, now, days)
        except UNREADABLE as error:
            raise CertificatesError(f"{row.file} cannot be renewed: {error}") from None
        aside = self._set_aside(row, now)
        if b"-----BEGIN CERTIFICATE-----" in row.file.read_bytes():
            chain = [made if one == row.certificate else one for one in certificates(row.file)]
            if isinstance(signer, Issuer):
                chain = [signer.certificate if _same_authority(one, signer.certificate) else one for one in chain]
            replace(row.file, _keys_in(row.file) + pem(*chain))
        else:
            replace(row.file, made.public_bytes(_DER))
        return self._told(row.file, made, now) | {"previous_file": str(aside)}

    def _set_aside(self, row: Row, now: datetime.datetime) -> Path:
        if row.source is not None and row.file.parent.name == "own":  # where the source looks for it
            previous = row.file.with_name("previous.der")
            replace(previous, row.file.read_bytes())
            return previous
        folder = self.folder if row.file.parent.absolute() == self.folder.absolute() else row.file.parent
        return set_aside(row.file, folder / _PREVIOUS, now)

    def _signer(self, row: Row) -> Issuer | PrivateKey | None:
        """Who can sign a certificate anew."""
        certificate = row.certificate
        if forms.is_self_signed(certificate):
            return self._key_of(row)
        for file in sorted(self.folder.glob("*.pem")):
            try:
                authority = certificates(file)[0]
                if signed_by(certificate, authority):
                    return Issuer(authority, read_key(file.with_suffix(".key")))
            except (OSError, ValueError, CertificatesError):
                continue
        return None

    def _key_of(self, row: Row) -> PrivateKey | None:
        """The key of a certificate, where it is known."""
        config = self._config()
        places: list[tuple[Path, str | None]] = [
            (row.file.with_suffix(".key"), None),
            (row.file.with_name("key.pem"), None),
        ]
        for own, key in pairs(materials(config)):
            if own.path.absolute() == row.file.absolute():
                places.append((key.path, key.password.get_secret_value() if key.password is not None else None))
        for path, password in places:
            try:
                key_found = read_key(path, password)
            except CertificatesError:
                continue
            if key_found.public_key() == row.certificate.public_key():
                return key_found
        return None

    # ------------------------------------------------------------------ removing

    def remove(self, number: str, *, owner: str | None = None) -> dict[str, Any]:
        """Delete a certificate that was refused, or one that was made or imported here and that nobody uses, with its key.

        Raises:
            CertificatesError: There is none like that, or it is in use.
        """
        row = self._one(number, owner, ("rejected", "own", "ca", "trusted", "issuer"), alone=True)
        ours = row.file.parent.absolute() == self.folder.absolute()
        if row.kind != "rejected" and (row.used_by or not ours):
            users = ", ".join(row.used_by) or "somebody else"
            raise AmbiguousCertificateError(f"{row.file} is in use by {users}; take it out of the configuration first")
        now = self._now()
        told = self._told(row.file, row.certificate, now)
        if ours and any(one.issuer == row.certificate.subject for one in self._others(row.file)):
            raise AmbiguousCertificateError(f"{row.file} has issued certificates that lie here; remove them first")
        as_the_gateway(row.file.parent)
        row.file.unlink()
        if ours:
            row.file.with_suffix(".key").unlink(missing_ok=True)
        sync_directory(row.file.parent)
        return told

    def _others(self, file: Path) -> list[x509.Certificate]:
        found = []
        for other in self.folder.glob("*.pem"):
            if other.absolute() != file.absolute():
                try:
                    found.append(certificates(other)[0])
                except (OSError, ValueError):
                    continue
        return found

    # ------------------------------------------------------------------ finding

    def _places(self, name: str) -> tuple[Path, Path]:
        if not _NAME.fullmatch(name):
            raise CertificatesError(f"{name!r} is no name: small letters, digits and `-`, 63 at most")
        file = self.folder / f"{name}.pem"
        if file.exists():
            raise AmbiguousCertificateError(
                f"there is a certificate `{name}` already: {file}; take another name, or renew it"
            )
        return file, self.folder / f"{name}.key"

    def _authority(self, name: str) -> Issuer:
        if not _NAME.fullmatch(name):
            raise CertificatesError(f"{name!r} is no name of an authority here")
        file = self.folder / f"{name}.pem"
        try:
            certificate = certificates(file)[0]
        except (OSError, ValueError):
            raise NoSuchCertificateError(
                f"there is no authority `{name}` in {self.folder}; `bifrost certs ca {name}` makes one"
            ) from None
        if not is_authority(certificate):
            raise CertificatesError(f"the certificate `{name}` is not an authority's")
        return Issuer(certificate, read_key(file.with_suffix(".key")))

    def _source(self, name: str) -> OpcUaConfig:
        known = [source for source in self._config().sources if isinstance(source, OpcUaConfig)]
        for source in known:
            if source.name == name:
                return source
        there = ", ".join(source.name for source in known) or "none"
        raise NoSuchCertificateError(f"there is no OPC UA source `{name}`; the configuration has: {there}")

    def _one(self, number: str, owner: str | None, kinds: tuple[str, ...], *, alone: bool = False) -> Row:
        """The certificate that is meant; with `alone` not one that only follows another in its file."""
        wanted = number.lower().replace(":", "").replace(" ", "")
        if not _ID.fullmatch(wanted):
            raise NoSuchCertificateError(f"{number[:80]!r} is no id: give 8 digits of the SHA-256 at least")
        fitting = [
            row
            for row in rows(self._config())
            if row.kind in kinds
            and not (alone and row.place)
            and row.number.startswith(wanted)
            and (owner is None or owner in row.owners)
        ]
        if not fitting:
            raise NoSuchCertificateError(f"no certificate with the id {wanted} is {' or '.join(kinds)}")
        first = [row for kind in kinds for row in fitting if row.kind == kind]
        if len({row.number for row in first}) > 1:
            raise AmbiguousCertificateError(f"several certificates begin with {wanted}; give more digits")
        best = [row for row in first if row.kind == first[0].kind]
        here = [row for row in best if row.file.parent.absolute() == self.folder.absolute()]
        if len(here) == 1:
            return here[0]
        if len(best) > 1 and owner is None:
            owners = ", ".join(sorted({one for row in best for one in row.owners} or {str(row.file) for row in best}))
            raise AmbiguousCertificateError(f"the certificate {wanted[:16]} is of several: {owners}; say of which")
        return best[0]

    def _told(self, file: Path, certificate: x509.Certificate, now: datetime.datetime) -> dict[str, Any]:
        """A certificate as `listed` shows it."""
        for row in rows(self._config()):
            if row.file.absolute() == file.absolute() and row.certificate == certificate:
                return row.plain(now)
        return Row(certificate, file, "own").plain(now)


def _same_authority(one: x509.Certificate, authority: x509.Certificate) -> bool:
    return one.subject == authority.subject and one.public_key() == authority.public_key()


def _keys_in(file: Path) -> bytes:
    """Private keys that lie in a file beside the certificate."""
    blocks = re.findall(
        rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----\n?", file.read_bytes(), re.DOTALL
    )
    return b"".join(block.rstrip(b"\n") + b"\n" for block in blocks)


__all__ = ["CertificatesDesk"]
