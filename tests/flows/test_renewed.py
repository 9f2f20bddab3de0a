"""Which connections are made anew when files of certificates and keys change."""

from collections.abc import Collection
from pathlib import Path

import pytest

from config.models import Configuration, WebSection, WebTlsSection
from connectors.settings import TlsSettings
from connectors.sources.mqtt import MqttConfig
from connectors.sources.opcua import OpcUaConfig
from connectors.targets.mqtt import MqttTargetConfig
from flows.renewed import Renewed
from tests.certificates import Authority


class Gateway:
    def __init__(self, config: Configuration) -> None:
        self.config = config
        self.opened: list[tuple[str, str]] = []

    def reopen(self, sources: Collection[str], targets: Collection[str]) -> None:
        self.opened += [*(("source", name) for name in sources), *(("target", name) for name in targets)]

    def renew_port(self) -> None:
        self.opened.append(("gateway", "port"))


class World:
    """Source press and target copied with certificates of their own, source pump with the authority alone."""

    def __init__(self, folder: Path) -> None:
        self.press, self.copied = Authority(folder / "press"), Authority(folder / "copied")
        endpoint = "mqtts://127.0.0.1:1"
        self.own = folder / "data" / "sources" / "lathe" / "own" / "certificate.der"
        port = Authority(folder / "port")
        self.port = port
        self.gateway = Gateway(
            Configuration(
                "line1",
                folder / "data",
                web=WebSection(tls=WebTlsSection(cert_file=port.server_cert, key_file=port.server_key)),
                sources=(
                    MqttConfig(name="press", endpoint=endpoint, tls=TlsSettings.model_validate(self.press.client())),
                    MqttConfig(name="pump", endpoint=endpoint, tls=TlsSettings(ca_file=self.press.ca)),
                    MqttConfig(name="plain", endpoint="mqtt://127.0.0.1:1"),
                    OpcUaConfig(name="lathe", endpoint="opc.tcp://127.0.0.1:1", security_policy="auto"),
                ),
                targets={
                    "copied": MqttTargetConfig.model_validate(
                        {"endpoint": endpoint, **self.copied.client(), "provider_config": {}}
                    )
                },
            )
        )
        self.renewed = Renewed(self.gateway)
        self.looked()

    def looked(self, times: int = 1) -> list[tuple[str, str]]:
        self.gateway.opened.clear()
        for _ in range(times):
            self.renewed.look()
        return sorted(self.gateway.opened)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_nothing_is_done_while_nothing_changes(world: World) -> None:
    assert world.looked(3) == []


def test_who_uses_a_renewed_file_connects_anew_once_it_stands_still_and_nobody_else(world: World) -> None:
    world.copied.issue()
    assert world.looked() == []
    assert world.looked() == [("target", "copied")]
    assert world.looked(3) == []


def test_the_port_shows_its_renewed_certificate_and_nobody_connects_anew(world: World) -> None:
    world.port.issue()
    assert world.looked(2) == [("gateway", "port")]


def test_an_authority_that_two_use_is_renewed_for_both(world: World) -> None:
    world.press.issue()
    assert world.looked(2) == [("source", "press"), ("source", "pump")]


def test_a_certificate_without_its_key_disturbs_nobody_until_the_key_is_there(world: World) -> None:
    key = world.copied.client_key.read_bytes()
    world.copied.issue()
    new = world.copied.client_key.read_bytes()
    world.copied.client_key.write_bytes(key)
    assert world.looked(4) == []
    world.copied.client_key.write_bytes(new)
    assert world.looked(2) == [("target", "copied")]


@pytest.mark.parametrize("broken", [b"", b"half a certif"])
def test_a_file_that_is_no_certificate_or_is_gone_disturbs_nobody(world: World, broken: bytes) -> None:
    kept = world.press.ca.read_bytes()
    world.press.ca.write_bytes(broken)
    assert world.looked(3) == []
    world.press.ca.unlink()
    assert world.looked(3) == []
    world.press.ca.write_bytes(kept)
    assert world.looked(2) == [("source", "press"), ("source", "pump")]


def test_secrets_that_kubernetes_mounts_are_renewed_by_one_link(world: World, tmp_path: Path) -> None:
    volume, versions = world.copied.folder, [tmp_path / "..1", tmp_path / "..2"]
    for version in versions:
        Authority(version)
    for name in ("ca.pem", "client.pem", "client.key"):
        (volume / name).unlink()
        (volume / name).symlink_to(volume / "..data" / name)
    (volume / "..data").symlink_to(versions[0])
    assert world.looked(2) == [("target", "copied")]
    (volume / "..new").symlink_to(versions[1])
    (volume / "..new").replace(volume / "..data")
    assert world.looked(2) == [("target", "copied")]


def test_a_certificate_that_a_source_makes_for_itself_counts_when_it_is_renewed_later(world: World) -> None:
    world.own.parent.mkdir(parents=True)
    world.own.write_bytes(b"made at the first start")
    assert world.looked(3) == []
    world.own.write_bytes(b"renewed")
    assert world.looked(2) == [("source", "lathe")]
