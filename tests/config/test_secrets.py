"""Secrets at rest: threat row 22 of the threat model, and where the key comes from."""

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError
from typing_extensions import override

from config.loader import load
from config.secret_keys import keep_in_keyring, keys, new_key, write_key
from config.secrets import SecretsError, SecretStore, new_kdf, seal, store_path, unseal
from config.yaml_nodes import ProblemsError

pytestmark = pytest.mark.threat(22)

KEY = "correct horse battery staple"
OTHER = "wrong horse battery staple"
WHEN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "configuration" / "secrets.json"


@pytest.fixture
def key_path(tmp_path: Path) -> Path:
    return tmp_path / "keys" / "bifrost"


def opened(path: Path, key: str = KEY, **more: str) -> SecretStore:
    return SecretStore(path, {"BIFROST_SECRETS_KEY": key, **more})


# ---------------------------------------------------------------------- keeping


@pytest.mark.parametrize("value", ["", "s3cret", "two\nlines\n", "ß € 漢字 🔑", "x" * 100_000])
def test_a_secret_comes_back_as_it_was_kept(path: Path, value: str) -> None:
    opened(path).set("plant.broker", value)
    assert opened(path).get("plant.broker") == value


def test_a_file_of_secrets_is_its_owners_alone_and_says_nothing_of_them(path: Path) -> None:
    opened(path).set("broker", "canary-7f3a91")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"canary" not in path.read_bytes()
    assert KEY.encode() not in path.read_bytes()


def test_each_record_says_how_its_key_is_derived_by_what_is_recommended(path: Path) -> None:
    store = opened(path)
    store.set("modern", "1")
    store.set("policy", "2", "pbkdf2-hmac-sha256")
    store.set("like-the-last", "3")
    kdfs = {name: record["kdf"] for name, record in json.loads(path.read_text())["secrets"].items()}
    assert (kdfs["modern"]["name"], kdfs["modern"]["memory_kib"], kdfs["modern"]["iterations"]) == (
        "argon2id",
        65_536,
        3,
    )
    assert (kdfs["policy"]["name"], kdfs["policy"]["iterations"]) == ("pbkdf2-hmac-sha256", 600_000)
    assert kdfs["like-the-last"] == kdfs["policy"]
    assert [opened(path).get(name) for name in kdfs] == ["1", "2", "3"]


def test_secrets_of_one_key_are_opened_with_one_derivation_and_never_share_a_nonce(path: Path) -> None:
    store = opened(path)
    for number in range(20):
        store.set(f"secret-{number}", "the same")
    records = json.loads(path.read_text())["secrets"].values()
    assert len({record["kdf"]["salt"] for record in records}) == 1
    assert len({record["nonce"] for record in records}) == 20
    assert len({record["sealed"] for record in records}) == 20


@pytest.mark.parametrize("name", ["", "a b", "../passwd", "a/b", "-x", "x" * 64, "ä", "a\nb"])
def test_a_name_that_is_none_is_refused(path: Path, name: str) -> None:
    with pytest.raises(SecretsError, match="is no name of a secret"):
        opened(path).set(name, "value")
    assert not path.exists()


def test_a_secret_that_is_removed_is_gone(path: Path) -> None:
    store = opened(path)
    store.set("a", "1")
    store.set("b", "2")
    store.remove("a")
    assert list(store.listed()) == ["b"]
    with pytest.raises(SecretsError, match="has no secret `a`"):
        store.remove("a")


def test_those_who_keep_secrets_at_once_lose_none(path: Path) -> None:
    opened(path).set("first", "0")
    keeping = [threading.Thread(target=opened(path).set, args=(f"s{i}", str(i))) for i in range(16)]
    for thread in keeping:
        thread.start()
    for thread in keeping:
        thread.join()
    assert len(opened(path).listed()) == 17


def test_a_disk_that_takes_nothing_leaves_the_secrets_as_they_were(path: Path) -> None:
    opened(path).set("a", "1")
    (path.with_name(path.name + ".new")).mkdir()  # as a name that cannot be written
    with pytest.raises(SecretsError, match="nothing is changed"):
        opened(path).set("a", "2")
    assert opened(path).get("a") == "1"


# ---------------------------------------------------------------------- what is wrong


def test_another_key_opens_nothing_and_keeps_nothing(path: Path) -> None:
    opened(path).set("broker", "canary-7f3a91")
    before = path.read_bytes()
    acts: list[Callable[[SecretStore], object]] = [
        lambda store: store.get("broker"),
        lambda store: store.set("other", "x"),
        lambda store: store.rotate(new_key()),
    ]
    for act in acts:
        with pytest.raises(SecretsError, match="does not open `broker`") as caught:
            act(opened(path, OTHER))
        assert "canary" not in str(caught.value)
        assert OTHER not in str(caught.value)
    assert path.read_bytes() == before


