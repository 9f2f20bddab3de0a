"""Dashboards and alerts: every expression finds data in a running gateway, every metric is declared, every alert has a page.

The gateway reads the simulated plant, with a source that does not understand what it reads and one whose device is away, and
writes to a PostgreSQL, to the emulator of ZeroBus and to a target that is away. Prometheus scrapes it; besides, it writes its
metrics there, as does a second gateway that has no port at all.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.metrics_page import OF_THE_PROCESS, PROMISED
from connectors.targets.zerobus import ddl
from delivery.metrics import DECLARED
from simulator.zerobus.process import EmulatorProcess
from tests.api import get
from tests.certificates import Authority
from tests.orphans import Server
from tests.ports import free_port
from tests.postgres_server import PASSWORD, SUPERUSER, PostgresServer
from tests.prometheus_server import PrometheusServer, program

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "k8s" / "observability"
ALERTS = FOLDER / "alerts.yaml"
BOARDS = {file.stem: json.loads(file.read_text()) for file in sorted((FOLDER / "dashboards").glob("*.json"))}
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]

VARIABLES = {
    "$__rate_interval": "4s",
    "$__range": "1m",
    "$instance": ".*",
    "$source": ".*",
    "$target": ".*",
    "$gateway": ".*",
}
COMPARED = re.compile(r" (==|!=|>=|<=|>|<) -?[\d.]+")


def panels() -> Iterator[tuple[str, str]]:
    """Every expression of every panel, with where it stands."""
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", target["expr"]


def alerts() -> Iterator[tuple[str, str]]:
    """What every alert looks at: its expression without what it compares with, or what is missing from."""
    for rule in RULES:
        yield rule["alert"], COMPARED.sub("", rule["expr"].partition(" unless ")[0])


def variables() -> Iterator[tuple[str, str]]:
    """What the variables of the dashboards choose from."""
    for name, board in BOARDS.items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert found, variable
                yield f"{name}: ${variable['name']}", f"count by ({found[2]}) ({found[1]})"


def filled(where: str, expression: str, **other: str) -> str:
    """An expression with its variables replaced."""
    for name, value in (VARIABLES | {f"${name}": value for name, value in other.items()}).items():
        expression = expression.replace(name, value)
    assert "$" not in expression, where
    return expression


def expressions() -> dict[str, str]:
    found = enumerate([*panels(), *alerts(), *variables()])
    return {f"{number} {where}": filled(where, expression) for number, (where, expression) in found}


def named(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:bifrost|process)_\w+", re.sub(r'"[^"]*"', "", expression)))


# ---------------------------------------------------------------------- a running gateway


CONFIGURATION = """
gateway:
  name: watched
  directory: {folder}/data
  port: {port}
  endurance: 100TB
  telemetry:
    interval: 1s
    labels: {{site: plant1, area: pressing}}
    remote_write: {{endpoint: "{takes}"}}
  cloud:
    default_connector: none
    connectors:
      tables:
        type: timescaledb
        endpoint: postgresql://127.0.0.1:{postgres}/postgres
        provider_config: {{username: {user}, password: {password}, hypertable: never}}
      databricks:
        type: zerobus
        endpoint: {zerobus}
        timeout: 10s
        provider_config:
          table: main.plant.readings
          workspace_url: {catalog}
          client_id: {client_id}
          client_secret: {client_secret}
      away:
        type: influxdb
        endpoint: http://127.0.0.1:{nobody}
        buffer: {{quota_readings: 500}}
        provider_config: {{version: 1.x, database: readings}}
routing_rules:
  - {{name: some, condition: "source <> 'modbus1'", connectors: [tables, databricks, away]}}
