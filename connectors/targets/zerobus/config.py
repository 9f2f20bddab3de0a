"""Configuration of ZeroBus: one target per table, and the `zerobus` section that names a table per source."""

import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import pyarrow as pa
from pydantic import AfterValidator, Field
from typing_extensions import override

from connectors.contract import Context, Writer
from connectors.dry_run import Written, columns_of
from connectors.settings import Duration, SecretStr, Settings, TargetConfig
from connectors.targets.zerobus.schema import FULL_NAME
from normalization.reading import table as table_of

_PART = r"[A-Za-z0-9_]+"


def _url(value: str) -> str:
    """The URL with a scheme and without a trailing slash; a bare host means https."""
    url = value.strip().rstrip("/")
    url = url if "://" in url else f"https://{url}"
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or parts.query or parts.fragment:
        msg = "is not the URL of a host; write https://<host>, without user, password or query"
        raise ValueError(msg)
    return url


Url = Annotated[str, AfterValidator(_url)]
RecordFormat = Literal["protobuf", "arrow"]

_ENDPOINT = "ZeroBus endpoint, https://<workspace id>.zerobus.<region>.cloud.databricks.com"
_WORKSPACE = "URL of the Databricks workspace, which is also that of its Unity Catalog and its token endpoint"
_CLIENT_ID = "application id of the service principal (OAuth M2M)"
_SECRET = "OAuth secret of the service principal"  # noqa: S105
_FORMAT = "how records travel: protobuf, or arrow (Arrow Flight: the faster one, in beta at Databricks)"
_ACK = "seconds without any acknowledgement after which the stream counts as dead"
_PARTITION = (
    "what the partition column `date` is the UTC date of: when the device says it measured (received_time where it does not "
    "say), or when the gateway received it, which puts late readings into the newest partition; in the layout `wide` the "
    "column `time` is made from the same"
)
_EVOLUTION = (
    "when the table lacks a column that readings have values for: readings wait, and the ALTER TABLE that is needed is said "
    "(`review`), or the values of that column are not stored (`leave_out`)"
)
_LAYOUT = (
    "`narrow`: a row per reading, with all that is known of it; `wide`: a row per equipment and time, with a column per signal "
    "and its quality"
)
Layout = Literal["narrow", "wide"]
Evolution = Literal["review", "leave_out"]
PartitionTime = Literal["source_time", "received_time"]
_FLUSH = "seconds that one write may take until all of it is durable"


class ZeroBusSettings(Settings):
    """What only a ZeroBus target has."""

    table: str = Field(
        pattern=f"^{FULL_NAME}$",
        description="full name of the Delta table, catalog.schema.table, of ASCII letters, digits and underscores",
    )
    layout: Layout = Field("narrow", description=_LAYOUT)
    workspace_url: Url | None = Field(None, description=_WORKSPACE)
    client_id: str | None = Field(None, description=_CLIENT_ID)
    client_secret: SecretStr | None = Field(None, description=_SECRET)
    record_format: RecordFormat = Field("protobuf", description=_FORMAT)
    ack_timeout: Duration = Field(60.0, gt=0, description=_ACK)
    flush_timeout: Duration = Field(300.0, gt=0, description=_FLUSH)
    partition_time: PartitionTime = Field("source_time", description=_PARTITION)
    schema_evolution: Evolution = Field("review", description=_EVOLUTION)


class ZeroBusConfig(TargetConfig):
    """One Delta table behind a ZeroBus endpoint; a private CA is named by the environment's ``SSL_CERT_FILE``, and may be renewed."""

    type: Literal["zerobus"] = Field(default="zerobus", description="type of the target")
    endpoint: Url | None = Field(None, description=_ENDPOINT)
    batch_size: int | None = Field(None, ge=1, le=100_000, description="readings in one write, at most 100,000")
    provider_config: ZeroBusSettings = Field(description="the table and how to reach it")

    @override
    def writer(self, context: Context) -> Writer:
        """The writer of this table."""
        if self.provider_config.layout == "wide":
            from connectors.targets.zerobus.wide_writer import WideZeroBusWriter

            return WideZeroBusWriter(self, context)
        from connectors.targets.zerobus.writer import ZeroBusWriter

        return ZeroBusWriter(self, context)

    @override
    def authorities(self) -> dict[str, Path]:
        """The SDK has no setting for it: what the environment names is all that it trusts beside the system's."""
        named = os.environ.get("SSL_CERT_FILE")
        return {"SSL_CERT_FILE": Path(named)} if named else {}

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        """The rows of a table that has every column; which ones it has, only the service knows."""
        own = self.provider_config
        if own.layout == "wide":
            from connectors.wire import wide_tables

            return wide_tables.written(batch, own.partition_time, own.table)
        return columns_of(table_of(batch, own.partition_time), own.table)


