"""Users and API tokens of a gateway, in ``access.json`` in its directory; neither a password nor a token stands there.

The gateway and `bifrost users` both write the file, each under a lock; who reads sees a change at the next look.
"""

import contextlib
import fcntl
import hashlib
import hmac
import os
import re
import secrets
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from delivery.disk import StoreError, make_directory, write_durably
from web.access import passwords
from web.access.roles import Role

FILE: Final = "access.json"
PREFIX: Final = "bfr_"
SETUP_PREFIX: Final = "setup_"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_SETUP_FOR: Final = timedelta(hours=24)
_OTHERS: Final = 0o077


class NameTakenError(ValueError):
    """There is a user or token of this name already."""


class LastAdminError(ValueError):
    """It is the last administrator."""


class UnknownNameError(LookupError):
    """There is no user or token of this name."""


class User(BaseModel):
    """A user at rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    role: Role
    password: str
    created: datetime
    changed: datetime


class Token(BaseModel):
    """An API token at rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: Role
    digest: str
    created: datetime
    expires: datetime | None = None


class Setup(BaseModel):
    """The token of the first start at rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str
    until: datetime


class _AccessFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Annotated[str, Field(pattern="^bifrost-access/1$")] = "bifrost-access/1"
    users: dict[str, User] = {}
    tokens: dict[str, Token] = {}
    setup: Setup | None = None


def digest(secret: str) -> str:
    """What is kept of a token: it is random and long, so that one pass of SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()


