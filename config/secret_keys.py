"""The key of the secrets at rest: a passphrase from a file, the environment or the operating system's keyring.

While a key is being replaced there are two, and either opens the secrets: a kill at any point locks nobody out.
"""

import contextlib
import importlib.util
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from delivery.disk import StoreError, make_directory, sync_directory, write_durably

KEY_FILE: Final = "BIFROST_SECRETS_KEY_FILE"
KEY: Final = "BIFROST_SECRETS_KEY"
NEXT_KEY: Final = "BIFROST_SECRETS_NEXT_KEY"
_CREDENTIAL: Final = "bifrost-secrets-key"  # of systemd, below $CREDENTIALS_DIRECTORY
_KEYRING: Final = "bifrost"
_SHORTEST: Final = 16  # characters


class SecretsError(StoreError):
    """A secret cannot be read or kept; the message says what to do, and shows no secret."""


@dataclass(frozen=True)
class Key:
    """A passphrase and where it comes from; newer ones are tried after it, while a rotation is under way."""

    text: str
    place: str


def _next_file(file: Path) -> Path:
    return file.with_name(file.name + ".next")


def keys(store: Path, environment: Mapping[str, str] = os.environ) -> list[Key]:
    """The keys that may open a store, the present one first.

    Raises:
        SecretsError: One is named and cannot be used.
    """
    found = []
    if file := key_file(environment):
        found += [_read_key(path, store) for path in (file, _next_file(file)) if path == file or path.exists()]
    found += [Key(environment[name], f"${name}") for name in (KEY, NEXT_KEY) if environment.get(name)]
    if not found:
        found = [
            Key(kept, "the keyring") for next_one in (False, True) if (kept := _from_keyring(store, next_one=next_one))
        ]
    for key in found:
        if len(key.text) < _SHORTEST:
            raise SecretsError(
                f"{key.place}: a key has {_SHORTEST} characters or more; `bifrost secrets new-key` makes one"
            )
    return found


def key_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file that holds the key: the one that is named, or the one that systemd hands over."""
    if given := environment.get(KEY_FILE):
        return Path(given)
    if handed := environment.get("CREDENTIALS_DIRECTORY"):
        path = Path(handed) / _CREDENTIAL
        return path if path.exists() else None
    return None


def write_key(path: Path, key: str, store: Path) -> None:
    """Write a key to a file that its owner alone can read.

    Raises:
        SecretsError: It would lie beside the secrets, or cannot be written.
    """
    try:
        make_directory(path.absolute().parent)
        _apart(path, store)
        write_durably(path, f"{key}\n".encode())
    except OSError as error:
        raise SecretsError(f"{path}: the key cannot be written ({error.strerror})") from None


def _apart(path: Path, store: Path) -> None:
    if path.resolve().parent == store.resolve().parent:
        raise SecretsError(f"{path}: the key would lie beside the secrets that it opens; keep it in another directory")


def _read_key(path: Path, store: Path) -> Key:
    try:
        text, mode = path.read_text(encoding="utf-8").strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise SecretsError(f"{path}: the key of the secrets cannot be read ({_short(error)})") from None
    if mode & 0o007:
        raise SecretsError(f"{path}: every user of this machine can read the key; `chmod 600 {path}`")
    _apart(path, store)
    return Key(text, str(path))


def _from_keyring(store: Path, *, next_one: bool) -> str | None:
    if importlib.util.find_spec("keyring") is None:
        return None
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(_KEYRING, _entry(store, next_one=next_one))
    except KeyringError:
        return None


def keep_in_keyring(store: Path, key: str, *, next_one: bool = False) -> None:
    """Put a store's key into the operating system's keyring.

    Args:
        store: Whose key.
        key: The key.
        next_one: Beside the present one, for a rotation.

    Raises:
        SecretsError: There is none, or it does not take it.
    """
    if importlib.util.find_spec("keyring") is None:
        raise SecretsError("the package `keyring` is missing: pip install 'bifrost-gateway[keyring]'")
    import keyring
    from keyring.errors import KeyringError, PasswordDeleteError

    try:
        keyring.set_password(_KEYRING, _entry(store, next_one=next_one), key)
        if not next_one:
            with contextlib.suppress(PasswordDeleteError):
                keyring.delete_password(_KEYRING, _entry(store, next_one=True))
    except KeyringError as error:
        raise SecretsError(f"the keyring does not take the key ({error})") from None


def _entry(store: Path, *, next_one: bool) -> str:
    return f"{store.resolve()}{'.next' if next_one else ''}"


@dataclass(frozen=True)
class NextKey:
    """The key that takes the present one's place.

    Attributes:
        text: The key, durable where it will be found; one that a rotation which was cut off has left is taken up again.
        finish: Puts it in the present one's place.
        told: What is left for the user to do.
    """

    text: str
    finish: Callable[[], object]
    told: str


def next_key(store: Path, environment: Mapping[str, str] = os.environ) -> NextKey:
    """A key for a rotation of a store's secrets.

    Raises:
        SecretsError: It cannot be kept, or the environment has none.
    """
    if file := key_file(environment):
        following = _next_file(file)
        if not following.exists():
            write_key(following, new_key(), store)

        def replace() -> None:
            following.rename(file)
            sync_directory(file.parent)

        return NextKey(
            _read_key(following, store).text, replace, f"The new key is in {file}; keep a copy in a safe place."
        )
    if environment.get(KEY):
        given = environment.get(NEXT_KEY)
        if not given:
            raise SecretsError(f"set {NEXT_KEY} to the new key, beside {KEY}; `bifrost secrets new-key` makes one")
        return NextKey(given, lambda: None, f"Now set {KEY} to what {NEXT_KEY} says.")
    key = _from_keyring(store, next_one=True) or new_key()
    keep_in_keyring(store, key, next_one=True)
    return NextKey(key, lambda: keep_in_keyring(store, key), "The new key is in the keyring.")


def new_key() -> str:
    """A key that nobody can guess: 256 random bits as text."""
    return secrets.token_urlsafe(32)


def _short(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8 text"
