"""Spans of batches reach a collector that is not ours to write: OTLP over HTTP, decoded here by its protobuf."""

import gzip
import http.server
import json
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from numbered import configuration
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from pydantic import ValidationError
from running import running

from config.telemetry import OtlpSection
from delivery.spans import Span, Spans
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
ERROR = 2  # STATUS_CODE_ERROR


class Collector:
    """Takes spans as an OpenTelemetry collector does."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[tuple[str, dict[str, str], ExportTraceServiceRequest]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                asked = ExportTraceServiceRequest.FromString(body)
                collector.requests.append((self.path, dict(self.headers), asked))
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(200)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def spans(self, name: str) -> list[dict[str, object]]:
        """The attributes of the spans of one name, with what belongs to them."""
        return [
            {
                **{one.key: one.value.string_value or one.value.int_value for one in span.attributes},
                "took": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                "failed": span.status.code == ERROR,
                "said": span.status.message,
                "parent": span.parent_span_id,
            }
            for _, _, asked in list(self.requests)
            for resource in asked.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
            if span.name == name
        ]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


DIRECT = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}


def test_commits_turns_and_writes_reach_a_collector_that_may_be_away(tmp_path):
    port = free_port()
    otlp = {
        "endpoint": f"http://127.0.0.1:{port}", "share": 1.0, "auth": {"token": "let-me-in"}, "metrics": False, "logs": False,
    }  # fmt: skip
    with running(tmp_path, fail_second=True, telemetry={"otlp": otlp}, environment=DIRECT) as gateway:
        gateway.until(lambda: "traces cannot be sent" in gateway.said(), "the word")
        gateway.deliver(1000, targets=("first",))
        collector = Collector(port)
        names = ("journal commit", "flow turn", "write")
        gateway.until(lambda: all(collector.spans(name) for name in names), "spans")
        assert gateway.stop() < 5.0
        collector.close()
    path, headers, asked = collector.requests[0]
    assert path == "/v1/traces"
    assert {name.lower(): value for name, value in headers.items()}["authorization"] == "Bearer let-me-in"
    resource = {one.key: one.value.string_value for one in asked.resource_spans[0].resource.attributes}
    assert (resource["service.name"], resource["service.instance.id"]) == ("bifrost", "gw")
    assert resource["service.version"]
    commits, turns, writes = (collector.spans(name) for name in names)
    assert all(span["took"] > 0 and not span["failed"] and not span["parent"] for span in [*commits, *turns, *writes])
    assert all(span["rows"] for span in [*turns, *writes])
    assert {span["target"] for span in writes} == {"first"}  # the second one is never opened
    assert {span["outcome"] for span in writes} == {"ok"}
    assert {re.sub("-.*", "", str(span["shard"])) for span in turns} >= {"mqtt", "modbus", "opcua"}
    events = [json.loads(line) for line in gateway.said().splitlines() if line.startswith("{")]
    assert [event["code"] for event in events if "traces" in event["event"]] == ["BF-GW-009"]
    assert not [event for event in events if "opentelemetry" in event.get("logger", "")]
    assert "let-me-in" not in gateway.said()


def test_a_span_is_told_when_it_is_over_and_to_nobody_after_the_end():
    ended: list[str] = []
    spans, heard = Spans(), list[Span]()
    spans.note("write", 0.0)
    assert not spans.wanted
    spans.send_to(heard.append, lambda: ended.append("end"))
    spans.note("write", 0.0, "it was refused", rows=3)
    spans.close()
    spans.close()
    spans.note("write", 0.0)
    assert [(span.name, span.error, span.attributes) for span in heard] == [("write", "it was refused", {"rows": 3})]
    assert heard[0].began < heard[0].ended
    assert ended == ["end"]


def test_of_what_went_well_a_share_is_sent_and_of_what_failed_everything(collector, monkeypatch):
    from flows.telemetry.traces import Traces

    for name, value in DIRECT.items():
        monkeypatch.setenv(name, value)
    traces = Traces(OtlpSection(endpoint=f"{collector.endpoint}/v1/traces", share=0.2), {}, "gw")
    for _ in range(500):
        traces.tell(Span("write", 1, 2, {"target": "lake"}))
    for _ in range(20):
        traces.tell(Span("write", 1, 2, {"target": "lake"}, "refused"))
    traces.close()
    written = Counter((span["failed"], span["said"]) for span in collector.spans("write"))
    assert written[True, "refused"] == 20
    assert 50 < written[False, ""] < 150


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://me:secret@collector:4318"])
def test_an_endpoint_is_a_url_without_a_login(endpoint):
    with pytest.raises(ValidationError, match="endpoint"):
        OtlpSection(endpoint=endpoint)


def test_nothing_of_it_is_imported_when_nobody_asks(tmp_path):
    program = """
import sys
from pathlib import Path
sys.path.insert(0, "tests/flows")
from numbered import configuration
from flows.gateway import gateway
from flows.process import Process
from flows.telling import teller, trace
config = configuration(Path(sys.argv[1]))
process = Process(config)
gateway(process)
trace(config)
assert teller(process) is None
print(sorted(name for name in sys.modules if name.startswith(("opentelemetry", "requests", "flows.telemetry"))))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
    assert configuration(tmp_path).telemetry.otlp is None
