"""The demo: a simulated plant, a ZeroBus emulator and the gateway between them, each as a process of its own."""

import contextlib
import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from bifrost.screen import Listing
from delivery.disk import DirectoryLock
from simulator.zerobus.cli import DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET

_READY: Final = 30.0
_DELIVERED: Final = 12.0
_CATALOG, _SCHEMA = "main", "demo"
_SAMPLES: Final = 6  # seconds that a rate is told over: Delta commits every few seconds


class DemoError(Exception):
    """The demo cannot go on; the message says which part failed and where its log is."""


@dataclass(slots=True)
class Demo:
    """One run of the demo.

    Attributes:
        directory: Where everything lies: configuration, logs, stores and tables.
        seconds: How long readings flow.
        tags: Tags in sum.
        rate: Readings per second in sum.
        sources: Simulated sources by protocol, as ``opcua=4,mqtt=2``.
        screen: Where progress is shown.
        rejected: Readings of this run that no target got, because they could not be decoded, by source.
    """

    directory: Path
    seconds: float | None
    tags: int
    rate: float
    sources: str
    screen: Console
    rejected: dict[str, int] = field(default_factory=dict)
    _processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """End the flow of readings now; what is under way is delivered."""
        self._stopped.set()

    def run(self) -> dict[str, Any]:
        """Run it; returns the summary."""
        (self.directory / "data").mkdir(parents=True, exist_ok=True)
        DirectoryLock(self.directory / "data").release()  # another demo that runs there keeps its files
        with self._cleaned_up():
            began = time.monotonic()
            plant, description = self._start_plant()
            emulator, zerobus = self._start_emulator(description)
            config = self.directory / "gateway.yaml"
            config.write_text(
                json.dumps(gateway_config(description, zerobus, self.directory), indent=1, ensure_ascii=False)
            )
            earlier = self._account(config)
            gateway = self._start("gateway", "run", "-c", str(config))
            port = self._port(config)
            self._await_start(gateway, port)
            self.screen.print(
                f"plant, emulator and gateway started after {time.monotonic() - began:.1f} s; all files in {self.directory}"
            )
            print_query(self._table, self.screen)
            self.screen.print(f"In the browser: {self._page(port)}", soft_wrap=True, highlight=False)
            watched = time.monotonic()
            self._watch(gateway, port)
            self.seconds = round(time.monotonic() - watched, 1)
            _stop(plant)
            self._wait_delivered(port)
            _stop(gateway)
            _stop(emulator)
            return self._summary(self._account(config), earlier, description, zerobus)

    @property
    def _table(self) -> Path:
        return self.directory / "delta" / "readings"

    def _page(self, port: int) -> str:
        """The gateway's pages; until somebody has logged in, where the first user is made."""
        from web.access.accounts import Accounts, utc_now

        token = Accounts(self.directory / "data").begin_setup(utc_now(), again=True)
        return f"http://127.0.0.1:{port}/" + ("" if token is None else f"#/setup/{token}")

    @contextlib.contextmanager
    def _cleaned_up(self) -> Iterator[None]:
        try:
            yield
        finally:
            for process in self._processes:
                if process.poll() is None:
                    process.kill()

    # ------------------------------------------------------------------ starting

    def _start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.directory / f"{name}.log").open("wb") as output:
            process = subprocess.Popen(  # noqa: S603 - our own command line
                [sys.executable, "-m", "bifrost", *arguments],
                stdout=output,
                stderr=output,
                env={**os.environ, "COLUMNS": "200"},  # messages on one line
                start_new_session=True,
                preexec_fn=_end_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads yet
            )
        self._processes.append(process)
        return process

    def _wait_for(self, name: str, process: "subprocess.Popen[bytes]", file: Path) -> dict[str, Any]:
        deadline = time.monotonic() + _READY
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return dict(json.loads(file.read_text()))
            if process.poll() is not None:
                break
            time.sleep(0.05)
        log = self.directory / f"{name}.log"
        raise DemoError(f"the {name} did not start: {_last_words(log)} (see {log})")

    def _start_emulator(self, description: dict[str, Any]) -> "tuple[subprocess.Popen[bytes], dict[str, Any]]":
        from connectors.targets.zerobus import ddl

        ready = self.directory / "zerobus.json"
        ready.unlink(missing_ok=True)
        arguments = ["--port", "0", "--http-port", "0", "--data-dir", str(self.directory / "zerobus")]
        for source in description["sources"]:
            name = table_name(source["name"])
            declared = self.directory / f"{name}.sql"
            declared.write_text(ddl(name))
            arguments += ["--table", f"{name}={declared}"]
        process = self._start("zerobus", "sim", "zerobus", *arguments, "--ready-file", str(ready))
        return process, self._wait_for("zerobus", process, ready)

    def _start_plant(self) -> "tuple[subprocess.Popen[bytes], dict[str, Any]]":
        described = self.directory / "plant.json"
        described.unlink(missing_ok=True)
        arguments = ["sim", "all", "--tags", str(self.tags), "--rate", str(self.rate), "--describe", str(described)]
        if self.sources:
            arguments += ["--sources", self.sources]
        process = self._start("plant", *arguments, "--ports", "opcua=0,mqtt=0,modbus=0")
        return process, self._wait_for("plant", process, described)

    def _port(self, config: Path) -> int:
        return int(json.loads(config.read_text())["gateway"]["port"])

    # ------------------------------------------------------------------ watching

    def _await_start(self, gateway: "subprocess.Popen[bytes]", port: int) -> None:
        """Until the gateway answers: a watch for some seconds is one of a gateway that runs."""
        deadline = time.monotonic() + _READY
        while _get(self.directory, port, "/api/status") is None and time.monotonic() < deadline:
            self._must_run(gateway)
            if self._stopped.wait(0.1):
                return

    def _must_run(self, gateway: "subprocess.Popen[bytes]") -> None:
        if gateway.poll() is not None:
            log = self.directory / "gateway.log"
            raise DemoError(f"the gateway ended with code {gateway.returncode}: {_last_words(log)} (see {log})")

    def _watch(self, gateway: "subprocess.Popen[bytes]", port: int) -> None:
        end = time.monotonic() + (float("inf") if self.seconds is None else self.seconds)
        seen: deque[tuple[float, dict[str, int]]] = deque(maxlen=_SAMPLES)
        with Live(console=self.screen, auto_refresh=False, transient=False) as live:
            while time.monotonic() < end:
                self._must_run(gateway)
                status = _get(self.directory, port, "/api/status")
                if status is not None:
                    seen.append((time.monotonic(), _counts(status)))
                    if len(seen) > 1:
                        (began, before), (now, counts) = seen[0], seen[-1]
                        live.update(_rates(status, counts, before, now - began), refresh=True)
                if self._stopped.wait(min(1.0, max(0.0, end - time.monotonic()))):
                    return

    def _wait_delivered(self, port: int) -> None:
        deadline = time.monotonic() + _DELIVERED
        while time.monotonic() < deadline:
            account = _get(self.directory, port, "/api/ledger")
            if account is not None:
                waiting = sum(line["waiting"] for line in account["sources"].values())
                stored = sum(line["stored"] for lines in account["targets"].values() for line in lines.values())
                if waiting + stored == 0:
                    return
            time.sleep(0.3)

    # ------------------------------------------------------------------ summing up

    def _account(self, config: Path) -> dict[str, Any]:
        from bifrost.run import account
        from config.loader import load

        return account(load(config))

    def _summary(
        self, found: dict[str, Any], earlier: dict[str, Any], description: dict[str, Any], zerobus: dict[str, Any]
    ) -> dict[str, Any]:
        protocols = {source["name"]: source["protocol"] for source in description["sources"]}
        totals, before = _totals(found), _totals(earlier)
        rows, wrong = count_paths(self._table, description)
        missing = abs(rows - totals["delta"]["delivered"])
        for table, place in zerobus["tables"].items():
            missing += abs(_count(Path(place)) - totals[f"zerobus:{table}"]["delivered"])
        received = _since(earlier, found, "journalled")
        self.rejected = _since(earlier, found, "dead_letters")
        return {
            "seconds": self.seconds,
            "sources": {name: {"protocol": protocols[name], "received": received.get(name, 0)} for name in protocols},
            "targets": {
                name: line | {"delivered": line["delivered"] - before.get(name, {}).get("delivered", 0)}
                for name, line in totals.items()
            },
            "wrong_paths": wrong,
            "unaccounted": found["unaccounted"] + missing,
            "delta": str(self._table),
        }


