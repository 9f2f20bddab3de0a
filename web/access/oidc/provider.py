"""The OpenID provider of a gateway: its discovery document, its keys, and the exchange of a code for an ID token.

Everything that is asked lies at the issuer's own host, or at one that the configuration lists; redirects are not followed.
"""

import base64
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus, urlencode, urlsplit

from config.oidc import CALLBACK, OidcSection
from web.access.oidc.claims import OidcError
from web.access.oidc.fetch import DownError, fetch
from web.access.oidc.tokens import ALGORITHMS, Key, UnknownKeyError, key_of

WELL_KNOWN: Final = "/.well-known/openid-configuration"
_FRESH: Final = 3600.0  # seconds that the document and the keys are kept
_REFETCH: Final = 60.0  # seconds between two looks for a key that is not known
_AT_ONCE: Final = 8


@dataclass(frozen=True, slots=True)
class Document:
    """What a provider says of itself (OpenID Connect Discovery 1.0).

    Attributes:
        authorization: Where the browser is sent.
        token: Where a code is exchanged.
        keys: Where its keys are.
        logout: Where the browser is sent to log out; empty when there is no such place.
        basic: Whether the client's secret goes into a header.
        tells_issuer: Whether the browser brings the issuer back (RFC 9207).
    """

    authorization: str
    token: str
    keys: str
    logout: str
    basic: bool
    tells_issuer: bool


def document_of(said: Any, section: OidcSection) -> Document:
    """A discovery document that may be used.

    Args:
        said: What the provider answered.
        section: What the configuration says.

    Raises:
        OidcError: It is another issuer's, leads to other hosts, or cannot do what is needed.
    """
    found = said if isinstance(said, dict) else {}
    if found.get("issuer") != section.issuer:
        raise OidcError(
            f"the provider calls itself `{str(found.get('issuer'))[:200]}` and not `{section.issuer}`: set web_ui.oidc.issuer "
            "to exactly what it says, if that is the one that is meant"
        )
    places = {
        name: _place(found.get(key), key, section)
        for name, key in (
            ("authorization", "authorization_endpoint"),
            ("token", "token_endpoint"),
            ("keys", "jwks_uri"),
        )
    }
    logout = found.get("end_session_endpoint")
    if "code" not in _list(found, "response_types_supported", "code"):
        raise OidcError("the provider does not know the authorization code flow (response_types_supported)")
    if "S256" not in _list(found, "code_challenge_methods_supported", "S256"):
        raise OidcError("the provider does not take PKCE with S256 (code_challenge_methods_supported)")
    if not set(ALGORITHMS) & set(_list(found, "id_token_signing_alg_values_supported", *ALGORITHMS)):
        raise OidcError(f"the provider signs with neither {' nor '.join(ALGORITHMS)}; have it do so for this client")
    methods = _list(found, "token_endpoint_auth_methods_supported", "client_secret_basic")
    if section.client_secret is not None and not {"client_secret_basic", "client_secret_post"} & set(methods):
        raise OidcError("the provider takes no client secret (token_endpoint_auth_methods_supported)")
    return Document(
        logout=_place(logout, "end_session_endpoint", section) if logout else "",
        basic="client_secret_basic" in methods,
        tells_issuer=found.get("authorization_response_iss_parameter_supported") is True,
        **places,
    )


def _list(found: dict[str, Any], key: str, *default: str) -> list[Any]:
    value = found.get(key)
    return value if isinstance(value, list) else list(default)


def _place(value: Any, key: str, section: OidcSection) -> str:
    own = urlsplit(section.issuer)
    parts = urlsplit(value) if isinstance(value, str) and value.isprintable() and " " not in value else urlsplit("")
    hosts = {own.netloc.lower(), *(host.lower() for host in section.hosts)}
    if parts.scheme != own.scheme or parts.netloc.lower() not in hosts or parts.fragment:
        raise OidcError(
            f"the provider's {key} is `{str(value)[:200]}`, which is not at {own.scheme}://{own.netloc}; list its host in "
            "web_ui.oidc.hosts if that is meant"
        )
    return str(value)


