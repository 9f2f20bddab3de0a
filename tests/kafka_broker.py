"""An Apache Kafka of its own for tests: one node in KRaft mode on free ports of loopback, killed and started again at will.

Its listeners: `port` without anything; `scram_port` with TLS and SCRAM, PLAIN or a token; `mutual_port` with TLS and a
certificate of the client; and `behind_port`, of which it tells its clients that it is at `relay_port`.
"""

import base64
import contextlib
import shutil
import subprocess
import tempfile
import threading
import time
import uuid
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from tests.orphans import Server
from tests.ports import free_port
from tests.token_server import key_set

COUNTERPARTS = Path(__file__).parent / "counterparts"
INSTALLED = COUNTERPARTS.parents[1] / "build" / "counterparts" / "kafka"
USER, PASSWORD = "keeper", "kept secret"
ISSUER = "https://login.plant.example"
_STARTED = b"Kafka Server started"
_LISTENERS = ("PLAINTEXT", "BEHIND", "SCRAM", "MUTUAL")
_JAVA = (
    "-Xmx512m", "-Xms64m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)  # fmt: skip


def install(name: str) -> None:
    """Install a counterpart if it is missing."""
    subprocess.run(["sh", str(COUNTERPARTS / name / "install.sh")], check=True, capture_output=True, timeout=600)


class KafkaBroker:
    """One broker; `start` and `end` it.

    Attributes:
        authority: Who signed its certificate, and whom it believes about clients.
        token_key: Whose tokens it believes.
        folder: Its files; `authority.pem`, `client.pem` and `client.key` are for clients.
    """

    def __init__(self) -> None:
        install("kafka")
        self.port, self.behind_port, self.scram_port, self.mutual_port, self._control_port = (
            free_port() for _ in range(5)
        )
        self.relay_port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="bifrost-kafka-"))
        self.authority = trustme.CA()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: list[bytes] = []
        self.keys = self.folder / "keys.json"
        self.token_key = rsa.generate_private_key(65537, 2048)
        self.keys.write_text(key_set(self.token_key))
        self.certify()
        self._settings = self.folder / "server.properties"
        self._settings.write_text("\n".join(self._lines()) + "\n")
        scram = [f"SCRAM-SHA-{bits}=[name={USER},password={PASSWORD}]" for bits in (256, 512)]
        name = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")  # may begin with a hyphen
        self._java(
            "kafka.tools.StorageTool", "format", f"--cluster-id={name}",
            "-c", str(self._settings), "--add-scram", scram[0], "--add-scram", scram[1],
        )  # fmt: skip

    def _command(self, program: str, *arguments: str) -> list[str]:
        shared = f"-XX:SharedArchiveFile={INSTALLED / 'classes.jsa'}"
        allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={self.keys.as_uri()}"
        path = f"{INSTALLED / 'libraries'}/*"
        return ["java", *_JAVA, shared, "-Xshare:auto", allowed, "-cp", path, program, *arguments]

    def _java(self, program: str, *arguments: str) -> None:
        done = subprocess.run(self._command(program, *arguments), capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()

    def _lines(self) -> list[str]:
        ports = dict(zip(_LISTENERS, (self.port, self.behind_port, self.scram_port, self.mutual_port), strict=True))
        listeners = [f"{name}://127.0.0.1:{port}" for name, port in ports.items()]
        told = [f"{name}://127.0.0.1:{port}" for name, port in (ports | {"BEHIND": self.relay_port}).items()]
        protocols = "PLAINTEXT:PLAINTEXT,BEHIND:PLAINTEXT,SCRAM:SASL_SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT"
        scram = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
        token = "org.apache.kafka.common.security.oauthbearer.OAuthBearer"
        return [
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{self._control_port}",
            f"listeners={','.join(listeners)},CONTROLLER://127.0.0.1:{self._control_port}",
            f"advertised.listeners={','.join(told)}",
            f"listener.security.protocol.map={protocols}",
            "controller.listener.names=CONTROLLER",
            "inter.broker.listener.name=PLAINTEXT",
            "sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN,OAUTHBEARER",
            f"listener.name.scram.scram-sha-256.sasl.jaas.config={scram}",
            f"listener.name.scram.scram-sha-512.sasl.jaas.config={scram}",
            f'listener.name.scram.plain.sasl.jaas.config={plain} required user_{USER}="{PASSWORD}";',
            f"listener.name.scram.oauthbearer.sasl.jaas.config={token}LoginModule required;",
            f"listener.name.scram.oauthbearer.sasl.server.callback.handler.class={token}ValidatorCallbackHandler",
            f"sasl.oauthbearer.jwks.endpoint.url={self.keys.as_uri()}",
            "sasl.oauthbearer.expected.audience=kafka",
            f"sasl.oauthbearer.expected.issuer={ISSUER}",
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={self.folder}/server.pem",
            "ssl.truststore.type=PEM",
            f"ssl.truststore.location={self.folder}/authority.pem",
            "listener.name.mutual.ssl.client.auth=required",
            "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users=User:ANONYMOUS",
            "allow.everyone.if.no.acl.found=true",
            f"log.dirs={self.folder}/data",
            "log.retention.ms=-1",  # readings of tests are from another year
            "num.partitions=2",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=1",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=1",
            "group.initial.rebalance.delay.ms=0",
            "broker.session.timeout.ms=1000",
            "broker.heartbeat.interval.ms=100",
            "auto.create.topics.enable=true",
        ]

    def certify(self, *, expired: bool = False) -> None:
        """A new authority, and new certificates for the broker and its client; it reads its own when it is started."""
        self.authority = trustme.CA()
        until = datetime.now(UTC) - timedelta(days=1) if expired else None
        own = self.authority.issue_cert("127.0.0.1", not_after=until)
        client = self.authority.issue_cert("gateway.plant.example")
        self.authority.cert_pem.write_to_path(self.folder / "authority.pem")
        key = load_pem_private_key(own.private_key_pem.bytes(), None)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())  # the only kind that Java reads
        pem += b"".join(part.bytes() for part in own.cert_chain_pems)
        (self.folder / "server.pem").write_bytes(pem)
        client.private_key_pem.write_to_path(self.folder / "client.key")
        (self.folder / "client.pem").write_bytes(b"".join(part.bytes() for part in client.cert_chain_pems))

    def start(self) -> None:
        """Start it; returns when it takes connections."""
        ready, before = threading.Event(), len(self._log)
        command = self._command("kafka.Kafka", str(self._settings))
        self._process = Server(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self.folder
        )
        threading.Thread(target=self._read_log, args=(self._process, ready), daemon=True).start()
        assert ready.wait(90), self.log()
        assert any(_STARTED in line for line in self._log[before:]), self.log()

    def _read_log(self, process: "subprocess.Popen[bytes]", ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self._log.append(line)
                if _STARTED in line:
                    ready.set()
        ready.set()  # it has ended

    def settle(self) -> None:
        """Return when it takes transactions; one that has lost its way after a kill is started once more, with a warning."""
        producer = Producer({"bootstrap.servers": self.address, "transactional.id": "settle", "log_level": 0})
        try:
            producer.init_transactions(30)
        except KafkaException as error:
            warnings.warn(f"Kafka takes no transactions: {error}\n{self.log()}", stacklevel=2)
            self.kill()
            self.start()
            producer = Producer({"bootstrap.servers": self.address, "transactional.id": "settle", "log_level": 0})
            producer.init_transactions(30)

    def kill(self) -> None:
        """End it at once, without a chance to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self) -> str:
        """What it has logged."""
        return b"".join(self._log).decode(errors="replace")

    @property
    def address(self) -> str:
        """Where it is, without TLS and users."""
        return f"127.0.0.1:{self.port}"

    def admin(self) -> AdminClient:
        """A client that may do everything."""
        return AdminClient({"bootstrap.servers": self.address})

    def admin_topics(self) -> list[str]:
        """The names of all topics."""
        return list(self.admin().list_topics(timeout=30).topics)

    def make_topic(self, topic: str, **settings: Any) -> None:
        """Make a topic; `settings` are those of a topic, with `_` for `.`."""
        config = {name.replace("_", "."): str(value) for name, value in settings.items() if name != "partitions"}
        new = NewTopic(topic, settings.get("partitions", 1), 1, config=config)
        admin = self.admin()
        admin.create_topics([new])[topic].result(30)

    def read(self, topic: str, *, committed: bool = True) -> list[Message]:
        """Every message of a topic, by partition and in their order; with `committed` those of open transactions are left out."""
        level = "read_committed" if committed else "read_uncommitted"
        settings = {"bootstrap.servers": self.address, "group.id": "reader", "isolation.level": level}
        consumer = Consumer(
            settings | {"enable.auto.commit": False, "enable.partition.eof": True, "fetch.wait.max.ms": 10}
        )
        try:
            partitions = consumer.list_topics(topic, timeout=30).topics[topic].partitions
            consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
            found: list[Message] = []
            ended: set[int] = set()
            deadline = time.monotonic() + 60
            while len(ended) < len(partitions) and time.monotonic() < deadline:
                for message in consumer.consume(10_000, timeout=0.2):
                    if message.error() is None:
                        found.append(message)
                    else:
                        ended.add(message.partition())
            assert len(ended) == len(partitions)
            return sorted(found, key=lambda message: (message.partition(), message.offset()))
        finally:
            with contextlib.suppress(KafkaException):
                consumer.close()
