"""The command line. Verbs import what they need when they run, so that help and completion are quick."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from config.models import Configuration

app = typer.Typer(
    name="bifrost",
    help="Industrial gateway: OPC UA, MQTT, Sparkplug B and Modbus into Databricks ZeroBus, Delta Lake and more, without losing a reading.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

ConfigFile = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="BIFROST_CONFIG", help="Configuration file (YAML)."),
]
DEFAULT_CONFIG = Path("config/gateway.yaml")
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def _duration(text: str | None) -> float | None:
    from connectors.settings import seconds

    if text is None:
        return None
    try:
        return float(str(seconds(text)))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


For = Annotated[str | None, typer.Option("--for", help="Stop after this time, e.g. 20s or 5m.", metavar="DURATION")]


def _load(config: Path) -> "Configuration":
    from config.loader import load_or_exit

    from config.logs import configure

    loaded = load_or_exit(config)
    configure(loaded.log_level)
    return loaded


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False))


@app.command()
def run(config: ConfigFile = DEFAULT_CONFIG, seconds: For = None) -> None:
    """Run the gateway. SIGTERM and Ctrl-C drain it and end with exit code 0."""
    from bifrost.run import run as run_gateway

    sys.exit(run_gateway(_load(config), _duration(seconds)))


@app.command()
def check(config: ConfigFile = DEFAULT_CONFIG) -> None:
    """Check a configuration: every problem at once, with file, line and column. Exit code 2 when there is one."""
    loaded = _load(config)
    sources = ", ".join(f"{s.name} ({s.protocol})" for s in loaded.sources) or "none"
    targets = ", ".join(f"{name} ({t.type})" for name, t in loaded.targets.items())
    typer.echo(
        f"{config} is sound.\n  gateway: {loaded.gateway}\n  sources: {sources}\n  targets: {targets}\n  rules:   {len(loaded.rules)}"
    )


@app.command()
def status(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show how the running gateway, its sources and its targets stand. Exit code 1 when it does not run."""
    from bifrost.run import ask

    loaded = _load(config)
    answer = ask(loaded, "/health") if loaded.port is not None else None
    if answer is None:
        typer.echo(f"no gateway answers on {loaded.listen}:{loaded.port}", err=True)
        raise typer.Exit(1)
    if as_json:
        _print_json(answer)
        return
    from rich.console import Console

    from bifrost.status import tables

    for table in tables(answer):
        Console().print(table)


@app.command()
def ledger(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show the account: what came in, what went out, what is still here; exit code 1 when it does not add up."""
    from bifrost.run import account

    found = account(_load(config))
    if as_json:
        _print_json(found)
    else:
        from rich.console import Console

        from bifrost.ledger import tables

        for table in tables(found):
            Console().print(table)
    raise typer.Exit(0 if found["unaccounted"] == 0 else 1)


@app.command(name="test")
def try_source(
    source: Annotated[str, typer.Option("--source", "-s", help="Name of the source.")],
    config: ConfigFile = DEFAULT_CONFIG,
    seconds: Annotated[str, typer.Option("--seconds", help="How long to read.")] = "5",
    as_json: AsJson = False,
) -> None:
    """Read one source and show its readings; nothing is delivered and nothing is stored. Exit code 1 when none came."""
    from bifrost.try_source import try_source as read

    loaded = _load(config)
    raise typer.Exit(read(loaded, source, _duration(seconds) or 5.0, as_json=as_json))


def main() -> None:
    """The console script."""
    app()
