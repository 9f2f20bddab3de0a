"""What decides who comes in: users, tokens, sessions, limits and the audit of one gateway."""

import hmac
import importlib.util
import ipaddress
import json
import platform
import secrets
import sys
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from config.models import Configuration
from delivery.disk import make_directory, write_durably
from web.access.accounts import PREFIX, Accounts, digest, utc_now
from web.access.audit import Audit
from web.access.cli_token import CLI_TOKEN
from web.access.limits import Limits, LoginThrottle, Rates
from web.access.roles import ROLES, Role
from web.access.sessions import COOKIE, Session, Sessions

if TYPE_CHECKING:
    from web.access.oidc.log_ins import LogIns


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks.

    Attributes:
        name: User or name of the token.
        role: What the caller may do.
        way: How the caller is known.
        session: The login, where there is one.
    """

    name: str
    role: Role
    way: Literal["session", "token", "cli"]
    session: Session | None = field(default=None, repr=False)


def _log_ins(config: Configuration) -> "LogIns | None":
    """Log-ins by the OpenID provider; None where there is none, or the package for it is missing."""
    if config.web.oidc is None or importlib.util.find_spec("jwt") is None:
        return None
    from web.access.oidc.log_ins import LogIns

    return LogIns(config.web.oidc)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Gate:
    """What decides who comes in.

    Args:
        config: The gateway's configuration.
        limits: What a client may ask for.
    """

    def __init__(self, config: Configuration, limits: Limits | None = None) -> None:
        self.config, self.limits = config, limits or Limits.of(config.web)
        self.accounts = Accounts(config.directory)
        self.sessions = Sessions()
        self.throttle = LoginThrottle()
        self.rates = Rates(self.limits.rate, self.limits.burst)
        self.audit = Audit(config.directory)
        self.secure = config.web.tls is not None
        self.metrics_open = config.web.metrics == "open" or is_loopback(config.listen)
        self._names = {"localhost", platform.node().lower(), config.listen.lower(), *map(str.lower, config.web.hosts)}
        self.oidc = _log_ins(config)
        if config.web.oidc is not None:
            self._names.add(urlsplit(config.web.oidc.public_url).hostname or "")
        self._cli = ""

    # ------------------------------------------------------------------ the start

    def begin(self) -> None:
        """Write the token of the command line on this machine; before the port is open, so that no command comes too early.

        Raises:
            OSError: The directory cannot be written.
            StoreError: The file of the users cannot be used.
        """
        text = PREFIX + secrets.token_urlsafe(32)
        make_directory(self.config.directory)
        write_durably(self.config.directory / CLI_TOKEN, text.encode())
        self._cli = digest(text)

    def tell_setup(self) -> None:
        """Tell the set-up token at the first start.

        Raises:
            StoreError: The file of the users cannot be used.
        """
        token = self.accounts.begin_setup(utc_now(), again=False)
        if token is not None:
            _tell(token)

    # ------------------------------------------------------------------ each request

    def knows_host(self, said: str, local: str | None) -> bool:
        """Whether a request's ``Host`` is this gateway: a name of its own, or the address that was connected to."""
        host = said.rsplit(":", 1)[0] if said.rpartition(":")[2].isdigit() and not said.endswith("]") else said
        host = host.strip("[]").lower().rstrip(".")
        if host in self._names or "*" in self._names:
            return True
        try:
            address = ipaddress.ip_address(host)
            return local is not None and (address == ipaddress.ip_address(local) or address.is_loopback)
        except ValueError:
            return False

    def caller(self, authorization: str, cookies: str, *, touch: bool = True) -> Caller | None:
        """Who asks, by a token or a cookie; None when that cannot be told.

        Args:
            authorization: The header of this name; it goes before a cookie.
            cookies: The header ``Cookie``.
            touch: Whether this counts as use of a session.

        Raises:
            StoreError: The file of the users cannot be used.
        """
        if authorization:
            scheme, _, text = authorization.partition(" ")
            return self._by_token(text.strip()) if scheme.lower() == "bearer" else None
        text = cookie(cookies)
        session = self.sessions.find(text, touch=touch) if text else None
        if session is None:
            return None
        if session.role is not None:
            return next(
                (Caller(session.user, role, "session", session) for role in ROLES if role == session.role), None
            )
        user = self.accounts.user(session.user)
        return None if user is None else Caller(session.user, user.role, "session", session)

    def _by_token(self, text: str) -> Caller | None:
        if not text.startswith(PREFIX) or len(text) > 200:
            return None
        if self._cli and hmac.compare_digest(digest(text), self._cli):
            return Caller("cli", "admin", "cli")
        found = self.accounts.token(text, utc_now())
        return None if found is None else Caller(f"token {found[1].name}", found[1].role, "token")


def cookie(header: str) -> str:
    """The session's cookie in a header."""
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _tell(token: str) -> None:
    """Say the set-up token once. It is not logged: what keeps the log must not keep a way in."""
    sentence = "nobody can log in yet; the first user is made with the set-up token"
    if sys.stderr.isatty():
        text = f"\n  {sentence}:\n\n      {token}\n\n  It is good for 24 hours and is not shown again; `bifrost users setup-token` makes another.\n"
    else:
        text = json.dumps(
            {"event": sentence, "setup_token": token, "level": "warning", "timestamp": utc_now().isoformat()}
        )
    sys.stderr.write(text + "\n")


def same_origin(origin: str, host: str, *, secure: bool) -> bool:
    """Whether a page that asks was served from here; without TLS of our own a proxy may have added it."""
    schemes = ("https",) if secure else ("http", "https")
    return origin.lower() in [f"{scheme}://{host.lower()}" for scheme in schemes]
