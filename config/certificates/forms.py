"""What a certificate holds, and when it is due. Nothing here reads a file or a clock."""

import datetime
import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Kind = Literal["ca", "server", "client", "application"]
KeyKind = Literal["rsa-2048", "rsa-3072", "rsa-4096", "p-256", "p-384"]
State = Literal["ok", "soon", "expired", "not_yet"]
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

SOON: Final = 30  # days: time for people to do something about it
_HOST: Final = re.compile(r"(\*\.)?[A-Za-z0-9_-]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_URI: Final = re.compile(r"[!-~]*")
_BEHIND: Final = datetime.timedelta(days=1)  # clocks of devices may be
DAYS: Final[dict[Kind, int]] = {"ca": 3650, "server": 825, "client": 825, "application": 1825}
# OPC UA's policies ask for RSA of 2048 to 4096 bits, of the application and of who certifies it
KEYS: Final[dict[Kind, KeyKind]] = {"ca": "rsa-3072", "server": "p-256", "client": "p-256", "application": "rsa-2048"}
_CURVES: Final[dict[str, ec.EllipticCurve]] = {"p-256": ec.SECP256R1(), "p-384": ec.SECP384R1()}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A certificate to be made.

    Attributes:
        kind: An authority, a server, a client, or an OPC UA application.
        common_name: Name of its subject.
        organization: Of the subject; none when empty.
        hosts: Host names and IP addresses that it is for.
        uri: ApplicationUri, for an application.
        days: How long it holds; as `DAYS` says when None.
    """

    kind: Kind
    common_name: str
    organization: str = ""
    hosts: tuple[str, ...] = ()
    uri: str = ""
    days: int | None = None


@dataclass(frozen=True, slots=True)
class Issuer:
    """Who signs: an authority, or the key of the certificate itself."""

    certificate: x509.Certificate
    key: PrivateKey


def problem(wanted: Wanted, key: KeyKind) -> str | None:
    """What is wrong with a wish; None when nothing is."""
    if not 1 <= len(wanted.common_name) <= 64:
        return "the common name has 1 to 64 characters (RFC 5280)"
    if len(wanted.organization) > 64:
        return "the organization has 64 characters at most (RFC 5280)"
    if wanted.days is not None and not 1 <= wanted.days <= 36_500:
        return "days is between 1 and 36500"
    if wanted.kind == "server" and not wanted.hosts:
        return "a server's certificate needs the names or addresses that clients connect to: give hosts"
    for host in wanted.hosts:
        if not _HOST.fullmatch(host) and not _is_address(host):
            return f"{host!r} is no host name and no IP address"
    if wanted.kind == "application" and ":" not in wanted.uri:
        return "an OPC UA application's certificate needs its ApplicationUri: give uri, or the source that it is for"
    if not _URI.fullmatch(wanted.uri):
        return "the ApplicationUri has no blanks and only ASCII letters"
    if wanted.kind == "application" and not key.startswith("rsa"):
        return "OPC UA's security policies ask for an RSA key"
    return None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # a zone means something on this machine only


def generate(kind: KeyKind) -> PrivateKey:
    """A new private key."""
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    return rsa.generate_private_key(public_exponent=65537, key_size=int(kind.removeprefix("rsa-")))


def issue(wanted: Wanted, key: PrivateKey, issuer: Issuer | None, now: datetime.datetime) -> x509.Certificate:
    """Make a certificate.

    Args:
        wanted: What it holds.
        key: Its key.
        issuer: The authority that signs; None for a self-signed one.
        now: The present, UTC.
    """
    names = [x509.NameAttribute(NameOID.COMMON_NAME, wanted.common_name)]
    if wanted.organization:
        names.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, wanted.organization))
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=wanted.kind == "ca", path_length=0 if wanted.kind == "ca" else None), True),
        (_usage(wanted.kind, key, self_signed=issuer is None), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ]
    if wanted.kind != "ca":
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if wanted.kind == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        extensions.append((x509.ExtendedKeyUsage([purpose]), False))
    alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(wanted.uri)] if wanted.uri else []
    alternatives += [general_name(host) for host in dict.fromkeys(wanted.hosts)]
    if alternatives:
        extensions.append((x509.SubjectAlternativeName(alternatives), False))
    days = datetime.timedelta(days=wanted.days or DAYS[wanted.kind])
    return _signed(x509.Name(names), extensions, key.public_key(), issuer or key, now, days)


def renewed(
    old: x509.Certificate, issuer: Issuer | PrivateKey, now: datetime.datetime, days: int | None = None
) -> x509.Certificate:
    """The same certificate with other dates: same key, subject, names and usage.

    Args:
        old: The certificate.
        issuer: The authority that issued it, or its own key when it is self-signed.
        now: The present, UTC.
        days: How long the new one holds; as long as the old one when None.
    """
    kept = [
        (extension.value, extension.critical)
        for extension in old.extensions
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier)
    ]
    lasts = old.not_valid_after_utc - old.not_valid_before_utc - _BEHIND
    wanted = datetime.timedelta(days=days) if days else max(lasts, datetime.timedelta(days=1))
    return _signed(old.subject, kept, old.public_key(), issuer, now, wanted)


def _signed(
    subject: x509.Name,
    extensions: list[tuple[x509.ExtensionType, bool]],
    key: CertificatePublicKeyTypes,
    issuer: Issuer | PrivateKey,
    now: datetime.datetime,
    lasts: datetime.timedelta,
) -> x509.Certificate:
    now, end = now.replace(microsecond=0), now.replace(microsecond=0) + lasts
    if isinstance(issuer, Issuer):
        name, signing = issuer.certificate.subject, issuer.key
        end = min(end, issuer.certificate.not_valid_after_utc)
    else:
        name, signing = subject, issuer
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(name)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEHIND)
        .not_valid_after(end)
        .add_extension(_authority(issuer), critical=False)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    strong = isinstance(signing, ec.EllipticCurvePrivateKey) and signing.curve.key_size > 256
    return builder.sign(signing, hashes.SHA384() if strong else hashes.SHA256())


def _authority(issuer: Issuer | PrivateKey) -> x509.AuthorityKeyIdentifier:
    if isinstance(issuer, Issuer):
        try:
            known = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(known)
        except x509.ExtensionNotFound:
            return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())


def _usage(kind: Kind, key: PrivateKey, *, self_signed: bool) -> x509.KeyUsage:
    authority, application, is_rsa = kind == "ca", kind == "application", isinstance(key, rsa.RSAPrivateKey)
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=application,  # what OPC 10000-6 clause 6.2.2 asks of an application
        key_encipherment=is_rsa and not authority,
        data_encipherment=application,
        key_agreement=False,
        key_cert_sign=authority or (application and self_signed),
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def general_name(host: str) -> x509.GeneralName:
    """A host name or IP address as certificates have them."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def days_left(certificate: x509.Certificate, now: datetime.datetime) -> float:
    """Days until it ends; negative after that."""
    return (certificate.not_valid_after_utc - now).total_seconds() / 86_400


def state(certificate: x509.Certificate, now: datetime.datetime) -> State:
    """How a certificate stands."""
    if now < certificate.not_valid_before_utc:
        return "not_yet"
    left = days_left(certificate, now)
    return "expired" if left <= 0 else "soon" if left < SOON else "ok"


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether its own key signed it."""
    from connectors.sources.opcua.chain import signed_by

    return certificate.issuer == certificate.subject and signed_by(certificate, certificate)
