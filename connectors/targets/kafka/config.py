"""Configuration of Apache Kafka, and of the schema registry beside it."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator
from typing_extensions import override

from connectors.contract import Context, Writer
from connectors.dry_run import Written, refuse
from connectors.settings import Duration, SecretStr, Settings, Size, TargetConfig, TlsSettings
from connectors.wire.messages import Template

_BROKER = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(?::\d{1,5})?")
_HTTP = re.compile(r"https?://[A-Za-z0-9._\-\[\]:]+(?:/[A-Za-z0-9._~/\-]*)?")
_TOPIC = re.compile(r"[A-Za-z0-9._\-]*")
_OWN_PROPERTIES = re.compile(
    r"bootstrap\.servers|metadata\.broker\.list|client\.id|acks|request\.required\.acks|enable\.idempotence|"
    r"enable\.gapless\.guarantee|max\.in\.flight.*|message\.(?:timeout\.ms|max\.bytes)|delivery\..*|transactional\.id|"
    r"compression\.(?:codec|type)|linger\.ms|queue\.buffering\.max\.(?:ms|messages|kbytes)|security\.protocol|"
    r"sasl\.(?:mechanisms?|username|password|oauthbearer\..*)|ssl\.(?:ca|certificate|key)\.location|"
    r"enable\.ssl\.certificate\.verification|allow\.auto\.create\.topics|.*_cb|on_.*|logger|plugin\..*|"
    r"https\.ca\.location"
)


def _brokers(value: str) -> str:
    """The brokers as librdkafka wants them."""
    given = value.strip().removeprefix("kafka://").rstrip("/")
    brokers = [broker.strip() for broker in given.split(",")]
    if not all(_BROKER.fullmatch(broker) for broker in brokers):
        msg = (
            "is not a list of brokers; write <host>:9092, several with commas between; user, password, TLS and properties "
            "have settings of their own"
        )
        raise ValueError(msg)
    return ",".join(broker if re.search(r":\d+$", broker) else f"{broker}:9092" for broker in brokers)


def _http(value: str) -> str:
    if not _HTTP.fullmatch(value.strip()):
        raise ValueError("is not a URL of a registry; write https://<host>:8081; user and password have settings")
    return value.strip().rstrip("/")


def _template(value: str) -> str:
    Template(value)
    return value


def _topic(value: str) -> str:
    Template(value)
    fixed = re.sub(r"\{[^{}]*\}", "", value)
    if not value or not _TOPIC.fullmatch(fixed) or value in {".", ".."} or len(fixed) > 249:
        raise ValueError(f"`{value}` is no name of a topic: letters, digits, `.`, `_` and `-`, at most 249 of them")
    return value


Brokers = Annotated[str, AfterValidator(_brokers)]


class SaslSettings(Settings):
    """How the gateway logs on."""

    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512 with user and password; OAUTHBEARER with a token that is asked "
        "for with client id and secret"
    )
    username: str = Field("", description="user of PLAIN and SCRAM")
    password: SecretStr | None = Field(None, description="password of the user")
    token_url: str | None = Field(None, description="token endpoint of OAUTHBEARER, https://…")
    client_id: str = Field("", description="client id of OAUTHBEARER")
    client_secret: SecretStr | None = Field(None, description="client secret of OAUTHBEARER")
    scope: str = Field("", description="scope that is asked for with OAUTHBEARER")
    ca_file: Path | None = Field(
        None, description="PEM file of the authorities to trust at the token endpoint; the system's when absent"
    )
    extensions: dict[str, str] = Field(
        {}, description="SASL extensions of OAUTHBEARER, e.g. logicalCluster and identityPoolId of Confluent Cloud"
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.mechanism == "OAUTHBEARER":
            missing = [name for name in ("token_url", "client_id", "client_secret") if not getattr(self, name)]
        else:
            missing = [name for name in ("username", "password") if not getattr(self, name)]
        if missing:
            raise ValueError(f"{self.mechanism} needs {' and '.join(missing)}")
        return self


class RegistrySettings(Settings):
    """A schema registry with Confluent's API."""

    endpoint: Annotated[str, AfterValidator(_http)] = Field(
        description="where it is, e.g. https://registry.example:8081"
    )
    username: str = Field("", description="user or API key; none when empty")
    password: SecretStr | None = Field(None, description="password or API secret of the user")
    token: SecretStr | None = Field(None, description="bearer token, instead of user and password")
    tls: TlsSettings | None = Field(None, description="TLS of an https URL, where the system's authorities do not do")
    subject: Literal["topic", "record"] = Field(
        "topic", description="name of the subject: `<topic>-value`, or the record's name `bifrost.Reading`"
    )
    register_: Literal["auto", "never"] = Field(
        "auto", alias="register", description="`auto`: the schema is registered; `never`: it must be there"
    )


