"""A source comes, changes and goes by the API while another one reads 2,000 readings a second, which must not notice."""

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.connectors.sources.modbus import device
from tests.mosquitto_broker import Broker
from tests.ports import free_port
from tests.running_gateway import gateway, until
from tests.web.served import Client
from web.access.cli_token import cli_token

RATE = 2_000
TEXT = """\
gateway:
  name: line4
  directory: {folder}/data
  port: {port}
  cloud: {{connectors: {{files: {{type: file, format: jsonl, endpoint: {folder}/files}}}}}}
sources:
  - name: cell
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:{broker}
    subscriptions: [{{topic: plant/+/+, qos: 1, pattern: "plant/{{device_id}}/{{tag_name}}"}}]
"""


class Publisher(threading.Thread):
    """Publishes 1, 2, 3 … at a steady rate, until it is stopped."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._ends = threading.Event()
        self.sent = 0

    def run(self) -> None:
        client = paho.Client(CallbackAPIVersion.VERSION2)
        client.max_inflight_messages_set(10_000)
        client.connect("127.0.0.1", self._port)
        client.loop_start()
        began, last = time.monotonic(), None
        while not self._ends.wait(0.01):
            while self.sent < (time.monotonic() - began) * RATE:
                self.sent += 1
                last = client.publish("plant/press/count", str(self.sent), qos=1)
        if last is not None:
            last.wait_for_publish(30)
        client.disconnect()
        client.loop_stop()

    def stop(self) -> int:
        """How many were published in all."""
        self._ends.set()
        self.join(60)
        return self.sent


async def test_sources_that_change_by_the_api_disturb_no_other(tmp_path: Path) -> None:
    file, port = tmp_path / "gateway.yaml", free_port()
    took: list[float] = []

    async with Broker(tmp_path) as broker, device.running() as plc:
        file.write_text(TEXT.format(port=port, folder=tmp_path, broker=broker.port))
        press: dict[str, Any] = {
            "name": "press",
            "protocol": "modbus",
            "endpoint": plc.endpoint,
            "interval": "100ms",
            "registers": [{"name": "pressure", "address": 100, "type": "uint16"}],
        }
        with gateway(file):

            def ask(method: str, path: str, body: Any = None) -> Any:
                token = cli_token(tmp_path / "data")
                return Client(port, {"authorization": f"Bearer {token}"}).ask(method, path, body).json

            def state(name: str) -> dict[str, Any]:
                try:
                    return dict(ask("GET", "/api/status")["sources"].get(name, {}))
                except (OSError, KeyError):
                    return {}

            async def change(method: str, path: str, body: Any, effective: Any) -> None:
                began = time.monotonic()
                await asyncio.to_thread(ask, method, path, body)
                await until(effective, file)
                took.append(time.monotonic() - began)
                read = state("cell")["received"]
                await until(lambda: state("cell")["received"] > read + RATE / 2, file)

            await until(lambda: state("cell").get("state") == "connected", file)
            publisher = Publisher(broker.port)
            publisher.start()
            await until(lambda: state("cell").get("received", 0) > RATE, file)
            await change("POST", "/api/sources", press, lambda: state("press").get("received", 0) > 0)
            slower = {**press, "interval": "200ms", "registers": [{**press["registers"][0], "name": "force"}]}
            await change("PUT", "/api/sources/press", slower, lambda: state("press").get("received", 0) > 0)
            await change("DELETE", "/api/sources/press", None, lambda: not state("press"))
            sent = await asyncio.to_thread(publisher.stop)
            await until(lambda: state("cell").get("received", 0) >= sent, file)
            assert state("cell")["reconnections"] == 0
            await until(lambda: len(numbers(tmp_path / "files")) >= sent, file)
            ledger = await asyncio.to_thread(ask, "GET", "/api/ledger")
            assert ledger["unaccounted"] == 0
            assert ledger["sources"]["cell"]["journalled"] == sent
        assert sorted(numbers(tmp_path / "files")) == list(range(1, sent + 1))
    assert sent > 2 * RATE
    assert max(took) < 5


def numbers(folder: Path) -> list[int]:
    """What a target has of the source that is not touched; a line that is being written is left out."""
    lines = [line for file in sorted(folder.rglob("*.jsonl")) for line in file.read_text().splitlines()]
    return [int(line["value"]) for line in map(json.loads, filter(_whole, lines)) if line["source"] == "cell"]


def _whole(line: str) -> bool:
    return line.endswith("}")