def _since(earlier: dict[str, Any], found: dict[str, Any], key: str) -> dict[str, int]:
    """What was counted between two accounts, by source."""
    return {name: line[key] - earlier["sources"].get(name, {}).get(key, 0) for name, line in found["sources"].items()}


def _totals(account: dict[str, Any]) -> dict[str, dict[str, int]]:
    keys = ("delivered", "stored", "dead_letters")
    return {
        name: {key: sum(line[key] for line in lines.values()) for key in keys}
        for name, lines in account["targets"].items()
    }


def gateway_config(description: dict[str, Any], zerobus: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The gateway's configuration for a described plant: Delta and ZeroBus get every reading."""
    return {
        "gateway": {
            "name": "demo",
            "directory": str(directory / "data"),
            "port": _free_port(),
            "cloud": {"connectors": {"delta": {"type": "delta", "endpoint": str(directory / "delta")}}},
        },
        "sources": [source_config(source, description) for source in description["sources"]],
        "routing_rules": [{"name": "everything", "condition": "TRUE", "connectors": ["delta"]}],
        "zerobus": {
            "endpoint": zerobus["endpoint"],
            "workspace_url": zerobus["unity_catalog_url"],
            "client_id": DEFAULT_CLIENT_ID,
            "client_secret": DEFAULT_CLIENT_SECRET,
            "source_targets": {
                source["name"]: {"catalog": _CATALOG, "schema": _SCHEMA, "table": source["name"]}
                for source in description["sources"]
            },
        },
    }


def table_name(source: str) -> str:
    """The ZeroBus table of a source."""
    return f"{_CATALOG}.{_SCHEMA}.{source}"


def source_config(source: dict[str, Any], description: dict[str, Any]) -> dict[str, Any]:
    """The configuration of one described source."""
    tags = [tag for tag in description["tags"] if tag["source"] == source["name"]]
    common = {key: source[key] for key in ("name", "endpoint", "site", "area", "line") if source[key]}
    common["tags"] = [
        {key: tag[key] for key in ("equipment", "signal_type", "unit") if tag[key]} | {"match": _match(tag)}
        for tag in tags
    ]
    if source["protocol"] == "opcua":
        nodes = [{"id": tag["node_id"], "tag_name": tag["tag_name"]} for tag in tags]
        return {**common, "protocol": "opcua", "nodes": nodes, "queue_size": 100}
    if source["protocol"] == "modbus":
        return {
            **common,
            "protocol": "modbus",
            "interval": source["poll_interval_s"],
            "registers": [_register(t) for t in tags],
        }
    subscriptions = [
        {**known, "format": "sparkplug" if known["format"] == "sparkplug" else "json"}
        for known in source["subscriptions"]
    ]
    return {**common, "protocol": "mqtt", "subscriptions": subscriptions}


def _match(tag: dict[str, Any]) -> str:
    return f"{tag['unit_id']}/{tag['address']}" if "unit_id" in tag else str(tag["address"])


def _register(tag: dict[str, Any]) -> dict[str, Any]:
    known = {"coil": "bit", "discrete": "bit"}
    register = {
        "name": tag["tag_name"],
        "unit_id": tag["unit_id"],
        "kind": tag["table"],
        "address": tag["register"],
        "type": known.get(tag["table"], tag["type"]),
    }
    if tag["type"] == "string":
        register["length"] = 2 * tag["length"]
    if tag["length"] > 1 or tag["byte_order"] != "big":
        register |= {"byte_order": tag["byte_order"], "word_order": tag["word_order"]}
    return register | ({"scale": tag["scale"]} if tag["scale"] != 1.0 else {})


def count_paths(table: Path, description: dict[str, Any]) -> tuple[int, int]:
    """Rows in the Delta table, and how many of them have another path than the plant's description says."""
    import pyarrow as pa
    from deltalake import DeltaTable

    if not DeltaTable.is_deltatable(str(table)):  # stopped before the first commit
        return 0, 0
    wanted = {(tag["source"], _match(tag)): tag["path"] for tag in description["tags"]}
    units = {tag["source"] for tag in description["tags"] if "unit_id" in tag}
    names = ["source", "device_id", "address", "path"]
    columns = DeltaTable(table).to_pyarrow_table(columns=names)
    groups = pa.TableGroupBy(columns, names).aggregate([([], "count_all")]).to_pylist()
    wrong = 0
    for group in groups:
        address = f"{group['device_id']}/{group['address']}" if group["source"] in units else group["address"]
        if wanted.get((group["source"], address)) != group["path"]:
            wrong += group["count_all"]
    return len(columns), wrong


def _count(table: Path) -> int:
    from deltalake import DeltaTable

    return int(DeltaTable(table).to_pyarrow_dataset().count_rows()) if DeltaTable.is_deltatable(str(table)) else 0


def _free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _get(directory: Path, port: int, path: str) -> Any | None:
    from web.access.cli_token import cli_token

    headers = {"authorization": f"Bearer {cli_token(directory / 'data')}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310 - always http
            return json.load(answer)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def _counts(status: dict[str, Any]) -> dict[str, int]:
    counts = {f"source {name}": line["received"] for name, line in status["sources"].items()}
    return counts | {f"target {name}": line["delivered"] for name, line in status["targets"].items()}


def _rates(status: dict[str, Any], counts: dict[str, int], before: dict[str, int], seconds: float) -> Table:
    shown = Listing(["", "name", "state"], ["readings/s", "readings"], title="Bifrost demo")
    for name, line in status["sources"].items():
        key = f"source {name}"
        rate = (counts[key] - before.get(key, 0)) / seconds
        shown.add_row("source", name, line["state"], f"{rate:,.0f}", f"{counts[key]:,}")
    for name, line in status["targets"].items():
        key = f"target {name}"
        rate = (counts[key] - before.get(key, 0)) / seconds
        state = "connected" if line["connected"] else line["last_error"] or "connecting"
        shown.add_row("target", name, state, f"{rate:,.0f}", f"{counts[key]:,}")
    return shown


def _last_words(log: Path) -> str:
    """The last line that a process wrote, without the box around it."""
    lines = [line.strip("│ ") for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    said = [line for line in lines if line and not line.startswith(("╭", "╰"))]
    return said[-1] if said else "it said nothing"


def _end_with_parent() -> None:
    """Ask the kernel to kill this process when the demo is killed, so that the next demo finds the stores free."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def print_summary(summary: dict[str, Any], rejected: dict[str, int], screen: Console) -> None:
    """The summary for people; `rejected` tells the readings that could not be decoded, by source."""
    seconds = summary["seconds"] or float("inf")  # ended before it began
    shown = Listing(["", "name"], ["readings", "readings/s", "stored", "dead letters"], title="Summary")
    for name, line in summary["sources"].items():
        rate = f"{line['received'] / seconds:,.0f}"
        shown.add_row("source", name, f"{line['received']:,}", rate, "", f"{rejected.get(name, 0):,}")
    for name, line in summary["targets"].items():
        rate = f"{line['delivered'] / seconds:,.0f}"
        shown.add_row(
            "target", name, f"{line['delivered']:,}", rate, f"{line['stored']:,}", f"{line['dead_letters']:,}"
        )
    screen.print(shown)
    screen.print(f"wrong paths: {summary['wrong_paths']}, unaccounted: {summary['unaccounted']}")
    print_query(Path(summary["delta"]), screen)


def print_query(place: Path, screen: Console) -> None:
    """Where the readings lie, and a line for a shell that shows the newest of them."""
    query = "select path, type, value, quality, source_time from readings order by received_time desc limit 10"
    table = f"deltalake.QueryBuilder().register('readings', deltalake.DeltaTable({json.dumps(str(place))}))"
    code = f'import deltalake; print({table}.execute("{query}").read_all())'
    screen.print(f"The Delta table is {place}. Look at the newest readings:", soft_wrap=True, highlight=False)
    line = shlex.join([sys.executable, "-c", code])
    screen.print(f"  {line}", soft_wrap=True, highlight=False)
