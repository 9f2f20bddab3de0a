"""``bifrost delta``: Delta tables in a catalog."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bifrost.options import DEFAULT_CONFIG, ConfigFile, load
from bifrost.signals import SignalNames, known, named

if TYPE_CHECKING:
    from config.models import Configuration

delta = typer.Typer(help="Delta Lake: what its tables need in a catalog.", no_args_is_help=True)


@delta.callback()
def _delta() -> None:
    """Delta Lake: what its tables need in a catalog."""


@delta.command()
def ddl(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Name in the catalog, catalog.schema.table; the folder's when absent. A table per source adds _<source>."
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    signal: SignalNames = None,
) -> None:
    """Print the SQL that tells a catalog of the tables: columns with comments, a view of each reading once, the MERGE."""
    from connectors.wire import wide_tables
    from connectors.wire.lakehouse import delta_ddl

    extra, found = named(signal), list(_tables(load(config), name))
    if not found:
        typer.echo("the configuration has no target of type delta", err=True)
        raise typer.Exit(2)
    typer.echo(
        "\n".join(
            delta_ddl(table, place) if signals is None else wide_tables.delta_ddl(table, place, signals | extra)
            for table, place, signals in found
        )
    )


def _tables(configuration: "Configuration", name: str | None) -> Iterator[tuple[str, str, dict[str, str] | None]]:
    """Name and place of each table, and its signals where it is a wide one."""
    from connectors.targets.delta import DeltaConfig
    from connectors.targets.delta_table import table_name

    for target in configuration.targets.values():
        if isinstance(target, DeltaConfig):
            folders: dict[str, list[str] | None] = {target.table: None}
            if target.per == "source":
                folders = {table_name(target.table, s.name): [s.name] for s in configuration.sources}
            for folder, sources in folders.items():
                own = re.sub(r"[^A-Za-z0-9_]", "_", folder.removeprefix(target.table))  # what a catalog takes as a name
                table = (name or re.sub(r"[^A-Za-z0-9_]", "_", target.table)) + own
                signals = known(configuration, sources) if target.layout == "wide" else None
                yield table, f"{target.location}/{folder}", signals
