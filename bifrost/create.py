"""``bifrost create``: configuration to paste."""

from typing import Annotated

import typer

create = typer.Typer(help="Print configuration to paste, with every setting explained.", no_args_is_help=True)


def _types(kind: str, begun: str) -> list[str]:
    from config.snippets import types

    return [name for name in types(kind) if name.startswith(begun)]


def _sources(incomplete: str) -> list[str]:
    return _types("source", incomplete)


def _targets(incomplete: str) -> list[str]:
    return _types("target", incomplete)


@create.command()
def source(
    protocol: Annotated[str, typer.Argument(help="Protocol of the source, e.g. opcua.", autocompletion=_sources)],
) -> None:
    """Print a source of a protocol."""
    _print("source", protocol)


@create.command()
def target(
    type_: Annotated[
        str, typer.Argument(metavar="TYPE", help="Type of the target, e.g. delta.", autocompletion=_targets)
    ],
) -> None:
    """Print a target of a type."""
    _print("target", type_)


def _print(kind: str, type_: str) -> None:
    from config.snippets import snippet, types

    if type_ not in types(kind):
        raise typer.BadParameter(f"there is no {kind} `{type_}`; there are {', '.join(types(kind))}")
    typer.echo(snippet(kind, type_), nl=False)
