"""The command line. Verbs import what they need when they run, so that help and completion are quick."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from bifrost.backup.verbs import backup, restore
from bifrost.browse import browse
from bifrost.certs import certs
from bifrost.commission import commission
from bifrost.config_tests import run_tests
from bifrost.configuration import configuration
from bifrost.convert.verb import convert
from bifrost.create import create
from bifrost.delta import delta
from bifrost.discover import discover
from bifrost.dlq import dlq
from bifrost.drain import drain
from bifrost.edge.verbs import install, uninstall, upgrade
from bifrost.explain import explain
from bifrost.modbus import modbus
from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, duration, load, print_json, stores_told
from bifrost.secrets import secrets
from bifrost.signals import Layout, SignalNames, known, named
from bifrost.spool import spool
from bifrost.users import audit, users
from simulator.cli import app as simulator_app
from simulator.zerobus.cli import zerobus as zerobus_emulator

app = typer.Typer(
    name="bifrost",
    help="Industrial gateway: OPC UA, MQTT, Sparkplug B and Modbus into Databricks ZeroBus, Delta Lake and more, without losing a reading.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 all is well; 1 it is not, or could not be done; 2 wrong arguments or a wrong configuration.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"bifrost {version('bifrost-gateway')}")
        raise typer.Exit


@app.callback()
def _bifrost(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    pass


For = Annotated[str | None, typer.Option("--for", help="Stop after this time, e.g. 20s or 5m.", metavar="DURATION")]


@app.command()
def run(config: ConfigFile = DEFAULT_CONFIG, seconds: For = None) -> None:
    """Run the gateway. SIGTERM and Ctrl-C drain it and end with exit code 0."""
    from flows import leave_on_signals

    leave_on_signals()
    from bifrost.run import run as run_gateway

    for_seconds = duration(seconds)
    loaded = load(config)
    with stores_told():
        sys.exit(run_gateway(loaded, for_seconds, config))


Read = Annotated[
    str | None,
    typer.Option("--read", help="Read the sources so long to learn their tags, e.g. 10s.", metavar="DURATION"),
]


@app.command()
def check(config: ConfigFile = DEFAULT_CONFIG, read: Read = None, as_json: AsJson = False) -> None:
    """Check a configuration: every problem at once, with file, line and column. Exit code 2 when there is one.

    Shows how many tags each pattern of `tags` takes, as far as the configuration names the tags; with --read all of them.
    """
    loaded = load(config)
    from bifrost.check import certificates, plain, table, taken
    from config.shown import members

    found, warned = taken(loaded, duration(read)), certificates(loaded)
    if as_json:
        print_json({"gateway": loaded.gateway, **members(loaded), "sources": plain(found), "certificates": warned})
        return
    sources = ", ".join(f"{s.name} ({s.protocol})" for s in loaded.sources) or "none"
    targets = ", ".join(f"{name} ({t.type})" for name, t in loaded.targets.items())
    typer.echo(
        f"{config} is sound.\n  gateway: {loaded.gateway}\n  sources: {sources}\n  targets: {targets}\n  rules:   {len(loaded.rules)}"
    )
    if loaded.membership is not None:
        there = ", ".join(f"{name} ({owner})" for name, owner in loaded.membership.elsewhere.items()) or "none"
        typer.echo(f"  member:  {loaded.membership.told()}; sources of other members: {there}")
    for warning in warned:
        typer.echo(f"  warning: {warning}")
    if any(source.tags for source in loaded.sources) or read is not None:
        from bifrost.screen import console

        console().print(table(found))


@app.command()
def doctor(
    config: ConfigFile = DEFAULT_CONFIG,
    write: Annotated[bool, typer.Option("--write", help="Write one test record to each target.")] = False,
    as_json: AsJson = False,
) -> None:
    """Connect to every source and target, and say in plain words what is wrong and what to do. Exit code 1 when something is.

    Writes nothing, unless --write: then each target gets one record of the source `bifrost-doctor`.
    """
    loaded = load(config)
    from bifrost.doctor import examine, plain, table
    from bifrost.screen import console

    found = examine(loaded, write=write)
    if as_json:
        print_json({"gateway": loaded.gateway, "ok": all(one.ok for one in found), "connectors": plain(found)})
    else:
        console().print(table(found))
    raise typer.Exit(0 if all(one.ok for one in found) else 1)


@app.command()
def status(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show how the running gateway, its sources and its targets stand. Exit code 1 when it does not run."""
    from bifrost.run import ask

    loaded = load(config)
    if loaded.port is None:
        typer.echo("the configuration opens no HTTP port (web_ui.enabled); try bifrost ledger", err=True)
        raise typer.Exit(1)
    with stores_told():
        answer = ask(loaded, "/api/status")
    if answer is None:
        typer.echo(f"no gateway `{loaded.gateway}` answers on {loaded.listen}:{loaded.port}", err=True)
        raise typer.Exit(1)
    if as_json:
        print_json(answer)
        return
    from bifrost.screen import console
    from bifrost.status import certificates, disk, tables

    for table in tables(answer):
        console().print(table)
    console().print(disk(answer))
    for warning in certificates(answer):
        typer.echo(warning)