class Accounts:
    """The users and tokens.

    Args:
        directory: The gateway's directory.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] = ()
        self._file = _AccessFile()
        # What an unknown user's password is compared with, so that it takes as long as a known one's.
        self._nobody = passwords.hashed(secrets.token_urlsafe(16))

    # ------------------------------------------------------------------ looking

    def users(self) -> dict[str, User]:
        """All users by name."""
        return dict(self._current().users)

    def tokens(self) -> dict[str, Token]:
        """All API tokens by id."""
        return dict(self._current().tokens)

    def user(self, name: str) -> User | None:
        """The user of this name."""
        return self._current().users.get(name)

    def login(self, name: str, password: str) -> User | None:
        """The user whose password this is; takes as long for a name that nobody has."""
        user = self.user(name)
        fits = passwords.fits(password[: passwords.MOST + 1], self._nobody if user is None else user.password)
        return user if fits else None

    def token(self, text: str, now: datetime) -> tuple[str, Token] | None:
        """The API token that reads so, and its id."""
        wanted = digest(text)
        for number, token in self._current().tokens.items():
            if hmac.compare_digest(token.digest, wanted):
                return (number, token) if token.expires is None or now < token.expires else None
        return None

    # ------------------------------------------------------------------ first start

    @property
    def setup_needed(self) -> bool:
        """Whether there is no user yet."""
        return not self._current().users

    def begin_setup(self, now: datetime, *, again: bool) -> str | None:
        """A new token that makes the first user, which nobody can read again; None when there are users.

        Args:
            now: The time.
            again: Also when there was one already: the one before is worth nothing then.
        """
        with self._changing() as file:
            if file.users or (file.setup is not None and not again):
                return None
            text = SETUP_PREFIX + secrets.token_urlsafe(24)
            file.setup = Setup(digest=digest(text), until=now + _SETUP_FOR)
            return text

    def finish_setup(self, token: str, name: str, password: str, now: datetime) -> bool:
        """Make the first user, an administrator; False when the token is not the one.

        Raises:
            PasswordError: The password is not taken.
            ValueError: The name is not taken.
        """
        _check_name(name)
        kept = self._current().setup
        right = hmac.compare_digest(digest(token), kept.digest if kept is not None else "")
        if not right or kept is None or now >= kept.until or not self.setup_needed:
            return False
        passwords.check(name, password)
        hashed = passwords.hashed(password)
        with self._changing() as file:
            if file.users or file.setup != kept:
                return False
            file.users[name] = User(role="admin", password=hashed, created=now, changed=now)
            file.setup = None
        return True

    # ------------------------------------------------------------------ changing

    def add_user(self, name: str, password: str, role: Role, now: datetime) -> None:
        """Add a user.

        Raises:
            NameTakenError: There is one of this name.
            PasswordError: The password is not taken.
            ValueError: The name is not taken.
        """
        _check_name(name)
        passwords.check(name, password)
        hashed = passwords.hashed(password)
        with self._changing() as file:
            if name in file.users:
                raise NameTakenError(f"there is a user `{name}` already")
            file.users[name] = User(role=role, password=hashed, created=now, changed=now)
            file.setup = None

    def change_user(self, name: str, password: str | None, role: Role | None, now: datetime) -> None:
        """Give a user another password or role.

        Raises:
            UnknownNameError: There is none of this name.
            LastAdminError: Nobody could administrate any more.
            PasswordError: The password is not taken.
        """
        if password is not None:
            passwords.check(name, password)
        hashed = None if password is None else passwords.hashed(password)
        with self._changing() as file:
            user = file.users.get(name)
            if user is None:
                raise UnknownNameError(f"there is no user `{name}`")
            if role is not None and role != "admin":
                _check_last(file, name)
            changes = {"password": hashed, "changed": now} if hashed is not None else {}
            file.users[name] = user.model_copy(update=changes | ({"role": role} if role is not None else {}))

    def remove_user(self, name: str) -> None:
        """Remove a user.

        Raises:
            UnknownNameError: There is none of this name.
            LastAdminError: Nobody could administrate any more.
        """
        with self._changing() as file:
            if name not in file.users:
                raise UnknownNameError(f"there is no user `{name}`")
            _check_last(file, name)
            del file.users[name]

    def add_token(self, name: str, role: Role, expires: datetime | None, now: datetime) -> tuple[str, str]:
        """Make an API token; its id, and its text, which nobody can read again.

        Raises:
            NameTakenError: There is one of this name.
            ValueError: The name is not taken.
        """
        _check_name(name)
        text, number = PREFIX + secrets.token_urlsafe(32), secrets.token_hex(6)
        with self._changing() as file:
            if any(token.name == name for token in file.tokens.values()):
                raise NameTakenError(f"there is a token `{name}` already")
            file.tokens[number] = Token(name=name, role=role, digest=digest(text), created=now, expires=expires)
        return number, text

    def remove_token(self, number: str) -> str:
        """Remove an API token; its name.

        Raises:
            UnknownNameError: There is none of this id.
        """
        with self._changing() as file:
            if number not in file.tokens:
                raise UnknownNameError(f"there is no token `{number}`")
            return file.tokens.pop(number).name

    # ------------------------------------------------------------------ the file

    def _current(self) -> _AccessFile:
        with self._lock:
            try:
                found = self._path.stat()
            except FileNotFoundError:
                self._seen, self._file = (), _AccessFile()
                return self._file
            seen = (found.st_mtime_ns, found.st_ino, found.st_size)
            if seen != self._seen:
                self._file, self._seen = self._read(), seen
            return self._file

    def _read(self) -> _AccessFile:
        try:
            if self._path.stat().st_mode & _OTHERS:
                raise StoreError(f"others may read or write {self._path}: chmod 600 {self._path}")
            return _AccessFile.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return _AccessFile()
        except (OSError, ValidationError) as error:
            raise StoreError(
                f"{self._path} cannot be read, so that nobody can log in; put it right or remove it to begin anew"
            ) from error

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_AccessFile]:
        make_directory(self._path.parent)
        lock = os.open(self._path.with_name(FILE + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            file = self._read()
            before = file.model_dump_json()
            yield file
            if (after := file.model_dump_json(indent=1)) and file.model_dump_json() != before:
                write_durably(self._path, after.encode())
        except OSError as error:
            raise StoreError(f"{self._path} cannot be written: {error.strerror}") from error
        finally:
            os.close(lock)


def _check_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(
            "a name has 1 to 63 letters, digits, dots, dashes, underscores or @, and begins with one of the first two"
        )


def _check_last(file: _AccessFile, name: str) -> None:
    others = [other for other, user in file.users.items() if user.role == "admin" and other != name]
    if file.users[name].role == "admin" and not others:
        raise LastAdminError(f"`{name}` is the last administrator; make another one first")


def utc_now() -> datetime:
    """The time."""
    return datetime.now(UTC)
