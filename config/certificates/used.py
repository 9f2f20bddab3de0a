"""Which certificates and keys a configuration uses: of sources, targets, the HTTP port, and the folders of OPC UA sources.

A field of a connector's settings whose name ends in ``ca_file``, ``cert_file``, ``key_file`` or ``credentials_file`` names such
a file; that holds for connectors of other packages too.
"""

import datetime
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal

from cryptography import x509
from pydantic import BaseModel, SecretStr

from config.certificates.files import certificates, fingerprint, pair_problem
from config.certificates.forms import SOON, days_left, is_self_signed, state
from config.models import Configuration
from connectors.sources.opcua.certificates import hosts, thumbprint, uris
from connectors.sources.opcua.chain import is_authority
from connectors.sources.opcua.config import OpcUaConfig
from connectors.sources.opcua.trust import TrustStore

Role = Literal["ca", "own", "key", "credentials"]
Kept = Literal["own", "trusted", "issuer", "rejected", "ca"]

FOLDER: Final = "certificates"  # of those made or imported here, below the gateway's directory
MANY: Final = 20  # certificates of one file: more are a system's authorities, which are not the gateway's to look after
_ROLES: Final[tuple[tuple[str, Role], ...]] = (
    ("ca_file", "ca"), ("cert_file", "own"), ("key_file", "key"), ("credentials_file", "credentials"),
)  # fmt: skip
_SECTIONS: Final = {"web": "web_ui", "telemetry": "gateway.telemetry"}  # as the file has them
_MADE_BY_ITSELF: Final = "made by itself"


@dataclass(frozen=True, slots=True)
class Material:
    """A file that a connection is made with.

    Attributes:
        kind: ``source``, ``target`` or ``gateway``.
        owner: Name of the source or target; of the gateway for its port.
        key: Where the configuration, or the environment, names it.
        role: What it is for.
        path: The file.
        password: What the key is encrypted with, if it is.
    """

    kind: str
    owner: str
    key: str
    role: Role
    path: Path
    password: SecretStr | None = None

    @property
    def made(self) -> bool:
        """Whether the source makes and renews it by itself."""
        return self.key == _MADE_BY_ITSELF


@dataclass(slots=True)
class Row:
    """A certificate that is in use, or was refused.

    Attributes:
        certificate: The certificate.
        file: Where it lies.
        kind: What it is to its owner.
        owners: Who uses it: sources, targets, or the gateway.
        used_by: The same with the key that names it.
        note: What else is to be known.
        source: The OPC UA source in whose folders it lies.
        place: Its place in the file; issuers follow what they issued.
    """

    certificate: x509.Certificate
    file: Path
    kind: Kept
    owners: list[str] = field(default_factory=list)
    used_by: list[str] = field(default_factory=list)
    note: str = ""
    source: str | None = None
    place: int = 0

    @property
    def number(self) -> str:
        """Its id: SHA-256."""
        return fingerprint(self.certificate)

    def plain(self, now: datetime.datetime) -> dict[str, Any]:
        """As plain values."""
        certificate = self.certificate
        return {
            "id": self.number,
            "owner": self.owners[0] if self.owners else "",
            "kind": self.kind,
            "subject": certificate.subject.rfc4514_string(),
            "issuer": certificate.issuer.rfc4514_string(),
            "serial": f"{certificate.serial_number:x}",
            "thumbprint": thumbprint(certificate),
            "not_before": certificate.not_valid_before_utc.isoformat(),
            "not_after": certificate.not_valid_after_utc.isoformat(),
            "days_left": round(days_left(certificate, now), 1),
            "state": state(certificate, now),
            "authority": is_authority(certificate),
            "self_signed": is_self_signed(certificate),
            "hosts": sorted(hosts(certificate)),
            "application_uris": uris(certificate),
            "used_by": self.used_by,
            "file": str(self.file),
            "note": self.note,
        }


# ---------------------------------------------------------------------- files of connections


