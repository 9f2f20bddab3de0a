"""Configuration of InfluxDB and of what speaks its line protocol."""

from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import pyarrow as pa
from pydantic import AfterValidator, Field, model_validator
from typing_extensions import override

from connectors.contract import Context, Writer
from connectors.dry_run import Written, refuse
from connectors.settings import Duration, SecretStr, Size, TargetConfig, TlsSettings
from connectors.wire.line_protocol import LineEncoder, LineFormat
from connectors.wire.line_settings import LineProtocolSettings

Version = Literal["1.x", "2.x", "3.x", "victoriametrics"]

_NEEDED: Final[dict[Version, tuple[str, ...]]] = {
    "1.x": ("database",),
    "2.x": ("organization", "bucket", "token"),
    "3.x": ("database",),
    "victoriametrics": (),
}
_ONLY: Final[dict[str, tuple[Version, ...]]] = {
    "retention_policy": ("1.x",),
    "consistency": ("1.x",),
    "organization": ("2.x",),
    "bucket": ("2.x",),
    "database": ("1.x", "3.x", "victoriametrics"),
    "username": ("1.x", "victoriametrics"),
    "password": ("1.x", "victoriametrics"),
    "retention": ("1.x", "2.x"),
}


def _url(value: str) -> str:
    """The URL, which names a server and nothing else."""
    try:
        parts = urlsplit(value.strip())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    named = parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
    if not named or parts.username is not None or parts.query or parts.fragment:
        msg = (
            "is not a URL of a server; write http://<host>:8086 or https://<host>:8086; user, password, database and TLS have "
            "settings of their own"
        )
        raise ValueError(msg)
    return value.strip().rstrip("/")


Url = Annotated[str, AfterValidator(_url)]


class InfluxSettings(LineProtocolSettings):
    """What only an InfluxDB target has."""

    url: Url | None = Field(None, description="where the server is; wins over `endpoint`")
    version: Version = Field(
        "2.x",
        description="what the server is: InfluxDB `1.x`, `2.x` or `3.x`, or `victoriametrics`, which keeps numbers only",
    )
    database: str | None = Field(None, min_length=1, description="database, with 1.x and 3.x")
    retention_policy: str | None = Field(
        None, min_length=1, description="retention policy of the database, with 1.x; its default one when absent"
    )
    consistency: Literal["any", "one", "quorum", "all"] | None = Field(
        None, description="how many nodes of an InfluxDB Enterprise 1.x cluster must have a write before it counts"
    )
    organization: str | None = Field(None, min_length=1, description="name or id of the organization, with 2.x")
    bucket: str | None = Field(None, min_length=1, description="bucket, with 2.x")
    username: str | None = Field(None, description="user that writes, with 1.x")
    password: SecretStr | None = Field(None, description="password of the user")
    token: SecretStr | None = Field(None, description="API token, with 2.x and 3.x")
    create: Literal["auto", "never"] = Field(
        "auto",
        description="`auto`: a database, retention policy or bucket that is missing is made; `never`: it is an error, but for "
        "3.x, which makes databases by itself",
    )
    retention: Duration | None = Field(
        None, ge=3600, description="age at which readings in what is made are DELETED, e.g. 365d (default: never)"
    )
    same_time: Literal["spread", "overwrite"] = Field(
        "spread",
        description="what becomes of two readings of one tag at one time: with `spread` both stay, because the last three "
        "digits of a time in ns, which no reading has, are those of its sequence; with `overwrite`, and with a precision "
        "other than ns, the one that is written later replaces the other",
    )
    batch_size: int | None = Field(
        None, ge=1, le=500_000, description="readings in one write, at most (default 10,000)"
    )
    body_size: Size = Field(
        4 * 1024**2,
        ge=1024,
        description="bytes of lines in one request, before compression; a write may be several requests",
    )
    compression: Literal["gzip", "none"] = Field("gzip", description="how requests are compressed")
    pool_size: int = Field(
        2, ge=1, le=64, description="connections at most, which is also how many writes are under way at once"
    )
    tls: TlsSettings | None = Field(None, description="TLS with an https URL; the system's authorities when absent")

    @property
    def line_format(self) -> LineFormat:
        """How readings become lines for this server."""
        numbers = self.version == "victoriametrics"
        spread = self.same_time == "spread" and not numbers
        return self.form(unsigned=self.version != "1.x", numbers=numbers, spread=spread)

    @model_validator(mode="after")
    def _fits_the_version(self) -> "InfluxSettings":
        if missing := [key for key in _NEEDED[self.version] if getattr(self, key) is None]:
            msg = f"{', '.join(f'`{key}`' for key in missing)} needed with version {self.version}"
            raise ValueError(msg)
        for key, versions in _ONLY.items():
            if getattr(self, key) is not None and self.version not in versions:
                msg = f"`{key}` goes with version {' or '.join(versions)}, not {self.version}"
                raise ValueError(msg)
        self.line_format  # noqa: B018 - it raises
        return self


class InfluxConfig(TargetConfig):
    """A database or bucket of InfluxDB, or VictoriaMetrics."""

    type: Literal["influxdb"] = Field("influxdb", description="type of the target")
    endpoint: Url | None = Field(
        "http://localhost:8086", description="where the server is; `url` in provider_config wins"
    )
    batch_size: int | None = Field(
        None, ge=1, le=500_000, description="readings in one write, at most; `batch_size` in provider_config wins"
    )
    provider_config: InfluxSettings = Field(description="the database or bucket and how to reach it")

    @property
    def address(self) -> str:
        """Where the server is, without a slash at its end."""
        return self.provider_config.url or self.endpoint or "http://localhost:8086"

    @override
    def writer(self, context: Context) -> Writer:
        """The writer of this database or bucket."""
        from connectors.targets.influxdb.writer import InfluxWriter

        return InfluxWriter(self)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        lines = LineEncoder(self.provider_config.line_format).encode(batch)
        if lines.rejected:
            refuse(dict(zip(lines.rejected, lines.reasons, strict=True)))
        return [Written(self.address, lines.payload)]