def test_no_bit_of_the_file_can_change_unseen(path: Path) -> None:
    """Whatever changes, the secret is told to be damaged or missing, or comes back as it was: never as another."""
    record = seal("broker", "canary", KEY, new_kdf("pbkdf2-hmac-sha256", b"s" * 16), b"n" * 12, WHEN)
    cheap = record.kdf.model_copy(update={"iterations": 2})
    record = seal("broker", "canary", KEY, cheap, b"n" * 12, WHEN)
    path.parent.mkdir()
    whole = json.dumps(
        {"format": "bifrost-secrets/1", "secrets": {"broker": json.loads(record.model_dump_json())}}
    ).encode()
    path.touch(0o600)
    answers = set()
    for place in range(len(whole)):
        for bit in (0, 3, 6):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with contextlib.suppress(SecretsError):
                answers.add(opened(path).get("broker"))
    assert answers <= {"canary"}


def test_a_file_that_is_cut_short_is_told_as_damaged(path: Path) -> None:
    opened(path).set("broker", "canary")
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(SecretsError, match="damaged"):
            opened(path).get("broker")


def test_a_record_under_another_name_is_not_opened(path: Path) -> None:
    store = opened(path)
    store.set("test-system", "harmless")
    store.set("production", "precious")
    file = json.loads(path.read_text())
    file["secrets"]["test-system"] = file["secrets"]["production"]
    path.write_text(json.dumps(file))
    with pytest.raises(SecretsError, match="does not open `test-system`"):
        store.get("test-system")


@pytest.mark.parametrize(("field", "value"), [("memory_kib", 2**30), ("iterations", 10**9), ("lanes", 1000)])
def test_a_file_cannot_ask_for_the_memory_or_time_of_the_machine(path: Path, field: str, value: int) -> None:
    opened(path).set("broker", "canary")
    file = json.loads(path.read_text())
    file["secrets"]["broker"]["kdf"][field] = value
    path.write_text(json.dumps(file))
    with pytest.raises(SecretsError, match="damaged"):
        opened(path).get("broker")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_read_is_refused_with_what_to_do(path: Path, mode: int) -> None:
    opened(path).set("broker", "canary")
    path.chmod(mode)
    with pytest.raises(SecretsError, match="chmod 600"):
        opened(path).get("broker")


# ---------------------------------------------------------------------- the key


def test_the_key_is_read_from_the_file_that_the_environment_names(path: Path, key_path: Path) -> None:
    write_key(key_path, KEY, path)
    assert stat.S_IMODE(key_path.stat().st_mode) == 0o600
    store = SecretStore(path, {"BIFROST_SECRETS_KEY_FILE": str(key_path)})
    store.set("a", "1")
    assert opened(path, KEY).get("a") == "1"


def test_the_key_is_read_from_what_systemd_hands_over(path: Path, tmp_path: Path) -> None:
    opened(path).set("a", "1")
    (tmp_path / "credentials").mkdir()
    handed = tmp_path / "credentials" / "bifrost-secrets-key"
    handed.write_text(KEY)
    handed.chmod(0o400)
    assert SecretStore(path, {"CREDENTIALS_DIRECTORY": str(handed.parent)}).get("a") == "1"


def test_a_key_beside_the_secrets_is_refused(path: Path) -> None:
    with pytest.raises(SecretsError, match="beside the secrets"):
        write_key(path.parent / "key", KEY, path)
    (path.parent / "key").write_text(KEY)
    (path.parent / "key").chmod(0o600)
    with pytest.raises(SecretsError, match="beside the secrets"):
        SecretStore(path, {"BIFROST_SECRETS_KEY_FILE": str(path.parent / "key")}).set("a", "1")


def test_a_key_that_everybody_can_read_is_refused(path: Path, key_path: Path) -> None:
    write_key(key_path, KEY, path)
    key_path.chmod(0o644)
    with pytest.raises(SecretsError, match="every user of this machine"):
        SecretStore(path, {"BIFROST_SECRETS_KEY_FILE": str(key_path)}).set("a", "1")


def test_a_key_that_is_short_is_refused(path: Path) -> None:
    with pytest.raises(SecretsError, match="16 characters"):
        opened(path, "hunter2").set("a", "1")


def test_without_a_key_it_is_said_how_to_name_one(path: Path) -> None:
    with pytest.raises(SecretsError, match="set BIFROST_SECRETS_KEY_FILE"):
        SecretStore(path, {}).set("a", "1")


class Keyring(KeyringBackend):
    """A keyring of the library's own kind, in memory."""

    priority = 1.0

    def __init__(self) -> None:
        self.kept: dict[tuple[str, str], str] = {}

    @override
    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    @override
    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    @override
    def delete_password(self, service: str, username: str) -> None:
        if self.kept.pop((service, username), None) is None:
            raise PasswordDeleteError


