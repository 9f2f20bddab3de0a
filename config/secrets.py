"""Secrets at rest: a file of them, each sealed with AES-256-GCM under a key that is derived from a passphrase.

The passphrase, here called the key, comes from a file, the environment or the operating system's keyring, and never lies
beside the secrets. Each record says how its key is derived (Argon2id, RFC 9106; or PBKDF2-HMAC-SHA256 where a policy asks
for it), so that stronger parameters need no new file. A name is bound to what it stands for: records cannot be swapped.
"""

import base64
import contextlib
import fcntl
import functools
import os
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from config.secret_keys import KEY, KEY_FILE, Key, SecretsError, keys, next_key
from delivery.disk import make_directory, write_durably

STORE: Final = "BIFROST_SECRETS"
ONE: Final = "BIFROST_SECRET_"
STORE_NAME: Final = "secrets.json"
_FORMAT: Final = "bifrost-secrets/1"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_NONCE: Final = 12  # bytes, NIST SP 800-38D
_OTHERS: Final = 0o077

KdfName = Literal["argon2id", "pbkdf2-hmac-sha256"]


class Kdf(BaseModel):
    """How a key is derived; the bounds keep a file that was tampered with from taking the machine's memory or time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: KdfName
    salt: Annotated[Base64Bytes, Field(min_length=16, max_length=64)]
    iterations: Annotated[int, Field(ge=1, le=10_000_000)]
    memory_kib: Annotated[int, Field(ge=0, le=1_048_576)] = 0
    lanes: Annotated[int, Field(ge=1, le=16)] = 1


class SecretRecord(BaseModel):
    """A secret at rest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kdf: Kdf
    nonce: Annotated[Base64Bytes, Field(min_length=_NONCE, max_length=_NONCE)]
    sealed: Base64Bytes
    changed: datetime


class _StoreFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Literal["bifrost-secrets/1"] = "bifrost-secrets/1"
    secrets: dict[str, SecretRecord] = {}


# ---------------------------------------------------------------------- pure


def new_kdf(name: KdfName, salt: bytes) -> Kdf:
    """Today's parameters: Argon2id with 64 MiB and three passes (RFC 9106, 4), or PBKDF2 with 600,000 rounds (OWASP)."""
    encoded = base64.b64encode(salt)
    if name == "argon2id":
        return Kdf(name=name, salt=encoded, iterations=3, memory_kib=65_536, lanes=4)
    return Kdf(name=name, salt=encoded, iterations=600_000)


@functools.lru_cache(maxsize=64)
def _derived(key: str, kdf: Kdf) -> bytes:
    if kdf.name == "argon2id":
        derive = Argon2id(
            salt=kdf.salt, length=32, iterations=kdf.iterations, lanes=kdf.lanes, memory_cost=kdf.memory_kib
        )
        return derive.derive(key.encode())
    return PBKDF2HMAC(hashes.SHA256(), 32, kdf.salt, kdf.iterations).derive(key.encode())


def seal(name: str, value: str, key: str, kdf: Kdf, nonce: bytes, changed: datetime) -> SecretRecord:
    """A secret's record."""
    sealed = AESGCM(_derived(key, kdf)).encrypt(nonce, value.encode(), f"{_FORMAT}\0{name}".encode())
    return SecretRecord(kdf=kdf, nonce=base64.b64encode(nonce), sealed=base64.b64encode(sealed), changed=changed)


def unseal(name: str, record: SecretRecord, key: str) -> str | None:
    """What a record stands for; None if that is another key's, or the record was changed."""
    with contextlib.suppress(InvalidTag, ValueError):
        clear = AESGCM(_derived(key, record.kdf)).decrypt(record.nonce, record.sealed, f"{_FORMAT}\0{name}".encode())
        return clear.decode()
    return None


def variable(name: str) -> str:
    """The environment's variable that stands for a secret which is not in the store."""
    return ONE + re.sub(r"[^A-Z0-9]", "_", name.upper())


# ---------------------------------------------------------------------- the store


