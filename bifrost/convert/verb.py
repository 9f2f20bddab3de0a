"""``bifrost convert``: the verb."""

from pathlib import Path
from typing import Annotated, Literal

import typer

File = Annotated[Path, typer.Argument(metavar="FILE", help="What is there today.", exists=True, dir_okay=False)]
From = Annotated[
    Literal["telegraf", "kepware", "thingsboard"] | None,
    typer.Option("--from", help="Whose file it is; told by what it holds when absent."),
]
Out = Annotated[Path | None, typer.Option("--output", "-o", help="File to write to, instead of the screen.")]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that there is.")]


def convert(file: File, kind: From = None, output: Out = None, force: Force = False) -> None:
    """Turn a telegraf.conf, a Kepware tag export (CSV) or a ThingsBoard gateway's JSON into a configuration of Bifrost.

    What cannot be taken over stands in the YAML as `# not taken over: …`, with the reason and what to do; what is left to do as
    `# to do: …`. The result loads. Exit code 0 when all was taken over, 1 when something was not, 2 when the file cannot be read.
    """
    from bifrost.convert.draft import ConvertError
    from bifrost.convert.kinds import KINDS, kind_of
    from bifrost.convert.kinds import convert as converted

    if output is not None and output.exists() and not force:
        typer.echo(f"{output} is there already; name another file, or say --force", err=True)
        raise typer.Exit(2)
    try:
        text = file.read_text("utf-8-sig")
        found_kind = kind or kind_of(text)
        if found_kind is None:
            typer.echo(f"{file}: nothing tells whose file it is; say --from {' or '.join(KINDS)}", err=True)
            raise typer.Exit(2)

        def beside(name: str) -> str | None:
            path = file.parent / name
            return path.read_text("utf-8-sig") if path.is_file() else None

        found = converted(text, file.name, found_kind, beside)
    except (ConvertError, OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        typer.echo(f"{file}: {reason}", err=True)
        raise typer.Exit(2) from error
    if output is None:
        typer.echo(found.text, nl=False)
    else:
        output.write_text(found.text, "utf-8")
    if found.unseen:
        typer.echo(f"{', '.join(found.unseen)}: set them, and run bifrost check", err=True)
    for line in found.to_do:
        typer.echo(f"to do: {line}", err=True)
    for line in found.lost:
        typer.echo(f"not taken over: {line}", err=True)
    typer.echo(f"{len(found.lost)} not taken over, {len(found.to_do)} to do", err=True)
    raise typer.Exit(1 if found.lost else 0)
