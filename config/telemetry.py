"""Where the gateway sends what it says of itself: metrics, events and spans, always outbound."""

from typing import Annotated, Final, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from connectors.settings import Duration, Settings, Size, TlsSettings
from delivery.metrics import DECLARED

FOLDER: Final = "telemetry"  # in the gateway's directory: what waits to be sent
_OWN: Final = frozenset({"gateway", "instance"}) | {label for one in DECLARED for label in one.labels}
_LABEL: Final = r"^[A-Za-z_][A-Za-z0-9_]*$"
_URL: Final = r"^https?://[^\s@]+$"


class LoginSettings(Settings):
    """How the gateway proves who it is."""

    username: str | None = Field(None, description="user name, by HTTP basic authentication")
    password: SecretStr | None = Field(None, description="its password")
    token: SecretStr | None = Field(None, description="bearer token, instead of both")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.token is not None and (self.username is not None or self.password is not None):
            raise ValueError("set username and password, or token, not both")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password belong together")
        return self


class RemoteWriteSection(Settings):
    """Metrics for Prometheus and what understands it, by remote write 1.0."""

    endpoint: str = Field(pattern=_URL, description="URL that takes them, as https://prometheus.example/api/v1/write")
    auth: LoginSettings = Field(LoginSettings(), description="how the gateway proves who it is")
    headers: dict[str, SecretStr] = Field({}, description="headers of each request, such as `X-Scope-OrgID`")
    tls: TlsSettings = Field(TlsSettings(), description="TLS of the connection")
    timeout: Duration = Field(10, gt=0, description="time for one request")
    buffer: Size = Field(
        256 * 1024**2,
        ge=1024**2,
        description="bytes that may wait on disk while nobody takes them; the oldest go first",
    )


class OtlpSection(Settings):
    """Metrics, events and spans for OpenTelemetry, by OTLP over HTTP; needs ``pip install 'bifrost-gateway[otel]'``."""

    endpoint: str = Field(
        pattern=_URL, description="URL of a collector that takes OTLP over HTTP, as http://127.0.0.1:4318"
    )
    auth: LoginSettings = Field(LoginSettings(), description="how the gateway proves who it is")
    headers: dict[str, SecretStr] = Field({}, description="headers of each request, such as `Authorization`")
    tls: TlsSettings = Field(TlsSettings(), description="TLS of the connection")
    timeout: Duration = Field(10, gt=0, description="time for one request")
    metrics: bool = Field(True, description="whether metrics are sent")
    logs: bool = Field(True, description="whether events are sent, those that the log has")
    traces: bool = Field(True, description="whether spans of batches are sent; they wait nowhere")
    share: float = Field(
        0.1, gt=0, le=1, description="share of the spans that is sent, 0 to 1; writes that failed always are"
    )
    buffer: Size = Field(
        256 * 1024**2,
        ge=1024**2,
        description="bytes of metrics, and of events, that may wait on disk while nobody takes them; the oldest go first",
    )


class TelemetrySection(Settings):
    """What the gateway says of itself, sent to where many gateways are looked at; nothing is when both are absent."""

    interval: Duration = Field(15, ge=1, le=300, description="time between two samples of the metrics")
    labels: dict[Annotated[str, Field(pattern=_LABEL)], str] = Field(
        {},
        description="labels of everything that is sent, such as site and area; `gateway` and `instance` are the gateway's name, "
        "and `job` is bifrost unless it is said here",
    )
    remote_write: RemoteWriteSection | None = Field(None, description="metrics by Prometheus remote write")
    otlp: OtlpSection | None = Field(None, description="metrics, events and spans by OTLP")

    @field_validator("labels")
    @classmethod
    def _free(cls, labels: dict[str, str]) -> dict[str, str]:
        if reserved := sorted(label for label in labels if label.startswith("__")):
            raise ValueError(
                f"{', '.join(reserved)}: names with two underscores are Prometheus' own; choose another name"
            )
        taken = sorted(_OWN & labels.keys())
        if taken:
            raise ValueError(f"{', '.join(taken)}: the gateway's own metrics use this label; choose another name")
        return labels
