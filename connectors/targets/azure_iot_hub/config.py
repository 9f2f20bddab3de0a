"""What an Azure IoT Hub target can be told."""

import re
from typing import Final, Literal

import pyarrow as pa
from pydantic import Field, model_validator
from typing_extensions import override

from connectors.contract import Context, Writer
from connectors.dry_run import Written
from connectors.settings import Duration, SecretStr, Settings, TlsSettings, TlsTargetConfig
from connectors.targets.azure_iot_hub.tokens import key_bytes
from connectors.wire.messages import Template

_ADDRESS: Final = re.compile(r"(?P<host>[A-Za-z0-9.\-]+)(?::(?P<port>\d{1,5}))?")
_ID: Final = r"^[A-Za-z0-9\-.%_*?!(),:=@$']{1,128}$"
_KEYS: Final = {
    "HostName": "hub", "DeviceId": "device_id", "ModuleId": "module_id", "SharedAccessKey": "shared_access_key",
    "GatewayHostName": "gateway", "x509": "x509",
}  # fmt: skip


def _sound_key(name: str, key: SecretStr | None) -> None:
    if key is not None:
        try:
            key_bytes(key.get_secret_value())
        except ValueError:
            raise ValueError(f"`{name}` is no key: it is base64 text") from None


class DpsSettings(Settings):
    """The Device Provisioning Service, which says which hub the gateway belongs to."""

    id_scope: str = Field(min_length=1, description="id scope of the service, 0ne…")
    registration_id: str = Field(
        pattern=_ID, description="registration id; with X.509 the common name of the certificate"
    )
    endpoint: str = Field("global.azure-devices-provisioning.net", description="host of the service")
    symmetric_key: SecretStr | None = Field(None, description="key of an individual enrollment, base64")
    group_key: SecretStr | None = Field(
        None, description="key of an enrollment group, base64; the device's own key is made from it"
    )

    @model_validator(mode="after")
    def _one_key(self) -> "DpsSettings":
        if self.symmetric_key and self.group_key:
            raise ValueError("name symmetric_key or group_key, not both")
        _sound_key("symmetric_key", self.symmetric_key)
        _sound_key("group_key", self.group_key)
        return self


class AzureIotHubSettings(Settings):
    """What only an Azure IoT Hub target has."""

    connection_string: SecretStr | None = Field(
        None, description="connection string of the device or module; instead of hub, device_id, module_id and key"
    )
    hub: str | None = Field(
        None, description="host name of the hub, <name>.azure-devices.net; the endpoint's when absent"
    )
    device_id: str | None = Field(None, pattern=_ID, description="device id of the gateway")
    module_id: str | None = Field(
        None, pattern=_ID, description="module id, when the gateway is a module of the device"
    )
    shared_access_key: SecretStr | None = Field(
        None,
        description="symmetric key of the device or module, base64; without it cert_file and key_file are the identity",
    )
    dps: DpsSettings | None = Field(None, description="the Device Provisioning Service, instead of hub and device_id")
    transport: Literal["mqtt", "websocket"] = Field(
        "mqtt", description="mqtt: port 8883; websocket: port 443, where only HTTPS goes out"
    )
    token_lifetime: Duration = Field(
        3600.0,
        ge=5,
        le=30 * 86400,
        description="time for which a token is made; the connection is begun anew, with a new one, when four fifths are over",
    )
    qos: Literal[0, 1] = Field(1, description="quality of service; the hub has no QoS 2")
    readings_per_message: int = Field(
        1000, ge=1, description="readings in a message, at most, as a JSON array; a message has 256 KB at most"
    )
    properties: dict[str, str] = Field(
        {"gateway": "{gateway}", "shard": "{shard}", "source": "{source}"},
        description="application properties of each message, for routing at the hub; columns in braces. Readings that differ in "
        "them do not share a message",
    )
    messages_per_second: float | None = Field(
        None,
        gt=0,
        description="messages per second, at most; what the hub takes depends on its size (default: no bound)",
    )
    twin_update: bool = Field(
        False, description="whether the newest value of each tag is a reported property of the twin too"
    )
    twin_key: str = Field(
        "{path}", description="name of that property; columns in braces, `.`, `$` and spaces become `_`"
    )
    keepalive: Duration = Field(60.0, ge=1, le=1767, description="time after which the hub drops a silent connection")
    tls: TlsSettings | None = Field(
        None, description="more about TLS; its files go before those beside `endpoint`, with which it is merged"
    )

    @property
    def told(self) -> dict[str, str]:
        """What the connection string says, by the names of the settings.

        Raises:
            ValueError: It is none.
        """
        if self.connection_string is None:
            return {}
        found: dict[str, str] = {}
        for part in self.connection_string.get_secret_value().strip().strip(";").split(";"):
            name, divider, text = part.partition("=")
            if not divider or name not in _KEYS:
                allowed = ", ".join(_KEYS)
                raise ValueError(f"`connection_string` has a part that is none of {allowed}: is it a device's own?")
            found[_KEYS[name]] = text
        return found

    def part(self, name: str) -> str | None:
        """A part of the identity, as the settings or the connection string say."""
        said = getattr(self, name)
        if isinstance(said, SecretStr):
            return said.get_secret_value()
        return said or self.told.get(name)

    @model_validator(mode="after")
    def _sound(self) -> "AzureIotHubSettings":
        if self.told and (self.hub or self.device_id or self.module_id or self.shared_access_key or self.dps):
            raise ValueError(
                "connection_string says it all: leave out hub, device_id, module_id, shared_access_key and dps"
            )
        if self.dps is None and not self.part("device_id"):
            raise ValueError("say who the gateway is: connection_string, device_id, or dps")
        if self.dps is not None and (self.hub or self.device_id or self.module_id):
            raise ValueError("dps says hub and device_id: leave them and module_id out")
        key = self.part("shared_access_key")
        _sound_key("shared_access_key", SecretStr(key) if key else None)
        for text in (*self.properties.values(), self.twin_key):
            Template(text)
        return self


