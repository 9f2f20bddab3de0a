"""Row 21 of the threat model: secrets of every kind of source and target show nowhere.

A canary stands in every secret field that a configuration can have, some from the encrypted store, some from a Vault, some from the
environment. The gateway runs, its sources and targets fail in their ways, and every place that people or programs look at is
searched for the canaries, also in base64 and escaped for URLs.
"""

import asyncio
import base64
import datetime
import io
import json
import re
import signal
import sys
import traceback
import types
import typing
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from pydantic import BaseModel, SecretStr
from typer.testing import CliRunner

from bifrost.cli import app
from config import models, vault
from config.loader import load
from config.models import ConfigFile, Configuration
from config.secrets import SecretStore
from connectors.contract import Context
from flows.doctor import test_record as record
from tests.certificates import Authority
from tests.mosquitto_broker import Broker
from tests.orphans import Server
from tests.ports import free_port
from tests.vault_server import ROOT_TOKEN, VaultServer
from web.access.cli_token import cli_token

pytestmark = [pytest.mark.threat(21), pytest.mark.timeout(180)]

KEY = "the key that opens the store of secrets"
NOBODY = "127.0.0.1:1"


class Canaries:
    """Makes canaries, and says how the configuration names each."""

    def __init__(self) -> None:
        self.store: dict[str, str] = {}
        self.vault: dict[str, str] = {}
        self.environment: dict[str, str] = {}

    def name(self, what: str, form: Callable[[str], str] = str) -> str:
        """A reference to a new canary; `form` makes of its text what the field takes."""
        number = sum(map(len, (self.store, self.vault, self.environment)))
        value = form(f"kanarie{number:02}vogel{what.replace('_', '')}")
        match number % 3:
            case 0:
                self.store[what] = value
                return f"${{secret:{what}}}"
            case 1:
                self.vault[what] = value
                return f"${{vault:secret/plant#{what}}}"
        self.environment[f"CANARY_{what.upper()}"] = value
        return f"${{env:CANARY_{what.upper()}}}"

    @property
    def values(self) -> list[str]:
        return [*self.store.values(), *self.vault.values(), *self.environment.values()]

    def found_in(self, text: str) -> set[str]:
        """The canaries in a text: as they are, in base64 at any place, or escaped."""
        found = set()
        for value in self.values:
            shapes = {value, urllib.parse.quote_plus(value)}
            for before in (b"", b"x", b"xx"):
                whole = base64.b64encode(before + value.encode())
                shapes.add(whole[4:-4].decode() if before else whole[:-4].decode())
            found |= {value for shape in shapes if shape in text}
        return found


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def written(folder: Path, canaries: Canaries, broker: int, port: int) -> dict[str, Any]:
    """A configuration with every secret field; those of one model that exclude each other are in several connectors."""
    name = canaries.name
    authority = Authority(folder / "tls")
    encrypted = folder / "encrypted.key"
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    other = BestAvailableEncryption(b"another password")
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, other))

    def target(kind: str, endpoint: str | None, **own: Any) -> dict[str, Any]:
        made: dict[str, Any] = {"type": kind, "timeout": "2s", "retry_delay": "200ms", "provider_config": own}
        return made | ({"endpoint": endpoint} if endpoint is not None else {})

    hub = {"hub": "h.azure-devices.net", "device_id": "d", "transport": "mqtt"}
    connection = lambda key: f"HostName=h.azure-devices.net;DeviceId=d;SharedAccessKey={in_base64(key)}"  # noqa: E731
    oauth = {"mechanism": "OAUTHBEARER", "token_url": f"https://{NOBODY}/token", "client_id": "c"}
    plain = {"mechanism": "PLAIN", "username": "u", "password": name("kafka")}
    registry = f"http://{NOBODY}"
    dps = {"id_scope": "0ne1", "registration_id": "d", "endpoint": NOBODY.split(":", maxsplit=1)[0]}
    client = authority.client()
    files = {"cert_file": client["cert_file"], "key_file": client["key_file"]}
    connectors = {
        "timescale": target("timescaledb", f"postgresql://{NOBODY}/x", username="u", password=name("timescale")),
        "influx1": target("influxdb", f"http://{NOBODY}", version="1.x", database="d", username="u", password=name("influx1")),
        "influx2": target("influxdb", f"http://{NOBODY}", organization="o", bucket="b", token=name("influx2")),
        "azure1": target("azure-iot-hub", None, connection_string=name("azure_string", connection)),
        "azure2": target("azure-iot-hub", None, **hub, shared_access_key=name("azure_key", in_base64)),
        "azure3": target("azure-iot-hub", None, dps={**dps, "symmetric_key": name("dps_key", in_base64)}),
        "azure4": target("azure-iot-hub", None, dps={**dps, "group_key": name("dps_group", in_base64)}),
        "mqtt": target("mqtt", f"mqtt://{NOBODY}", username="u", password=name("mqtt_target")),
        "refused": target("mqtt", f"mqtt://127.0.0.1:{broker}", username="u", password=name("mqtt_refused")),
        "amqp": target("amqp", f"amqp://{NOBODY}", username="u", password=name("amqp")),
        "kafka1": target("kafka", NOBODY, topic="t", sasl=plain, tls={}),
        "kafka2": target("kafka", NOBODY, topic="t", tls={}, sasl={**oauth, "client_secret": name("kafka_oauth")}),
        "kafka3": target(
            "kafka", NOBODY, topic="t", format="avro",
            registry={"endpoint": registry, "username": "u", "password": name("registry_password")},
        ),
        "kafka4": target(
            "kafka", NOBODY, topic="t", format="avro", registry={"endpoint": registry, "token": name("registry_token")}
        ),
        "lake": {
            "type": "delta", "endpoint": "s3://bucket/table",
            "storage_options": {
                "AWS_ACCESS_KEY_ID": name("s3_id"), "AWS_SECRET_ACCESS_KEY": name("s3_key"), "AWS_REGION": "x",
                "AWS_ENDPOINT_URL": f"http://{NOBODY}", "AWS_ALLOW_HTTP": "true",
            },
        },
        "zerobus1": target(
            "zerobus", f"https://{NOBODY}", table="a.b.c", workspace_url=f"https://{NOBODY}", client_id="c",
            client_secret=name("zerobus"),
        ),
    }  # fmt: skip
    opcua = {"protocol": "opcua", "endpoint": f"opc.tcp://{NOBODY}", "timeout": "2s"}
    return {
        "gateway": {
            "name": "canaries", "directory": str(folder / "data"), "port": port, "log_level": "debug",
            "report_interval": "2s",
            "telemetry": {
                "interval": "2s",
                "remote_write": {
                    "endpoint": f"http://{NOBODY}", "auth": {"username": "u", "password": name("remote_write")},
                    "headers": {"X-Scope-OrgID": name("tenant")},
                },
                "otlp": {
                    "endpoint": f"http://{NOBODY}", "auth": {"token": name("otlp_token")}, "headers": {"X-Key": name("otlp")},
                },
            },
            "cloud": {"default_connector": "mqtt", "connectors": connectors},
        },
        "sources": [
            {"name": "broker", "protocol": "mqtt", "endpoint": f"mqtt://127.0.0.1:{broker}", "username": "u",
             "password": name("mqtt_source")},
            {"name": "press", **opcua, "security_policy": "auto", "username": "u", "password": name("opcua_user")},
            {"name": "oven", **opcua, "security_policy": "auto", "cert_file": files["cert_file"],
             "key_file": str(encrypted), "key_password": name("opcua_key")},
            {"name": "pump", **opcua, "security_policy": "auto", "user_cert_file": files["cert_file"],
             "user_key_file": str(encrypted), "user_key_password": name("opcua_user_key")},
        ],
        "routing_rules": [{"name": "all", "condition": "true", "connectors": list(connectors)}],
        "web_ui": {
            "oidc": {"issuer": f"https://{NOBODY}", "client_id": "c", "client_secret": name("oidc"),
                     "public_url": f"http://127.0.0.1:{port}", "roles": {"x": "viewer"}},
        },
        "zerobus": {
            "endpoint": f"https://{NOBODY}", "workspace_url": f"https://{NOBODY}", "client_id": "c",
            "client_secret": name("zerobus_section"),
            "source_targets": {"broker": {"catalog": "a", "schema": "b", "table": "d"}},
        },
    }  # fmt: skip