class KafkaSettings(Settings):
    """What only a Kafka target has."""

    topic: Annotated[str, AfterValidator(_topic)] = Field(
        "bifrost.readings",
        description="topic of a reading; columns of the tag in braces, e.g. plant.{site}; what a topic's name cannot hold "
        "becomes `_`, and `/` becomes `.`",
    )
    key: Annotated[str, AfterValidator(_template)] = Field(
        "{path}", description="key of a message, which decides its partition; columns of the tag in braces"
    )
    partitioner: Literal["consistent_random", "consistent", "murmur2_random", "murmur2", "fnv1a_random", "fnv1a"] = (
        Field("murmur2_random", description="how the key decides the partition; murmur2_random is what Java clients do")
    )
    format: Literal["json", "avro", "protobuf"] = Field(
        "json", description="what the value of a message is; avro and protobuf need a `registry`"
    )
    headers: Literal["identity", "none"] = Field(
        "identity", description="`identity`: each message has gateway, shard, sequence and quality as headers"
    )
    timestamp: Literal["source_time", "received_time"] = Field(
        "source_time",
        description="time of a message: when the device says it measured (received_time where it does not say, or says "
        "nothing believable), or when the gateway received it",
    )
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = Field("lz4", description="compression of batches")
    batch_wait: Duration = Field(
        0.005, le=1, description="time that a message may wait for others of its partition while a write goes on"
    )
    message_max_bytes: Size = Field(
        1_000_000,
        ge=1_000,
        le=1_000_000_000,
        description="bytes of a request to a broker; a reading that is larger becomes a dead letter",
    )
    transactions: Literal["none", "unit"] = Field(
        "none",
        description="`unit`: what is written at once is one transaction, which consumers with read_committed see whole or "
        "not at all",
    )
    transactional_id: str | None = Field(
        None,
        min_length=1,
        description="id of the transactions, unique in the cluster (default bifrost-<gateway>-<name>)",
    )
    create: Literal["auto", "never"] = Field(
        "auto", description="`auto`: a topic that is missing is made; `never`: it is an error"
    )
    partitions: int | None = Field(None, ge=1, description="partitions of a topic that is made (default: the broker's)")
    replication: int | None = Field(None, ge=1, description="replicas of a topic that is made (default: the broker's)")
    topic_config: dict[str, str] = Field(
        {}, description="settings of a topic that is made, e.g. retention.ms or min.insync.replicas"
    )
    sasl: SaslSettings | None = Field(None, description="how the gateway logs on; not at all when absent")
    tls: TlsSettings | None = Field(None, description="TLS; none when absent")
    registry: RegistrySettings | None = Field(None, description="schema registry of avro and protobuf")
    properties: dict[str, str] = Field({}, description="more properties of librdkafka, e.g. client.rack")

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if own := sorted(name for name in self.properties if _OWN_PROPERTIES.fullmatch(name)):
            raise ValueError(f"`properties` cannot set {', '.join(own)}: use the settings beside it")
        if (self.format == "json") != (self.registry is None):
            asks = "needs a `registry`" if self.registry is None else "has no use for a `registry`"
            raise ValueError(f"`format: {self.format}` {asks}")
        if self.tls is not None and (self.tls.server_name or self.tls.alpn):
            raise ValueError("`tls` has no use for server_name and alpn: each broker is checked for its own name")
        if self.transactional_id and self.transactions == "none":
            raise ValueError("`transactional_id` goes with `transactions: unit`")
        return self


class KafkaConfig(TargetConfig):
    """Topics of Apache Kafka, or of what speaks its protocol (Redpanda, Event Hubs, MSK, Confluent Cloud)."""

    type: Literal["kafka"] = Field(default="kafka", description="type of the target")
    endpoint: Brokers = Field(description="brokers to begin with, <host>:9092, several with commas between")
    batch_size: int | None = Field(
        None, ge=1, le=100_000, description="readings in one write, at most 100,000 (default 10,000)"
    )
    timeout: Duration = Field(30.0, ge=1, description="time in which a unit must be acknowledged, in seconds or as 30s")
    provider_config: KafkaSettings = Field(KafkaSettings.model_validate({}), description="topic, format and security")

    @override
    def writer(self, context: Context) -> Writer:
        """The writer to these topics."""
        from connectors.targets.kafka.writer import KafkaWriter

        return KafkaWriter(self, context)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        """The messages; a schema's number in the registry, which is not asked, is 0 here."""
        from connectors.targets.kafka.encode import MessageEncoder

        encoder = MessageEncoder(self.provider_config)
        topics, wrong = encoder.topics(batch)
        if wrong:
            refuse(wrong)
        numbers = {} if self.provider_config.format == "json" else dict.fromkeys(topics, 0)
        found = encoder.encode(batch, numbers)
        return [
            Written(topic, value, {"key": key, "timestamp_ms": time, "headers": dict(headers or ())})
            for topic, key, value, time, headers in zip(
                found.topics, found.keys, found.values, found.times, found.headers(), strict=False
            )
        ]