def materials(config: Configuration) -> list[Material]:
    """The files that connections are made with."""
    found: list[Material] = []
    for source in config.sources:
        found += _of(source, "source", source.name, "")
        if isinstance(source, OpcUaConfig) and source.cert_file is None and source.security_policy != "none":
            own = config.directory / "sources" / source.name / "own"
            found.append(Material("source", source.name, _MADE_BY_ITSELF, "own", own / "certificate.der"))
    for name, target in config.targets.items():
        found += _of(target, "target", name, "")
        found += [Material("target", name, key, "ca", path) for key, path in target.authorities().items()]
    for part in fields(config):
        value = getattr(config, part.name)
        if isinstance(value, BaseModel):
            found += _of(value, "gateway", config.gateway, f"{_SECTIONS.get(part.name, part.name)}.")
    return found


def _of(model: BaseModel, kind: str, owner: str, before: str) -> Iterator[Material]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _of(value, kind, owner, f"{before}{name}.")
        elif isinstance(value, Path):
            for ending, role in _ROLES:
                if name == ending or name.endswith(f"_{ending}"):
                    password = getattr(model, name.removesuffix("file") + "password", None) if role == "key" else None
                    yield Material(kind, owner, before + name, role, value, password)


def pairs(found: Iterable[Material]) -> Iterator[tuple[Material, Material]]:
    """Each certificate of our own with the file of its key."""
    keys = {(m.kind, m.owner, m.key): m for m in found if m.role == "key"}
    for one in found:
        if one.role == "own":
            key = keys.get((one.kind, one.owner, one.key.removesuffix("cert_file") + "key_file"))
            if key is not None:
                yield one, key


# ---------------------------------------------------------------------- certificates in them


def rows(config: Configuration) -> list[Row]:
    """All certificates that the configuration uses, those that were refused, and those that were made and wait for use."""
    found: dict[tuple[Path, str], Row] = {}

    def add(file: Path, kind: Kept, owner: str, use: str, note: str = "", source: str | None = None) -> None:
        for place, certificate in enumerate(_held(file)):
            of_it: Kept = "ca" if kind == "own" and place else kind  # what follows our own is who issued it
            new = Row(certificate, file, of_it, place=place)
            row = found.setdefault((file.absolute(), fingerprint(certificate)), new)
            row.note, row.source = row.note or note, row.source or source
            if owner and owner not in row.owners:
                row.owners.append(owner)
            if use and use not in row.used_by:
                row.used_by.append(use)

    for one in materials(config):
        if one.role in ("ca", "own"):
            kept: Kept = "ca" if one.role == "ca" else "own"
            source = one.owner if one.made else None
            add(one.path, kept, one.owner, f"{one.kind} {one.owner}: {one.key}", source=source)
    for opcua in config.sources:
        if isinstance(opcua, OpcUaConfig):
            _add_folders(config.directory / "sources" / opcua.name, opcua, add)
    for file in sorted((config.directory / FOLDER).glob("*.pem")):
        held = _held(file)
        if held and not any(file.absolute() == path for path, _ in found):
            add(file, "ca" if is_authority(held[0]) else "own", "", "")
    return list(found.values())


def _add_folders(directory: Path, source: OpcUaConfig, add: Any) -> None:
    name = source.name
    if source.cert_file is None:
        own = directory / "own"
        use = f"source {name}: {_MADE_BY_ITSELF}"
        add(own / "certificate.der", "own", name, use, "", name)
        add(own / "previous.der", "own", name, use, "used while the server does not trust the renewed one", name)
    store = TrustStore(directory, name)
    folder: Literal["trusted", "issuer", "rejected"]
    for folder in ("trusted", "issuer", "rejected"):
        for file in store.files(folder):
            add(file, folder, name, "" if folder == "rejected" else f"source {name}: {folder}", "", name)


