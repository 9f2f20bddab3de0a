"""``bifrost browse``: what an OPC UA server has, as a tree or as configuration to paste."""

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, load, print_json

if TYPE_CHECKING:
    from connectors.contract import Context
    from connectors.sources.opcua import OpcUaConfig
    from connectors.sources.opcua.look import Look, Seen

_LONGEST = 60  # characters of a value on the screen


def browse(
    server: Annotated[
        str, typer.Argument(help="opc.tcp://HOST:PORT, or the name of an OPC UA source of the configuration.")
    ],
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Configuration that has the source; its security and user are used."),
    ] = None,
    depth: Annotated[int, typer.Option(help="Levels below the root.", min=1, max=100)] = 20,
    match: Annotated[
        list[str] | None,
        typer.Option(
            help="Browse path of what is shown, e.g. 'Plant/*/Temp*' or '**/Speed'. May be given several times."
        ),
    ] = None,
    root: Annotated[str, typer.Option(help="Node id to begin at; i=85 is the Objects folder.")] = "i=85",
    limit: Annotated[int, typer.Option(help="Variables, at most.", min=1)] = 5_000,
    values: Annotated[bool, typer.Option("--values/--no-values", help="Read the values, too.")] = True,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print a source with these nodes, to paste.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the variables of an OPC UA server: names, data types, values, units and node ids.

    Exit code 1 when the server cannot be used or has nothing that matches.
    """
    from pydantic import ValidationError

    from connectors.sources.opcua import BrowseConfig
    from connectors.sources.opcua.look import UnusableServerError, look

    with tempfile.TemporaryDirectory() as scratch:
        try:
            source, context = _source(server, config, Path(scratch))
            wanted = BrowseConfig(roots=[root], include=match or ["**"], max_depth=depth, max_nodes=limit)
        except ValidationError as error:
            raise typer.BadParameter("; ".join(problem["msg"] for problem in error.errors())) from error
        progress = _Progress()
        try:
            found = asyncio.run(look(source, context, wanted, progress, values=values))
        except UnusableServerError as error:
            progress.end()
            _complain(str(error))
            raise typer.Exit(1) from error
        progress.end()
    if as_json:
        print_json(_json(found))
    elif as_yaml and found.variables:
        typer.echo(source_yaml(source, found), nl=False)
    elif found.variables or found.folders:
        for line in tree(found, everything=not match, values=values):
            typer.echo(line)
    if found.truncated:
        _complain(f"there are more than {limit} variables; see --limit, --match and --depth")
    if not found.variables:
        _complain("no variable matches" if match else "there is no variable outside namespace 0")
        raise typer.Exit(1)


def _source(server: str, config: Path | None, scratch: Path) -> "tuple[OpcUaConfig, Context]":
    """The source that is meant, and where its certificates lie."""
    from connectors.contract import Context
    from connectors.sources.opcua import OpcUaConfig

    if "://" in server and config is None:
        return OpcUaConfig(name="plant", endpoint=server), Context("bifrost-browse", scratch)
    loaded = load(config or DEFAULT_CONFIG)
    known = {source.name: source for source in loaded.sources if isinstance(source, OpcUaConfig)}
    if server not in known:
        msg = f"there is no OPC UA source `{server}`; the configuration has: {', '.join(known) or 'none'}"
        raise typer.BadParameter(msg)
    return known[server], Context(loaded.gateway, loaded.directory / "sources" / server)


class _Progress:
    """One line on standard error that is written over, where that is a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()

    def __call__(self, said: str) -> None:
        if self._shown:
            typer.echo(f"\r{said:<60}", nl=False, err=True)

    def end(self) -> None:
        self("")
        if self._shown:
            typer.echo("\r", nl=False, err=True)


def _complain(text: str) -> None:
    from config.logs import escaped

    typer.echo(escaped(text), err=True)


def _text(seen: "Seen") -> str:
    """Value and unit on one line."""
    value = seen.value
    text = value if isinstance(value, str) else value.hex() if isinstance(value, bytes) else json.dumps(value)
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 1] + "…"
    status = f" (status 0x{seen.status:08X})" if seen.status else ""
    return f"{text} {seen.tag.unit}".rstrip() + status


def tree(found: "Look", *, everything: bool, values: bool) -> list[str]:
    """The tree, line by line.

    Args:
        found: What was found.
        everything: Show objects without a variable, too.
        values: Show values.
    """
    from config.logs import escaped

    variables = {tuple(seen.path.split("/")): seen for seen in found.variables}
    paths = set(variables)
    for path in variables:
        paths.update(path[:length] for length in range(1, len(path)))
    if everything:
        paths.update(tuple(folder.split("/")) for folder in found.folders)
    lines: list[tuple[str, str, str, str]] = []
    for path in sorted(paths):
        seen = variables.get(path)
        name = "  " * (len(path) - 1) + escaped(path[-1])
        if seen is None:
            lines.append((name, "", "", found.folders.get("/".join(path), "")))
        else:
            lines.append((name, escaped(seen.type), escaped(_text(seen)) if values else seen.tag.unit, seen.address))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return [
        "  ".join(
            [*(cell.ljust(width) for cell, width in zip(line[:3], widths, strict=True)), escaped(line[3])]
        ).rstrip()
        for line in lines
    ]


def source_yaml(source: "OpcUaConfig", found: "Look") -> str:
    """A source that reads these variables."""
    from config.logs import escaped

    lines = ["sources:", f"  - name: {source.name}", "    protocol: opcua", f"    endpoint: {_quoted(source.endpoint)}"]
    lines.append("    nodes:")
    for seen in found.variables:
        lines.append(f"      - id: {_quoted(seen.address)}")
        lines.append(f"        tag_name: {_quoted(seen.tag.tag_name)}  # {escaped(f'{seen.type}: {_text(seen)}')}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A text as YAML takes it whatever it holds."""
    return json.dumps(text, ensure_ascii=False)


def _json(found: "Look") -> Any:
    return {
        "server": found.server,
        "truncated": found.truncated,
        "variables": [
            {
                "path": seen.path,
                "id": seen.address,
                "type": seen.type,
                "unit": seen.tag.unit,
                "value": seen.value.hex() if isinstance(seen.value, bytes) else seen.value,
                "status": seen.status,
            }
            for seen in found.variables
        ],
    }
