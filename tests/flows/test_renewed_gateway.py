"""A gateway whose certificates are replaced while it runs, before a real mosquitto that takes the new ones only."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests import api
from tests.certificates import Authority
from tests.mosquitto_broker import Broker
from tests.ports import free_port

pytestmark = [pytest.mark.interop("mosquitto"), pytest.mark.timeout(120)]


def configuration(folder: Path, authority: Authority, tls: int, plain: int, port: int) -> Path:
    def source(name: str, endpoint: str, **more: object) -> dict[str, object]:
        return {
            "name": name,
            "protocol": "mqtt",
            "endpoint": endpoint,
            "subscriptions": [{"topic": f"{name}/#", "qos": 1}],
            **more,
        }

    def file(name: str) -> dict[str, object]:
        return {"type": "file", "endpoint": str(folder / name), "provider_config": {}, "format": "jsonl"}

    secured, client = f"mqtts://localhost:{tls}", authority.client()
    targets = {
        "copied": {
            "type": "mqtt",
            "endpoint": secured,
            "retry_delay": "50ms",
            "provider_config": {"tls": client, "data_topic": "copied/{source}"},
        },
        "held": {k: v for k, v in file("held").items() if k != "provider_config"},
    }
    written = {
        "gateway": {
            "name": "line1",
            "directory": str(folder / "data"),
            "port": port,
            "cloud": {"default_connector": "none", "connectors": targets},
        },
        "sources": [source("press", secured, tls=client), source("pump", f"mqtt://localhost:{plain}")],
        "routing_rules": [{"name": "all", "condition": "value >= 0", "connectors": ["copied", "held"]}],
    }
    path = folder / "gateway.yaml"
    path.write_text(yaml.safe_dump(written))
    return path


@contextmanager
def running(config: Path) -> "Iterator[Path]":
    log = config.parent / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "bifrost", "run", "-c", config], stdout=out, stderr=out)
    try:
        yield log
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


async def until(condition: Callable[[], object], what: Callable[[], object], seconds: float = 30.0) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(what()) from None


def take(authority: Authority, into: Authority) -> None:
    """Put an authority's files into another's place."""
    for name in ("ca", "server_cert", "server_key", "client_cert", "client_key"):
        getattr(into, name).write_bytes(getattr(authority, name).read_bytes())


def login(broker: int, cert: Path, key: Path, ca: Path) -> bool:
    """Whether the broker takes a client with these files."""
    command = ["mosquitto_pub", "-h", "localhost", "-p", str(broker), "-t", "x", "-n", "--cafile", str(ca)]
    return not subprocess.run([*command, "--cert", cert, "--key", key], capture_output=True, timeout=20).returncode


async def test_a_renewed_authority_and_client_certificate_count_without_a_restart_and_nothing_is_lost(
    tmp_path: Path,
) -> None:
    first, second = Authority(tmp_path / "first"), Authority(tmp_path / "second")
    authority, trusts, old = Authority(tmp_path / "tls"), tmp_path / "trusts.pem", tmp_path / "old"
    take(first, authority)
    trusts.write_bytes(first.ca.read_bytes() + second.ca.read_bytes())
    port, plain = free_port(), free_port()
    tls = [f"cafile {trusts}" if line.startswith("cafile") else line for line in authority.mosquitto()]
    broker = Broker(tmp_path, [*tls, "allow_anonymous true", f"listener {plain} 127.0.0.1", "allow_anonymous true"])
    written = (tmp_path / "mosquitto.conf").read_text()
    (tmp_path / "mosquitto.conf").write_text(f"per_listener_settings true\n{written}")
    config = configuration(tmp_path, authority, broker.port, plain, port)

    def get(path: str) -> str:
        return api.get(port, path, tmp_path / "data")

    def sources() -> dict[str, dict[str, object]]:
        try:
            found: dict[str, dict[str, object]] = json.loads(get("/health"))["sources"]
        except OSError:
            return {}
        return found

    def held() -> list[int]:
        found = [line for file in (tmp_path / "held").glob("*.jsonl") for line in file.read_text().splitlines()]
        return sorted(int(json.loads(line)["value"]) for line in found)

    def delivered() -> int:
        sent = [
            line for line in get("/metrics").splitlines() if line.startswith("bifrost_cloud_data_points_sent_total{")
        ]
        return min(int(float(line.split()[-1])) for line in sent) if len(sent) == 2 else 0

    async with broker:

        async def publish(first: int, end: int) -> None:
            process = await asyncio.create_subprocess_exec(
                "mosquitto_pub", "-h", "localhost", "-p", str(plain), "-q", "1", "-t", "press/n", "-l",
                stdin=asyncio.subprocess.PIPE,
            )  # fmt: skip
            await process.communicate("".join(f"{number}\n" for number in range(first, end)).encode())
            assert process.returncode == 0

        with running(config) as log:
            await until(
                lambda: [s["state"] for s in sources().values()] == ["connected"] * 2, lambda: log.read_text()[-3000:]
            )
            await publish(0, 200)
            await until(lambda: delivered() == 200, lambda: log.read_text()[-3000:])

            kept = authority.client_cert.read_bytes()
            authority.client_cert.write_bytes(authority.stranger("other")[0].read_bytes())  # not that of the key
            await until(
                lambda: "cannot be used, the connection stays" in log.read_text(), lambda: log.read_text()[-3000:]
            )
            assert [source["reconnections"] for source in sources().values()] == [0, 0]
            authority.client_cert.write_bytes(kept)

            shutil.copytree(authority.folder, old)
            take(second, authority)
            assert broker._process is not None
            os.kill(
                broker._process.pid, signal.SIGHUP
            )  # it shows its new certificate; whom it trusts it reads at its start
            await publish(200, 400)
            await until(lambda: sources()["press"]["reconnections"] == 1, lambda: log.read_text()[-3000:])
            await publish(400, 600)
            await until(lambda: held() == list(range(600)) and delivered() >= 600, lambda: log.read_text()[-3000:])

            found = sources()
            assert [found[name]["reconnections"] for name in ("press", "pump")] == [1, 0]
            assert found["press"]["state"] == "connected"
            metrics = get("/metrics").splitlines()
            tried = {
                line.split()[0]: float(line.split()[1]) for line in metrics if "connection_attempts_total{" in line
            }
            assert {name: times for name, times in tried.items() if times} == {
                'bifrost_cloud_connection_attempts_total{connector="copied",result="ok"}': 2,
                'bifrost_cloud_connection_attempts_total{connector="held",result="ok"}': 1,
            }
            ends = {line.split()[0] for line in metrics if line.startswith("bifrost_certificate_days_left")}
            assert ends == {
                f'bifrost_certificate_days_left{{kind="{kind}",owner="{owner}"}}'
                for kind in ("own", "ca")
                for owner in ("press", "copied")
            }
            assert json.loads(get("/api/ledger"))["unaccounted"] == 0
            assert "target failed" not in log.read_text()
            assert "source failed" not in log.read_text()

            await broker.stop()
            trusts.write_bytes(second.ca.read_bytes())
            await broker.start()
            assert not login(broker.port, old / "client.pem", old / "client.key", authority.ca)
            assert login(broker.port, authority.client_cert, authority.client_key, authority.ca)
            await until(
                lambda: [s["state"] for s in sources().values()] == ["connected"] * 2, lambda: log.read_text()[-3000:]
            )
            await publish(600, 800)
            await until(lambda: held() == list(range(800)) and delivered() >= 800, lambda: log.read_text()[-3000:])
            assert json.loads(get("/api/ledger"))["unaccounted"] == 0
