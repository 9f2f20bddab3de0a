"""The configuration file's models, and what a checked file resolves to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, field_validator

from config.members import Membership
from config.oidc import OidcSection
from config.telemetry import TelemetrySection
from connectors.settings import BufferSettings, Duration, Settings, Size, SourceConfig, TargetConfig
from connectors.sources.modbus import ModbusConfig
from connectors.sources.mqtt import MqttConfig
from connectors.sources.opcua import OpcUaConfig
from connectors.targets.amqp import AmqpConfig
from connectors.targets.aws_iot import AwsIotConfig
from connectors.targets.azure_iot_hub import AzureIotHubConfig
from connectors.targets.console import ConsoleConfig
from connectors.targets.delta import DeltaConfig
from connectors.targets.file import FileConfig
from connectors.targets.influxdb import InfluxConfig
from connectors.targets.kafka import KafkaConfig
from connectors.targets.mqtt import MqttTargetConfig
from connectors.targets.pubsub import PubSubConfig
from connectors.targets.timescaledb import TimescaleConfig
from connectors.targets.zerobus import ZeroBusConfig, ZeroBusSection
from delivery.dead_letters import LetterPolicy
from delivery.entry import Compression
from delivery.overflow import BufferPolicy, Overflow
from delivery.waiting import Drain
from discovery.settings import DiscoverySection
from normalization.path import DEFAULT_TEMPLATE
from normalization.rules import Rule

TEMPLATE = DEFAULT_TEMPLATE
EMBEDDED = "delta"  # the target that there is when none is configured
POSTED = "api"  # the source of readings that are handed to the gateway instead of read by it
NO_TARGET = "none"  # what a default_connector says to leave out what no rule matches

_LEAST = -(2**31)  # priority
_QUOTA = 8 * 1024**3
_MEMORY_QUOTA = 256 * 1024**2  # of a target whose readings wait in memory

NAME_FILE = "gateway"  # holds, beside the stores, the name that they were begun under
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$"


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


Level = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]


def _installed(kind: type) -> tuple[type, ...]:
    """Configs of sources or targets that other packages bring, by the entry point group ``bifrost.connectors``."""
    found = [entry.load() for entry in entry_points(group="bifrost.connectors")]
    return tuple(config for config in found if issubclass(config, kind))


if TYPE_CHECKING:
    Source = OpcUaConfig | MqttConfig | ModbusConfig
    Target = (
        DeltaConfig
        | ZeroBusConfig
        | KafkaConfig
        | InfluxConfig
        | MqttTargetConfig
        | AwsIotConfig
        | AzureIotHubConfig
        | PubSubConfig
        | AmqpConfig
        | TimescaleConfig
        | FileConfig
        | ConsoleConfig
    )
else:
    Source = Annotated[
        Union[(OpcUaConfig, MqttConfig, ModbusConfig, *_installed(SourceConfig))],
        Field(discriminator="protocol"),
    ]
    Target = Annotated[
        Union[
            (
                DeltaConfig,
                ZeroBusConfig,
                KafkaConfig,
                InfluxConfig,
                MqttTargetConfig,
                AwsIotConfig,
                AzureIotHubConfig,
                PubSubConfig,
                AmqpConfig,
                TimescaleConfig,
                FileConfig,
                ConsoleConfig,
                *_installed(TargetConfig),
            )
        ],
        Field(discriminator="type"),
    ]


class BufferSection(BufferSettings):
    """What is held between the flow and the targets; what a connector's own ``buffer`` says goes before it."""

    max_size: int = Field(100_000, ge=1, description="readings held in memory per target; the rest waits on disk")
    flush_interval: Duration | None = Field(
        None,
        description="time that a reading may wait for a batch to fill, where no connector and no batch_timeout says",
    )
    persistent_path: Path | None = Field(
        None, description="folder of journal, spools and dead letters; the same as gateway.directory"
    )


