"""How the gateway logs on to a real Apache Kafka, what it may do there, and the schema registry's own security."""

import base64
import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)

from connectors.contract import AuthError, ConfigError, DeliveryError, TransientError
from connectors.targets.kafka.config import RegistrySettings
from connectors.targets.kafka.registry import Registry
from tests.connectors.targets.kafka_writers import opened, writing
from tests.contract.readings import Source
from tests.contract.writers.kafka import Topic
from tests.kafka_broker import ISSUER, PASSWORD, USER
from tests.token_server import TokenServer


@pytest.fixture
def topic() -> Topic:
    return Topic("json")


@pytest.fixture
def source() -> Source:
    return Source()


def trusting(topic: Topic) -> dict[str, str]:
    return {"ca_file": str(topic.server.folder / "authority.pem")}


def behind(topic: Topic) -> str:
    return f"127.0.0.1:{topic.server.scram_port}"


def with_certificate(topic: Topic) -> dict[str, str]:
    folder = topic.server.folder
    return trusting(topic) | {"cert_file": str(folder / "client.pem"), "key_file": str(folder / "client.key")}


# ---------------------------------------------------------------------- logging on


@pytest.mark.interop("Apache Kafka")
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_user_and_password_let_it_in_and_wrong_ones_do_not(
    topic: Topic, source: Source, tmp_path: Path, mechanism: str
) -> None:
    sasl = {"mechanism": mechanism, "username": USER, "password": PASSWORD}
    async with opened(topic, tmp_path, behind(topic), tls=trusting(topic), sasl=sasl) as writer:
        await writer.write(source.batch([1.0]), 1)
    assert [row.value for row in topic.rows()] == [1.0]
    with pytest.raises(AuthError, match="check `sasl`") as caught:
        async with opened(topic, tmp_path, behind(topic), tls=trusting(topic), sasl=sasl | {"password": "pssst"}):
            pass
    assert "pssst" not in str(caught.value)