class Provider:
    """A provider, asked as late and as seldom as possible.

    Args:
        section: What the configuration says.
        now: The monotonic clock.
    """

    def __init__(self, section: OidcSection, now: Callable[[], float] = time.monotonic) -> None:
        self._section, self._now = section, now
        self._lock = threading.Lock()
        self._document: tuple[float, Document] | None = None
        self._keys: tuple[float, list[Any]] | None = None
        self._refetched = -_REFETCH
        self._under_way = threading.BoundedSemaphore(_AT_ONCE)

    def document(self) -> Document:
        """What the provider says of itself.

        Raises:
            OidcError: It cannot be asked, or cannot be used.
        """
        kept = self._document
        if kept is not None and self._now() - kept[0] < _FRESH:
            return kept[1]
        said = self._json(self._section.issuer.rstrip("/") + WELL_KNOWN, "its discovery document")
        found = document_of(said, self._section)
        self._document = (self._now(), found)
        return found

    def known(self) -> Document | None:
        """What the provider said last, however long ago; None when it was not asked yet."""
        return self._document[1] if self._document is not None else None

    def key(self, kid: str | None, algorithm: str) -> Key:
        """The key that may have signed; the provider is asked for new ones when none fits, once a minute at most.

        Raises:
            OidcError: There is none.
        """
        try:
            return key_of(self._published(anew=False), kid, algorithm)
        except UnknownKeyError:
            with self._lock:
                if self._now() - self._refetched < _REFETCH:
                    raise
                self._refetched = self._now()
        return key_of(self._published(anew=True), kid, algorithm)

    def _published(self, *, anew: bool) -> list[Any]:
        kept = self._keys
        if kept is not None and not anew and self._now() - kept[0] < _FRESH:
            return kept[1]
        said = self._json(self.document().keys, "its keys")
        keys = said.get("keys") if isinstance(said, dict) else None
        if not isinstance(keys, list):
            raise DownError("the provider's keys are no JWK set")
        self._keys = (self._now(), keys)
        return keys

    def id_token(self, code: str, verifier: str) -> str:
        """The ID token that a code stands for.

        Args:
            code: What the browser brought.
            verifier: What was made when the log-in began (PKCE).

        Raises:
            OidcError: The provider gives none.
        """
        section, document = self._section, self.document()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": section.public_url + CALLBACK,
            "code_verifier": verifier,
        }
        headers = {}
        secret = section.client_secret.get_secret_value() if section.client_secret is not None else None
        if secret is not None and document.basic:  # RFC 6749, 2.3.1: each escaped before they are joined
            login = f"{quote_plus(section.client_id)}:{quote_plus(secret)}"
            headers["authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
        else:
            form |= {"client_id": section.client_id} | ({} if secret is None else {"client_secret": secret})
        status, body = self._ask(document.token, urlencode(form), headers)
        said = _parsed(body)
        found = said if isinstance(said, dict) else {}
        token = found.get("id_token")
        if status == 200 and isinstance(token, str):
            return token
        raise OidcError(_exchange_refused(status, found.get("error")))

    def _json(self, url: str, what: str) -> Any:
        status, body = self._ask(url)
        host = urlsplit(url).netloc
        if 300 <= status < 400:
            raise DownError(
                f"{host} leads elsewhere for {what} (status {status}), which is not followed; is the issuer right?"
            )
        if status != 200:
            raise DownError(f"{host} answers {status} for {what}; is web_ui.oidc.issuer right?")
        said = _parsed(body)
        if said is None:
            raise DownError(f"{host} answers what is no JSON for {what}; is web_ui.oidc.issuer right?")
        return said

    def _ask(self, url: str, form: str | None = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        if not self._under_way.acquire(blocking=False):  # threads of the port must be left for all else
            raise DownError("several log-ins wait for the provider; try again in some seconds")
        section = self._section
        try:
            return fetch(url, ca_file=section.ca_file, timeout=section.timeout, form=form, headers=headers)
        finally:
            self._under_way.release()


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _exchange_refused(status: int, error: Any) -> str:
    if error == "invalid_client" or (status == 401 and error is None):
        return "the provider does not take web_ui.oidc.client_id with web_ui.oidc.client_secret"
    if error == "invalid_grant":
        return "the provider does not take its code any more: it was used, or too old; log in again"
    said = (
        error
        if isinstance(error, str) and error.isascii() and error.isprintable() and len(error) <= 60
        else "no reason"
    )
    return f"the provider gives no ID token (status {status}, {said})"
