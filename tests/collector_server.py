"""The receiver of the OpenTelemetry Collector, as a process: what came to it, decoded by its own code."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.orphans import Server

ROOT = Path(__file__).parent.parent
PROGRAM = ROOT / "build" / "counterparts" / "collector" / "collector"
INSTALLER = Path(__file__).parent / "counterparts" / "collector" / "install.sh"


class CollectorServer:
    """One receiver; use it with `with`, also again: what came stays.

    Args:
        folder: Where it writes what came.
        port: Its port on 127.0.0.1.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self._file, self._port = folder / "collected.jsonl", port
        self.endpoint = f"http://127.0.0.1:{port}"

    def __enter__(self) -> "CollectorServer":
        if not PROGRAM.exists():
            subprocess.run(["sh", str(INSTALLER)], check=True, capture_output=True, timeout=600)
        with self._file.open("ab") as out:
            self._process = Server([str(PROGRAM), str(self._port)], stdin=subprocess.PIPE, stdout=out)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def _lines(self, part: str) -> Iterator[dict[str, Any]]:
        for line in self._file.read_text().splitlines() if self._file.exists() else ():
            if line.startswith("{"):
                yield from json.loads(line).get(part, ())

    def resources(self) -> list[dict[str, Any]]:
        """Attributes of every resource that something came from."""
        parts = ("resourceMetrics", "resourceLogs", "resourceSpans")
        return [attributes(one["resource"]) for part in parts for one in self._lines(part)]

    def metrics(self, name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Points of a metric, in the order in which they came, each with the metric."""
        return [
            (point, metric)
            for resource in self._lines("resourceMetrics")
            for scope in resource["scopeMetrics"]
            for metric in scope["metrics"]
            if metric["name"] == name
            for kind in ("sum", "gauge", "histogram")
            for point in metric.get(kind, {}).get("dataPoints", ())
        ]

    def logs(self) -> list[dict[str, Any]]:
        """Events, in the order in which they came."""
        return [
            record
            for resource in self._lines("resourceLogs")
            for scope in resource["scopeLogs"]
            for record in scope["logRecords"]
        ]

    def spans(self) -> list[dict[str, Any]]:
        """Spans."""
        return [
            span
            for resource in self._lines("resourceSpans")
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


def attributes(of: dict[str, Any]) -> dict[str, Any]:
    """Attributes as plain values; whole numbers are texts in OTLP/JSON."""
    return {one["key"]: next(iter(one["value"].values()), None) for one in of.get("attributes", ())}
