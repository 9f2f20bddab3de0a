"""Configuration of AMQP targets."""

import re
from typing import Annotated, Final, Literal
from urllib.parse import unquote

import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator
from typing_extensions import override

from connectors.contract import Context, Writer
from connectors.dry_run import Written
from connectors.settings import Duration, SecretStr, Settings, Size, TargetConfig, TlsSettings

_URL: Final = re.compile(
    r"(?P<scheme>amqps?)://(?P<hosts>[A-Za-z0-9._\-]+(:\d{1,5})?(,[A-Za-z0-9._\-]+(:\d{1,5})?)*)(/(?P<vhost>[^/?#]*))?"
)
_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_CLASSIC_ALONE: Final = (
    "vhost", "exchange", "exchange_type", "routing_key", "queue", "queue_type", "bindings", "declare", "channels",
)  # fmt: skip
_ONE_ALONE: Final = ("address", "subject")

HeaderColumn = Literal[
    "source",
    "protocol",
    "device_id",
    "address",
    "tag_name",
    "unit",
    "path",
    "site",
    "area",
    "line",
    "equipment",
    "signal_type",
]


def _url(value: str) -> str:
    if not _URL.fullmatch(value.strip()):
        raise ValueError(
            "is not a URL of a broker; write amqp://<host>:5672/<vhost>, or amqps:// for TLS (several hosts with commas "
            "between); user and password have settings of their own"
        )
    return value.strip()


Url = Annotated[str, AfterValidator(_url)]


def addresses(url: str) -> list[tuple[str, int]]:
    """Hosts and ports of a URL."""
    found = _URL.fullmatch(url)
    if found is None:
        return []
    pairs = (host.partition(":") for host in found["hosts"].split(","))
    return [(host, int(port) if port else _PORTS[found["scheme"]]) for host, _, port in pairs]


def vhost_of(url: str) -> str:
    """The virtual host that a URL names: ``/`` when it names none, as with no slash at all."""
    found = _URL.fullmatch(url)
    return unquote(found["vhost"] or "") or "/" if found else "/"


