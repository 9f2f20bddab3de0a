"""Passwords at rest: Argon2id (RFC 9106) in PHC strings, which say their parameters themselves."""

import os
import threading
from typing import Final

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

LEAST: Final = 12
MOST: Final = 256
_MEMORY_KIB: Final = 19_456  # 19 MiB and two passes: OWASP's least, for gateways with little memory
_PASSES: Final = 2
_AT_ONCE: Final = threading.Semaphore(2)  # more would take the memory and the cores that the data needs


class PasswordError(ValueError):
    """A password that is not taken; the message says why."""


def check(name: str, password: str) -> None:
    """See that a password may be used.

    Raises:
        PasswordError: It is too short or too long, or the user's name.
    """
    if not LEAST <= len(password) <= MOST:
        raise PasswordError(f"a password has {LEAST} to {MOST} characters; several words are easy to remember")
    if password.casefold() == name.casefold() or len(set(password)) < 4:
        raise PasswordError("a password must not be the user's name, or one character again and again")


def hashed(password: str) -> str:
    """What is kept of a password."""
    with _AT_ONCE:
        derive = Argon2id(salt=os.urandom(16), length=32, iterations=_PASSES, lanes=1, memory_cost=_MEMORY_KIB)
        return str(derive.derive_phc_encoded(password.encode()))


def fits(password: str, kept: str) -> bool:
    """Whether `kept` was made of this password; takes as long when it was not."""
    with _AT_ONCE:
        try:
            Argon2id.verify_phc_encoded(password.encode(), kept)
        except InvalidKey:
            return False
        return True
