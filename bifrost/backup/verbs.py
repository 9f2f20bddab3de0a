"""`bifrost backup` and `bifrost restore`."""

from pathlib import Path
from typing import Annotated

import typer

from bifrost.options import DEFAULT_CONFIG, ConfigFile, load, stores_told


def backup(
    file: Annotated[
        Path, typer.Argument(help="The archive to write; compressed when its name ends in gz.", metavar="FILE")
    ],
    config: ConfigFile = DEFAULT_CONFIG,
    with_key: Annotated[
        bool, typer.Option("--with-key", help="The key of the secrets too: who has the archive has them all.")
    ] = False,
) -> None:
    """Write a backup of the gateway's directory and configuration; it may run, and stands still for a moment.

    In it is all that was acknowledged before it began and not delivered yet. Not in it: tables that targets have made, and
    the key of the secrets.
    """
    loaded = load(config)
    from bifrost.backup.archive import write

    with stores_told():
        found = write(file, loaded, config, with_key=with_key)
    still = (
        "no gateway runs"
        if found.stood_still is None
        else f"the gateway stood still for {1000 * found.stood_still:.0f} ms"
    )
    typer.echo(f"{file}: {found.files} files, {found.size / 1e6:.1f} MB; {still}")
    for folder in found.left_out:
        typer.echo(f"  not in it: {folder}, a table that a target has made")
    if found.with_key:
        typer.echo("  the key of the secrets is in it: keep it where you would keep the key")


def restore(
    file: Annotated[Path, typer.Argument(help="The archive that `bifrost backup` wrote.", metavar="FILE", exists=True)],
    config: ConfigFile = DEFAULT_CONFIG,
    directory: Annotated[
        Path | None,
        typer.Option("--directory", help="Where the gateway's directory belongs, if elsewhere than it was."),
    ] = None,
) -> None:
    """Put a backup back: the whole directory where none is, and those files of the configuration that are not there.

    What was delivered after the backup comes again where it is still in it. Readings that come from now on have numbers of their own.
    """
    from bifrost.backup.archive import restore as put_back

    with stores_told():
        found = put_back(file, config, directory)
    typer.echo(f"{found.directory}: {found.files} files of gateway `{found.gateway}`, as it was on {found.began}")
    for path in found.configuration:
        typer.echo(f"  {path}")
    for path in found.kept:
        typer.echo(f"  {path} was there and stays")