class CloudSection(Settings):
    """The targets, and what holds for all of them."""

    default_connector: str | None = Field(
        None,
        description="target of readings that match no rule, or `none` to leave them out, counted; the only connector when "
        "there is just one",
    )
    batch_size: int | None = Field(
        None, ge=1, description="readings in one write, at most, where a connector does not say"
    )
    batch_timeout: Duration | None = Field(
        None, description="time that a reading may wait for a batch to fill, where a connector does not say"
    )
    health_check_interval: Duration | None = Field(
        None, description="longest time between two attempts to reach a target that fails, in seconds or as 30s"
    )
    buffer: BufferSection = Field(BufferSection(), description="what is held between the flow and the targets")
    connectors: dict[Name, Target] = Field({}, description="the targets by name; the embedded Delta Lake when empty")


class DeadLetterSection(Settings):
    """Readings that no target takes."""

    quota: Size = Field(1024**3, gt=0, description="bytes of dead letters on disk")
    overflow: Literal["drop_oldest", "keep"] = Field(
        "drop_oldest", description="what goes when that is reached: the oldest (drop_oldest), or those that come (keep)"
    )


class LeaseSection(Settings):
    """A store that several gateways share, in which a source is held by the one that reads it."""

    store: Literal["kubernetes"] = Field(description="which store: `kubernetes` is the Lease objects of a cluster")
    namespace: str | None = Field(None, description="namespace of the leases; the pod's own when absent")
    prefix: str = Field(
        "bifrost",
        pattern=r"^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$",
        description="what the names of the leases begin with",
    )
    duration: Duration = Field(
        15,
        ge=3,
        le=600,
        description="time after which a source may be read by another gateway when its own is not heard of any more",
    )
    endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s@/]+$",
        description="URL of the cluster's API, as https://10.0.0.1:443; what the pod's environment says when absent",
    )
    ca_file: Path | None = Field(
        None, description="authorities to trust; those of the pod's service account when absent"
    )
    token_file: Path | None = Field(
        None, description="file of the token that the API wants; that of the pod's service account when absent"
    )


class GatewaySection(Settings):
    """The gateway itself."""

    name: str | None = Field(
        None,
        pattern=NAME_PATTERN,
        description="name of the gateway, unique; made from the machine when absent",
    )
    members: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="how many gateways share the sources of this configuration: each reads its own, and no source is read by "
        "two. Its number becomes part of the gateway's name. One gateway reads all when absent",
    )
    member: int | None = Field(
        None,
        ge=0,
        lt=1000,
        description="number of this gateway among them, from 0; that in the name of its pod (POD_NAME as name-3) when absent",
    )
    leases: LeaseSection | None = Field(
        None,
        description="store in which the members hold what they read, so that no two read a source while members change",
    )
    directory: Path | None = Field(None, description="folder of journal, spools and dead letters (default data)")
    listen: str = Field("127.0.0.1", description="address that the HTTP port listens on")
    port: int | None = Field(None, ge=0, le=65535, description="HTTP port of health, metrics and API (default 8080)")
    log_level: Level | None = Field(
        None, description="least level that is logged: debug, info, warning or error (default info)"
    )
    log_format: Literal["auto", "console", "json"] = Field(
        "auto",
        description="how events are logged: in words (console), a line of JSON each (json), or in words on a terminal alone "
        "(auto)",
    )
    commit_interval: Duration = Field(
        0.003,
        le=1,
        description="time that a write of the journal to disk waits for more readings; longer means less wear of the disk "
        "and later acknowledgements",
    )
    report_interval: Duration | None = Field(
        None,
        description="time between two reports of the gateway on itself, as readings of the protocol `gateway`: the account "
        "of each source and target, and up to when a target has all; none when absent",
    )
    endurance: Size | None = Field(
        None,
        description="bytes that may be written to the disk before it wears out, as its data sheet says (TBW); "
        "`bifrost status` then tells how long it lasts",
    )
    telemetry: TelemetrySection = Field(
        TelemetrySection(), description="metrics, events and spans that are sent to where many gateways are looked at"
    )
    dead_letters: DeadLetterSection = Field(DeadLetterSection(), description="readings that no target takes")
    cloud: CloudSection = Field(CloudSection(), description="the targets")