class AmqpSettings(Settings):
    """What only an AMQP target has."""

    version: Literal["0.9.1", "1.0"] = Field(
        "0.9.1", description="protocol: 0.9.1 for RabbitMQ; 1.0 for ActiveMQ, Azure Service Bus, Solace and RabbitMQ 4"
    )
    username: str | None = Field(
        None, description="user that writes; without one, 0.9.1 tries `guest`, 1.0 is anonymous"
    )
    password: SecretStr | None = Field(None, description="password of the user")
    mechanism: Literal["plain", "external", "anonymous"] | None = Field(
        None,
        description="how the user is proved: by password (`plain`), by the client certificate of `tls` (`external`), or not "
        "(`anonymous`, 1.0); plain where there is a user name, unless set",
    )
    tls: TlsSettings | None = Field(
        None, description="TLS beyond what amqps:// says: authorities, client certificate, the server's name"
    )
    heartbeat: Duration = Field(
        20.0, ge=1, le=3600, description="time after which a silent connection is asked for a sign of life"
    )
    vhost: str | None = Field(None, description="virtual host, instead of the one in `endpoint` (0.9.1)")
    exchange: str = Field(
        "bifrost", max_length=127, description="exchange that readings are published to; empty for the default one, whose "
        "routing keys are names of queues (0.9.1)",
    )  # fmt: skip
    exchange_type: Literal["topic", "direct", "fanout", "headers"] = Field(
        "topic", description="type of the exchange, where it is made (0.9.1)"
    )
    routing_key: str = Field(
        "{path}",
        description="template of the routing key, with columns of the tag in braces; slashes of the path become dots, dots in a "
        "name underscores; 255 bytes at most (0.9.1)",
    )
    queue: str | None = Field(
        None,
        max_length=255,
        description="queue that is bound to the exchange, where one is to be made or looked for (0.9.1)",
    )
    queue_type: Literal["quorum", "classic", "stream"] = Field(
        "quorum", description="type of the queue, where it is made; always durable (0.9.1)"
    )
    bindings: list[str] = Field(["#"], description="keys by which the queue is bound to the exchange (0.9.1)")
    declare: Literal["auto", "passive", "never"] = Field(
        "auto",
        description="exchange, queue and bindings are made where they are missing (`auto`), must be there (`passive`), or are "
        "not looked at (`never`, which needs no right to configure; 0.9.1)",
    )
    mandatory: bool = Field(
        True,
        description="whether a message that no queue takes is an error; when false the broker drops it, and it counts as "
        "delivered (0.9.1; in 1.0 RabbitMQ before 3.13 tells nobody, and is written to only when this is false or `address` "
        "names a queue as /queue/<name>)",
    )
    channels: int = Field(
        1, ge=1, le=64,
        description="channels at most, which is also how many writes are under way at once; with one, readings stay in order "
        "(0.9.1)",
    )  # fmt: skip
    address: str = Field(
        "bifrost",
        description="address of the queue, topic or exchange, at RabbitMQ /queue/<name> (made where it is missing), "
        "/amq/queue/<name> or /exchange/<name>; a template like `routing_key`, with a link for each address (1.0)",
    )
    subject: str = Field(
        "{path}", description="template of the messages' subject, which RabbitMQ takes as the routing key (1.0)"
    )
    persistent: bool = Field(True, description="whether the broker keeps messages on disk")
    message: Literal["reading", "packed"] = Field(
        "reading",
        description="a message per reading (a JSON object), or as many readings of one routing key or subject as fit (`packed`: a "
        "JSON array)",
    )
    pack_bytes: Size = Field(64 * 1024, ge=1024, description="size of a packed message, at most, e.g. 64KiB")
    max_message_bytes: Size = Field(
        16 * 1024**2, ge=1024, description="size of a message that the broker takes; a larger reading is a dead letter"
    )
    headers: list[HeaderColumn] = Field(
        [], description="columns of the tag that become headers (application properties), beside identity and quality"
    )

    @property
    def login(self) -> Literal["plain", "external", "anonymous"]:
        """How the user is proved."""
        if self.mechanism is not None:
            return self.mechanism
        return "plain" if self.username is not None or self.version == "0.9.1" else "anonymous"

    @model_validator(mode="after")
    def _fits_version(self) -> "AmqpSettings":
        foreign = _ONE_ALONE if self.version == "0.9.1" else _CLASSIC_ALONE
        if wrong := [name for name in foreign if name in self.model_fields_set]:
            instead = "exchange and routing_key" if self.version == "0.9.1" else "address and subject"
            raise ValueError(f"{', '.join(wrong)} is not of version {self.version}: use {instead}")
        if self.login == "external" and (self.tls is None or self.tls.cert_file is None):
            raise ValueError("mechanism `external` needs the client certificate: set tls.cert_file and tls.key_file")
        if self.login == "anonymous" and self.version == "0.9.1":
            raise ValueError("mechanism `anonymous` is of version 1.0; set username and password")
        if self.login == "plain" and self.version == "1.0" and self.username is None:
            raise ValueError("mechanism `plain` needs username and password")
        self._templates()
        return self

    def _templates(self) -> None:
        from connectors.wire.messages import Template

        for template in (self.routing_key, self.address, self.subject):
            Template(template)


class AmqpConfig(TargetConfig):
    """A broker that speaks AMQP 0.9.1 (RabbitMQ) or 1.0 (ActiveMQ, Azure Service Bus, Solace, RabbitMQ)."""

    type: Literal["amqp"] = Field("amqp", description="type of the target")
    endpoint: Url = Field(
        description="the broker: amqp://<host>:5672/<vhost>, amqps://<host>:5671/<vhost> with TLS; several hosts with commas "
        "between are tried in turn",
    )
    batch_size: int | None = Field(
        None, ge=1, le=100_000, description="readings in one write, at most 100,000 (default 10,000)"
    )
    provider_config: AmqpSettings = Field(
        AmqpSettings.model_validate({}), description="exchange or address, and how to log in"
    )

    @override
    def writer(self, context: Context) -> Writer:
        """The writer of this broker."""
        if self.provider_config.version == "1.0":
            from connectors.targets.amqp.version_1.writer import Amqp1Writer

            return Amqp1Writer(self, context)
        from connectors.targets.amqp.writer import AmqpWriter

        return AmqpWriter(self, context)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        from connectors.targets.amqp.written import written

        return written(self, batch)
