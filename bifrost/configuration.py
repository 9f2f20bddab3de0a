"""``bifrost config``: a configuration as it is understood, what a change of it changes, and what was run with before."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, load, print_json, stores_told

if TYPE_CHECKING:
    from config.changes import Change
    from config.history import Entry
    from config.models import Configuration

configuration = typer.Typer(
    help="What a configuration means, what a change of it changes, and how to take one back.", no_args_is_help=True
)

_PATIENCE = 60.0  # seconds that a running gateway may take for a change

Number = Annotated[
    int, typer.Argument(help="Number of the configuration, as `bifrost config history` shows it.", min=1)
]


@configuration.callback()
def _configuration() -> None:
    """What a configuration means, what a change of it changes, and how to take one back."""


@configuration.command()
def show(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Print the configuration as it is understood: with every default, and without secrets."""
    import yaml

    from config.shown import understood

    shown = understood(load(config))
    if as_json:
        print_json(shown)
    else:
        typer.echo(yaml.safe_dump(shown, sort_keys=False, allow_unicode=True), nl=False)


@configuration.command()
def schema() -> None:
    """Print the JSON schema of the configuration, for editors."""
    from config.reference import editor_schema

    typer.echo(json.dumps(editor_schema(), indent=1, ensure_ascii=False))


@configuration.command()
def plan(
    config: ConfigFile = DEFAULT_CONFIG,
    against: Annotated[
        int | None, typer.Option("--against", help="Number of an earlier configuration instead of the newest.", min=1)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what the configuration changes about the one that the gateway ran with last. Changes nothing."""
    from config.loader import places
    from config.shown import told

    loaded = load(config)
    with stores_told():
        entry = _entry(loaded, against)
    found = entry.differs(loaded)
    where = {part: str(place) for part, place in places(config).items()}
    if as_json:
        print_json({"against": entry.number, "changes": [told(one, where) for one in found]})
        return
    _print(found, where, f"Against configuration {entry.number}, in use since {entry.since:%Y-%m-%d %H:%M} UTC")


@configuration.command()
def apply(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """Have the running gateway run as the files say now. What they do not change goes on undisturbed, and loses nothing.

    When it cannot be done nothing has changed: the exit code is 1 then, or 2 when the files are wrong.
    """
    from bifrost.run import ask
    from config.history import texts_of

    loaded = load(config)
    with stores_told():
        answer = ask(loaded, "/api/config/apply", {"files": texts_of(config)}, _PATIENCE) if loaded.port else None
        _tell_applied(loaded, answer, as_json=as_json)


@configuration.command()
def history(config: ConfigFile = DEFAULT_CONFIG, as_json: AsJson = False) -> None:
    """List the configurations that the gateway has run with, the newest last."""
    from config.history import entries

    with stores_told():
        found = entries(load(config).directory)
    if as_json:
        print_json({"configurations": [_listed(entry) for entry in found]})
        return
    from bifrost.screen import Listing, console

    table = Listing(
        ["number"], ["in use since (UTC)", "sources", "targets", "rules"], ["files"], title="Configurations"
    )
    for entry in found:
        counts = (len(entry.parts.get(kind, {})) for kind in ("source", "target", "rule"))
        table.add_row(entry.number, f"{entry.since:%Y-%m-%d %H:%M:%S}", *counts, ", ".join(entry.files))
    console().print(table)


@configuration.command()
def rollback(
    number: Number,
    config: ConfigFile = DEFAULT_CONFIG,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Put the files of an earlier configuration back, comments and all; a gateway that runs takes them at once."""
    from bifrost.run import ask
    from config.history import restore

    loaded = load(config)
    with stores_told():
        entry = _entry(loaded, number)
        if not yes:
            _print(entry.differs(loaded), {}, f"Taking back what has changed since configuration {number}")
            typer.confirm("Put its files back?", abort=True)
        if loaded.port and ask(loaded, "/health") is not None:
            _tell_applied(loaded, ask(loaded, "/api/config/rollback", {"number": number}, _PATIENCE))
            return
        changed = restore(entry, config)
    typer.echo(f"Put back: {', '.join(changed)}" if changed else "Nothing to put back: the files are as they were.")
    load(config)  # files that it names may be gone since


def _tell_applied(loaded: "Configuration", answer: dict[str, Any] | None, *, as_json: bool = False) -> None:
    from delivery.disk import StoreError

    if answer is None:
        raise StoreError(
            f"no gateway `{loaded.gateway}` answers on port {loaded.port}: the files hold from its next start on"
        )
    if as_json:
        print_json(answer)
        return
    for change in answer["changes"]:
        typer.echo(f"{change['what']:8} {change['kind']} {change['name']}")
    typer.echo(f"Applied in {answer['took']:.2f} s: configuration {answer['number']}.")
    if answer["next_start"]:
        typer.echo(f"From the next start on: {', '.join(answer['next_start'])}.")


def _entry(loaded: "Configuration", number: int | None) -> "Entry":
    from config.history import entries
    from delivery.disk import StoreError

    found = entries(loaded.directory)
    if not found:
        raise StoreError(f"{loaded.directory} keeps no configuration yet: the gateway has not run with one")
    chosen = found[-1] if number is None else next((entry for entry in found if entry.number == number), None)
    if chosen is None:
        kept = f"{found[0].number} to {found[-1].number}"
        raise StoreError(f"there is no configuration {number}; kept are {kept}, see `bifrost config history`")
    return chosen


def _listed(entry: "Entry") -> dict[str, Any]:
    return {"number": entry.number, "since": entry.since.isoformat(), "files": list(entry.files)}


def _print(found: "list[Change]", where: dict[tuple[str, str], str], title: str) -> None:
    from bifrost.screen import Listing, console
    from config.changes import shown

    if not found:
        typer.echo(f"{title}: nothing changes.")
        return
    table = Listing(["", "part", "key"], [], ["before", "now", "place"], title=title)
    marks = {"added": "+ added", "removed": "- removed", "changed": "~ changed"}
    for change in found:
        part, place = f"{change.kind} {change.name}", where.get((change.kind, change.name), "")
        rows = [(key, shown(old), shown(new)) for key, (old, new) in change.leaves.items()] or [("", "", "")]
        for at, row in enumerate(rows):
            table.add_row(*((marks[change.what], part) if at == 0 else ("", "")), *row, place if at == 0 else "")
    console().print(table)
    counts = {what: sum(one.what == what for one in found) for what in marks}
    typer.echo(", ".join(f"{count} {what}" for what, count in counts.items() if count))
