"""InfluxDB: readings per second from a spool into a real server, and the server's own limit in the same run.

The limit is what the server takes when the same lines, made before the clock starts, are posted to it by as many connections
and nothing else is done. ``python -m benchmarks.targets_influxdb [ROWS]`` measures InfluxDB 1.x, and 2.x where
`tests/counterparts/influx2/install.sh` has built it; the last line it prints is the answer in JSON.
"""

import http.client
import json
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any, Final

from benchmarks.targets import WARM, batches, deliver
from connectors.targets.influxdb import InfluxConfig
from connectors.targets.influxdb.server import write_target
from connectors.wire.line_protocol import LineEncoder
from normalization.reading import TagTable
from tests.influx_server import BUILT, ORGANIZATION, PASSWORD, TOKEN, USER, Influx1, Influx2, LineServer

ROWS: Final = 1_000_000
_BATCH: Final = 10_000


def _config(server: LineServer, **own: Any) -> InfluxConfig:
    versions = {
        Influx1: {"version": "1.x", "database": "bench", "username": USER, "password": PASSWORD},
        Influx2: {"version": "2.x", "organization": ORGANIZATION, "bucket": "bench", "token": TOKEN},
    }
    settings = versions[type(server)] | own
    return InfluxConfig.model_validate({"name": "influxdb", "endpoint": server.url, "provider_config": settings})


def _count(server: LineServer, database: str) -> int:
    """Readings that the server has."""
    found = server.query('SELECT count("sequence") FROM "reading"', db=database)
    return int(found[0]["values"][0][1]) if found else 0


def _bodies(config: InfluxConfig, first: int, rows: int) -> list[bytes]:
    """Requests of readings numbered from `first`."""
    encoder, bodies = LineEncoder(config.provider_config.line_format), []
    for batch in batches(TagTable(), first, rows, _BATCH):
        packer = zlib.compressobj(1, zlib.DEFLATED, 31)
        bodies.append(packer.compress(encoder.encode(batch).payload) + packer.flush())
    return bodies


def limit(server: LineServer, config: InfluxConfig, rows: int) -> float:
    """Readings per second that the server takes from clients that do nothing but send."""
    bodies, lock = _bodies(config, 10**9, rows), threading.Lock()

    def send() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port)
        while True:
            with lock:
                if not bodies:
                    break
                body = bodies.pop()
            headers = {**server.headers, "Content-Encoding": "gzip"}
            connection.request("POST", write_target(config), body, headers)
            answer = connection.getresponse()
            if answer.status != 204:
                raise RuntimeError(answer.read())
            answer.read()
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(config.provider_config.pool_size)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return rows / (time.monotonic() - began)


def measure(server: LineServer, rows: int) -> dict[str, Any]:
    """One run against one server."""
    config = _config(server)
    cpu = server.cpu_seconds()
    with tempfile.TemporaryDirectory(prefix="bifrost-bench-") as directory:
        found = deliver(config, rows, Path(directory))
    cpu = server.cpu_seconds() - cpu
    there = _count(server, "bench")
    if there != rows + WARM:
        raise RuntimeError(f"{rows + WARM} readings were acknowledged, the server has {there}")
    found["rows_per_cpu_s_of_the_server"] = round((rows + WARM) / cpu)
    return found | {"server_takes_rows_per_s": round(limit(server, config, rows // 2))}


def main() -> None:
    """Measure each server that there is, in this process."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    found: dict[str, Any] = {}
    for name, kind in {"influxdb 1.x": Influx1, "influxdb 2.x": Influx2}.items():
        if kind is Influx2 and not BUILT.exists():
            continue
        server = kind()
        try:
            found[name] = measure(server, rows)
        finally:
            server.end()
        print(f"{name}: {found[name]['rows_per_s']:,} readings/s of {found[name]['server_takes_rows_per_s']:,}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
