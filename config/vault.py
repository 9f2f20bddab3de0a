"""Secrets of a HashiCorp Vault, or an OpenBao: ``${vault:secret/plant/broker#password}`` is the key of an entry of its KV store.

Where it is and how to log in say the variables that its own tools know. Entries of the KV store have no lease: nothing is renewed,
and the token is used while a configuration is being read.
"""

import importlib.util
import json
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from config.secret_keys import SecretsError

ADDRESS: Final = "VAULT_ADDR"
_TOKEN_OF_POD: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - where Kubernetes puts it
_TIMEOUT: Final = 10.0
_KEPT: Final = 5.0  # seconds: one reading of a configuration logs in once, and the next one sees what was changed


@dataclass(frozen=True, slots=True)
class Access:
    """Where a Vault is and how to log in.

    Attributes:
        address: Its URL.
        namespace: Where the entries are, in the Enterprise edition.
        ca_file: Authorities to trust; the system's when None.
        client: Files of a client certificate and its key.
        method: How to log in.
        place: Where the login method is mounted.
        who: The token, or the role.
        proof: What goes with the role: the secret id, or the pod's token.
        version: Of the KV store, where the Vault does not tell.
    """

    address: str
    namespace: str | None
    ca_file: str | None
    client: tuple[str, str] | None
    method: Literal["token", "approle", "kubernetes"]
    place: str
    who: str = field(repr=False)
    proof: str = field(repr=False, default="")
    version: int | None = None


def access(environment: Mapping[str, str]) -> Access:
    """What the environment says of a Vault.

    Raises:
        SecretsError: It says too little.
    """

    def said(name: str) -> str | None:
        return environment.get(name) or None

    def held(name: str) -> str | None:
        """What a variable says, or the file that `NAME_FILE` names."""
        if (value := said(name)) is not None:
            return value
        if (file := said(f"{name}_FILE")) is None:
            return None
        return _read(file, f"${name}_FILE")

    address = said(ADDRESS)
    if address is None:
        raise SecretsError(f"set {ADDRESS} to the address of the Vault, as https://vault.example:8200")
    if not address.startswith(("https://", "http://")):
        raise SecretsError(f"{ADDRESS} is `{address}`, and not a URL as https://vault.example:8200")
    cert, key = said("VAULT_CLIENT_CERT"), said("VAULT_CLIENT_KEY")
    version = said("VAULT_KV_VERSION")
    if version not in (None, "1", "2"):
        raise SecretsError(f"VAULT_KV_VERSION is `{version}`; write 1 or 2, or leave it out")
    client = (cert, key) if cert is not None and key is not None else None
    general = (address.rstrip("/"), said("VAULT_NAMESPACE"), said("VAULT_CACERT"), client)
    known = int(version) if version else None
    if (token := held("VAULT_TOKEN")) is not None:
        return Access(*general, "token", "", token, version=known)
    if (role := said("VAULT_ROLE_ID")) is not None:
        return Access(
            *general, "approle", said("VAULT_APPROLE_PATH") or "approle", role, held("VAULT_SECRET_ID") or "", known
        )
    if (role := said("VAULT_K8S_ROLE")) is not None:
        pod = _read(said("VAULT_K8S_TOKEN_FILE") or _TOKEN_OF_POD, "the token of the pod")
        return Access(*general, "kubernetes", said("VAULT_K8S_PATH") or "kubernetes", role, pod, known)
    raise SecretsError(
        f"say how to log in at {address}: VAULT_TOKEN or VAULT_TOKEN_FILE, or VAULT_ROLE_ID with VAULT_SECRET_ID or "
        "VAULT_SECRET_ID_FILE, or VAULT_K8S_ROLE"
    )