def store_path(directory: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Where the secrets of a configuration in `directory` are."""
    given = environment.get(STORE)
    if given:
        return Path(given)
    return (directory.parent if directory.name == "conf.d" else directory) / STORE_NAME


class SecretStore:
    """A file of secrets."""

    def __init__(self, path: Path, environment: Mapping[str, str] = os.environ) -> None:
        self.path = path
        self._environment = environment

    def listed(self) -> dict[str, datetime]:
        """The names, and when each was changed; needs no key.

        Raises:
            SecretsError: The file cannot be read.
        """
        return {name: record.changed for name, record in sorted(self._read().secrets.items())}

    def get(self, name: str) -> str:
        """A secret, from the store or else from the environment.

        Raises:
            SecretsError: There is none, or no key opens it.
        """
        record = self._read().secrets.get(name)
        if record is not None:
            return self._open(name, record, self._keys())
        if (value := self._environment.get(variable(name))) is not None:
            return value
        raise SecretsError(
            f"{self.path} has no secret `{name}`: store it with `bifrost secrets set {name}`, or set {variable(name)}"
        )

    def set(self, name: str, value: str, kdf: KdfName | None = None) -> None:
        """Keep a secret, in place of what the name stood for.

        Args:
            name: Letters, digits, `.`, `_` and `-`.
            value: What it stands for.
            kdf: How its key is derived; as the others' when absent.

        Raises:
            SecretsError: The name is none, there is no key, or another key is in use.
        """
        if not _NAME.fullmatch(name):
            raise SecretsError(f"`{name}` is no name of a secret: letters, digits, `.`, `_` and `-`, 63 at most")
        with self._locked():
            file, key = self._read(), self._keys()[0]
            for other, record in file.secrets.items():
                key = self._opening(other, record, self._keys())  # two keys in one file would lock one of them out
                break
            chosen = self._kdf(file, kdf)
            file.secrets[name] = seal(name, value, key.text, chosen, os.urandom(_NONCE), datetime.now(UTC))
            self._write(file)

    def remove(self, name: str) -> None:
        """Forget a secret.

        Raises:
            SecretsError: There is none of that name.
        """
        with self._locked():
            file = self._read()
            if file.secrets.pop(name, None) is None:
                raise SecretsError(f"{self.path} has no secret `{name}`")
            self._write(file)

    def rotate(self, key: str) -> int:
        """Seal every secret anew under another key; returns how many there are.

        Raises:
            SecretsError: One cannot be opened: nothing is changed.
        """
        with self._locked():
            file = self._read()
            old = [*self._keys(), Key(key, "the new key")]
            clear = {name: self._open(name, record, old) for name, record in file.secrets.items()}
            kdfs = {name: new_kdf(name, os.urandom(16)) for name in {r.kdf.name for r in file.secrets.values()}}
            for name, value in clear.items():
                record = file.secrets[name]
                kdf, nonce = kdfs[record.kdf.name], os.urandom(_NONCE)
                file.secrets[name] = seal(name, value, key, kdf, nonce, record.changed)
            self._write(file)
        return len(clear)

    def rotate_key(self) -> tuple[int, str]:
        """Replace the key, and seal every secret under it; returns how many there are, and what is left to do.

        Raises:
            SecretsError: One cannot be opened, or the key not be kept: either key opens what it opened before.
        """
        key = next_key(self.path, self._environment)
        count = self.rotate(key.text)
        key.finish()
        return count, key.told

    def _kdf(self, file: _StoreFile, name: KdfName | None) -> Kdf:
        known = [record.kdf for record in file.secrets.values()]
        wanted = name or (known[-1].name if known else "argon2id")
        fresh = new_kdf(wanted, os.urandom(16))
        alike = [kdf for kdf in known if kdf.model_copy(update={"salt": fresh.salt}) == fresh]
        return alike[-1] if alike else fresh

    def _keys(self) -> list[Key]:
        found = keys(self.path, self._environment)
        if not found:
            raise SecretsError(
                f"{self.path}: no key for the secrets; set {KEY_FILE} to the file that holds it, or {KEY} to the key "
                "(`bifrost secrets new-key FILE` makes one)"
            )
        return found

    def _open(self, name: str, record: SecretRecord, keys: list[Key]) -> str:
        value = unseal(name, record, self._opening(name, record, keys).text)
        assert value is not None  # noqa: S101 - it was opened a moment ago
        return value

    def _opening(self, name: str, record: SecretRecord, keys: list[Key]) -> Key:
        for key in keys:
            if unseal(name, record, key.text) is not None:
                return key
        places = " and ".join(key.place for key in keys)
        raise SecretsError(
            f"{self.path}: the key of {places} does not open `{name}`: it was stored with another key, or the file was changed"
        )

    def _read(self) -> _StoreFile:
        try:
            text, mode = self.path.read_bytes(), self.path.stat().st_mode
        except FileNotFoundError:
            return _StoreFile()
        except OSError as error:
            raise SecretsError(f"{self.path}: {error.strerror}") from None
        if mode & _OTHERS:
            raise SecretsError(f"{self.path}: others than its owner can read it; `chmod 600 {self.path}`")
        try:
            return _StoreFile.model_validate_json(text)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
            raise SecretsError(
                f"{self.path}: not a file of secrets, or damaged{f' (at {where})' if where else ''}; "
                "put it back from a copy"
            ) from None

    def _write(self, file: _StoreFile) -> None:
        try:
            write_durably(self.path, file.model_dump_json(indent=1).encode())
        except OSError as error:
            raise SecretsError(f"{self.path}: cannot be written ({error.strerror}); nothing is changed") from None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            make_directory(self.path.parent)
            fd = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SecretsError(f"{self.path}: cannot be written ({error.strerror}); nothing is changed") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


__all__ = ["SecretStore", "SecretsError", "store_path"]