@app.command()
def ledger(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show the account: what came in, what went out, what is still here; exit code 1 when it does not add up."""
    from bifrost.run import account

    loaded = load(config)
    with stores_told():
        found = account(loaded)
    if as_json:
        print_json(found)
    else:
        from bifrost.ledger import tables
        from bifrost.screen import console

        for table in tables(found):
            console().print(table)
    raise typer.Exit(0 if found["unaccounted"] == 0 else 1)


app.command()(backup)
app.command()(browse)
app.command()(explain)
app.command(name="test-config")(run_tests)
app.command()(convert)
app.command()(commission)
app.command()(drain)
app.command()(restore)
app.command()(install)
app.command()(uninstall)
app.command()(upgrade)


@app.command(name="test")
def try_source(
    source: Annotated[str, typer.Option("--source", "-s", help="Name of the source.")],
    config: ConfigFile = DEFAULT_CONFIG,
    seconds: Annotated[str, typer.Option("--seconds", help="How long to read, e.g. 5 or 1m.")] = "5",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per reading, for programs.")] = False,
) -> None:
    """Read one source and show its readings; nothing is delivered and nothing is stored. Exit code 1 when none came."""
    from bifrost.try_source import try_source as read

    for_seconds = duration(seconds) or 0.0
    loaded = load(config)
    with stores_told():
        code = read(loaded, source, for_seconds, as_json=as_json)
    raise typer.Exit(code)


@app.command()
def demo(
    seconds: For = None,
    data_dir: Annotated[
        Path, typer.Option(help="Where configuration, logs, stores and tables go.", file_okay=False)
    ] = Path("data/demo"),
    tags: Annotated[int, typer.Option(help="Tags in sum.", min=8)] = 400,
    rate: Annotated[float, typer.Option(help="Readings per second in sum.", min=1)] = 2400.0,
    sources: Annotated[
        str, typer.Option(help="Simulated sources, e.g. opcua=4,mqtt=2,sparkplug=2,modbus=2; one of each when absent.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Run a simulated plant and the gateway in one go; readings land in a Delta table and in a local ZeroBus.

    Shows live rates, and a summary at the end (Ctrl-C, or after --for). Exit code 1 when a path is wrong or a reading missing.
    """
    from bifrost.demo import Demo, DemoError, print_summary
    from bifrost.screen import console

    run = Demo(data_dir.absolute(), duration(seconds), tags, rate, sources, console(stderr=True))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: run.stop())
    try:
        with stores_told():
            summary = run.run()
    except DemoError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    if as_json:
        print_json(summary)
    else:
        print_summary(summary, run.rejected, console())
    raise typer.Exit(0 if summary["wrong_paths"] == 0 and summary["unaccounted"] == 0 else 1)


zerobus_app = typer.Typer(help="Databricks ZeroBus: what its tables need.", no_args_is_help=True)
app.add_typer(zerobus_app, name="zerobus")


@zerobus_app.callback()
def _zerobus() -> None:
    """Databricks ZeroBus: what its tables need."""


@zerobus_app.command()
def ddl(
    table: Annotated[
        str | None, typer.Argument(help="catalog.schema.table; all tables of the configuration when absent.")
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    principal: Annotated[str | None, typer.Option(help="Service principal to grant the rights to.")] = None,
    layout: Annotated[
        Layout, typer.Option(help="Layout of a table that is named here; the others have that of the configuration.")
    ] = "narrow",
    signal: SignalNames = None,
) -> None:
    """Print the CREATE TABLE with column comments, the view that shows each reading once, and the MERGE into a table of its own."""
    from connectors.targets.zerobus import ZeroBusConfig
    from connectors.targets.zerobus import ddl as statements

    names: dict[str, dict[str, str] | None]
    if table is not None:
        names = {table: {} if layout == "wide" or signal else None}
    else:
        configuration = load(config)
        names = {}
        for target_name, target in configuration.targets.items():
            if isinstance(target, ZeroBusConfig):
                sources = [source for source, its in configuration.source_targets.items() if its == target_name]
                wide = target.provider_config.layout == "wide"
                names[target.provider_config.table] = known(configuration, sources or None) if wide else None
    if not names:
        typer.echo(
            "the configuration has no ZeroBus table; name one: bifrost zerobus ddl catalog.schema.table", err=True
        )
        raise typer.Exit(2)
    try:
        extra = named(signal)
        typer.echo(
            "\n\n".join(
                statements(name, principal, None if signals is None else signals | extra)
                for name, signals in names.items()
            )
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


app.add_typer(audit, name="audit")
app.add_typer(certs, name="certs")
app.add_typer(configuration, name="config")
app.add_typer(create, name="create")
app.add_typer(delta, name="delta")
app.add_typer(discover, name="discover")
app.add_typer(dlq, name="dlq")
app.add_typer(modbus, name="modbus")
app.add_typer(secrets, name="secrets")
app.add_typer(spool, name="spool")
app.add_typer(users, name="users")
simulator_app.command(name="zerobus")(zerobus_emulator)
app.add_typer(simulator_app, name="sim")


def main() -> None:
    """The console script."""
    app(prog_name="bifrost")
