"""A Prometheus of its own for a test: scrapes one address every second, and answers queries."""

import json
import os
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from shutil import which
from typing import Any

from tests.orphans import Server
from tests.ports import free_port

INSTALLER = Path(__file__).parent / "counterparts" / "prometheus.sh"


def program(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``, installed if it is missing."""
    if which(name) is None:
        subprocess.run(["sh", str(INSTALLER)], check=True, capture_output=True, timeout=300)
    found = which(name)
    assert found is not None
    return found


class PrometheusServer:
    """One server; use it with `with`.

    Args:
        folder: Where it keeps its configuration, data and log.
        scraped: Address that it scrapes, ``host:port``.
        rules: A file of rules; it is a copy that the server reads.
    """

    def __init__(self, folder: Path, scraped: str, rules: Path) -> None:
        self._port = free_port()
        self._folder = folder
        job = {
            "job_name": "bifrost",
            "scrape_interval": "1s",
            "static_configs": [{"targets": [scraped]}],
        }
        whole = {
            "global": {"evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [job],
        }
        (folder / "prometheus.yml").write_text(json.dumps(whole))  # JSON is YAML

    def __enter__(self) -> "PrometheusServer":
        command = [
            program("prometheus"),
            f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = Server(command, stdout=log, stderr=log, env={"PATH": os.environ["PATH"], "GOMAXPROCS": "1"})
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def answers(self) -> bool:
        """Whether it is ready for queries."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression has at this moment; an error in it is an exception that says what is wrong."""
        form = urllib.parse.urlencode({"query": expression}).encode()
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/query", form, timeout=10) as answer:
                found = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        series = found["data"]["result"]
        assert isinstance(series, list), expression
        return series

    def rules(self) -> list[dict[str, Any]]:
        """Its alert rules, with their health."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/rules", timeout=10) as answer:
            return [rule for group in json.load(answer)["data"]["groups"] for rule in group["rules"]]
