"""Configuration of TimescaleDB and PostgreSQL."""

import re
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator
from typing_extensions import override

from connectors.contract import Context, Writer
from connectors.dry_run import Written
from connectors.settings import Duration, SecretStr, Settings, TargetConfig, TlsSettings

_URL = re.compile(
    r"(?:postgres(?:ql)?|timescaledb)://(?P<hosts>[A-Za-z0-9._\-\[\]:,]*)(?:/(?P<database>[A-Za-z0-9_.\-]*))?"
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._\-]+)(?::(?P<port>\d{1,5}))?")
_OWN_SETTINGS = {
    "host", "hostaddr", "port", "dbname", "user", "password", "passfile", "sslmode", "sslrootcert", "sslcert", "sslkey",
    "sslpassword", "options", "client_encoding", "replication",
}  # fmt: skip
_NAME = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"


def _url(value: str) -> str:
    """The URL, which names hosts and a database and nothing else."""
    found = _URL.fullmatch(value.strip())
    hosts = found["hosts"] if found else ""
    if not found or (hosts and not all(_HOST.fullmatch(host) for host in hosts.split(","))):
        msg = (
            "is not a URL of a server; write postgresql://<host>:5432/<database> (several hosts with commas between); user, "
            "password, TLS and parameters have settings of their own"
        )
        raise ValueError(msg)
    return value.strip()


Url = Annotated[str, AfterValidator(_url)]


def hosts(url: str) -> tuple[str, str]:
    """Hosts and ports of a URL, each with commas between; both empty for the socket of this machine."""
    found = _URL.fullmatch(url)
    named = [_HOST.fullmatch(host) for host in found["hosts"].split(",")] if found and found["hosts"] else []
    return (
        ",".join(host["host"].strip("[]") for host in named if host),
        ",".join(host["port"] or "5432" for host in named if host),
    )


def database(url: str) -> str:
    """The database that a URL names, empty when it names none."""
    found = _URL.fullmatch(url)
    return (found["database"] or "") if found else ""


class TimescaleSettings(Settings):
    """What only a TimescaleDB or PostgreSQL target has."""

    database: str | None = Field(None, description="name of the database, instead of the one in `endpoint`")
    username: str = Field("bifrost", description="user that writes")
    password: SecretStr | None = Field(None, description="password of the user")
    tls: TlsSettings | None = Field(
        None,
        description="TLS, with the server's certificate and name checked; when absent TLS is used if the server has it, "
        "without any check",
    )
    parameters: dict[str, str] = Field(
        {}, description="more connection parameters of libpq, e.g. target_session_attrs: read-write for several hosts"
    )
    schema_: str = Field("public", alias="schema", pattern=_NAME, description="schema of the table")
    table: str = Field("readings", pattern=_NAME, description="name of the table")
    layout: Literal["narrow", "wide"] = Field(
        "narrow",
        description="`narrow`: a row per reading, with all that is known of it; `wide`: a row per equipment and time, with a "
        "column per signal and its quality",
    )
    create: Literal["auto", "never"] = Field(
        "auto", description="`auto`: what is missing of schema, table and policies is made; `never`: it is an error"
    )
    time: Literal["source_time", "received_time"] = Field(
        "source_time",
        description="what the column `time`, by which tables are cut into chunks, is made from: when the device says it "
        "measured (received_time where it does not say), or when the gateway received it",
    )
    hypertable: Literal["auto", "always", "never"] = Field(
        "auto",
        description="whether a new table is a hypertable: where the database has the extension timescaledb (`auto`), "
        "always, or never",
    )
    chunk_interval: Duration = Field(86_400.0, ge=60, description="time that one chunk of a new hypertable spans")
    compress_after: Duration | None = Field(
        None, gt=0, description="age at which chunks of the hypertable are compressed, e.g. 7d (default: never)"
    )
    retention: Duration | None = Field(
        None, gt=0, description="age at which chunks of the hypertable are DELETED, e.g. 365d (default: never)"
    )
    pool_size: int = Field(
        4, ge=1, le=64, description="connections at most, which is also how many writes are under way at once"
    )

    @model_validator(mode="after")
    def _parameters_are_free(self) -> "TimescaleSettings":
        if own := sorted(set(self.parameters) & _OWN_SETTINGS):
            msg = f"`parameters` cannot set {', '.join(own)}: use the settings beside it"
            raise ValueError(msg)
        return self


class TimescaleConfig(TargetConfig):
    """A table of TimescaleDB, or of a plain PostgreSQL 13 or later, where there are no hypertables."""

    type: Literal["timescaledb"] = Field(default="timescaledb", description="type of the target")
    endpoint: Url = Field(
        description="server and database, postgresql://<host>:5432/<database>; several hosts with commas between are tried "
        "in turn",
    )
    batch_size: int | None = Field(
        None, ge=1, le=500_000, description="readings in one write, at most 500,000 (default 10,000)"
    )
    provider_config: TimescaleSettings = Field(
        TimescaleSettings.model_validate({}), description="the table and how to reach it"
    )

    @override
    def writer(self, context: Context) -> Writer:
        """The writer of this table."""
        if self.provider_config.layout == "wide":
            from connectors.targets.timescaledb.wide_writer import WideWriter

            return WideWriter(self, context)
        from connectors.targets.timescaledb.writer import TimescaleWriter

        return TimescaleWriter(self, context)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        """The rows; with the layout `wide`, as they are in a table that has no signals yet."""
        from connectors.targets.timescaledb.written import written

        return written(self, batch)
