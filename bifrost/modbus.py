"""``bifrost modbus``: looking at Modbus devices."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from bifrost.options import AsJson, duration, print_json

modbus = typer.Typer(help="Modbus devices: find out what one holds.", no_args_is_help=True)


@modbus.callback()
def _modbus() -> None:
    """Modbus devices: find out what one holds."""


@modbus.command()
def profile(
    host: Annotated[
        str, typer.Argument(help="Host, host:port or an endpoint such as rtu+tcp://host:4001 or rtu:///dev/ttyUSB0.")
    ],
    units: Annotated[
        str, typer.Option(help="Unit ids to try, e.g. 1-10,247; 1 to 10 and the usual others when absent.")
    ] = "",
    last: Annotated[int, typer.Option(help="Last address to try in each table.", min=0, max=65535)] = 9_999,
    requests: Annotated[int, typer.Option(help="Requests of the search, at most; units share them.", min=10)] = 5_000,
    known: Annotated[
        list[str] | None,
        typer.Option(
            help="A value that a display shows now, by the manual's address (of 40101 that is 101): 101=230.1. Settles order, "
            "type and how addresses count. May be given several times."
        ),
    ] = None,
    timeout: Annotated[str, typer.Option(help="Time for one answer, e.g. 500ms.")] = "1s",
    name: Annotated[str, typer.Option(help="Name of the source in the draft.")] = "device",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the draft here instead of printing it.", dir_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find out unit ids, tables, addresses, orders, block size and pace of a device, and draft its configuration.

    It only reads (function codes 1 to 4, and 43/14 for the identification). Exit code 1 when the device cannot be reached or nothing can be read.
    """
    from connectors.sources.modbus.draft import draft, draft_yaml
    from connectors.sources.modbus.profile import UNITS, Profiler, Search, known_values, unit_ids

    seconds = duration(timeout) or 1.0
    try:
        search = Search(unit_ids(units) if units else UNITS, last, requests, known=known_values(known or []))
        profiler = Profiler(host, search, seconds, lambda said: typer.echo(said, err=True))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    try:
        found = asyncio.run(profiler.run())
    except OSError as error:
        typer.echo(f"{error}; is the device on, and is this its address?", err=True)
        raise typer.Exit(1) from error
    if as_json:
        print_json(
            {
                "units": found.units,
                "any_unit": found.any_unit,
                "identities": found.identities,
                "orders": [
                    {"byte_order": o.byte_order, "word_order": o.word_order, "score": o.score} for o in found.orders
                ],
                "addresses": {"manual_to_wire": found.counted[0], "why": found.counted[1]},
                "requests": found.requests,
                "complete": found.complete,
                "draft": draft(found, name) if found.extents else None,
            }
        )
    elif not found.extents:
        typer.echo(
            "nothing can be read: " + ("units answer, but refuse" if found.units else "no unit answers"), err=True
        )
    elif output is not None:
        output.write_text(draft_yaml(found, name), "utf-8")
        typer.echo(f"written to {output}")
    else:
        typer.echo(draft_yaml(found, name), nl=False)
    raise typer.Exit(0 if found.extents else 1)
