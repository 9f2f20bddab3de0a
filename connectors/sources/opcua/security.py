"""Security policies: which there are, and which of a server's endpoints is taken."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from asyncua import ua
from asyncua.crypto import security_policies as crypto

POLICY_NONE: Final = "http://opcfoundation.org/UA/SecurityPolicy#None"
_MODES: Final = {"sign_and_encrypt": ua.MessageSecurityMode.SignAndEncrypt, "sign": ua.MessageSecurityMode.Sign}


class ServerRefusedError(Exception):
    """The server cannot be used as it is configured; the message says why."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A security policy (OPC 10000-7).

    Attributes:
        name: As it is written in a configuration.
        crypto: What asyncua does it with.
        deprecated: It rests on SHA-1, or on a padding that has been broken.
        min_key: Bits of the shortest RSA key that it allows.
    """

    name: str
    crypto: Any
    deprecated: bool = False
    min_key: int = 2048

    @property
    def uri(self) -> str:
        """Its name in the protocol."""
        return str(self.crypto.URI)


POLICIES: Final = (  # the strongest first
    Policy("aes256_sha256_rsapss", crypto.SecurityPolicyAes256Sha256RsaPss),
    Policy("basic256sha256", crypto.SecurityPolicyBasic256Sha256),
    Policy("aes128_sha256_rsaoaep", crypto.SecurityPolicyAes128Sha256RsaOaep),
    Policy("basic256", crypto.SecurityPolicyBasic256, deprecated=True, min_key=1024),
    Policy("basic128rsa15", crypto.SecurityPolicyBasic128Rsa15, deprecated=True, min_key=1024),
)
STRENGTH: Final = {policy.uri: at for at, policy in enumerate(POLICIES)}  # 0 is the strongest
STRONG: Final = {policy.uri for policy in POLICIES if not policy.deprecated}


@dataclass(frozen=True, slots=True)
class Choice:
    """The endpoint that is taken, and how messages to it are protected."""

    endpoint: ua.EndpointDescription
    policy: Policy
    mode: ua.MessageSecurityMode


def choose(
    endpoints: Sequence[ua.EndpointDescription],
    wanted: str,
    mode: str | None,
    url: str,
    *,
    allow_deprecated: bool = False,
) -> Choice:
    """The endpoint to take: encrypted before signed, then the strongest policy; never one without security.

    Args:
        endpoints: What the server offers.
        wanted: Name of a policy, or `auto`.
        mode: `sign`, `sign_and_encrypt`, or None for the better one that is offered.
        url: URL that is configured; of endpoints that are alike, the one with its path is taken.
        allow_deprecated: Whether `auto` may take a deprecated policy when nothing better is offered.

    Raises:
        ServerRefusedError: The server offers nothing that fits.
    """
    path = urlsplit(url).path.rstrip("/")
    best: tuple[tuple[bool, int, int, bool], Choice] | None = None
    for endpoint in endpoints:
        at = STRENGTH.get(endpoint.SecurityPolicyUri)
        if (
            at is None
            or endpoint.SecurityMode not in _MODES.values()
            or not str(endpoint.EndpointUrl).startswith("opc.tcp:")
        ):
            continue
        policy = POLICIES[at]
        named = policy.name == wanted or (wanted == "auto" and (allow_deprecated or not policy.deprecated))
        if named and (mode is None or _MODES[mode] == endpoint.SecurityMode):
            other_path = urlsplit(str(endpoint.EndpointUrl)).path.rstrip("/") != path
            signed_only = int(endpoint.SecurityMode == ua.MessageSecurityMode.Sign)
            rank = policy.deprecated, signed_only, at, other_path
            if best is None or rank < best[0]:
                best = rank, Choice(endpoint, policy, endpoint.SecurityMode)
    if best is not None:
        return best[1]
    asked = "security" if wanted == "auto" else wanted
    asked += f" with {mode}" if mode is not None else ""
    msg = f"the server does not offer {asked}, only {', '.join(offers(endpoints)) or 'nothing'}"
    if wanted == "auto":
        msg += _advice(endpoints)
    raise ServerRefusedError(msg)


def _advice(endpoints: Sequence[ua.EndpointDescription]) -> str:
    if any(e.SecurityPolicyUri in STRENGTH and e.SecurityPolicyUri not in STRONG for e in endpoints):
        return "; what else it offers is deprecated, see allow_deprecated"
    return "; to send everything in clear, write security_policy: none"


def offers(endpoints: Iterable[ua.EndpointDescription]) -> list[str]:
    """What a server offers, for a message."""
    return sorted({f"{str(e.SecurityPolicyUri).rpartition('#')[2]}/{e.SecurityMode.name}" for e in endpoints})


def user_token_policy(
    offered: Sequence[ua.UserTokenPolicy],
    kind: ua.UserTokenType,
    channel: str,
    *,
    encrypted: bool,
    certified: bool,
    allow_deprecated: bool,
    allow_clear: bool,
) -> ua.UserTokenPolicy:
    """The token policy to log in with; for a password one that encrypts it, for a certificate one that signs.

    Args:
        offered: What the endpoint takes.
        kind: User name or certificate.
        channel: URI of the channel's policy, which a token policy without one means.
        encrypted: Whether the channel encrypts by itself.
        certified: Whether the server's certificate is known, which a password is encrypted for.
        allow_deprecated: Whether a deprecated policy may protect the token where the channel does not.
        allow_clear: Whether a password may be sent in clear.

    Raises:
        ServerRefusedError: There is none.
    """
    password = kind == ua.UserTokenType.UserName
    fitting = [policy for policy in offered if policy.TokenType == kind]
    if not fitting:
        msg = f"the server takes no user {'names' if password else 'certificates'}"
        raise ServerRefusedError(msg)
    for policy in fitting:
        policy.SecurityPolicyUri = policy.SecurityPolicyUri or channel
    protecting = sorted(
        (policy for policy in fitting if certified and policy.SecurityPolicyUri in STRENGTH),
        key=lambda policy: STRENGTH[policy.SecurityPolicyUri],
    )
    if protecting and (protecting[0].SecurityPolicyUri in STRONG or encrypted or allow_deprecated):
        return protecting[0]
    in_clear = [policy for policy in fitting if policy.SecurityPolicyUri == POLICY_NONE]
    if password and in_clear and (encrypted or allow_clear):
        return in_clear[0]
    if not password:
        msg = "the server takes a user's certificate with strong security only over a channel with a security_policy"
    elif in_clear:
        msg = "the password would travel in clear: use a security_policy, or write allow_clear_password: true"
    elif not certified:
        msg = "the server shows no certificate that the password could be encrypted for: use a security_policy"
    else:
        msg = "the password would be protected by a deprecated policy only: use security_mode: sign_and_encrypt, or allow_deprecated: true"
    raise ServerRefusedError(msg)
