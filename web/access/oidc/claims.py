"""Who somebody is and what they may do, told from the claims of an ID token that was verified. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from config.oidc import OidcSection
from web.access.roles import ROLES, Role

PREFIX: Final = "oidc:"  # which no name of the gateway's own users has
_LONGEST_NAME: Final = 100
_LISTED: Final = 10  # values that a message names


class OidcError(Exception):
    """Somebody cannot log in; the message says why and what to do, and is for the one who tried.

    Attributes:
        name: Who it was, once that is known.
    """

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


@dataclass(frozen=True, slots=True)
class Identity:
    """Who logged in.

    Attributes:
        name: What the audit says.
        role: What they may do.
        subject: What the provider knows them by, which stays when the name changes.
    """

    name: str
    role: Role
    subject: str


def claim(claims: Mapping[str, Any], path: str) -> Any:
    """What stands at a claim: of this name as a whole, or else at the end of its dotted path; None when nothing does."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def values_of(found: Any) -> frozenset[str]:
    """The values of a claim that is a text or a list of texts; anything else says nothing."""
    if isinstance(found, str):
        return frozenset((found,))
    return frozenset(value for value in found if isinstance(value, str)) if isinstance(found, list) else frozenset()


def role_of(values: Iterable[str], roles: Mapping[str, Role]) -> Role | None:
    """The highest role that a value stands for, letter by letter; None when none of them stands for one."""
    mapped = {roles[value] for value in values if value in roles}
    return max(mapped, key=ROLES.index, default=None)


def identity(claims: Mapping[str, Any], section: OidcSection) -> Identity:
    """Who the claims of a verified ID token speak of.

    Args:
        claims: The claims.
        section: What the configuration says.

    Raises:
        OidcError: They tell no name, or no role of this gateway.
    """
    name = claim(claims, section.username_claim)
    if not isinstance(name, str) or not name.strip() or len(name) > _LONGEST_NAME or not name.isprintable():
        raise OidcError(
            f"the provider tells no usable name: its ID token needs a text as claim `{section.username_claim}`. Have it put "
            "there (often by the scope `profile`), or set web_ui.oidc.username_claim to another claim"
        )
    name = name.strip()
    found = claim(claims, section.role_claim)
    values = values_of(found)
    role = role_of(values, section.roles)
    if role is None:
        raise OidcError(_without_role(name, claims, values, section, present=found is not None), PREFIX + name)
    return Identity(PREFIX + name, role, str(claims.get("sub", "")))


def _without_role(
    name: str, claims: Mapping[str, Any], values: frozenset[str], section: OidcSection, *, present: bool
) -> str:
    path = section.role_claim
    wanted = ", ".join(f"`{value}` ({role})" for value, role in list(section.roles.items())[:_LISTED])
    ask = f"Ask the provider's administrator for one of {wanted}"
    elsewhere = claims.get("_claim_names")
    if not present and isinstance(elsewhere, Mapping) and path in elsewhere:
        return (
            f"{name} has more `{path}` than the provider puts into an ID token, so that no role can be told. Have it send "
            "roles of the application instead of groups, or only the groups that are given to it"
        )
    if not present:
        return (
            f"{name} may not use this gateway: the ID token has no claim `{path}`. {ask}; where everybody is refused so, "
            "the provider must put the claim into the ID token, or web_ui.oidc.role_claim must name another"
        )
    said = ", ".join(f"`{value[:60]}`" for value in sorted(values)[:_LISTED] if value.isprintable())
    return (
        f"{name} may not use this gateway: the claim `{path}` says {said or 'nothing'}, which stands for no role. {ask}"
    )
