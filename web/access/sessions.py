"""Who is logged in. Sessions are in memory: after a restart of the gateway everybody logs in again."""

import hashlib
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Final

COOKIE: Final = "bifrost_session"
LOG_IN_COOKIE: Final = "bifrost_oidc"  # of a log-in by OpenID Connect that is under way
IDLE: Final = 3_600.0  # seconds without a request
LONGEST: Final = 12 * 3_600.0
_MOST: Final = 1_000
_MOST_OF_ONE: Final = 20


@dataclass(slots=True)
class Session:
    """A login.

    Attributes:
        user: Whose.
        csrf: What every request that changes something must bring besides the cookie.
        began: When, by the monotonic clock.
        seen: When a request came last.
        role: The role, where it does not come from the gateway's own users.
        longest: Seconds after which it ends in any case.
        id_token: The ID token that it came by, which the provider wants back at the end.
    """

    user: str
    csrf: str
    began: float
    seen: float
    role: str | None = None
    longest: float = LONGEST
    id_token: str = field(default="", repr=False)
    key: str = field(default="", repr=False)


class Sessions:
    """All sessions."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def begin(
        self, user: str, role: str | None = None, longest: float = LONGEST, id_token: str = ""
    ) -> tuple[str, Session]:
        """A new session, and the text of its cookie.

        Args:
            user: Whose.
            role: The role, where it does not come from the gateway's own users.
            longest: Seconds after which it ends in any case.
            id_token: The ID token that it came by.
        """
        text, now = secrets.token_urlsafe(32), time.monotonic()
        csrf = secrets.token_urlsafe(32)
        session = Session(user, csrf, now, now, role, min(longest, LONGEST), id_token, _key(text))
        with self._lock:
            own = [key for key, other in self._sessions.items() if other.user == user]
            for key in own[: max(0, len(own) + 1 - _MOST_OF_ONE)] or list(self._sessions)[: -(_MOST - 1)]:
                del self._sessions[key]
            self._sessions[session.key] = session
        return text, session

    def find(self, text: str, *, touch: bool = True) -> Session | None:
        """The session of a cookie; None when there is none, or it has been left alone for too long.

        Args:
            text: What the cookie says.
            touch: Whether this counts as use.
        """
        now = time.monotonic()
        with self._lock:
            session = self._sessions.get(_key(text))
            if session is None:
                return None
            if now - session.seen > IDLE or now - session.began > session.longest:
                del self._sessions[session.key]
                return None
            if touch:
                session.seen = now
            return session

    def end(self, session: Session) -> None:
        """Log out."""
        with self._lock:
            self._sessions.pop(session.key, None)

    def end_of(self, user: str, *, but: Session | None = None) -> None:
        """Log a user out everywhere.

        Args:
            user: The user.
            but: A session that stays.
        """
        with self._lock:
            for key in [key for key, session in self._sessions.items() if session.user == user and session is not but]:
                del self._sessions[key]


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