def test_the_key_may_be_in_the_keyring_and_is_replaced_there(path: Path) -> None:
    before = keyring.get_keyring()
    ring = Keyring()
    keyring.set_keyring(ring)
    try:
        keep_in_keyring(path, KEY)
        store = SecretStore(path, {})
        store.set("a", "1")
        assert store.rotate_key()[0] == 1
        assert store.get("a") == "1"
        assert list(ring.kept.values()) != [KEY]
        assert len(ring.kept) == 1
    finally:
        keyring.set_keyring(before)


# ---------------------------------------------------------------------- rotation

ROTATION = """
import os, signal, sys
from pathlib import Path
from config.secrets import SecretStore
step = 0
def count(event, arguments):
    global step
    writes = event == "os.rename" or (event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
    if writes and "secrets.json.lock" not in str(arguments[0]):
        step += 1
        if step == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
store = SecretStore(Path(sys.argv[1]), {"BIFROST_SECRETS_KEY_FILE": sys.argv[2]})
sys.addaudithook(count)
store.rotate_key()
"""


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6])
def test_a_rotation_that_is_killed_at_any_write_locks_nobody_out(path: Path, key_path: Path, step: int) -> None:
    """Two steps write the new key, two the secrets, and one puts the key in its place; a sixth there is not."""
    write_key(key_path, new_key(), path)
    environment = {"BIFROST_SECRETS_KEY_FILE": str(key_path)}
    store = SecretStore(path, environment)
    store.set("a", "1")
    store.set("b", "2")
    first = key_path.read_text()
    command = [sys.executable, "-c", ROTATION, str(path), str(key_path), str(step)]
    killed = subprocess.run(command, check=False, timeout=60).returncode == -signal.SIGKILL
    assert killed == (step < 6)
    assert (store.get("a"), store.get("b")) == ("1", "2")
    store.set("c", "3")
    if killed:
        store.rotate_key()
    assert [store.get(name) for name in "abc"] == ["1", "2", "3"]
    assert key_path.read_text() != first
    assert len(keys(path, environment)) == 1


def test_a_key_of_the_environment_is_replaced_by_the_next_one(path: Path) -> None:
    opened(path).set("a", "1")
    with pytest.raises(SecretsError, match="BIFROST_SECRETS_NEXT_KEY"):
        opened(path).rotate_key()
    both = opened(path, BIFROST_SECRETS_NEXT_KEY=OTHER)
    assert both.rotate_key()[0] == 1
    assert (both.get("a"), opened(path, OTHER).get("a")) == ("1", "1")
    with pytest.raises(SecretsError, match="does not open"):
        opened(path).get("a")


# ---------------------------------------------------------------------- the configuration


SOURCE = """
sources:
  - {name: broker, protocol: mqtt, endpoint: "mqtt://127.0.0.1:1883", username: u, password: "${secret:broker}"}
"""


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("BIFROST_SECRET")]:
        monkeypatch.delenv(name)
    (tmp_path / "configuration").mkdir()
    file = tmp_path / "configuration" / "gateway.yaml"
    file.write_text(SOURCE)
    return file


def test_a_configuration_takes_secrets_from_the_store_beside_it(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(store_path(configuration.parent)).set("broker", "s3cret")
    monkeypatch.setenv("BIFROST_SECRETS_KEY", KEY)
    (source,) = load(configuration).sources
    assert source.password.get_secret_value() == "s3cret"  # type: ignore[attr-defined]
    assert "s3cret" not in repr(source)


def test_what_is_not_in_the_store_is_taken_from_the_environment(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIFROST_SECRET_BROKER", "from outside")
    (source,) = load(configuration).sources
    assert source.password.get_secret_value() == "from outside"  # type: ignore[attr-defined]


def test_a_secret_that_is_missing_is_a_problem_with_its_place(configuration: Path) -> None:
    with pytest.raises(ProblemsError) as caught:
        load(configuration)
    assert f"{configuration}:3:" in str(caught.value)
    assert "bifrost secrets set broker" in str(caught.value)


def test_parts_of_a_configuration_share_its_secrets(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIFROST_SECRETS_KEY", KEY)
    (configuration.parent / "conf.d").mkdir()
    configuration.rename(configuration.parent / "conf.d" / "broker.yaml")
    configuration.write_text("gateway: {name: gw}\n")
    opened(store_path(configuration.parent)).set("broker", "s3cret")
    (source,) = load(configuration).sources
    assert source.password.get_secret_value() == "s3cret"  # type: ignore[attr-defined]


def test_records_are_opened_by_the_key_that_sealed_them_alone() -> None:
    kdf = new_kdf("argon2id", b"s" * 16)
    record = seal("a", "1", KEY, kdf, b"n" * 12, WHEN)
    assert (unseal("a", record, KEY), unseal("a", record, OTHER), unseal("b", record, KEY)) == ("1", None, None)
