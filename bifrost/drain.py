"""``bifrost drain``: let the sources go and wait until everything is delivered, before a gateway is taken away."""

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, duration, load, print_json, stores_told

if TYPE_CHECKING:
    from config.models import Configuration

_PATH: Final = "/api/drain"
_ANSWERS_WITHIN: Final = 30.0  # seconds in which devices are let go
_LOOK: Final = 0.5


def drain(
    config: ConfigFile = DEFAULT_CONFIG,
    timeout: Annotated[str, typer.Option("--timeout", help="How long to wait, e.g. 90s or 10m.")] = "5m",
    if_leaving: Annotated[
        bool, typer.Option("--if-leaving", help="Only where the gateway is beyond gateway.members; else do nothing.")
    ] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Read the sources again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Have the running gateway read nothing and wait until it has delivered everything. Exit code 1 when it has not.

    What it could not deliver is shown. It waits in the gateway's directory: start the gateway again to deliver it, or move it
    to another gateway with `bifrost spool attach --from DIRECTORY`. The sources stay unread until the gateway ends.
    """
    patience = duration(timeout) or 0.0
    loaded = load(config)
    if if_leaving and (loaded.membership is None or not loaded.membership.leaves):
        return
    with stores_told():
        if undo:
            _tell({"gateway": loaded.gateway, **_running(loaded, wanted=False)}, as_json=as_json)
            return
        found = _drained(loaded, patience, quiet=as_json)
    _tell(found, as_json=as_json)
    raise typer.Exit(0 if _empty(found) else 1)


def _empty(found: dict[str, Any]) -> bool:
    return not found["flow"] and not found["readings"]


def _running(loaded: "Configuration", *, wanted: bool) -> dict[str, Any]:
    from bifrost.run import ask
    from delivery.disk import StoreError

    answer = ask(loaded, _PATH, {"wanted": wanted}, _ANSWERS_WITHIN) if loaded.port is not None else None
    if answer is None:
        raise StoreError(f"no gateway `{loaded.gateway}` answers on port {loaded.port}")
    return answer


def _drained(loaded: "Configuration", patience: float, *, quiet: bool) -> dict[str, Any]:
    """What is held at the end: of the running gateway, or of its stores where none runs."""
    from bifrost.run import ask
    from bifrost.stopped import has_run, stores
    from flows.held import held

    began, told = time.monotonic(), ""
    found = ask(loaded, _PATH, {"wanted": True}, _ANSWERS_WITHIN) if loaded.port is not None else None
    if found is None:
        if not has_run(loaded):
            return {
                "gateway": loaded.gateway,
                "flow": False,
                "targets": {},
                "kept": {},
                "readings": 0,
                "dead_letters": 0,
            }
        with stores(loaded) as process:
            return {"gateway": loaded.gateway, **held(process), "runs": False}
    while not _empty(found):
        line = _progress(found)
        if line != told and not quiet:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 - progress of a command
            told = line
        if time.monotonic() - began > patience:
            break
        time.sleep(_LOOK)
        found = ask(loaded, _PATH) or found
    return {**found, "runs": True}


def _progress(found: dict[str, Any]) -> str:
    waits = [f"{name} {line['readings']:,}" for name, line in _lines(found).items() if line["readings"]]
    return f"waiting: {', '.join([*(['the flow'] if found['flow'] else []), *waits])}"


def _lines(found: dict[str, Any]) -> dict[str, Any]:
    return {**found["targets"], **found["kept"]}


def _tell(found: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json({**found, "empty": _empty(found)})
        return
    if found.get("held") is False and found.get("runs") is None:
        typer.echo("The sources are read again.")
        return
    if found["dead_letters"]:
        typer.echo(f"{found['dead_letters']:,} dead letters stay; see bifrost dlq list", err=True)
    if _empty(found):
        typer.echo("Everything is delivered.")
        return
    if found["flow"]:
        typer.echo("Readings are still in the journal; they are delivered when the gateway runs.", err=True)
    for name, line in _lines(found).items():
        if line["readings"]:
            why = f": {line['last_error']}" if line["last_error"] else ""
            typer.echo(f"{line['readings']:,} readings wait for {name}{why}", err=True)
    hint = "stop the gateway, then `bifrost spool attach --from DIRECTORY OLD NEW` moves them to another gateway"
    typer.echo(f"Not everything is delivered. It is safe in the gateway's directory; {hint}.", err=True)
