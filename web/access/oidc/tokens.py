"""ID tokens: signature, issuer, audience, times and nonce (OpenID Connect Core 1.0, 3.1.3.7; RFC 8725). No input or output."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from web.access.oidc.claims import OidcError

ALGORITHMS: Final = ("RS256", "ES256")
_KINDS: Final = {"RS256": "RSA", "ES256": "EC"}
_MOST_KEYS: Final = 100
_LEAST_BITS: Final = 2048
_LONGEST_NUMBER: Final = 1400  # characters: 8,192 bits; a larger key would only take time

Key = RSAPublicKey | EllipticCurvePublicKey


class UnknownKeyError(OidcError):
    """No key of the provider fits; it may have a new one."""


def key_of(keys: Sequence[Any], kid: str | None, algorithm: str) -> Key:
    """The one key of a JWK set that may have signed.

    Args:
        keys: The set's members, as they came.
        kid: Which key the token names.
        algorithm: How it says that it is signed; one of `ALGORITHMS`.

    Raises:
        UnknownKeyError: None fits, or several do.
    """
    found = [
        key
        for one in keys[:_MOST_KEYS]
        if isinstance(one, Mapping)
        and (kid is None or one.get("kid") == kid)
        and one.get("kty") == _KINDS[algorithm]
        and one.get("use", "sig") == "sig"
        and one.get("alg", algorithm) == algorithm
        and (key := _public(one)) is not None
    ]
    if len(found) != 1:
        raise UnknownKeyError(
            f"the ID token is signed with a key that the provider {'does not publish' if not found else 'publishes twice'}; "
            "log in again in a minute, and look at the provider's keys if that does not help"
        )
    return found[0]


def _public(one: Mapping[str, Any]) -> Key | None:
    numbers = {name: one.get(name) for name in (("n", "e") if one["kty"] == "RSA" else ("x", "y", "crv"))}
    if not all(isinstance(value, str) and len(value) <= _LONGEST_NUMBER for value in numbers.values()):
        return None
    try:
        if one["kty"] == "RSA":
            key = RSAAlgorithm.from_jwk({"kty": "RSA", **numbers})
            return key if isinstance(key, RSAPublicKey) and key.key_size >= _LEAST_BITS else None
        found = ECAlgorithm.from_jwk({"kty": "EC", **numbers}) if numbers["crv"] == "P-256" else None
        return found if isinstance(found, EllipticCurvePublicKey) else None
    except (jwt.InvalidKeyError, ValueError):
        return None


def verified(
    token: str,
    key: Callable[[str | None, str], Key],
    *,
    issuer: str,
    client_id: str,
    nonce: str,
    leeway: float,
) -> dict[str, Any]:
    """The claims of an ID token, which is the provider's, fresh, for this gateway and for this log-in.

    Args:
        token: The token.
        key: Gives the key of a key id and algorithm.
        issuer: Who must have issued it.
        client_id: Whom it must be for.
        nonce: What was sent along when the log-in began.
        leeway: Seconds by which clocks may differ.

    Raises:
        OidcError: It is none of these.
    """
    try:
        header = jwt.get_unverified_header(token)
    except jwt.InvalidTokenError:
        raise OidcError("the provider's answer holds no ID token that can be read") from None
    algorithm, kid = header.get("alg"), header.get("kid")
    if algorithm not in ALGORITHMS:
        raise OidcError(
            f"the ID token is signed by `{str(algorithm)[:20]}`; have the provider sign with {' or '.join(ALGORITHMS)}"
        )
    found = key(kid, algorithm)
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            found,
            algorithms=[algorithm],  # one of ours, and of the key's own kind
            audience=client_id,
            issuer=issuer,
            leeway=leeway,
            options={"require": ["iss", "sub", "aud", "exp", "iat"]},
        )
    except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError):
        raise OidcError(
            "the ID token is not valid at this time; set the clock of the gateway, and that of the provider"
        ) from None
    except jwt.InvalidAudienceError:
        raise OidcError("the ID token is for another client than web_ui.oidc.client_id") from None
    except jwt.InvalidIssuerError:
        raise OidcError("the ID token is from another issuer than web_ui.oidc.issuer") from None
    except jwt.MissingRequiredClaimError as error:
        raise OidcError(f"the ID token has no claim `{error.claim}`") from None
    except jwt.InvalidSignatureError:
        raise OidcError("the ID token is not signed by the provider") from None
    except (jwt.InvalidTokenError, jwt.InvalidKeyError) as error:
        raise OidcError(f"the ID token is not sound ({type(error).__name__})") from None
    _for_this_log_in(claims, client_id, nonce)
    return claims


def _for_this_log_in(claims: Mapping[str, Any], client_id: str, nonce: str) -> None:
    audience, party = claims["aud"], claims.get("azp")
    several = isinstance(audience, list) and len(audience) > 1
    if (party is not None and party != client_id) or (several and party is None):
        raise OidcError("the ID token was made for another client (its claim `azp`)")
    said = claims.get("nonce")
    if not isinstance(said, str) or not hmac.compare_digest(said.encode("utf-8", "replace"), nonce.encode()):
        raise OidcError("the ID token belongs to another log-in (its claim `nonce`); begin again")