@pytest.mark.interop("Apache Kafka")
async def test_a_token_of_the_token_endpoint_lets_it_in_and_is_renewed(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    with TokenServer(topic.server.token_key, ISSUER, ("bifrost", "between us"), "kafka") as server:
        sasl = {
            "mechanism": "OAUTHBEARER",
            "token_url": server.url,
            "client_id": "bifrost",
            "client_secret": "between us",
        }
        async with opened(topic, tmp_path, behind(topic), tls=trusting(topic), sasl=sasl) as writer:
            await writer.write(source.batch([1.0]), 1)
        assert server.given >= 1
        assert [row.value for row in topic.rows()] == [1.0]
        with pytest.raises(AuthError) as caught:
            async with opened(
                topic, tmp_path, behind(topic), tls=trusting(topic), sasl=sasl | {"client_secret": "pssst"}, timeout=3
            ):
                pass
        assert "pssst" not in str(caught.value)


@pytest.mark.interop("Apache Kafka")
async def test_a_certificate_of_its_own_lets_it_in_and_none_does_not(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    where = f"127.0.0.1:{topic.server.mutual_port}"
    async with opened(topic, tmp_path, where, tls=with_certificate(topic)) as writer:
        await writer.write(source.batch([1.0]), 1)
    assert [row.value for row in topic.rows()] == [1.0]
    with pytest.raises(DeliveryError, match="certificate"):
        async with opened(topic, tmp_path, where, tls=trusting(topic), timeout=3):
            pass


@pytest.mark.interop("Apache Kafka")
async def test_a_broker_of_an_unknown_authority_is_not_believed_unless_nobody_looks(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    sasl = {"mechanism": "PLAIN", "username": USER, "password": PASSWORD}
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with pytest.raises(ConfigError, match="certificate verify failed.*check `tls`"):
        async with opened(topic, tmp_path, behind(topic), tls={"ca_file": str(tmp_path / "other.pem")}, sasl=sasl):
            pass
    async with opened(topic, tmp_path, behind(topic), tls={"verify": False}, sasl=sasl) as writer:
        await writer.write(source.batch([1.0]), 1)
    with pytest.raises(ConfigError, match="check `provider_config`"):
        async with opened(topic, tmp_path, behind(topic), tls={"ca_file": str(tmp_path / "none.pem")}, sasl=sasl):
            pass


# ---------------------------------------------------------------------- grants


@pytest.fixture
def denied(topic: Topic) -> Iterator[None]:
    """The user may see the topic, and not write to it."""
    topic.server.make_topic(topic.topic)
    admin = topic.server.admin()
    what = (ResourceType.TOPIC, topic.topic, ResourcePatternType.LITERAL, f"User:{USER}", "*")
    binding = AclBinding(*what, AclOperation.DESCRIBE, AclPermissionType.ALLOW)
    for future in admin.create_acls([binding]).values():
        future.result(30)
    yield
    for future in admin.delete_acls([AclBindingFilter(*what, AclOperation.ANY, AclPermissionType.ANY)]).values():
        future.result(30)


@pytest.mark.interop("Apache Kafka")
@pytest.mark.usefixtures("denied")
async def test_a_topic_that_it_may_not_write_to_is_an_auth_error_and_a_finding(
    topic: Topic, source: Source, tmp_path: Path
) -> None:
    sasl = {"mechanism": "PLAIN", "username": USER, "password": PASSWORD}
    async with opened(topic, tmp_path, behind(topic), tls=trusting(topic), sasl=sasl) as writer:
        with pytest.raises(AuthError, match="grant the gateway's user WRITE"):
            await writer.write(source.batch([1.0]), 1)
        found = {finding.subject: finding for finding in await writer.check()}
    assert not found["grants"].ok
    assert topic.rows() == []


# ---------------------------------------------------------------------- the registry


@pytest.mark.interop("Apicurio Registry")
async def test_a_schema_that_does_not_fit_the_subject_is_a_config_error_and_a_finding(tmp_path: Path) -> None:
    from tests.contract.writers.kafka import registry

    topic = Topic("avro")
    subject = f"/subjects/{topic.topic}-value/versions"
    other = {
        "type": "record",
        "name": "Reading",
        "namespace": "bifrost",
        "fields": [{"name": "gateway", "type": "int"}],
    }
    registry().ask("POST", subject, {"schema": json.dumps(other)})
    registry().ask("PUT", f"/config/{topic.topic}-value", {"compatibility": "BACKWARD"})
    with pytest.raises(ConfigError, match="the schema of readings does not fit"):
        async with opened(topic, tmp_path):
            pass
    found = {finding.subject: finding for finding in await writing(topic, tmp_path).check()}
    assert not found["registry"].ok
    assert len(registry().ask("GET", subject)) == 1


@pytest.mark.interop("Apicurio Registry")
@pytest.mark.parametrize("form", ["avro", "protobuf"])
async def test_a_schema_is_registered_once_or_must_be_there(source: Source, tmp_path: Path, form: str) -> None:
    from tests.contract.writers.kafka import registry

    topic = Topic(form)
    never = topic.own["registry"] | {"register": "never"}
    with pytest.raises(ConfigError, match=f"register the schema under `{topic.topic}-value`, or set `register: auto`"):
        async with opened(topic, tmp_path, registry=never):
            pass
    for settings in (topic.own["registry"], topic.own["registry"], never):
        async with opened(topic, tmp_path, registry=settings) as writer:
            await writer.write(source.batch([1.0]), 1)
    assert len(topic.rows()) == 3
    assert registry().ask("GET", f"/subjects/{topic.topic}-value/versions") == [1]
    finding = (await writing(topic, tmp_path).check())[-1]
    assert (finding.ok, finding.subject) == (True, "registry")
    async with opened(topic, tmp_path, registry=topic.own["registry"] | {"subject": "record"}):
        assert "bifrost.Reading" in registry().ask("GET", "/subjects")


class GuardedRegistry:
    """Says what it was sent, over TLS, to who knows the password."""

    def __init__(self, authority: trustme.CA) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answer: tuple[int, bytes] = (200, b'{"id": 7}')
        guarded = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                guarded.asked.append((self.path, body))
                known = self.headers.get("Authorization") in {
                    f"Basic {base64.b64encode(b'bifrost:between us').decode()}",
                    "Bearer a token",
                }
                status, said = guarded.answer if known else (401, b'{"message": "who are you?"}')
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "GuardedRegistry":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedRegistry]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with GuardedRegistry(authority) as running:
        yield running


def asking(guarded: GuardedRegistry, tmp_path: Path, **settings: Any) -> Registry:
    given = {"endpoint": guarded.url, "tls": {"ca_file": str(tmp_path / "ca.pem")}} | settings
    return Registry(RegistrySettings.model_validate(given), 5)


def test_a_registry_is_told_user_and_password_or_a_token(guarded: GuardedRegistry, tmp_path: Path) -> None:
    for known in ({"username": "bifrost", "password": "between us"}, {"token": "a token"}):
        assert asking(guarded, tmp_path, **known).schema_id("a/b-value", "PROTOBUF", "…") == 7
    assert guarded.asked[0] == ("/subjects/a%2Fb-value/versions", {"schema": "…", "schemaType": "PROTOBUF"})
    with pytest.raises(AuthError, match="who are you") as caught:
        asking(guarded, tmp_path, username="bifrost", password="pssst").schema_id("a", "AVRO", "{}")
    assert "pssst" not in str(caught.value)


def test_a_registry_that_is_not_to_be_trusted_or_not_there_is_told_apart(
    guarded: GuardedRegistry, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="registry.tls"):
        asking(guarded, tmp_path, tls=None).schema_id("a", "AVRO", "{}")
    with pytest.raises(TransientError, match="registry.endpoint"):
        asking(guarded, tmp_path, endpoint="https://127.0.0.1:1").schema_id("a", "AVRO", "{}")


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (409, b'{"message": "no"}', ConfigError),
        (422, b'{"message": "no"}', ConfigError),
        (404, b"<html>", ConfigError),
        (403, b"", AuthError),
        (503, b"later", TransientError),
        (200, b"<html>login</html>", TransientError),
    ],
)
def test_what_a_registry_answers_is_put_in_its_place(
    guarded: GuardedRegistry, tmp_path: Path, status: int, said: bytes, error: type[DeliveryError]
) -> None:
    guarded.answer = status, said
    with pytest.raises(error):
        asking(guarded, tmp_path, token="a token").schema_id("a", "AVRO", "{}")