class RuleSection(Settings):
    """A routing rule."""

    name: str = Field(description="name of the rule")
    condition: str = Field(description="SQL boolean expression over the columns of a reading, or name=value")
    connectors: list[str] = Field(min_length=1, description="targets that get the readings that match")
    priority: int = Field(0, ge=-(2**31), lt=2**31, description="priority of those readings; larger is more urgent")


class NormalizationSection(Settings):
    """How readings are named."""

    enabled: bool = Field(True, description="must be true: every reading has a path")
    path_template: str = Field(TEMPLATE, description="template of the paths; a place without a value is left out")

    @field_validator("enabled")
    @classmethod
    def _always(cls, enabled: bool) -> bool:
        if not enabled:
            raise ValueError("every reading is normalized; remove this key or set it to true")
        return enabled


class WebTlsSection(Settings):
    """TLS of the HTTP port."""

    cert_file: Path = Field(description="PEM file of the certificate, with those of its issuers after it")
    key_file: Path = Field(description="PEM file of its private key")


class WebSection(Settings):
    """The web interface."""

    enabled: bool = Field(True, description="whether the HTTP port is opened")
    port: int | None = Field(None, ge=0, le=65535, description="the same as gateway.port")
    hosts: list[str] = Field(
        [],
        description="names that the gateway is called by in a browser, besides localhost, its host name and its address",
    )
    tls: WebTlsSection | None = Field(None, description="TLS of the HTTP port")
    insecure: bool = Field(
        False,
        description="whether the port may be reached from other machines without TLS, e.g. behind a proxy that has it",
    )
    rate: float = Field(
        100.0,
        gt=0,
        description="requests per second that one client may send in the long run; three times as many at once",
    )
    metrics: Literal["login", "open"] = Field(
        "login", description="whether /metrics wants a login or token where the port is reached from other machines"
    )
    oidc: OidcSection | None = Field(
        None, description="log-in by an OpenID provider, such as Keycloak or Entra ID, beside the gateway's own users"
    )


class ConnectorSection(Settings):
    """Older place of the log level."""

    log_level: Level | None = Field(None, description="the same as gateway.log_level")


class TemplateSection(Settings):
    """Equipment that is described once and read many times: each row of a CSV file makes one source of it."""

    rows_file: Path = Field(
        description="CSV file: its first line names the columns, each further one is a source; `,` or `;` divides cells"
    )
    defaults: dict[str, str | int | float | bool] = Field(
        {}, description="what holds by column where the file has no such column, or a row says nothing in it"
    )
    source: dict[str, Any] = Field(
        description="a source as in `sources`; `{column}` in a value stands for what the row says. Alone in its value it may be "
        "a number, and an empty cell leaves the key out"
    )


