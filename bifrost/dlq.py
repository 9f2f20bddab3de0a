"""`bifrost dlq`: the verbs for dead letters."""

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, moment, print_json, stores_told

if TYPE_CHECKING:
    from delivery.letter import Selection

dlq = typer.Typer(help="Dead letters: readings that no target takes, with the reason.", no_args_is_help=True)

_GROUPS: Final = 50
_EACH: Final = 100

Target = Annotated[
    str | None, typer.Option("--target", "-t", help="Only those of this target; @flow for the flow itself.")
]
Source = Annotated[str | None, typer.Option("--source", "-s", help="Only those of this source.")]
Reason = Annotated[
    str | None, typer.Option("--reason", "-r", help="Only those whose reason has this text, in any case.")
]
Since = Annotated[
    str | None, typer.Option("--since", help="Only those from this time on: 2h (ago), or 2026-09-21T14:00 (UTC).")
]
Until = Annotated[str | None, typer.Option("--until", help="Only those before this time, written as for --since.")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, help="At most so many, the oldest first.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it; without this, only say what would go.")]


def _selection(
    target: str | None,
    source: str | None,
    reason: str | None,
    since: str | None,
    until: str | None,
    limit: int | None,
) -> "Selection":
    from delivery.letter import Selection

    now = time.time()
    return Selection(target, source, reason, moment(since, now), moment(until, now), limit=limit)


@dlq.command(name="list")
def list_letters(
    target: Target = None,
    source: Source = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    each: Annotated[bool, typer.Option("--each", help="Show single readings instead of groups.")] = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show dead letters by target, class and reason; at most 50 groups, or 100 readings, without --limit."""
    from bifrost import letters
    from bifrost.screen import console

    wanted = _selection(target, source, reason, since, until, limit or (_EACH if each else _GROUPS))
    with stores_told():
        found = letters.each(load(config), wanted) if each else letters.groups(load(config), wanted)
    if as_json:
        print_json(found)
        return
    console().print(letters.each_table(found) if each else letters.group_table(found))
    typer.echo(f"{found['stored']:,} dead letters in all" + (f"; {found['alarm']}" if found.get("alarm") else ""))
    if found.get("more_groups"):
        typer.echo(f"{found['more_groups']:,} more groups; see --limit")


@dlq.command()
def show(
    number: Annotated[int, typer.Argument(help="Number of a dead letter, see bifrost dlq list --each.")],
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Show all that is known of one dead letter. Exit code 1 when it is not there."""
    from bifrost import letters
    from config.logs import escaped
    from delivery.letter import Selection

    with stores_told():
        found = letters.each(load(config), Selection(number=number))["letters"]
    if not found:
        typer.echo(f"there is no dead letter {number}", err=True)
        raise typer.Exit(1)
    if as_json:
        print_json(found[0])
        return
    for line in letters.described(found[0]):
        typer.echo(escaped(line))


@dlq.command()
def export(
    target: Target = None,
    source: Source = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; standard output when absent.", dir_okay=False)
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
) -> None:
    """Write dead letters as JSON lines; they stay where they are."""
    from bifrost import letters

    wanted = _selection(target, source, reason, since, until, limit)
    with stores_told(), contextlib.ExitStack() as stack:
        out = stack.enter_context(output.open("wb")) if output else sys.stdout.buffer
        letters.export(load(config), wanted, out)
        out.flush()


@dlq.command()
def replay(
    target: Target = None,
    source: Source = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Send dead letters again, to the target that refused them, or through the rules. Exit code 1 when some stay."""
    from bifrost import letters

    wanted = _selection(target, source, reason, since, until, limit)
    with stores_told():
        found = letters.replay(load(config), wanted)
    if as_json:
        print_json(found)
    else:
        typer.echo("\n".join(letters.replay_words(found["replay"])))
    stay = sum(count for key, count in found["replay"].items() if key not in ("moved", "no_rule"))
    raise typer.Exit(1 if stay else 0)


@dlq.command()
def purge(
    target: Target = None,
    source: Source = None,
    reason: Reason = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = None,
    yes: Yes = False,
    config: ConfigFile = DEFAULT_CONFIG,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good; the account keeps their number. Exit code 1 without --yes."""
    from bifrost import letters

    wanted = _selection(target, source, reason, since, until, limit)
    with stores_told():
        if not yes:
            selected = letters.groups(load(config), wanted)["selected"]
            count = selected if limit is None else min(limit, selected)
            typer.echo(f"{count:,} dead letters would be deleted for good; add --yes", err=True)
            raise typer.Exit(1)
        found = letters.purge(load(config), wanted)
    if as_json:
        print_json(found)
    else:
        typer.echo(f"{found['purged']:,} dead letters deleted")
