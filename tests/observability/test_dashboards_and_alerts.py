"""Dashboards and alerts: every expression finds data in a running gateway, every metric is declared, every alert has a page.

The gateway reads the simulated plant, with a source that does not understand what it reads and one whose device is away, and
writes to a PostgreSQL, to the emulator of ZeroBus and to a target that is away.
"""

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from config.metrics_page import OF_THE_PROCESS, PROMISED
from connectors.targets.zerobus import ddl
from delivery.metrics import DECLARED
from simulator.zerobus.process import EmulatorProcess
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
    """What every alert looks at: its expression without what it compares with."""
    for rule in RULES:
        yield rule["alert"], COMPARED.sub("", rule["expr"])


def variables() -> Iterator[tuple[str, str]]:
    """What the variables of the dashboards choose from."""
    for name, board in BOARDS.items():
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
                assert found, variable
                yield f"{name}: ${variable['name']}", f"count by ({found[2]}) ({found[1]})"


def expressions() -> dict[str, str]:
    found = {}
    for number, (where, expression) in enumerate([*panels(), *alerts(), *variables()]):
        for name, value in VARIABLES.items():
            expression = expression.replace(name, value)
        assert "$" not in expression, where
        found[f"{number} {where}"] = expression
    return found


def named(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:bifrost|process)_\w+", re.sub(r'"[^"]*"', "", expression)))


# ---------------------------------------------------------------------- a running gateway


CONFIGURATION = """
gateway:
  name: watched
  directory: {folder}/data
  port: {port}
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


def until(holds: Callable[[], object], seconds: float, what: Callable[[], object]) -> None:
    ends, pause = time.monotonic() + seconds, threading.Event()
    while not holds():
        if time.monotonic() > ends:
            raise AssertionError(what())
        pause.wait(0.1)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrometheusServer]:
    """Scrapes a gateway in which something of everything happens."""
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
        text = CONFIGURATION.format(
            folder=folder, user=SUPERUSER, password=PASSWORD, postgres=postgres.port, zerobus=emulator.endpoint,
            catalog=emulator.unity_catalog_url, client_id=emulator.client_id, client_secret=emulator.client_secret, ca=Authority(folder / "certificates").ca, **ports,
        )  # fmt: skip
        (folder / "gateway.yaml").write_text(text)
        with (folder / "log").open("wb") as log:
            gateway = Server(
                [sys.executable, "-m", "bifrost", "run", "-c", str(folder / "gateway.yaml")], cwd=ROOT, stderr=log
            )
        stack.callback(gateway.wait)
        stack.callback(gateway.kill)
        server = stack.enter_context(PrometheusServer(folder, f"127.0.0.1:{ports['port']}", ALERTS))
        until(server.answers, 20, lambda: (folder / "prometheus.log").read_text())
        until(
            lambda: gateway.poll() is not None or server.query("bifrost_gateway_info"),
            30,
            lambda: (folder / "log").read_text(),
        )
        assert gateway.poll() is None, (folder / "log").read_text()
        yield server
        assert gateway.poll() is None, (folder / "log").read_text()


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
