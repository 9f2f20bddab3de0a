"""Metrics, events and spans reach the OpenTelemetry Collector's own receiver by OTLP over HTTP, also after an outage."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from running import running

from flows.telemetry.otlp import logs_request, rejected
from flows.telemetry.teller import otlp_address, resource
from tests.collector_server import CollectorServer, attributes
from tests.ports import free_port

DIRECT = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def telling(endpoint: str) -> dict[str, Any]:
    """A gateway that tells everything every second."""
    return {"interval": "1s", "labels": {"site": "plant1"}, "otlp": {"endpoint": endpoint, "share": 1.0}}


@pytest.mark.kill
def test_all_three_reach_a_collector_and_what_came_in_an_outage_too_also_from_a_killed_gateway(tmp_path: Path) -> None:
    collector = CollectorServer(tmp_path, free_port())
    told = telling(collector.endpoint)
    with running(tmp_path, telemetry=told, fail_second=True, environment=DIRECT) as gateway:
        gateway.until(lambda: "telemetry cannot be sent" in gateway.said(), "the word")
        gateway.deliver(500, targets=("first",))
        box = tmp_path / "data" / "telemetry"
        sizes = lambda: [sum(f.stat().st_size for f in (box / what).glob("*.log")) for what in ("metrics", "logs")]  # noqa: E731
        gateway.until(lambda: sizes()[0] > 10_000 and sizes()[1] > 700, "what waits")
        gateway.kill()
    killed = time.time()
    with running(tmp_path, telemetry=told, fail_second=True, environment=DIRECT) as gateway:
        gateway.opened()
        with collector:
            gateway.until(lambda: any("write" in span["name"] for span in collector.spans()), "spans")
            started = "process_start_time_seconds"
            gateway.until(lambda: len({p["asDouble"] for p, _ in collector.metrics(started)}) == 2, "both lives")
            gateway.until(lambda: collector.metrics("bifrost_cloud_response_time_seconds"), "writes")
            assert gateway.stop() < 5.0

    whose = {json.dumps(one, sort_keys=True) for one in collector.resources()}
    assert len(whose) == 1
    found = json.loads(whose.pop())
    assert found.pop("service.version")
    assert found == {"service.name": "bifrost", "service.instance.id": "gw", "site": "plant1"}

    # metrics: the samples of the first life come with their own times, in order
    times = [int(point["timeUnixNano"]) / 1e9 for point, _ in collector.metrics(started)]
    assert times == sorted(times)
    assert len([when for when in times if when < killed]) >= 2
    received = collector.metrics("bifrost_bridge_records_received_total")
    assert all(metric["sum"]["isMonotonic"] and metric["sum"]["aggregationTemporality"] == 2 for _, metric in received)
    by_source: dict[tuple[str, str], list[float]] = {}
    for point, _ in received:
        by_source.setdefault((point["startTimeUnixNano"], attributes(point)["source"]), []).append(point["asDouble"])
    assert len(by_source) == 2 * 3
    assert all(counts == sorted(counts) and counts[-1] > 0 for counts in by_source.values())
    for point, metric in collector.metrics("bifrost_cloud_response_time_seconds"):
        assert metric["histogram"]["aggregationTemporality"] == 2
        assert len(point["bucketCounts"]) == len(point["explicitBounds"]) + 1
        assert sum(map(int, point["bucketCounts"])) == int(point["count"])
        assert point["sum"] >= 0

    # events: those of the killed one too, with code, level and words
    events = [
        (attributes(record).get("code"), record["severityText"], record["body"]["stringValue"])
        for record in collector.logs()
        if int(record["timeUnixNano"]) / 1e9 < killed
    ]
    assert ("BF-GW-015", "WARNING", "telemetry cannot be sent") in events
    assert {record["severityNumber"] for record in collector.logs()} <= {13, 17}

    assert {span["name"] for span in collector.spans()} >= {"write", "flow turn", "journal commit"}


def test_an_event_keeps_its_words_code_level_time_and_values() -> None:
    event = {
        "event": "target refuses", "level": "error", "timestamp": "2026-03-01T12:00:00.123456Z", "code": "BF-TGT-001",
        "rows": 7, "share": 0.5, "last": True, "nothing": None, "big": 2**70, "several": ["a", 1], "more": {"k": b"v"},
        "exception": "    Traceback", "text": "half \ud800 a pair",
    }  # fmt: skip
    body, count = logs_request([event, {"event": "bare"}], resource({"site": "a", "job": "x"}, "gw"), 99)
    assert count == 2
    (of_it,) = ExportLogsServiceRequest.FromString(gzip.decompress(body)).resource_logs
    assert {one.key for one in of_it.resource.attributes} == {
        "service.name",
        "service.instance.id",
        "service.version",
        "site",
    }
    first, second = of_it.scope_logs[0].log_records
    assert (first.body.string_value, first.severity_number, first.severity_text) == ("target refuses", 17, "ERROR")
    assert first.time_unix_nano == 1_772_366_400_123_456_000
    assert first.observed_time_unix_nano == 99
    found = {one.key: one.value for one in first.attributes}
    assert found.keys() == {*event, "exception.stacktrace"} - {"event", "level", "timestamp", "exception"}
    assert found["rows"].int_value == 7
    assert found["share"].double_value == 0.5
    assert found["last"].bool_value is True
    assert found["nothing"].WhichOneof("value") is None
    assert found["big"].string_value == str(2**70)
    assert [one.string_value or one.int_value for one in found["several"].array_value.values] == ["a", 1]
    assert found["more"].kvlist_value.values[0].value.bytes_value == b"v"
    assert found["text"].string_value == "half ? a pair"
    assert (second.body.string_value, second.time_unix_nano, second.severity_number) == ("bare", 0, 0)


def test_what_a_collector_left_out_is_read_from_its_answer() -> None:
    metrics = ExportMetricsServiceResponse()
    metrics.partial_success.rejected_data_points, metrics.partial_success.error_message = 5, "too old"
    logs = ExportLogsServiceResponse()
    logs.partial_success.rejected_log_records = 2
    assert rejected("metrics", metrics.SerializeToString()) == (5, "too old")
    assert rejected("logs", logs.SerializeToString()) == (2, "")
    assert rejected("logs", b"") == (0, "")
    assert rejected("logs", b"<html>") == (0, "")


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("http://c:4318", "http://c:4318/v1/logs"),
        ("http://c:4318/", "http://c:4318/v1/logs"),
        ("https://c/otlp", "https://c/otlp/v1/logs"),
        ("https://c/otlp/v1/traces", "https://c/otlp/v1/logs"),
        ("http://traces", "http://traces/v1/logs"),
    ],
)
def test_the_address_of_a_signal_is_below_the_endpoint(endpoint: str, expected: str) -> None:
    assert otlp_address(endpoint, "logs") == expected