class TableTarget(Settings):
    """The Delta table of one source."""

    catalog: str = Field(pattern=f"^{_PART}$", description="catalog of the table, ASCII letters, digits, underscores")
    schema_: str = Field(alias="schema", pattern=f"^{_PART}$", description="schema of the table")
    table: str = Field(pattern=f"^{_PART}$", description="name of the table")

    @property
    def full_name(self) -> str:
        """catalog.schema.table."""
        return f"{self.catalog}.{self.schema_}.{self.table}"


class ZeroBusSection(Settings):
    """The `zerobus` section: one table per source, with shared credentials; each table is a target of its own."""

    enabled: bool = Field(True, description="whether the tables are written to")
    endpoint: Url | None = Field(None, description=_ENDPOINT)
    workspace_url: Url | None = Field(None, description=_WORKSPACE)
    client_id: str | None = Field(None, description=_CLIENT_ID)
    client_secret: SecretStr | None = Field(None, description=_SECRET)
    record_format: RecordFormat = Field("protobuf", description=_FORMAT)
    layout: Layout = Field("narrow", description=_LAYOUT)
    timeout: Duration = Field(30.0, description="time for one request, in seconds or as 30s")
    ack_timeout: Duration = Field(60.0, gt=0, description=_ACK)
    flush_timeout: Duration = Field(300.0, gt=0, description=_FLUSH)
    partition_time: PartitionTime = Field("source_time", description=_PARTITION)
    schema_evolution: Evolution = Field("review", description=_EVOLUTION)
    batch_size: int | None = Field(None, ge=1, le=100_000, description="readings in one write, at most 100,000")
    flush_interval: Duration | None = Field(None, description="time that a reading may wait for a batch to fill")
    retry_count: int = Field(5, ge=1, description="failures in a row that open the circuit breaker")
    retry_delay: Duration = Field(0.5, description="first back-off after a failure, in seconds or as 2s")
    source_targets: dict[str, TableTarget] = Field({}, description="the table of each source, by the source's name")


def _name(table: TableTarget) -> str:
    # Unity Catalog ignores case, so two spellings are one table and one stream.
    return f"zerobus:{table.full_name.lower()}"


def targets(section: ZeroBusSection) -> dict[str, ZeroBusConfig]:
    """One target per table that `section` names, by the target's name ``zerobus:catalog.schema.table``."""
    configs: dict[str, ZeroBusConfig] = {}
    for table in section.source_targets.values():
        configs.setdefault(
            _name(table),
            ZeroBusConfig(
                name=f"ZeroBus {table.full_name}",
                enabled=section.enabled,
                endpoint=section.endpoint,
                timeout=section.timeout,
                retry_count=section.retry_count,
                retry_delay=section.retry_delay,
                batch_size=section.batch_size,
                flush_interval=section.flush_interval,
                provider_config=ZeroBusSettings(
                    table=table.full_name,
                    layout=section.layout,
                    workspace_url=section.workspace_url,
                    client_id=section.client_id,
                    client_secret=section.client_secret,
                    record_format=section.record_format,
                    ack_timeout=section.ack_timeout,
                    flush_timeout=section.flush_timeout,
                    partition_time=section.partition_time,
                    schema_evolution=section.schema_evolution,
                ),
            ),
        )
    return configs


def source_targets(section: ZeroBusSection) -> dict[str, str]:
    """The name of the target of each source: the rule ``source → its table``."""
    return {source: _name(table) for source, table in section.source_targets.items()}
