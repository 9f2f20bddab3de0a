"""What can be told about discovery."""

from typing import Annotated, Final, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from connectors.fields import Duration, Settings
from discovery.guard import network_of

Port = Annotated[int, Field(ge=1, le=65535)]
MOST_ADDRESSES: Final = 1024
"""What one scan covers at most: as many as a /22 has."""


class PortSettings(Settings):
    """Where servers are looked for on each host; a protocol with an empty list is not looked for."""

    opcua: list[Port] = Field([4840], max_length=16, description="ports of OPC UA servers")
    mqtt: list[Port] = Field([1883], max_length=16, description="ports of MQTT brokers")
    mqtts: list[Port] = Field([8883], max_length=16, description="ports of MQTT brokers with TLS")
    modbus: list[Port] = Field([502], max_length=16, description="ports of Modbus TCP devices")

    @model_validator(mode="after")
    def _once(self) -> "PortSettings":
        ports = [*self.opcua, *self.mqtt, *self.mqtts, *self.modbus]
        twice = sorted({port for port in ports if ports.count(port) > 1})
        if twice:
            msg = f"port {twice[0]} stands here twice: a scan connects to each port of a host once"
            raise ValueError(msg)
        return self


class NetworkSection(Settings):
    """Where to look."""

    subnets: list[str] = Field(
        [],
        description="networks that may be scanned, such as 192.168.1.0/24; names are not taken. One scan covers 1024 addresses "
        "(a /22) at most. This machine itself is scanned only where 127.0.0.1/32 or ::1/128 is listed",
    )
    ports: PortSettings = Field(
        PortSettings.model_validate({}), description="where servers are looked for on each host"
    )
    timeout: Duration = Field(
        1.0, gt=0, le=10, description="time for a connection and for each answer, in seconds or as 500ms"
    )
    max_connections_per_second: float = Field(
        10.0, gt=0, le=100, description="new connections per second, on all hosts together; a host has one at a time"
    )

    @field_validator("subnets")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            network_of(text)
        return value


class MqttScanSettings(Settings):
    """What MQTT brokers are asked."""

    version: Annotated[Literal["3.1.1", "5"], BeforeValidator(str)] = Field(
        "3.1.1",
        description="MQTT version that is spoken to them, because there is one connection to try with: every broker takes 3.1.1; "
        "one that takes 5 tells more of itself",
    )
    sparkplug_wait: Duration = Field(
        2.0, le=2, description="time that a broker is listened to for Sparkplug B, nothing is published; 0: it is not"
    )


class ModbusScanSettings(Settings):
    """What Modbus devices are asked."""

    units: list[Annotated[int, Field(ge=1, le=255)]] = Field(
        [255, 1],
        max_length=16,
        description="unit ids that are asked who they are (function code 43/14), one after the other on one connection; 255 is the "
        "device itself. Each that is silent costs a `timeout`, on the serial line behind a gateway too",
    )
    register_address: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="holding register that is read (function code 3, one register) of a unit which does not answer that; none "
        "when absent, because reading can have an effect in an old device",
    )


class DiscoverySection(Settings):
    """Discovery of devices: networks are scanned for servers of OPC UA, MQTT and Modbus. Nothing is ever written."""

    enabled: bool = Field(False, description="whether networks may be scanned")
    network: NetworkSection = Field(NetworkSection.model_validate({}), description="where to look")
    interval: Duration | None = Field(
        None, ge=60, description="time between two scans of all subnets, as 24h; scanned only on demand when absent"
    )
    mqtt: MqttScanSettings = Field(MqttScanSettings.model_validate({}), description="what MQTT brokers are asked")
    modbus: ModbusScanSettings = Field(
        ModbusScanSettings.model_validate({}), description="what Modbus devices are asked"
    )

    @model_validator(mode="after")
    def _bounded(self) -> "DiscoverySection":
        count = sum(network_of(text).num_addresses for text in self.network.subnets)
        if self.interval is not None and count > MOST_ADDRESSES:
            msg = (
                f"`subnets` have {count} addresses, and a scan by `interval` covers all of them: {MOST_ADDRESSES} at most; "
                "list smaller networks, or scan parts on demand"
            )
            raise ValueError(msg)
        return self
