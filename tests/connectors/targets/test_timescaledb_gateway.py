"""A whole gateway before a real PostgreSQL: readings and reports in tables of their own, the pool in its status."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests import api
from tests.contract.writers.timescaledb import Database
from tests.mosquitto_broker import Broker
from tests.ports import free_port
from tests.postgres_server import PASSWORD, SUPERUSER

pytestmark = [pytest.mark.interop("PostgreSQL"), pytest.mark.timeout(180)]


def configuration(folder: Path, database: Database, broker: int, port: int) -> Path:
    def target(table: str) -> dict[str, object]:
        own = {"username": SUPERUSER, "password": PASSWORD, "table": table, "pool_size": 3}
        return {
            "type": "timescaledb",
            "endpoint": database.server.url(database.name),
            "retry_delay": "50ms",
            "provider_config": own,
        }

    path = folder / "gateway.yaml"
    written = {
        "gateway": {
            "name": "line1",
            "directory": str(folder / "data"),
            "port": port,
            "report_interval": "300ms",
            "cloud": {
                "default_connector": "history",
                "connectors": {"history": target("readings"), "reports": target("reports")},
            },
        },
        "sources": [{"name": "press", "protocol": "mqtt", "endpoint": f"mqtt://127.0.0.1:{broker}"}],
        "routing_rules": [{"name": "reports", "condition": "protocol = 'gateway'", "connectors": ["reports"]}],
    }
    path.write_text(yaml.safe_dump(written))
    return path


@contextmanager
def running(config: Path) -> "Iterator[subprocess.Popen[bytes]]":
    with (config.parent / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "bifrost", "run", "-c", config], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def status_table(config: Path) -> str:
    shown = subprocess.run(
        [sys.executable, "-m", "bifrost", "status", "-c", config],
        capture_output=True,
        text=True,
        env=os.environ | {"NO_COLOR": "1", "COLUMNS": "250"},
        timeout=60,
        check=True,
    )
    return shown.stdout


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.05)


async def test_readings_and_reports_have_a_table_each_and_an_outage_loses_none(tmp_path: Path) -> None:
    database, port = Database({}), free_port()

    def count(table: str, where: str = "true") -> int:
        there = database.server.run(f"SELECT to_regclass('{table}') IS NOT NULL", database=database.name)
        if not there[0][0]:
            return 0
        found = database.server.run(f"SELECT count(*) FROM {table} WHERE {where}", database=database.name)
        return int(found[0][0])

    def get(path: str) -> str:
        return api.get(port, path, tmp_path / "data")

    def connected() -> bool:
        try:
            status = json.loads(get("/api/status"))
        except OSError:
            return False
        return bool(status["sources"]["press"]["state"] == "connected" and status["targets"]["history"]["connected"])

    async with Broker(tmp_path) as broker:
        config = configuration(tmp_path, database, broker.port, port)
        with running(config) as gateway:
            await until(connected)
            await broker.publish_lines("press/temperature", [str(i) for i in range(200)])
            await until(lambda: count("readings") == 200)

            database.server.kill()
            await broker.publish_lines("press/temperature", [str(i) for i in range(200, 400)])
            database.server.start()
            await until(lambda: count("readings") == 400)

            pool = json.loads(await asyncio.to_thread(get, "/api/status"))["targets"]["history"]["pool"]
            assert (pool["size"], pool["waiting"]) == (3, 0)
            assert 1 <= pool["open"] <= 3
            metrics = await asyncio.to_thread(get, "/metrics")
            assert 'bifrost_cloud_pool_size{connector="history"} 3.0' in metrics
            shown = await asyncio.to_thread(status_table, config)
            (line,) = [line for line in shown.splitlines() if " history " in line]
            assert "0/3" in line

            newest = "(SELECT max(extract(epoch FROM received_time) * 1000000) FROM readings)"
            whole = f"path = 'bifrost/line1/press/history/complete_up_to' AND value_int > {newest}"
            await until(lambda: count("reports", whole))
            assert count("reports", "protocol <> 'gateway'") == 0
            assert count("readings", "protocol = 'gateway'") == 0
            gateway.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(gateway.wait, 60) == 0
    values = database.server.run(
        "SELECT value FROM readings WHERE value IS NOT NULL ORDER BY 1", database=database.name
    )
    assert [value for (value,) in values] == [float(i) for i in range(400)]
    delivered = "path = 'bifrost/line1/press/history/delivered' AND value_int >= 400"
    assert count("reports", delivered) >= 1
