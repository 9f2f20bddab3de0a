"""The gateway's HTTP port: health and metrics from the start, and nothing of it in the way of the data."""

import json
import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from running import OPTIONS, check_account, running

from tests import api
from tests.web.client import Client
from web.access.cli_token import cli_token

# DESIGN section 5, and what else operators need; a name that is taken away breaks somebody's dashboard.
NAMES = [
    "bifrost_cloud_data_points_sent",
    "bifrost_cloud_data_points_failed",
    "bifrost_cloud_batch_operations",
    "bifrost_cloud_connection_attempts",
    "bifrost_cloud_buffer_size",
    "bifrost_cloud_response_time_seconds",
    "bifrost_cloud_circuit_breaker_state",
    "bifrost_bridge_records_received",
    "bifrost_bridge_records_normalized",
    "bifrost_bridge_records_enqueued",
    "bifrost_bridge_records_dropped",
    "bifrost_bridge_batches_sent",
    "bifrost_bridge_reconnections",
    "bifrost_backpressure_queue_size",
    "bifrost_backpressure_queue_capacity",
    "bifrost_backpressure_disk_spooled_bytes",
    "bifrost_backpressure_dlq_messages",
    "bifrost_zerobus_batches_sent",
    "bifrost_zerobus_batches_failed",
    "bifrost_zerobus_circuit_breaker_state",
    "bifrost_source_connected",
    "bifrost_source_gaps",
    "bifrost_ledger_records",
    "bifrost_ledger_route_records",
    "bifrost_spool_alarm",
    "bifrost_spool_oldest_seconds",
    "bifrost_spool_full_seconds",
    "bifrost_disk_syncs",
    "bifrost_disk_written_bytes",
    "bifrost_unaccounted",
    "bifrost_dead_letters_bytes",
    "bifrost_dead_letters_discarded_records",
]


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def get(port: int, path: str) -> str:
    """Ask as somebody who is not logged in."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return answer.read().decode()


def answers(port: int) -> bool:
    try:
        return bool(get(port, "/health"))
    except (urllib.error.URLError, ConnectionError):
        return False


def test_health_and_metrics_answer_from_the_start_with_every_name(tmp_path, port):
    with running(tmp_path, port=port, idle=True) as gateway:
        gateway.until(lambda: answers(port), "the port")
        assert set(json.loads(get(port, "/health"))) == {"gateway", "status"}
        health = json.loads(api.get(port, "/health", tmp_path / "data"))
        assert health["status"] == "ok"
        assert health["targets"]["first"]["stored"] == 0
        families = {family.name: family for family in text_string_to_metric_families(get(port, "/metrics"))}
        assert set(NAMES) <= set(families)
        assert all(families[name].documentation for name in NAMES)
        assert gateway.stop() < 5.0


def test_what_flows_can_be_seen(tmp_path, port):
    with running(tmp_path, port=port, way="bifrost_run", fail_second=True) as gateway:
        gateway.until(lambda: answers(port), "the port")
        gateway.deliver(1000, targets=("first",))
        health = json.loads(api.get(port, "/api/status", tmp_path / "data"))
        assert health["status"] == "degraded"
        assert {name: s["state"] for name, s in health["sources"].items()} == {
            "mqtt_line": "connected",
            "modbus_line": "connected",
            "opcua_line": "connected",
        }
        assert health["sources"]["mqtt_line"]["tags"] == 50
        assert health["targets"]["second"]["last_error"] == "told to fail"
        assert not health["targets"]["first"]["last_error"]
        families = {family.name: family for family in text_string_to_metric_families(get(port, "/metrics"))}

        def sample(name: str, **labels: str) -> float:
            family = families[name]
            return next(s.value for s in family.samples if s.labels == labels and not s.name.endswith("_created"))

        assert sample("bifrost_bridge_records_received", source="mqtt_line") > 100
        assert sample("bifrost_cloud_data_points_sent", connector="first") > 1000
        assert sample("bifrost_cloud_buffer_size", connector="second") > 1000
        assert sample("bifrost_source_connected", source="mqtt_line") == 1
        assert sample("bifrost_unaccounted") == 0
        assert sample("bifrost_ledger_records", source="mqtt_line", state="journalled") > 100
        assert sample("bifrost_ledger_route_records", source="mqtt_line", connector="second", state="stored") > 100
        assert json.loads(api.get(port, "/api/ledger", tmp_path / "data"))["unaccounted"] == 0
        assert gateway.stop() < 5.0


def test_a_port_in_use_does_not_stop_the_data(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server, running(tmp_path, port=server.getsockname()[1]) as gateway:
        gateway.deliver(1000)
        gateway.until(lambda: "the port cannot be opened; data flows on without it" in gateway.said(), "the log")
        gateway.deliver(1000)
        assert "Address already in use" in gateway.said()
        assert gateway.stop() < 5.0
        assert "Traceback" not in gateway.said()


def test_posted_readings_and_tags_of_all_workers_under_bytewax(tmp_path, port):
    with running(tmp_path, port=port, arguments=(*OPTIONS, "-w", "2")) as gateway:
        gateway.until(lambda: answers(port), "the port")
        client = Client(port, {"authorization": f"Bearer {cli_token(tmp_path / 'data')}"})
        gateway.until(lambda: client.get("/api/tags").json()["total"] == 150, "all tags")
        reading = {"id": "one", "device_id": "PLC001", "tag_name": "level", "value": 1.25}
        for repeated in (0, 1):
            answer = client.post("/api/cloud/connectors/first/data", json=reading)
            assert (answer.status_code, answer.json()) == (200, {"accepted": 1 - repeated, "repeated": repeated})
        gateway.until(lambda: '"PLC001/level/level", 1.25' in (tmp_path / "first.jsonl").read_text(), "the reading")
        gateway.until(lambda: client.get("/api/tags?search=level").json()["total"] == 1, "its tag")
        assert '"PLC001/level/level"' not in (tmp_path / "second.jsonl").read_text()
        assert gateway.stop() < 5.0
    check_account(tmp_path)


def test_what_a_users_step_makes_is_shown_as_well(tmp_path, port):
    with running(tmp_path, port=port, flow="example", celsius=True) as gateway:
        gateway.until(lambda: answers(port), "the port")
        client = Client(port, {"authorization": f"Bearer {cli_token(tmp_path / 'data')}"})
        gateway.until(lambda: client.get("/api/tags?source=mqtt_line/average").json()["total"] > 0, "averages")
        gateway.stop()