class AzureIotHubConfig(TlsTargetConfig):
    """Azure IoT Hub, over MQTT, as a device or a module of one."""

    type: Literal["azure-iot-hub"] = Field("azure-iot-hub", description="type of the target")
    endpoint: str | None = Field(
        None,
        description="where to connect, <name>.azure-devices.net or an IoT Edge gateway before it, if need be with a port; what "
        "the connection string or the provisioning service says when absent",
    )
    provider_config: AzureIotHubSettings = Field(description="who the gateway is, and what is sent")

    def hub(self, assigned: str | None = None) -> str:
        """Host name of the hub.

        Args:
            assigned: What the provisioning service said.
        """
        found = _ADDRESS.fullmatch(self.endpoint or "")
        return assigned or self.provider_config.part("hub") or (found["host"] if found else "")

    def url(self, assigned: str | None = None) -> str:
        """Where to connect."""
        where = self.endpoint or self.provider_config.told.get("gateway") or self.hub(assigned)
        if self.provider_config.transport == "websocket":
            return f"wss://{where}/$iothub/websocket"
        return f"mqtts://{where}"

    @model_validator(mode="after")
    def _reachable(self) -> "AzureIotHubConfig":
        own = self.provider_config
        if self.endpoint and not _ADDRESS.fullmatch(self.endpoint):
            raise ValueError("`endpoint` is a host, if need be with a port: <name>.azure-devices.net")
        if own.dps is None and not self.hub():
            raise ValueError("say which hub: endpoint: <name>.azure-devices.net")
        if self.tls_enabled is False:
            raise ValueError("Azure IoT Hub speaks TLS only: leave tls_enabled out")
        tls = self.tls_settings(own.tls)
        keys = [own.part("shared_access_key"), own.dps and (own.dps.symmetric_key or own.dps.group_key)]
        if not any(keys) and not (tls.cert_file and tls.key_file):
            raise ValueError(
                "the gateway has neither a key nor a certificate: set shared_access_key, or cert_file and key_file"
            )
        return self

    @override
    def writer(self, context: Context) -> Writer:
        """The writer of this hub."""
        from connectors.targets.azure_iot_hub.writer import AzureIotHubWriter

        return AzureIotHubWriter(self)

    @override
    def written(self, batch: pa.RecordBatch, context: Context) -> list[Written]:
        from connectors.targets.azure_iot_hub.writer import written

        return written(self, batch)