def _held(file: Path) -> tuple[x509.Certificate, ...]:
    """What a file holds; nothing when it cannot be read, and of a file with the authorities of a whole system."""
    try:
        found = certificates(file)
    except (OSError, ValueError):
        return ()
    return found if len(found) <= MANY else ()


# ---------------------------------------------------------------------- when they end


def ends(config: Configuration, now: datetime.datetime) -> dict[tuple[str, str], float]:
    """Days until an owner's certificates of a kind end, the first of them; negative when that has passed.

    Of several authorities or trusted servers, those that have ended count only when no other is left: they are often kept
    beside their successors.
    """
    days: dict[tuple[str, str], list[float]] = {}
    for row in rows(config):
        if row.kind == "rejected" or row.file.name == "previous.der":
            continue
        for owner in row.owners:
            days.setdefault((owner, row.kind), []).append(days_left(row.certificate, now))
    return {key: first_end(key[1], found) for key, found in days.items()}


def first_end(kind: str, days: Iterable[float]) -> float:
    """Of several certificates the one that counts."""
    days = list(days)
    if kind == "own":
        return min(days)
    return min((left for left in days if left > 0), default=max(days))


@dataclass(frozen=True, slots=True)
class Ending:
    """A certificate to do something about.

    Attributes:
        owners: Who uses it.
        expired: Whether it cannot be used now; else it ends soon.
        text: What to say.
    """

    owners: tuple[str, ...]
    expired: bool
    text: str


def ending(config: Configuration, now: datetime.datetime) -> list[Ending]:
    """Certificates that have ended or end soon, where no other of the same owner and kind takes their place."""
    said: list[Ending] = []
    found = [row for row in rows(config) if row.kind != "rejected" and row.file.name != "previous.der" and row.owners]
    for row in found:
        how, left = state(row.certificate, now), days_left(row.certificate, now)
        beside = [one for one in found if one.kind == row.kind != "own" and set(one.owners) & set(row.owners)]
        if how == "ok" or any(days_left(one.certificate, now) > max(left, SOON) for one in beside):
            continue
        end, subject = row.certificate.not_valid_after_utc, row.certificate.subject.rfc4514_string()
        when = {
            "expired": f"expired on {end:%Y-%m-%d}",
            "soon": f"expires on {end:%Y-%m-%d}, in {int(left)} days",
            "not_yet": f"is not valid before {row.certificate.not_valid_before_utc:%Y-%m-%d}",
        }[how]
        users = ", ".join(row.used_by)
        text = f"the certificate of {subject} in {row.file} {when} (used by {users}); renew it"
        said.append(Ending(tuple(row.owners), how != "soon", text))
    return said


def unusable(config: Configuration) -> list[tuple[str, str]]:
    """What is wrong with files that connections are made with: not there, no certificate, or a key of another one.

    Returns:
        Who cannot connect with it, and what to say.
    """
    found = materials(config)
    said: list[tuple[str, str]] = []
    for one in found:
        if one.role in ("ca", "own") and not one.made:
            try:
                certificates(one.path)
            except OSError as error:
                said.append((one.owner, f"{one.key}: {one.path} cannot be read: {error.strerror}"))
            except ValueError as error:
                said.append((one.owner, f"{one.key}: {one.path} holds no certificate: {error}"))
    for one, key in pairs(found):
        secret = key.password.get_secret_value() if key.password is not None else None
        if not any(owner == one.owner for owner, _ in said) and (wrong := pair_problem(one.path, key.path, secret)):
            said.append((one.owner, f"{one.key}: {wrong}"))
    return said


def peers(measures: Mapping[str, Mapping[str, float]], now: datetime.datetime) -> dict[tuple[str, str], float]:
    """Days until the certificates end that servers have shown, from what the readers of sources measure."""
    return {
        (source, "peer"): (end - now.timestamp()) / 86_400
        for source, values in measures.items()
        if (end := values.get("server_certificate_end_timestamp_seconds")) is not None
    }
