"""``bifrost discover``: look for servers of OPC UA, MQTT and Modbus in the networks that the configuration lists."""

import getpass
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, print_json, stores_told

if TYPE_CHECKING:
    from config.models import Configuration
    from discovery.desk import Audit, DiscoveryDesk
    from discovery.scan import Scan
    from discovery.servers import Server

_REFRESH = 0.2  # seconds

discover = typer.Typer(
    help="Look for servers of OPC UA, MQTT and Modbus in the networks that discovery.network.subnets lists.",
    invoke_without_command=True,
)


@discover.callback()
def _discover(
    context: typer.Context,
    config: ConfigFile = DEFAULT_CONFIG,
    subnet: Annotated[
        list[str] | None,
        typer.Option(help="Scan this part of the listed networks only. May be given several times."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Scan the networks that discovery.network.subnets lists, and show every server that is known, with what became of it.

    Slowly and reading only: a host gets one connection at a time, and each port one. Ctrl-C stops it; what was found is kept.
    Exit code 1 when it was stopped or failed, 2 when it is not allowed.
    """
    if context.invoked_subcommand is not None:
        return
    from discovery.coverage import ScanRefusedError

    loaded = load(config)
    desk = _desk(loaded)
    desk.audit = _audited(loaded)
    progress = _Progress()
    with stores_told():
        try:
            servers = desk.scan_here(subnet or None, f"{getpass.getuser()} (command line)", progress.begin)
        except ScanRefusedError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            progress.end()
            typer.echo("stopped; what was found is kept", err=True)
            raise typer.Exit(1) from None
        finally:
            progress.end()
    _show(servers, as_json=as_json)


@discover.command(name="list")
def list_known(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show every server that is known; nothing is scanned."""
    loaded = load(config)
    with stores_told():
        servers = _desk(loaded).servers()
    _show(servers, as_json=as_json)


@discover.command()
def draft(
    server: Annotated[str, typer.Argument(help="Id of the server, e.g. opcua-192-168-1-10-4840.", metavar="ID")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Print a source for a server that was found, as YAML to paste. Exit code 1 when there is none."""
    from discovery.desk import NoServerError

    loaded = load(config)
    with stores_told():
        try:
            found = _desk(loaded).draft(server)
        except NoServerError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error
    if as_json:
        print_json({"source": found.source, "notes": found.notes})
    else:
        typer.echo(found.yaml, nl=False)


def _desk(loaded: "Configuration") -> "DiscoveryDesk":
    from discovery.desk import DiscoveryDesk

    return DiscoveryDesk(loaded.discovery, loaded.directory, loaded.port)


def _audited(loaded: "Configuration") -> "Audit":
    from web.access.accounts import utc_now
    from web.access.audit import Audit

    def note(what: str, who: str, **facts: object) -> None:
        Audit(loaded.directory).note(who, what, "this machine", str(facts.pop("result", "done")), utc_now(), **facts)

    return note


def _show(servers: "list[Server]", *, as_json: bool) -> None:
    from discovery.desk import shown

    if as_json:
        print_json({"servers": [shown(server) for server in servers]})
        return
    from bifrost.screen import Listing, console

    table = Listing(["server"], ["state"], ["seen", "what it says"], title=f"{len(servers)} servers")
    for server in servers:
        state = f"{server.state} ({', '.join(server.changes)})" if server.changes else server.state
        table.add_row(server.id, state, server.seen_time, summary(server.protocol, server.detail))
    console().print(table)


def summary(protocol: str, detail: dict[str, Any]) -> str:
    """What a server says, in one line."""
    if not detail.get("speaks"):
        return str(detail.get("problem", ""))
    if protocol == "opcua":
        offers = sorted({f"{each['policy']}/{each['mode']}" for each in detail.get("endpoints", [])})
        users = sorted({user for each in detail.get("endpoints", []) for user in each["users"]})
        return f"{detail.get('name') or 'no name'}; {', '.join(offers)}; users: {', '.join(users)}"
    if protocol == "modbus":
        return "; ".join(
            f"unit {unit}: " + (" ".join(said[key] for key in ("vendor", "product", "revision") if said.get(key)) or said["answers"])
            for unit, said in detail["units"].items()
        )  # fmt: skip
    spoken = detail.get("sparkplug", {})
    heard = f"; Sparkplug B: {', '.join(spoken['groups']) or 'hosts'}" if spoken.get("present") is True else ""
    return f"MQTT {detail['version']}; anonymous {detail['anonymous']} ({detail['answer']}){heard}"


class _Progress:
    """One line on standard error that is written over, where that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, scan: "Scan") -> None:
        if self._shown:
            self._thread = threading.Thread(target=self._tell, args=(scan,), daemon=True)
            self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def _tell(self, scan: "Scan") -> None:
        while not self._ended.wait(_REFRESH):
            now = scan.progress
            sys.stderr.write(f"\r\x1b[K{now.asked} of {now.of} ports asked, {now.hits} open; Ctrl-C stops")
            sys.stderr.flush()