sources:
  - {{name: opcua1, protocol: opcua, endpoint: "opc.tcp://127.0.0.1:{opcua}", report: {{deadband: 0.5}}}}
  - name: sparkplug1
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:{mqtt}
    client_id: watched-sparkplug
    subscriptions: [{{topic: "spBv1.0/sparkplug1/#", format: sparkplug}}]
  - name: wrong
    protocol: mqtt
    endpoint: mqtt://127.0.0.1:{mqtt}
    client_id: watched-wrong
    subscriptions: [{{topic: "plant/mqtt1/#", format: msgpack}}]
  - name: modbus1
    protocol: modbus
    endpoint: tcp://127.0.0.1:{modbus}
    interval: 500ms
    registers: [{{name: steam_pressure, address: 0, type: float32}}]
  - name: away
    protocol: modbus
    endpoint: tls://127.0.0.1:{nobody}
    tls: {{ca_file: {ca}}}
    registers: [{{name: level, address: 0}}]
"""


SECOND = """
gateway:
  name: second
  directory: {folder}/second
  telemetry:
    interval: 1s
    labels: {{site: plant2, area: mixing}}
    remote_write: {{endpoint: "{takes}"}}
  cloud:
    connectors:
      archive: {{type: file, endpoint: "{folder}/archive"}}
web_ui: {{enabled: false}}
sources:
  - name: modbus1
    protocol: modbus
    endpoint: tcp://127.0.0.1:{modbus}
    interval: 500ms
    registers: [{{name: steam_pressure, address: 0, type: float32}}]
