"""A Prometheus of its own for a test: scrapes one address every second, takes what is written to it, and answers queries."""

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
    """One server; use it with `with`, also again: it keeps what it has.

    Args:
        folder: Where it keeps its configuration, data and log.
        scraped: Address that it scrapes, ``host:port``; None for none.
        rules: A file of rules; it is a copy that the server reads.
        job: Name of what is scraped.
        late: How late a sample may be written when others are newer, as Prometheus writes it; not at all when empty.
    """

    def __init__(
        self, folder: Path, scraped: str | None = None, rules: Path | None = None, job: str = "bifrost", late: str = ""
    ) -> None:
        self._port = free_port()
        self._folder = folder
        scrapes = {"job_name": job, "scrape_interval": "1s", "static_configs": [{"targets": [scraped]}]}
        whole: dict[str, Any] = {
            "global": {"evaluation_interval": "1s"},
            "rule_files": [str(rules)] if rules is not None else [],
            "scrape_configs": [scrapes] if scraped is not None else [],
        }
        if late:
            whole["storage"] = {"tsdb": {"out_of_order_time_window": late}}
        (folder / "prometheus.yml").write_text(json.dumps(whole))  # JSON is YAML

    @property
    def takes(self) -> str:
        """Where samples are written to."""
        return f"http://127.0.0.1:{self._port}/api/v1/write"

    @property
    def said(self) -> str:
        """Its log."""
        return (self._folder / "prometheus.log").read_text()

    def __enter__(self) -> "PrometheusServer":
        command = [
            program("prometheus"),
            f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/data",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--web.enable-remote-write-receiver",
        ]
        with (self._folder / "prometheus.log").open("ab") as log:
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
