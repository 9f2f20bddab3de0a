"""Log-ins under way: each bound to the browser that began it, good for ten minutes and for one answer of the provider."""

import base64
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from config.oidc import CALLBACK, OidcSection
from web.access.oidc.claims import Identity, OidcError, identity
from web.access.oidc.provider import Provider
from web.access.oidc.tokens import verified

GOOD_FOR: Final = 600.0  # seconds
_TOLD_FOR: Final = 60.0  # seconds that a browser may read what went wrong
_MOST: Final = 1_000
_LONGEST_HINT: Final = 4_096  # characters of an ID token that go into an address
_CODE: Final = re.compile(r"[a-z_]{1,40}")
_REASONS: Final = {
    "access_denied": "the provider says that access was denied, or that the log-in was broken off",
    "login_required": "the provider wants a log-in of its own first; log in again",
    "server_error": "the provider has a fault; try again later",
    "temporarily_unavailable": "the provider is busy or down for now; try again later",
    "unauthorized_client": "the provider does not let this client log in by code; look at its settings",
    "invalid_scope": "the provider does not know one of web_ui.oidc.scopes",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a browser brings back from the provider.

    Attributes:
        state: What was sent along when the log-in began.
        code: Stands for an ID token.
        error: Why there is none.
        issuer: Who answers (RFC 9207).
    """

    state: str
    code: str
    error: str
    issuer: str


@dataclass(slots=True)
class _Pending:
    until: float
    state: str
    nonce: str
    verifier: str
    problem: str = ""


class StrangerError(OidcError):
    """An answer that this browser did not ask for."""


class LogIns:
    """The log-ins of a gateway by its OpenID provider.

    Args:
        section: What the configuration says.
        now: The monotonic clock.
    """

    def __init__(self, section: OidcSection, now: Callable[[], float] = time.monotonic) -> None:
        self.section, self._now = section, now
        self.provider = Provider(section, now)
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self) -> tuple[str, str]:
        """Begin a log-in: the text of its cookie, and where the browser is to go.

        Raises:
            OidcError: The provider cannot be asked, or used.
        """
        section, document = self.section, self.provider.document()
        text, pending = secrets.token_urlsafe(32), _fresh(self._now())
        asked = {
            "response_type": "code",
            "client_id": section.client_id,
            "redirect_uri": section.public_url + CALLBACK,
            "scope": " ".join(section.scopes),
            "state": pending.state,
            "nonce": pending.nonce,
            "code_challenge": challenge(pending.verifier),
            "code_challenge_method": "S256",
        }
        self._keep(text, pending)
        joint = "&" if "?" in document.authorization else "?"
        return text, f"{document.authorization}{joint}{urlencode(asked)}"

    def finish(self, cookie: str, answer: Answer) -> tuple[Identity, str]:
        """Who logged in, and the ID token that says so.

        Args:
            cookie: What the browser's cookie says.
            answer: What it brings.

        Raises:
            StrangerError: The log-in was not begun in this browser, or is over.
            OidcError: Nobody logged in.
        """
        with self._lock:
            pending = self._pending.get(_key(cookie))
            known = pending is not None and not pending.problem and self._now() < pending.until
            if pending is None or not known or not _same(answer.state, pending.state):
                raise StrangerError("this log-in was not begun in this browser, or too long ago; begin again")
            del self._pending[_key(cookie)]  # an answer counts once, whatever comes of it
        section, document = self.section, self.provider.document()
        if answer.issuer != section.issuer and (answer.issuer or document.tells_issuer):
            raise OidcError("the answer is not from web_ui.oidc.issuer, but from another provider")
        if answer.error or not answer.code:
            code = answer.error if _CODE.fullmatch(answer.error) else "no reason"
            raise OidcError(_REASONS.get(code, f"the provider lets nobody in ({code})"))
        token = self.provider.id_token(answer.code, pending.verifier)
        claims = verified(
            token,
            self.provider.key,
            issuer=section.issuer,
            client_id=section.client_id,
            nonce=pending.nonce,
            leeway=section.leeway,
        )
        return identity(claims, section), token

    # ------------------------------------------------------------------ what went wrong

    def tell(self, cookie: str, problem: str) -> str:
        """Keep what went wrong for the browser that it happened to; the text of its cookie from now on."""
        with self._lock:
            pending = self._pending.get(_key(cookie))
            if pending is not None and not pending.problem and self._now() < pending.until:
                return cookie  # somebody else's answer must not end a log-in that is under way
        text = secrets.token_urlsafe(32)
        self._keep(text, _Pending(self._now() + _TOLD_FOR, "", "", "", problem))
        return text

    def told(self, cookie: str) -> str:
        """What went wrong for a browser; empty when nothing did, or a minute ago."""
        with self._lock:
            pending = self._pending.get(_key(cookie)) if cookie else None
            return pending.problem if pending is not None and self._now() < pending.until else ""

    # ------------------------------------------------------------------ the end

    def leave(self, token: str) -> str:
        """Where a browser is to go to log out at the provider too; empty when there is no such place.

        Args:
            token: The ID token of the log-in.
        """
        document = self.provider.known()
        if document is None or not document.logout:
            return ""
        place = document.logout
        asked = {"client_id": self.section.client_id, "post_logout_redirect_uri": self.section.public_url + "/"}
        if token and len(token) <= _LONGEST_HINT:
            asked["id_token_hint"] = token
        return f"{place}{'&' if '?' in place else '?'}{urlencode(asked)}"

    def _keep(self, cookie: str, pending: _Pending) -> None:
        with self._lock:
            now = self._now()
            for key in [key for key, one in self._pending.items() if one.until <= now]:
                del self._pending[key]
            if len(self._pending) >= _MOST:
                self._pending.popitem(last=False)
            self._pending[_key(cookie)] = pending


def _fresh(now: float) -> _Pending:
    return _Pending(now + GOOD_FOR, secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(48))


def challenge(verifier: str) -> str:
    """What is shown of a verifier beforehand (RFC 7636, S256)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())


def _key(cookie: str) -> str:
    return hashlib.sha256(cookie.encode("utf-8", "replace")).hexdigest()