"""


@dataclass(frozen=True)
class Watched:
    """The gateway that is scraped and writes.

    Attributes:
        server: Where its metrics are.
        port: Its HTTP port.
        directory: Its directory.
    """

    server: PrometheusServer
    port: int
    directory: Path


def until(holds: Callable[[], object], seconds: float, what: Callable[[], object]) -> None:
    ends, pause = time.monotonic() + seconds, threading.Event()
    while not holds():
        if time.monotonic() > ends:
            raise AssertionError(what())
        pause.wait(0.1)


@pytest.fixture(scope="module")
def prometheus(watched: Watched) -> PrometheusServer:
    """Knows the metrics of a gateway in which something of everything happens."""
    return watched.server


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A gateway in which something of everything happens, and a second one that only writes."""
    folder = tmp_path_factory.mktemp("watched")
    ports = {name: free_port() for name in ("port", "opcua", "mqtt", "modbus", "nobody")}
    with ExitStack() as stack:
        listen = ",".join(f"{name}={ports[name]}" for name in ("opcua", "mqtt", "modbus"))
        plant = Server(
            [sys.executable, "-m", "bifrost", "sim", "all", "--tags", "40", "--rate", "200", "--ports", listen],
            cwd=ROOT, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(plant.communicate)
        stack.callback(plant.kill)
        postgres = PostgresServer()
        stack.callback(postgres.end)
        postgres.start()
        table = folder / "readings.sql"
        table.write_text(ddl("main.plant.readings").split(";\n")[0] + ";")
        emulator = stack.enter_context(
            EmulatorProcess(folder / "zerobus", {"main.plant.readings": table}, options=["--commit-seconds=0.2"])
        )
        for line in plant.stderr:
            if line.startswith("in sum"):
                break
        server = PrometheusServer(folder, f"127.0.0.1:{ports['port']}", ALERTS)
        text = CONFIGURATION.format(
            folder=folder, user=SUPERUSER, password=PASSWORD, postgres=postgres.port, zerobus=emulator.endpoint,
            catalog=emulator.unity_catalog_url, client_id=emulator.client_id, client_secret=emulator.client_secret, ca=Authority(folder / "certificates").ca, takes=server.takes, **ports,
        )  # fmt: skip
        gateways = {}
        for name, content in (("gateway", text), ("second", SECOND.format(folder=folder, takes=server.takes, **ports))):
            (folder / f"{name}.yaml").write_text(content)
            with (folder / f"{name}.log").open("wb") as log:
                gateways[name] = Server(
                    [sys.executable, "-m", "bifrost", "run", "-c", str(folder / f"{name}.yaml")],
                    cwd=ROOT,
                    stderr=log,
                    env=os.environ | {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"},
                )
            stack.callback(gateways[name].wait)
            stack.callback(gateways[name].kill)
        stack.enter_context(server)

        def said() -> str:
            told = [(folder / f"{name}.log").read_text() for name in gateways]
            return "\n".join([*told, str(server.query("bifrost_gateway_info"))])

        def ended() -> bool:
            return any(gateway.poll() is not None for gateway in gateways.values())

        until(server.answers, 20, lambda: server.said)
        until(lambda: ended() or len(server.query('bifrost_gateway_info{job="bifrost"}')) == 3, 60, said)
        assert not ended(), said()
        yield Watched(server, ports["port"], folder / "data")
        assert not ended(), said()


@pytest.mark.timeout(180)
def test_every_expression_of_every_panel_alert_and_variable_finds_data(prometheus: PrometheusServer) -> None:
    asked = expressions()
    assert len(asked) > 120

    def empty() -> dict[str, str]:
        for where, expression in list(asked.items()):
            if prometheus.query(expression):
                del asked[where]
        return asked

    until(lambda: not empty(), 60, lambda: json.dumps(empty(), indent=1))


@pytest.mark.timeout(180)
def test_the_server_evaluates_every_alert_and_fires_those_that_are_meant(prometheus: PrometheusServer) -> None:
    def evaluated() -> dict[str, dict[str, Any]]:
        return {rule["name"]: rule for rule in prometheus.rules() if rule["health"] == "ok"}

    def firing(rule: str, label: str) -> set[str]:
        return {alert["labels"][label] for alert in evaluated()[rule]["alerts"]}

    until(lambda: len(evaluated()) == len(RULES), 60, prometheus.rules)
    until(lambda: firing("BifrostSourceDown", "source") == {"away"}, 60, prometheus.rules)
    until(lambda: firing("BifrostTargetRefuses", "connector") == {"away"}, 60, prometheus.rules)
    found = evaluated()
    assert [
        name for name in ("BifrostUnaccounted", "BifrostGatewayDown", "BifrostStoreDamaged") if found[name]["alerts"]
    ] == []


# ---------------------------------------------------------------------- the fleet


@pytest.mark.timeout(180)
def test_the_fleet_shows_every_gateway_that_writes_in_every_column(prometheus: PrometheusServer) -> None:
    table = next(panel for panel in BOARDS["fleet"]["panels"] if panel["type"] == "table")
    asked = {target["refId"]: filled("fleet", target["expr"], instance="watched|second") for target in table["targets"]}

    def missing() -> dict[str, set[str]]:
        shown = {key: {one["metric"]["instance"] for one in prometheus.query(query)} for key, query in asked.items()}
        return {key: {"watched", "second"} - names for key, names in shown.items() if names != {"watched", "second"}}

    until(lambda: not missing(), 60, missing)
    seen = {one["metric"]["instance"]: one for one in prometheus.query(asked["A"])}
    assert {name: (one["metric"]["site"], one["metric"]["area"]) for name, one in seen.items()} == {
        "watched": ("plant1", "pressing"), "second": ("plant2", "mixing"),
    }  # fmt: skip
    assert all(one["metric"]["version"] for one in seen.values())
    titles = table["transformations"][1]["options"]["renameByName"]

    def figures() -> dict[tuple[str, str], float]:
        return {
            (titles[f"Value #{key}"], one["metric"]["instance"]): float(one["value"][1])
            for key, query in asked.items()
            for one in prometheus.query(query)
        }

    until(lambda: figures()["sources ok", "second"] == 1 and figures()["state", "second"] == 0, 30, figures)
    until(lambda: figures()["targets ok", "watched"] == pytest.approx(2 / 3), 30, figures)
    found = figures()
    assert found["sources ok", "watched"] == 0.8
    assert found["state", "watched"] == 1
    assert found["readings/s", "second"] > 0
    assert found["dead letters", "watched"] > 0
    assert found["unaccounted", "watched"] == found["unaccounted", "second"] == 0
    assert abs(found["silent for", "second"]) < 65  # the steps of a minute of the query


# What `bifrost status --json` says, and the metric that says it too; or in words why none does.
STATUS = {
    "gateway": "bifrost_gateway_info",
    "status": "bifrost_gateway_state",
    "uptime": "process_start_time_seconds",
    "disk.written_bytes": "bifrost_disk_written_bytes",
    "disk.years": "bifrost_disk_years_left",
    "sources.*.protocol": "the configuration says it",
    "sources.*.state": "bifrost_source_connected",
    "sources.*.detail": "words, which the log has",
    "sources.*.received": "bifrost_bridge_records_received_total",
    "sources.*.reconnections": "bifrost_bridge_reconnections_total",
    "sources.*.last_reading": "bifrost_source_last_reading_timestamp_seconds",
    "sources.*.tags": "bifrost_source_tags",
    "sources.*.gaps": "bifrost_source_gaps_total",
    "sources.*.counts.*": "bifrost_source_oddities",
    "sources.*.measures.*": "bifrost_source_measure",
    "sources.*.last_gap": "bifrost_source_last_gap_timestamp_seconds",
    "targets.*.connected": "bifrost_cloud_connected",
    "targets.*.breaker": "bifrost_cloud_circuit_breaker_state",
    "targets.*.delivered": "bifrost_cloud_data_points_sent_total",
    "targets.*.stored": "bifrost_cloud_buffer_size",
    "targets.*.spool_bytes": "bifrost_spool_bytes",
    "targets.*.quota_bytes": "bifrost_spool_quota_bytes",
    "targets.*.full_in": "bifrost_spool_full_seconds",
    "targets.*.oldest_age": "bifrost_spool_oldest_seconds",
    "targets.*.discarded.*": "bifrost_spool_discarded_records",
    "targets.*.alarm": "bifrost_spool_alarm",
    "targets.*.compression": "the configuration says it",
    "targets.*.in_flight": "bifrost_cloud_in_flight",
    "targets.*.pool": "a target without a pool",
    "targets.*.pool.size": "bifrost_cloud_pool_size",
    "targets.*.pool.open": "bifrost_cloud_pool_open",
    "targets.*.pool.in_use": "bifrost_cloud_pool_in_use",
    "targets.*.pool.waiting": "bifrost_cloud_pool_waiting",
    "targets.*.success_rate": "bifrost_cloud_success_ratio",
    "targets.*.response_time.p50": "bifrost_cloud_response_time_seconds_bucket",
    "targets.*.response_time.p99": "bifrost_cloud_response_time_seconds_bucket",
    "targets.*.last_success": "bifrost_cloud_last_success_timestamp_seconds",
    "targets.*.last_error": "words, which the log has",
    "targets.*.error_class": "the newest of the classes in errors",
    "targets.*.errors.*": "bifrost_cloud_errors",
    "certificates": "bifrost_certificate_days_left",
    "dead_letters.stored": "bifrost_backpressure_dlq_messages",
    "dead_letters.bytes": "bifrost_dead_letters_bytes",
    "dead_letters.quota_bytes": "bifrost_dead_letters_quota_bytes",
    "dead_letters.discarded": "bifrost_dead_letters_discarded_records",
    "dead_letters.alarm": "bifrost_dead_letters_alarm",
    "kept.*.readings": "bifrost_spool_kept_records",
    "kept.*.bytes": "bifrost_spool_kept_bytes",
}
_BY_NAME = ("sources", "targets", "counts", "measures", "discarded", "errors", "kept")
_STEADY = {"sources.*.state": {"connected": 1.0}, "targets.*.quota_bytes": {}, "dead_letters.quota_bytes": {}}


def fields(value: Any, place: str = "", name: str = "") -> Iterator[tuple[str, str, Any]]:
    """Every field of a status: its place, the source or target that it is about, and what it says."""
    if not isinstance(value, dict) or (not value and place in STATUS):
        yield place, name, value
        return
    for key, held in value.items():
        by_name = place.rpartition(".")[2] in _BY_NAME
        below = f"{place}.*" if by_name else f"{place}.{key}".lstrip(".")
        yield from fields(held, below, key if place in ("sources", "targets") else name)


@pytest.mark.timeout(180)
def test_what_the_status_says_every_gateway_writes_as_metrics(watched: Watched) -> None:
    until(lambda: watched.server.query('bifrost_source_tags{instance="watched",source="opcua1"} > 0'), 30, lambda: "")
    wanted = {metric for metric in STATUS.values() if metric.startswith("bifrost_") and "kept" not in metric}
    found: list[tuple[str, str, Any]] = []

    def not_said() -> set[str]:
        found[:] = fields(json.loads(get(watched.port, "/api/status", watched.directory)))
        return wanted - {STATUS.get(place, "") for place, _, _ in found}

    until(lambda: not not_said(), 60, lambda: str(not_said()))
    assert {place for place, _, _ in found} - STATUS.keys() == set(), "no metric, and no reason why not"
    never = {"targets.*.success_rate", "targets.*.response_time.p50", "targets.*.response_time.p99"}

    def missing() -> list[str]:
        wrong = []
        for place, name, value in found:
            metric = STATUS[place]
            if " " in metric or (place in never and value is None):
                continue
            label = {"sources": f'source="{name}"', "targets": f'connector="{name}"'}.get(place.partition(".")[0], "")
            written = watched.server.query(f'{metric}{{instance="watched",{label}}}')
            if not written:
                wrong.append(f"{place} of {name}: {metric}")
            elif place in _STEADY:
                expected = _STEADY[place].get(value, 0.0 if isinstance(value, str) else value)
                wrong += [f"{place} of {name}"] * (float(written[0]["value"][1]) != expected)
        return wrong

    until(lambda: not missing(), 60, missing)


# ---------------------------------------------------------------------- the files


@pytest.mark.parametrize("command", [("check", "rules", "alerts.yaml"), ("test", "rules", "alerts.test.yaml")])
def test_promtool_is_content(command: tuple[str, ...]) -> None:
    done = subprocess.run(
        [program("promtool"), *command], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_dashboards_are_as_the_script_writes_them() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "dashboards.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_every_metric_that_is_shown_or_alerted_on_is_declared() -> None:
    declared = set(OF_THE_PROCESS)
    for one in DECLARED:
        declared |= (
            {one.name} if one.kind != "histogram" else {f"{one.name}{end}" for end in ("_bucket", "_sum", "_count")}
        )
    used = set().union(*(named(expression) for _, expression in [*panels(), *alerts(), *variables()]))
    assert used - declared == set()
    for one in DECLARED:
        shown = {one.name, f"{one.name}_bucket"} & used
        assert shown, f"{one.name} is on no dashboard and in no alert"


def test_no_metric_has_a_label_that_grows_with_the_plant() -> None:
    assert {label for one in DECLARED for label in one.labels} <= {
        "source", "connector", "reason", "result", "state", "what", "gateway", "version", "owner", "kind",
    }  # fmt: skip


def test_the_names_that_were_promised_are_declared() -> None:
    assert set(PROMISED) <= {one.name for one in DECLARED}


def test_every_alert_says_what_is_wrong_and_where_to_read_on() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    anchors = {
        re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
        for title in re.findall(r"^#+ (.*)", page, re.MULTILINE)
    }
    for rule in RULES:
        said = rule["annotations"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(said) == {"summary", "description", "runbook_url"}, rule["alert"]
        assert "$labels" in said["summary"] + said["description"], rule["alert"]
        file, _, anchor = said["runbook_url"].partition("#")
        assert file == "docs/troubleshooting.md"
        assert anchor in anchors, f"{rule['alert']}: no heading gives #{anchor}"


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_fits_and_says_what_each_panel_shows(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == f"bifrost-{name}"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["description"]
        if panel["type"] != "state-timeline" and panel["type"] != "table":
            assert panel["fieldConfig"]["defaults"]["unit"]