class ConfigFile(Settings):
    """The configuration file."""

    gateway: GatewaySection = Field(GatewaySection(), description="the gateway itself and its targets")
    sources: list[Source] = Field([], description="the sources")
    templates: dict[Name, TemplateSection] = Field({}, description="sources that are alike, from rows of CSV files")
    routing_rules: list[RuleSection] = Field([], description="which readings go where")
    zerobus: ZeroBusSection | None = Field(None, description="one Databricks table per source, with shared credentials")
    normalization: NormalizationSection = Field(NormalizationSection(), description="how readings are named")
    discovery: DiscoverySection = Field(DiscoverySection.model_validate({}), description="discovery of devices")
    web_ui: WebSection = Field(WebSection(), description="the web interface")
    connector: ConnectorSection = Field(ConnectorSection(), description="older place of the log level")


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration that has been checked.

    Attributes:
        gateway: Name of the gateway.
        directory: Where its stores lie.
        sources: Its sources.
        targets: Its targets by name.
        rules: Routing rules.
        default: Targets of readings that match no rule.
        plant: All sources of the configuration, those that other members read too.
        membership: What it is among the gateways that share its sources; None where it is alone.
        leases: The store in which it holds what it reads; None for none.
        source_targets: Source -> target that gets all its readings besides the rules.
        path_template: Template of the paths.
        listen: Address of the HTTP port.
        port: The HTTP port; None for none.
        log_level: Least level that is logged.
        log_format: How events are logged: auto, console or json.
        telemetry: Where metrics, events and spans are sent.
        memory_rows: Readings held in memory per target.
        buffers: How readings wait, by target.
        dead_letters: How dead letters are bounded.
        commit_interval: Seconds that a group commit of the journal waits for more readings.
        report_interval: Seconds between two reports of the gateway on itself; None for none.
        endurance: Bytes that the disk can be written with before it wears out; None when nobody said.
        probe_interval: Longest time between two attempts to reach a target, seconds.
        web: How the HTTP port is guarded.
        discovery: What networks may be scanned, and how.
        warnings: What is allowed but hardly meant, each with its place.
    """

    gateway: str
    directory: Path
    sources: tuple[SourceConfig, ...] = ()
    targets: Mapping[str, TargetConfig] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    default: tuple[str, ...] = ()
    plant: tuple[SourceConfig, ...] = ()
    membership: Membership | None = None
    leases: LeaseSection | None = None
    source_targets: Mapping[str, str] = field(default_factory=dict)
    path_template: str = TEMPLATE
    listen: str = "127.0.0.1"
    port: int | None = 8080
    log_level: str = "info"
    log_format: str = "auto"
    telemetry: TelemetrySection = field(default_factory=TelemetrySection)
    memory_rows: int = 100_000
    buffers: Mapping[str, BufferPolicy] = field(default_factory=dict)
    dead_letters: LetterPolicy = field(default_factory=LetterPolicy)
    commit_interval: float = 0.003
    report_interval: float | None = None
    endurance: int | None = None
    probe_interval: float = 60.0
    web: WebSection = field(default_factory=WebSection)
    discovery: DiscoverySection = field(default_factory=lambda: DiscoverySection.model_validate({}))
    warnings: tuple[str, ...] = ()


def buffer_policy(own: BufferSettings, general: BufferSettings, *, persistent: bool = True) -> BufferPolicy:
    """How readings wait for a target: what it says itself, else what holds for all, else the defaults.

    Args:
        own: What the target says.
        general: What holds for all.
        persistent: Whether they wait on disk.
    """

    def said(key: str, default: Any) -> Any:
        return next((value for part in (own, general) if (value := getattr(part, key)) is not None), default)

    age = said("expiry", None)
    by_priority = own.expiry_by_priority or general.expiry_by_priority
    return BufferPolicy(
        quota=said("quota", _QUOTA) if persistent else own.quota or _MEMORY_QUOTA,
        rows=said("quota_readings", None),
        free_disk=said("free_disk", 512 * 1024**2),
        overflow=Overflow(said("overflow", Overflow.DROP_OLDEST)),
        keep_every=said("keep_every", 10),
        expiry=({} if age is None else {_LEAST: age}) | by_priority,
        drain=Drain(said("drain", Drain.OLDEST_FIRST)),
        live_share=said("live_share", 0.5),
        compression=Compression[said("compression", "zstd").upper()],
    )


def default_target(directory: Path) -> DeltaConfig:
    """The embedded target: a Delta table beside the stores."""
    return DeltaConfig(name="Delta Lake", endpoint=str(directory / "delta"))


__all__ = [
    "EMBEDDED",
    "NAME_PATTERN",
    "NO_TARGET",
    "POSTED",
    "TEMPLATE",
    "ConfigFile",
    "Configuration",
    "DiscoverySection",
    "default_target",
]
