"""`bifrost spool`: the verbs for what waits for targets."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, print_json, stores_told

spool = typer.Typer(help="Spools: readings that wait for their targets.", no_args_is_help=True)

Target = Annotated[str, typer.Argument(help="Name of a target, also of one that is kept; see bifrost spool ls.")]


@contextlib.contextmanager
def _told() -> Iterator[None]:
    from bifrost.spools import SpoolError

    with stores_told():
        try:
            yield
        except SpoolError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from error


@spool.command(name="ls")
def list_spools(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Show every spool: readings, bytes, the oldest reading's age, by priority; also those kept of removed targets."""
    from bifrost import spools
    from bifrost.screen import console

    with _told():
        found = spools.listing(load(config))
    if as_json:
        print_json(found)
    else:
        console().print(spools.table(found))


@spool.command()
def peek(
    target: Target,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many readings.")] = 20,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show the next readings that wait for a target; they stay."""
    from bifrost import spools
    from bifrost.screen import console

    with _told():
        found = spools.peek(load(config), target, limit)
    if as_json:
        print_json(found)
    else:
        console().print(spools.readings_table(found))


@spool.command()
def export(
    target: Target,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; standard output when absent.", dir_okay=False)
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write what waits for a target as JSON lines; it stays."""
    from bifrost import spools

    with _told(), contextlib.ExitStack() as stack:
        out = stack.enter_context(output.open("wb")) if output else sys.stdout.buffer
        spools.export(load(config), target, out)
        out.flush()


@spool.command()
def purge(
    target: Target,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it; without this, only say what would go.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Discard what waits for a target for good; the account counts it as purged. Exit code 1 without --yes."""
    from bifrost import spools

    with _told():
        if not yes:
            line = spools.listing(load(config))["spools"].get(target)
            if line is None:
                raise spools.SpoolError(f"there is no spool `{target}`; see bifrost spool ls")
            typer.echo(f"{line['readings']:,} readings would be discarded for good; add --yes", err=True)
            raise typer.Exit(1)
        found = spools.purge(load(config), target)
    if as_json:
        print_json(found)
    else:
        left = f"; {found['under_way']:,} are under way and stay" if found["under_way"] else ""
        typer.echo(f"{found['purged']:,} readings discarded{left}")


@spool.command()
def attach(
    old: Annotated[str, typer.Argument(help="Name of the removed target whose readings are kept.")],
    new: Annotated[str, typer.Argument(help="Name of the configured target that is to get them.")],
    other: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Directory of another gateway that has gone, or a copy of it; its target OLD.",
            file_okay=False,
        ),
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Move what is kept of a removed target to another target; the gateway must not run. Exit code 1 when some stay."""
    from bifrost import spools

    with _told():
        found = spools.attach(load(config), old, new, other)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found['moved']:,} readings wait for {new} now")
        if found["left"]:
            typer.echo(f"{found['left']:,} stay: its spool is full", err=True)
    raise typer.Exit(1 if found["left"] else 0)
