"""Log-in to the HTTP port by OpenID Connect: what the configuration says of the provider."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator

from connectors.fields import Duration, Settings

CALLBACK = "/api/session/oidc/callback"
_HOST = r"^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[0-9]{1,5})?$"


def _address(text: str) -> str:
    """A URL that may be asked or come back to: https, or http on this machine alone; without login, query and fragment."""
    parts = urlsplit(text)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme not in ("https", "http") or not host or re.search(r"[\s\\?#@]", text):
        raise ValueError("should be a URL as https://login.plant.example/path, without login, query or fragment")
    if parts.scheme == "http" and not _of_this_machine(host):
        raise ValueError("should begin with https: codes and secrets would be sent in clear")
    return text


def _of_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class OidcSection(Settings):
    """Log-in by OpenID Connect, beside the gateway's own users; needs ``pip install 'bifrost-gateway[oidc]'``."""

    issuer: str = Field(
        description="URL of the provider, exactly as its discovery document says, as https://login.plant.example/realms/plant"
    )
    client_id: str = Field(min_length=1, max_length=256, description="what the provider knows the gateway as")
    client_secret: SecretStr | None = Field(
        None, description="secret of the client; a public client, which has none, is guarded by PKCE alone"
    )
    public_url: str = Field(
        description="address of the gateway in the browser, as https://gateway.plant.example; the provider must allow "
        f"it, with `{CALLBACK}` after it, as a redirect URI"
    )
    label: str = Field(
        "single sign-on", min_length=1, max_length=60, description="what the button says after `Log in with`"
    )
    scopes: list[Annotated[str, Field(pattern=r"^[\x21\x23-\x5b\x5d-\x7e]+$")]] = Field(
        ["openid", "profile"], description="what the provider is asked for; `openid` must be among it"
    )
    role_claim: str = Field(
        "roles",
        min_length=1,
        description="claim of the ID token that tells the roles: its name, or its path with dots, as `realm_access.roles`",
    )
    roles: dict[str, Literal["viewer", "operator", "admin"]] = Field(
        min_length=1,
        description="role by value of that claim; who has several gets the highest, and who has none is refused",
    )
    username_claim: str = Field(
        "preferred_username", min_length=1, description="claim of the ID token that tells the name, for the audit"
    )
    hosts: list[Annotated[str, Field(pattern=_HOST)]] = Field(
        [],
        description="further hosts that the provider's endpoints may have; only the issuer's own when empty",
    )
    ca_file: Path | None = Field(None, description="PEM file of the authorities to trust; the system's when absent")
    session_time: Duration = Field(
        8 * 3600.0,
        ge=60,
        le=12 * 3600,
        description="longest time of a session; a role that was taken away at the provider is gone after it at the latest",
    )
    leeway: Duration = Field(
        60.0, le=300, description="by how much the clocks of the gateway and of the provider may differ"
    )
    timeout: Duration = Field(10.0, ge=1, le=30, description="time that an answer of the provider may take")

    @field_validator("issuer", "public_url")
    @classmethod
    def _sound(cls, text: str) -> str:
        return _address(text)

    @field_validator("public_url")
    @classmethod
    def _without_slash(cls, text: str) -> str:
        return text.rstrip("/")

    @field_validator("scopes")
    @classmethod
    def _of_openid(cls, scopes: list[str]) -> list[str]:
        if "openid" not in scopes:
            raise ValueError("add `openid`, without which there is no ID token")
        return scopes

    @property
    def secure(self) -> bool:
        """Whether browsers reach the gateway by TLS, its own or a proxy's."""
        return self.public_url.startswith("https:")
