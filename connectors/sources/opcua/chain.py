"""Whether a server's certificate is good: its chain, who is trusted, what was revoked, and what it is for.

The steps are those of OPC 10000-4 clause 6.1.3. Nothing here reads a file or a clock.
"""

import datetime
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from connectors.sources.opcua.certificates import UNREADABLE, hosts, uris

T = TypeVar("T", bound=x509.ExtensionType)

LONGEST: Final = 8  # certificates of a chain
_ATTEMPTS: Final = 64  # signatures checked for one chain: issuers of one name may be many
_UNDERSTOOD: Final = {  # critical extensions that are looked at, or say nothing that matters here
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    ExtensionOID.CERTIFICATE_POLICIES,
}


@dataclass(frozen=True, slots=True)
class Known:
    """What a source knows of certificates.

    Attributes:
        trusted: Servers, and authorities whose servers are trusted.
        issuers: Authorities that complete a chain, without being trusted themselves.
        revocations: Lists of revoked certificates.
    """

    trusted: Sequence[x509.Certificate] = ()
    issuers: Sequence[x509.Certificate] = ()
    revocations: Sequence[x509.CertificateRevocationList] = ()


@dataclass(frozen=True, slots=True)
class Expected:
    """What a server's certificate has to be.

    Attributes:
        uri: ApplicationUri that the server claims.
        host: Host that is configured; a certificate for another is a warning.
        min_key: Bits of its RSA key at least.
        weak_hashes: Whether authorities may have signed with SHA-1.
        revocation: Whether each authority must have a list of revoked certificates.
    """

    uri: str
    host: str = ""
    min_key: int = 2048
    weak_hashes: bool = False
    revocation: bool = False


@dataclass(slots=True)
class Verdict:
    """What was found.

    Attributes:
        problem: What is wrong; None when nothing is.
        missing: The authority that is not known, when that is the problem.
        untrusted: The problem is that nobody of the chain is trusted.
        warnings: What is odd, and accepted.
    """

    problem: str | None = None
    missing: str | None = None
    untrusted: bool = False
    warnings: list[str] = field(default_factory=list)


def judge(sent: Sequence[x509.Certificate], known: Known, expected: Expected, now: datetime.datetime) -> Verdict:
    """Whether to accept a server.

    Args:
        sent: Its certificate, and behind it those of its issuers that it sent along.
        known: What the source knows.
        expected: What the certificate has to be.
        now: The present, UTC.
    """
    leaf = sent[0]
    pool = list(dict.fromkeys([*known.trusted, *known.issuers, *sent[1:LONGEST]]))
    trusted = set(known.trusted)

    def rank(chain: list[x509.Certificate]) -> tuple[bool, bool, int]:
        return any(certificate in trusted for certificate in chain), _is_root(chain[-1]), -len(chain)

    chains = sorted(_chains([leaf], pool, [_ATTEMPTS]), key=rank, reverse=True)
    is_trusted, is_whole, _ = rank(chains[0])
    verdict = Verdict(untrusted=not is_trusted)
    if not is_trusted:
        verdict.problem = "it is not trusted"
        return verdict
    if not is_whole:
        verdict.missing = chains[0][-1].issuer.rfc4514_string()
        verdict.problem = f"its issuer {verdict.missing} is not known, or did not sign it"
        return verdict
    verdict.problem = _server_problem(leaf, expected, now, verdict.warnings)
    if verdict.problem is None:  # one good chain is enough: an authority that was renewed has two certificates
        problems = [_chain_problem(c, known, expected, now) for c in chains if rank(c)[:2] == (True, True)]
        verdict.problem = None if None in problems else problems[0]
    if expected.host and expected.host.lower() not in hosts(leaf):
        verdict.warnings.append(f"it is for {', '.join(sorted(hosts(leaf))) or 'no host'}, and not for {expected.host}")
    return verdict


def _chains(
    chain: list[x509.Certificate], pool: Sequence[x509.Certificate], attempts: list[int]
) -> Iterator[list[x509.Certificate]]:
    last = chain[-1]
    if not _is_root(last) and len(chain) < LONGEST:
        for issuer in pool:
            if issuer.subject != last.issuer or issuer in chain or attempts[0] <= 0:
                continue
            attempts[0] -= 1
            if signed_by(last, issuer):
                yield from _chains([*chain, issuer], pool, attempts)
    yield chain


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's key made the signature, and the names fit."""
    key, digest = issuer.public_key(), certificate.signature_hash_algorithm
    try:
        if isinstance(digest, hashes.SHA1) and isinstance(key, rsa.RSAPublicKey):  # cryptography knows it no more
            key.verify(certificate.signature, certificate.tbs_certificate_bytes, PKCS1v15(), digest)
            return certificate.issuer == issuer.subject
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign certificates."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = _extension(certificate, x509.KeyUsage)
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False
    return constraints.ca and (usage is None or usage.value.key_cert_sign)


