"""The command ``bifrost sim zerobus``."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

# what the demo, the examples and the tests use where nothing else is said
DEFAULT_CLIENT_ID = "simulator"
DEFAULT_CLIENT_SECRET = "simulator-secret"  # noqa: S105 - of the emulator, which guards nothing


def zerobus(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port of the gRPC and Arrow Flight endpoint; 0: any free one.")
    ] = 8765,
    http_port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="Port of the OAuth, Unity Catalog and admin endpoint; 0: any free one."),
    ] = 8766,
    data_dir: Annotated[
        Path, typer.Option(file_okay=False, help="Directory of the log and the Delta tables; made if missing.")
    ] = Path("zerobus-data"),
    table: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE",
            help="A table catalog.schema.table and the file that declares it (JSON columns or CREATE TABLE); repeat for"
            " more. A table that the data directory has already is left as it is.",
        ),
    ] = None,
    client_id: Annotated[str, typer.Option(help="OAuth client id that may write.")] = DEFAULT_CLIENT_ID,
    client_secret: Annotated[
        str, typer.Option(envvar="ZEROBUS_CLIENT_SECRET", help="Its secret.")
    ] = DEFAULT_CLIENT_SECRET,
    workspace_id: Annotated[
        str | None, typer.Option(help="Workspace id that tokens must be asked for; default: any.")
    ] = None,
    tls_cert: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="PEM certificate chain; with --tls-key turns on TLS."),
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="PEM private key of --tls-cert.")
    ] = None,
    ready_file: Annotated[
        Path | None, typer.Option(dir_okay=False, help="File to write the endpoints to, as JSON, once both answer.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0, help="Stop after that many seconds; default: on SIGTERM or Ctrl-C.")
    ] = None,
    commit_seconds: Annotated[
        float, typer.Option(min=0.05, max=60, help="Seconds between commits to a Delta table.")
    ] = 1.0,
    group_commit_ms: Annotated[
        float, typer.Option(min=0, max=20, help="Milliseconds that a group commit of the log waits for more requests.")
    ] = 2.0,
) -> None:
    """Run a local Databricks ZeroBus: the official SDK streams into real Delta tables on this machine.

    Prints one line "ready {json}" with the endpoints when it can be used. Faults (rejected streams, lost
    acknowledgements, rotation, quotas, expired tokens …) are switched by PATCH /admin/faults on the HTTP port; GET
    there shows all of them as they stand, GET /admin/counters what came in, GET /tables/NAME/rows what was stored.
    """
    from simulator.zerobus import schema
    from simulator.zerobus.server import Settings, StartError, serve

    if (tls_cert is None) != (tls_key is None):
        raise typer.BadParameter("--tls-cert and --tls-key belong together")
    tables = {}
    for declaration in table or []:
        name, separator, file = declaration.partition("=")
        if not separator or not schema.is_table_name(name):
            raise typer.BadParameter(f"--table {declaration!r} is not catalog.schema.table=FILE")
        try:
            tables[name] = schema.from_text(Path(file).read_text(encoding="utf-8"))
        except (OSError, schema.SchemaError) as error:
            raise typer.BadParameter(f"--table {name}: {error}") from error
    settings = Settings(
        data_dir=data_dir,
        host=host,
        port=port,
        http_port=http_port,
        tables=tables,
        clients={client_id: client_secret},
        workspace=workspace_id,
        tls_cert=tls_cert,
        tls_key=tls_key,
        ready_file=ready_file,
        seconds=seconds,
        commit_interval=commit_seconds,
        linger=group_commit_ms / 1000,
    )
    try:
        asyncio.run(serve(settings, typer.echo, lambda sentence: typer.echo(sentence, err=True)))
    except StartError as error:
        typer.echo(f"zerobus: {error}", err=True)
        raise typer.Exit(1) from error
