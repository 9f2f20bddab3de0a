"""The HTTP port's own certificate, replaced while it serves."""

import ssl
from pathlib import Path

from config.loader import load
from flows.process import Process
from flows.renewed import Renewed
from tests.certificates import Authority
from tests.delivery.stores import until
from tests.ports import free_port
from tests.web.served import write_config
from web.server import Port


def test_the_port_shows_a_renewed_certificate_without_a_restart(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "tls")
    more = f"web_ui: {{tls: {{cert_file: {authority.server_cert}, key_file: {authority.server_key}}}}}\n"
    process = Process(load(write_config(tmp_path, free_port(), more)))
    process.open_stores()
    process._port = port = Port(process)
    port.start()
    try:
        address = ("127.0.0.1", process.config.port or 0)

        def shown() -> str:
            try:
                return ssl.get_server_certificate(address, timeout=5)
            except OSError:
                return ""

        until(shown)
        assert shown() in authority.server_cert.read_text()
        renewed = Renewed(process)
        renewed.look()
        before = shown()
        authority.issue()
        renewed.look()
        assert shown() == before
        renewed.look()
        assert shown() != before
        assert shown() in authority.server_cert.read_text()
    finally:
        port.stop()
        process._port = None
        process.close()
