"""Looking after spools: through the gateway where it runs, else in its stores."""

import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Final

from rich.table import Table

from bifrost.run import RefusedError, ask, fetch
from bifrost.screen import Listing
from bifrost.stopped import has_run, stores
from config.models import Configuration
from flows import spools
from flows.process import Process

_PATH: Final = "/api/spools"
_PATIENCE: Final = 600.0


class SpoolError(Exception):
    """What was asked of a spool cannot be done; the message says why."""


def _do(
    config: Configuration, path: str, order: dict[str, Any] | None, act: Callable[[Process], dict[str, Any]]
) -> dict[str, Any]:
    try:
        found = ask(config, f"{_PATH}{path}", order, _PATIENCE) if config.port is not None else None
    except RefusedError as error:
        raise SpoolError(str(error)) from error
    if found is not None:
        return found
    if not has_run(config):
        raise SpoolError(f"{config.directory} holds no stores: this gateway has not run")
    try:
        with stores(config) as process:
            return {"gateway": config.gateway, **act(process)}
    except spools.NoSuchSpoolError as error:
        raise SpoolError(str(error)) from error


def listing(config: Configuration) -> dict[str, Any]:
    """Every spool."""
    return _do(config, "", None, spools.listing)


def peek(config: Configuration, target: str, limit: int) -> dict[str, Any]:
    """The next readings of a spool."""
    query = urllib.parse.urlencode({"target": target, "limit": limit})

    def look(process: Process) -> dict[str, Any]:
        return {"readings": [json.loads(line) for line in spools.export(process, target, limit)]}

    return _do(config, f"/peek?{query}", None, look)


def purge(config: Configuration, target: str) -> dict[str, Any]:
    """Discard what waits in a spool."""
    return _do(config, "/purge", {"target": target}, lambda process: spools.purge(process, target))


def export(config: Configuration, target: str, out: BinaryIO) -> None:
    """Write what waits in a spool as JSON lines."""
    peek(config, target, 0)  # says why it cannot be done
    query = urllib.parse.urlencode({"target": target})
    if not fetch(config, f"{_PATH}/export?{query}", out, _PATIENCE):
        with stores(config) as process:
            out.writelines(spools.export(process, target))


def attach(config: Configuration, old: str, new: str, other: Path | None = None) -> dict[str, Any]:
    """Move what waits for a removed target, or for one of another gateway's directory, into the spool of a configured one."""
    if config.port is not None and ask(config, "/health") is not None:
        raise SpoolError(
            "the gateway runs, and its flow and forwarders hold the spools; stop it, attach, start it again"
        )
    if not has_run(config):
        raise SpoolError(f"{config.directory} holds no stores: this gateway has not run")
    try:
        with stores(config) as process:
            return {"gateway": config.gateway, **spools.attach(process, old, new, other)}
    except spools.NoSuchSpoolError as error:
        raise SpoolError(str(error)) from error


def table(found: dict[str, Any]) -> Table:
    """The answer of `listing` as a table."""
    shown = Listing(["target", "state"], ["readings", "bytes", "oldest"], ["by priority", "alarm"], title="Spools")
    for name, line in found["spools"].items():
        age = "–" if line["oldest_age"] is None else f"{line['oldest_age']:,.0f} s"
        lanes = ", ".join(f"{priority}: {count:,}" for priority, count in line["lanes"].items())
        shown.add_row(name, line["state"], f"{line['readings']:,}", f"{line['bytes']:,}", age, lanes, line["alarm"])
    return shown


def readings_table(found: dict[str, Any]) -> Table:
    """The answer of `peek` as a table."""
    shown = Listing(["source", "path"], ["sequence"], ["value", "quality", "time (UTC)"], title="Next readings")
    for line in found["readings"]:
        when = line.get("source_time") or line["received_time"]
        value = str(line["value"])[:60]
        shown.add_row(line.get("source", ""), line.get("path", ""), line["sequence"], value, line["quality"], when)
    return shown