def _is_root(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject and signed_by(certificate, certificate)


def _server_problem(
    leaf: x509.Certificate, expected: Expected, now: datetime.datetime, warnings: list[str]
) -> str | None:
    """What is wrong with the server's certificate itself."""
    key = leaf.public_key()
    if not isinstance(key, rsa.RSAPublicKey):
        return "its key is not an RSA key, which the security policies ask for"
    if key.key_size < expected.min_key:
        return f"its key has {key.key_size} bits, and {expected.min_key} are needed"
    if problem := _time_problem(leaf, now) or _extension_problem(leaf):
        return problem
    if expected.uri not in uris(leaf):
        return f"it is for {', '.join(uris(leaf)) or 'no application'}, and the server says it is {expected.uri}"
    usage, critical = _usage_problem(leaf)
    if usage is not None and not critical:
        warnings.append(usage)
    return usage if critical else None


def _chain_problem(
    chain: Sequence[x509.Certificate], known: Known, expected: Expected, now: datetime.datetime
) -> str | None:
    """What is wrong with the authorities of a chain, or revoked by them."""
    for at in range(1, len(chain)):
        if problem := _issuer_problem(chain, at, expected, now):
            return problem
    return _revocation_problem(chain, known.revocations, expected, now)


def _issuer_problem(
    chain: Sequence[x509.Certificate], at: int, expected: Expected, now: datetime.datetime
) -> str | None:
    """What is wrong with an authority of the chain, or with what it signed."""
    issuer, signed = chain[at], chain[at - 1]
    name = issuer.subject.rfc4514_string()
    if not is_authority(issuer):
        return f"its issuer {name} is not an authority"
    constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    below = sum(1 for c in chain[1:at] if c.subject != c.issuer)
    if constraints.path_length is not None and below > constraints.path_length:
        return f"its issuer {name} may not have other authorities below it"
    if not expected.weak_hashes and isinstance(signed.signature_hash_algorithm, hashes.MD5 | hashes.SHA1):
        return f"its issuer {name} signed with {signed.signature_hash_algorithm.name.upper()}, which can be forged"
    problem = _time_problem(issuer, now) or _extension_problem(issuer)
    return f"of its issuer {name}: {problem}" if problem else None


def _revocation_problem(
    chain: Sequence[x509.Certificate],
    revocations: Sequence[x509.CertificateRevocationList],
    expected: Expected,
    now: datetime.datetime,
) -> str | None:
    """Whether a certificate of the chain was revoked by its issuer, or nobody can say."""
    for certificate, issuer in itertools.pairwise(chain):
        name = issuer.subject.rfc4514_string()
        lists = [crl for crl in revocations if crl.issuer == issuer.subject and _is_of(crl, issuer)]
        for crl in lists:  # also of one that is out of date: what was revoked stays revoked
            revoked = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
            if revoked is not None:
                whose = "it" if certificate is chain[0] else f"its issuer {certificate.subject.rfc4514_string()}"
                return f"{whose} was revoked by {name} on {revoked.revocation_date_utc:%Y-%m-%d}"
        if expected.revocation and not any(_is_current(crl, now) for crl in lists):
            return f"there is no current list of revoked certificates of {name}"
    return None


def _is_of(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # another kind of key is a TypeError
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


def _is_current(crl: x509.CertificateRevocationList, now: datetime.datetime) -> bool:
    return crl.last_update_utc <= now and (crl.next_update_utc is None or now < crl.next_update_utc)


def _time_problem(certificate: x509.Certificate, now: datetime.datetime) -> str | None:
    if now < certificate.not_valid_before_utc:
        return f"it is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    if now >= certificate.not_valid_after_utc:
        return f"it expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    return None


def _extension_problem(certificate: x509.Certificate) -> str | None:
    try:
        extensions = list(certificate.extensions)
    except UNREADABLE as error:
        return f"its extensions cannot be read: {error}"
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            return f"it asks for something that is not known here (extension {extension.oid.dotted_string})"
    return None


def _usage_problem(leaf: x509.Certificate) -> tuple[str | None, bool]:
    """What a server's certificate may not be used for, and whether it insists."""
    usage = _extension(leaf, x509.KeyUsage)
    if usage is not None and not (usage.value.digital_signature and usage.value.key_encipherment):
        return "its key is not meant for signatures and encryption (KeyUsage)", usage.critical
    extended = _extension(leaf, x509.ExtendedKeyUsage)
    if extended is not None and not {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
    } & set(extended.value):
        return "it is not meant for a server (ExtendedKeyUsage)", extended.critical
    return None, False


def _extension(certificate: x509.Certificate, kind: type[T]) -> x509.Extension[T] | None:
    try:
        return certificate.extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None