@pytest.fixture
def canaries() -> Canaries:
    return Canaries()


@pytest.fixture
def server(canaries: Canaries) -> Iterator[VaultServer]:
    running = VaultServer().start()
    vault.forget()
    yield running
    running.stop()
    vault.forget()


def prepared(
    folder: Path, canaries: Canaries, server: VaultServer, broker: int, port: int
) -> tuple[Path, dict[str, str]]:
    """The configuration's file, and the environment that opens its secrets."""
    path = folder / "configuration" / "gateway.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(written(folder, canaries, broker, port), sort_keys=False))
    (folder / "key").write_text(KEY)
    (folder / "key").chmod(0o600)
    opens = {"BIFROST_SECRETS_KEY_FILE": str(folder / "key")}
    store = SecretStore(path.parent / "secrets.json", opens)
    for name, value in canaries.store.items():
        store.set(name, value)
    server.entries["secret", "plant"] = dict(canaries.vault)
    return path, opens | canaries.environment | {"VAULT_ADDR": server.address, "VAULT_TOKEN": ROOT_TOKEN}


# ---------------------------------------------------------------------- every field


def secret_fields(model: Any, seen: set[type]) -> Iterator[tuple[str, str]]:
    """Model and name of every secret field that a model can hold."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        if model in seen:
            return
        seen.add(model)
        for name, field in model.model_fields.items():
            if "SecretStr" in str(field.annotation):
                yield model.__name__, name
            else:
                yield from secret_fields(field.annotation, seen)
        return
    for part in typing.get_args(model) if not isinstance(model, types.GenericAlias) or typing.get_args(model) else ():
        yield from secret_fields(part, seen)


def secrets_set(value: Any) -> Iterator[tuple[str, str, str]]:
    """Model, name and text of every secret that is set."""
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            held = getattr(value, name)
            texts = [held] if isinstance(held, SecretStr) else list(held.values()) if isinstance(held, dict) else []
            for text in texts:
                if isinstance(text, SecretStr):
                    yield type(value).__name__, name, text.get_secret_value()
            yield from secrets_set(held)
    elif isinstance(value, dict):
        for held in value.values():
            yield from secrets_set(held)
    elif isinstance(value, list | tuple):
        for held in value:
            yield from secrets_set(held)


def test_every_secret_field_has_a_canary_and_no_configuration_shows_one(
    tmp_path: Path, canaries: Canaries, server: VaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, environment = prepared(tmp_path, canaries, server, 1, 1)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = load(path)
    assert len(canaries.values) >= 20
    known = {"ConfigFile", *(source.__name__ for source in typing.get_args(typing.get_args(models.Source)[0]))}
    fields = set(secret_fields(ConfigFile, set()))
    assert len(fields) >= 18, fields
    found = list(secrets_set([*config.sources, *config.targets.values(), config.telemetry, config.web]))
    section = {("ZeroBusSection", "client_secret")}  # makes targets that hold it
    assert fields - section == {(model, name) for model, name, _ in found} - section, known
    assert {text for _, _, text in found} >= set(canaries.values)
    shown = [
        repr(config),
        str(config),
        *(repr(one.model_dump()) for one in (*config.sources, *config.targets.values())),
    ]
    shown += [one.model_dump_json() for one in (*config.sources, *config.targets.values())]
    assert [canaries.found_in(text) for text in shown] == [set()] * len(shown)


# ---------------------------------------------------------------------- what fails


async def failed(config: Configuration) -> list[str]:
    """What a traceback says of each reader and writer that cannot connect."""
    batch: pa.RecordBatch = record(config, datetime.datetime.now(datetime.UTC))

    class Nothing:
        def __getattr__(self, name: str) -> Any:
            return lambda *_: asyncio.get_running_loop().create_future()

    async def deliver(target: Any, directory: Path) -> str:
        try:
            writer = target.writer(Context(config.gateway, directory))
            try:
                async with asyncio.timeout(10):
                    await writer.open()
                    await writer.write(batch, 1)
            finally:
                await writer.close()
        except Exception as error:  # noqa: BLE001 - any of them is looked at
            return f"{error!r} {''.join(traceback.format_exception(error))}"
        return ""

    async def read(source: Any, directory: Path) -> str:
        try:
            reader = source.reader(Context(config.gateway, directory))
            async with asyncio.timeout(10):
                await reader.run(Nothing(), None)
        except Exception as error:  # noqa: BLE001 - any of them is looked at
            return f"{error!r} {''.join(traceback.format_exception(error))}"
        return ""

    directory = config.directory / "tried"
    targets = [deliver(target, directory / name) for name, target in config.targets.items()]
    return list(await asyncio.gather(*targets, *(read(source, directory / source.name) for source in config.sources)))


async def test_no_traceback_of_a_source_or_target_that_fails_shows_a_canary(
    tmp_path: Path, canaries: Canaries, server: VaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broker").mkdir()
    async with Broker(tmp_path / "broker", ["allow_anonymous false"]) as broker:
        path, environment = prepared(tmp_path, canaries, server, broker.port, 1)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        found = await failed(load(path))
    assert all(found), found
    assert [canaries.found_in(text) for text in found] == [set()] * len(found)


# ---------------------------------------------------------------------- a gateway that runs


def text_of(data: bytes) -> str:
    """All that bytes hold, also what is packed in them."""
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            return "\n".join(f"{name}\n{text_of(packed.read(name))}" for name in packed.namelist())
    return data.decode("utf-8", "replace")


VERBS = (
    ["config", "show"], ["config", "plan"], ["check"], ["status"], ["certs", "list"], ["secrets", "list"], ["doctor"],
    ["explain", "sensor/temperature", "--source", "broker"],
)  # fmt: skip


async def test_no_place_that_people_or_programs_look_at_shows_a_canary(
    tmp_path: Path, canaries: Canaries, server: VaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broker").mkdir()
    port = free_port()
    async with Broker(tmp_path / "broker", ["allow_anonymous true"]) as broker:
        path, more = prepared(tmp_path, canaries, server, broker.port, port)
        for name, value in {**more, "COLUMNS": "400"}.items():
            monkeypatch.setenv(name, value)
        log = tmp_path / "log"

        def get(where: str) -> str:
            headers = {"authorization": f"Bearer {cli_token(tmp_path / 'data')}"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}{where}", headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return text_of(answer.read())
            except urllib.error.HTTPError as error:
                return text_of(error.read())

        def tried() -> bool:
            try:
                found = json.loads(get("/health"))
            except OSError:
                return False
            targets = found.get("targets", {})
            told = [line["last_error"] or line["delivered"] for line in targets.values()]
            return len(told) == 17 and all(told) and found["sources"]["broker"]["received"] > 0

        command = [sys.executable, "-m", "bifrost"]
        with log.open("wb") as out:
            run = [*command, "run", "-c", path]
            gateway = await asyncio.to_thread(Server, run, stdout=out, stderr=out)
        try:
            async with asyncio.timeout(60):
                while not await asyncio.to_thread(tried):
                    assert gateway.poll() is None, log.read_text()[-3000:]
                    await broker.publish("sensor/temperature", "21.5")
                    await asyncio.sleep(0.3)
            described = await asyncio.to_thread(get, "/openapi.json")
            paths = json.loads(described).get("paths", {})
            plain = [at for at, item in paths.items() if "get" in item and not re.search(r"\{|follow|events|tail", at)]
            shown = {at: await asyncio.to_thread(get, at) for at in {"/health", "/metrics", "/api/ledger", *plain}}
            assert "bifrost_unaccounted" in shown["/metrics"]

            for verb in VERBS:
                told = await asyncio.to_thread(CliRunner().invoke, app, [*verb, "-c", str(path)])
                assert "Traceback" not in told.output
                shown[" ".join(verb)] = told.output
            assert "********" in shown["config show"]
            assert "is sound" in shown["check"], shown["check"][-3000:]
            gateway.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(gateway.wait, 30) == 0
        finally:
            gateway.kill()
            gateway.wait()
    shown["log"] = log.read_text()
    for file in (tmp_path / "data").rglob("*"):  # journal, spools, dead letters, history, recovery
        if file.is_file():
            shown[str(file)] = file.read_bytes().decode("latin-1")
    assert any("configurations" in name for name in shown)
    assert "target failed" in shown["log"]
    assert "source failed" in shown["log"]
    assert {name: found for name, text in shown.items() if (found := canaries.found_in(text))} == {}


def test_a_canary_would_be_found(canaries: Canaries) -> None:
    canaries.name("one")
    (value,) = canaries.values
    for text in (
        value,
        in_base64(f"user:{value}"),
        in_base64(f"users:{value}"),
        in_base64(f"us:{value}"),
        f"a%3A{value}",
    ):
        assert canaries.found_in(f"Authorization: Basic {text}") == {value}, text
