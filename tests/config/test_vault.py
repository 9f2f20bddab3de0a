"""Secrets of a Vault in a configuration, before a server that speaks its documented API (`tests/vault_server.py` says what of it)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from config import vault
from config.secret_keys import SecretsError
from connectors.sources.mqtt import MqttConfig
from tests.certificates import Authority
from tests.loaded_config import Load, Problems
from tests.ports import free_port
from tests.vault_server import POD, POD_TOKEN, ROLE, ROOT_TOKEN, SECRET_ID, VaultServer

TEXT = """
gateway: {name: g}
sources:
  - {name: broker, protocol: mqtt, endpoint: "mqtts://127.0.0.1:1", username: bifrost, password: "${vault:REF}"}
"""
PASSWORD = "canary-password"


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("VAULT_ADDR", "VAULT_TOKEN", "VAULT_NAMESPACE", "VAULT_CACERT"):
        monkeypatch.delenv(name, raising=False)
    vault.forget()
    yield
    vault.forget()


@pytest.fixture
def server() -> Iterator[VaultServer]:
    running = VaultServer().start()
    running.entries["secret", "plant/broker"] = {"password": PASSWORD, "port": 8883}
    running.entries["old", "plant/broker"] = {"password": f"{PASSWORD}-1"}
    yield running
    running.stop()


def told(server: VaultServer, **more: str) -> dict[str, str]:
    return {"VAULT_ADDR": server.address, "VAULT_TOKEN": ROOT_TOKEN, **more}


def refusal(reference: str, environment: dict[str, str]) -> str:
    with pytest.raises(SecretsError) as caught:
        vault.get(reference, environment)
    said = str(caught.value)
    assert "canary" not in said
    chain: BaseException | None = caught.value
    while chain is not None:  # what a traceback would show
        assert "canary" not in str(chain)
        chain = None if chain.__suppress_context__ else chain.__cause__ or chain.__context__
    return said


def test_a_configuration_takes_a_password_from_a_vault(
    server: VaultServer, loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told(server).items():
        monkeypatch.setenv(name, value)
    (source,) = loaded(TEXT.replace("REF", "secret/plant/broker#password")).sources
    assert isinstance(source, MqttConfig)
    assert source.password is not None
    assert source.password.get_secret_value() == PASSWORD
    assert "canary" not in repr(source)


def test_what_a_vault_refuses_is_told_at_its_place(
    server: VaultServer, problems: Problems, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in told(server).items():
        monkeypatch.setenv(name, value)
    (said,) = problems(TEXT.replace("REF", "secret/plant/broker#passwort"))
    assert said == (
        "gateway.yaml:4:98: sources.0.password: ${vault:secret/plant/broker#passwort}: the entry secret/plant/broker of the Vault "
        "has no key `passwort`; it has: password, port"
    )


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("secret/plant/broker#password", PASSWORD),
        ("/secret/plant/broker/#port", "8883"),
        ("old/plant/broker#password", f"{PASSWORD}-1"),
    ],
)
def test_both_versions_of_the_store_are_read(server: VaultServer, reference: str, value: str) -> None:
    assert vault.get(reference, told(server)) == value


def test_a_vault_that_does_not_tell_its_mounts_is_taken_for_version_2_or_as_is_said(server: VaultServer) -> None:
    server.tells_mounts = False
    assert vault.get("secret/plant/broker#password", told(server)) == PASSWORD
    assert vault.get("old/plant/broker#password", told(server, VAULT_KV_VERSION="1")) == f"{PASSWORD}-1"


def test_many_secrets_of_one_entry_are_one_login_and_one_question(server: VaultServer, tmp_path: Path) -> None:
    (tmp_path / "id").write_text(f"{SECRET_ID}\n")
    environment = {"VAULT_ADDR": server.address, "VAULT_ROLE_ID": ROLE, "VAULT_SECRET_ID_FILE": str(tmp_path / "id")}
    for _ in range(20):
        assert vault.get("secret/plant/broker#password", environment) == PASSWORD
    assert server.asked == [
        "POST /v1/auth/approle/login",
        "GET /v1/sys/internal/ui/mounts/secret/plant/broker",
        "GET /v1/secret/data/plant/broker",
    ]


def test_a_pod_logs_in_by_its_own_token(server: VaultServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(POD_TOKEN)
    environment = {
        "VAULT_ADDR": server.address, "VAULT_K8S_ROLE": POD, "VAULT_K8S_PATH": "plant",
        "VAULT_K8S_TOKEN_FILE": str(tmp_path / "token"),
    }  # fmt: skip
    assert vault.get("secret/plant/broker#password", environment) == PASSWORD
    (tmp_path / "token").write_text("canary-of-another-pod")
    assert "refuses the login by kubernetes at `plant`" in refusal("secret/plant/broker#password", environment)


def test_a_namespace_and_a_token_in_a_file_are_used(server: VaultServer, tmp_path: Path) -> None:
    server.namespace = "plant1"
    (tmp_path / "token").write_text(f"{ROOT_TOKEN}\n")
    environment = {
        "VAULT_ADDR": server.address,
        "VAULT_TOKEN_FILE": str(tmp_path / "token"),
        "VAULT_NAMESPACE": "plant1",
    }
    assert vault.get("secret/plant/broker#password", environment) == PASSWORD
    assert "has no entry" in refusal("secret/plant/broker#password", told(server))


def test_what_was_changed_is_read_with_the_next_configuration(
    server: VaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert vault.get("secret/plant/broker#password", told(server)) == PASSWORD
    server.entries["secret", "plant/broker"] = {"password": "changed"}
    monkeypatch.setattr("config.vault._KEPT", 0.0)
    vault.forget()
    assert vault.get("secret/plant/broker#password", told(server)) == "changed"
    server.entries["secret", "plant/broker"] = {"password": "again"}
    assert vault.get("secret/plant/broker#password", told(server)) == "again"


def test_only_a_vault_whose_authority_is_known_is_asked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    running = VaultServer().start(authority.server_cert, authority.server_key)
    running.entries["secret", "a"] = {"b": "c"}
    try:
        assert "its certificate is not trusted" in refusal("secret/a#b", told(running))
        assert running.asked == []
        assert vault.get("secret/a#b", told(running, VAULT_CACERT=str(authority.ca))) == "c"
        vault.forget()
        assert "VAULT_CACERT" in refusal("secret/a#b", told(running, VAULT_CACERT=str(tmp_path / "none.pem")))
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"VAULT_ADDR": ""}, "set VAULT_ADDR"),
        ({"VAULT_ADDR": "vault:8200"}, "not a URL"),
        ({"VAULT_TOKEN": ""}, "say how to log in at"),
        ({"VAULT_TOKEN": "", "VAULT_TOKEN_FILE": "/nowhere"}, "$VAULT_TOKEN_FILE: /nowhere cannot be read: No such file"),
        ({"VAULT_TOKEN": "", "VAULT_K8S_ROLE": "x", "VAULT_K8S_TOKEN_FILE": "/nowhere"}, "the token of the pod: /nowhere"),
        ({"VAULT_KV_VERSION": "3"}, "write 1 or 2"),
        ({"VAULT_TOKEN": "hvs.canary-old"}, "does not let token read secret/plant/broker"),
        ({"VAULT_TOKEN": "", "VAULT_ROLE_ID": ROLE, "VAULT_SECRET_ID": "canary-wrong"}, "refuses the login by approle"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_access_is_said_without_a_secret(
    server: VaultServer, change: dict[str, str], said: str
) -> None:
    assert said in refusal("secret/plant/broker#password", told(server) | change)


@pytest.mark.parametrize("reference", ["", "secret", "secret/plant", "#key", "secret#key", "secret/../sys/seal#x"])
def test_a_reference_that_is_none_is_refused_before_anything_is_asked(server: VaultServer, reference: str) -> None:
    assert "write ${vault:mount/path#key}" in refusal(reference, told(server))
    assert server.asked == []


def test_an_entry_that_is_missing_deleted_or_of_another_kind_is_told(server: VaultServer) -> None:
    server.versions["db"] = "database"
    server.entries["secret", "gone"] = {"password": PASSWORD}
    server.deleted.add(("secret", "gone"))
    assert "has no entry secret/pump" in refusal("secret/pump#password", told(server))
    assert "has no entry secret/gone" in refusal("secret/gone#password", told(server))
    assert "no KV store but `database`" in refusal("db/creds/x#password", told(server))


def test_a_vault_that_is_down_or_sealed_is_asked_once_for_all_secrets(server: VaultServer) -> None:
    server.sealed = True
    for _ in range(5):
        assert "is sealed" in refusal("secret/plant/broker#password", told(server))
    assert len(server.asked) == 1
    nobody = {"VAULT_ADDR": f"http://127.0.0.1:{free_port()}", "VAULT_TOKEN": "x"}
    assert "cannot be reached" in refusal("secret/plant/broker#password", nobody)


def test_no_token_shows_in_what_is_printed_of_the_access(server: VaultServer) -> None:
    environment = told(server, VAULT_ROLE_ID=ROLE)
    assert "canary" not in repr(vault.access(environment))
    assert "canary" not in repr(vault.access({**environment, "VAULT_TOKEN": "", "VAULT_SECRET_ID": SECRET_ID}))