def _read(file: str, what: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SecretsError(f"{what}: {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretsError(f"{what}: {file} is not UTF-8 text") from None


def parts(reference: str) -> tuple[str, str]:
    """Path and key of a reference, `path#key`.

    Raises:
        SecretsError: It is none.
    """
    path, _, key = reference.partition("#")
    path = path.strip("/")
    if "/" not in path or not key or ".." in path.split("/"):
        raise SecretsError("write ${vault:mount/path#key}, as ${vault:secret/plant/broker#password}")
    return path, key


def text_of(entry: Mapping[str, Any], path: str, key: str) -> str:
    """The value of a key of an entry.

    Raises:
        SecretsError: It has no such key.
    """
    value = entry.get(key)
    if value is None:
        there = ", ".join(sorted(entry)) or "none"
        raise SecretsError(f"the entry {path} of the Vault has no key `{key}`; it has: {there}")
    return value if isinstance(value, str) else json.dumps(value)


def mount_of(told: Mapping[str, Any] | None, path: str, version: int | None) -> tuple[str, str, int]:
    """Mount, path below it, and version of the KV store.

    Args:
        told: What the Vault says of the mount; None when it says nothing.
        path: The whole path.
        version: The version, where the Vault does not tell.

    Raises:
        SecretsError: There is another kind of store.
    """
    first, _, rest = path.partition("/")
    if told is None:
        return first, rest, version or 2
    if told.get("type") not in ("kv", "generic"):
        raise SecretsError(f"what the Vault has at {path} is no KV store but `{told.get('type')}`")
    mount = str(told.get("path", f"{first}/")).strip("/")
    kind = int((told.get("options") or {}).get("version") or 1)
    return mount, path.removeprefix(mount).strip("/"), kind


# ---------------------------------------------------------------------- input and output


class _Session:
    """One login, and the entries that were read with it."""

    def __init__(self, given: Access) -> None:
        self.given = given
        self.until = time.monotonic() + _KEPT
        self._client: Any = None
        self._entries: dict[str, dict[str, Any]] = {}
        self._failure: SecretsError | None = None

    def entry(self, path: str) -> dict[str, Any]:
        if self._failure is not None:  # twenty secrets must not wait for a Vault that is down twenty times
            raise self._failure
        if path not in self._entries:
            self._entries[path] = self._told(lambda: self._read(path), path)
        return self._entries[path]

    def _told(self, act: Any, path: str) -> Any:
        """Say in plain words what went wrong; never in the library's, which may repeat what was sent."""
        import requests
        from hvac import exceptions as wrong

        where, given = self.given.address, self.given
        try:
            return act()
        except wrong.InvalidPath:
            raise SecretsError(
                f"{where} has no entry {path}; is the path right (without `data/`), and not deleted?"
            ) from None
        except (wrong.Forbidden, wrong.Unauthorized):
            said = f"{where} does not let {given.method} read {path}: is the token or role still good, and its policy enough?"
            raise SecretsError(said) from None
        except wrong.InvalidRequest:
            raise SecretsError(
                f"{where} refuses the login by {given.method} at `{given.place or 'token'}`, or the path {path}"
            ) from None
        except (wrong.VaultDown, wrong.VaultNotInitialized):
            self._failure = SecretsError(f"{where} is sealed or not initialized; unseal it")
        except requests.exceptions.SSLError:
            self._failure = SecretsError(
                f"{where}: its certificate is not trusted, or is for another name; set VAULT_CACERT"
            )
        except requests.exceptions.RequestException as error:
            self._failure = SecretsError(f"{where} cannot be reached ({type(error).__name__}); is {ADDRESS} right?")
        except OSError as error:
            self._failure = SecretsError(f"{where}: {error.strerror or 'a file of VAULT_CACERT cannot be read'}")
        except wrong.VaultError as error:
            raise SecretsError(f"{where} answers with an error for {path} ({type(error).__name__})") from None
        raise self._failure from None

    def _read(self, path: str) -> dict[str, Any]:
        from hvac import exceptions as wrong

        client = self._client = self._client or self._log_in()
        try:
            told = client.adapter.get(f"/v1/sys/internal/ui/mounts/{path}")["data"]
        except (wrong.Forbidden, wrong.InvalidPath, KeyError):
            told = None
        mount, below, version = mount_of(told, path, self.given.version)
        if version == 1:
            return dict(client.secrets.kv.v1.read_secret(below, mount_point=mount)["data"])
        found = client.secrets.kv.v2.read_secret_version(below, mount_point=mount, raise_on_deleted_version=True)
        return dict(found["data"]["data"])

    def _log_in(self) -> Any:
        import hvac

        given = self.given
        client = hvac.Client(
            given.address,
            cert=given.client,
            verify=given.ca_file or True,
            timeout=_TIMEOUT,
            namespace=given.namespace,
        )
        client.token = given.who if given.method == "token" else None  # else it would look into the home directory
        if given.method == "approle":
            client.auth.approle.login(given.who, given.proof or None, mount_point=given.place)
        elif given.method == "kubernetes":
            client.auth.kubernetes.login(given.who, given.proof, mount_point=given.place)
        return client


_lock = threading.Lock()
_sessions: dict[Access, _Session] = {}


def get(reference: str, environment: Mapping[str, str] = os.environ) -> str:
    """A secret of a Vault.

    Args:
        reference: Path and key, `mount/path#key`.
        environment: Says where the Vault is and how to log in.

    Raises:
        SecretsError: It cannot be had; the message says why and what to do.
    """
    path, key = parts(reference)
    given = access(environment)
    if importlib.util.find_spec("hvac") is None:
        raise SecretsError("the package `hvac` is missing: pip install 'bifrost-gateway[vault]'")
    with _lock:
        session = _sessions.get(given)
        if session is None or time.monotonic() > session.until:
            _sessions.clear()
            session = _sessions[given] = _Session(given)
        return text_of(session.entry(path), path, key)


def forget() -> None:
    """Log in anew for the next secret."""
    with _lock:
        _sessions.clear()
