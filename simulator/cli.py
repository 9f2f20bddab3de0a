"""Command line of the simulator: ``all``, ``opcua``, ``mqtt`` and ``modbus``."""

import json
import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Final

import typer

from simulator.plant import PROTOCOLS, build_plant
from simulator.run import Options, WorkerError, Workers

app = typer.Typer(
    name="sim",
    help="A simulated plant: OPC UA, MQTT (JSON and Sparkplug B) and Modbus servers to try a gateway on.",
    no_args_is_help=True,
)

_PORTS: Final = {"opcua": 4840, "mqtt": 1883, "modbus": 5020}
_LAST_PORT: Final = 65_535

Tags = Annotated[int, typer.Option(help="Tags in sum.", min=2)]
Rate = Annotated[float, typer.Option(help="Readings per second in sum; for Modbus, how fast it should be polled.")]
Sources = Annotated[
    str,
    typer.Option(
        help="How many sources of each protocol (opcua, mqtt, sparkplug, modbus), for example `opcua=4,modbus=2`. "
        "One of each if not given.",
        metavar="PROTOCOL=N,…",
    ),
]
LedgerFolder = Annotated[
    Path | None,
    typer.Option(
        "--ledger",
        help="Number every reading and keep account of them in this folder, one file per source.",
        file_okay=False,
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Ports = Annotated[
    str,
    typer.Option(
        help="First port per protocol (opcua, mqtt, modbus), for example `opcua=4841,modbus=502`; further sources take "
        "the next ones. 0 takes free ones everywhere. If not given: opcua=4840, mqtt=1883, modbus=5020.",
        metavar="PROTOCOL=N,…",
    ),
]
Broker = Annotated[
    str | None,
    typer.Option(help="Publish to this broker (mqtt://host:port) instead of one of the simulator's own (MQTT 3.1.1)."),
]
Describe = Annotated[
    Path | None,
    typer.Option(
        help="Write the plant's description (sources, tags, addresses, expected ISA-95 paths) as JSON to this file, once "
        "all servers listen.",
        dir_okay=False,
    ),
]
Seconds = Annotated[float | None, typer.Option(help="Stop after so many seconds.", min=0.0)]


@app.command("all")
def run_all(
    tags: Tags = 400,
    rate: Rate = 2400.0,
    sources: Sources = "",
    ledger: LedgerFolder = None,
    host: Host = "127.0.0.1",
    ports: Ports = "",
    broker: Broker = None,
    describe: Describe = None,
    seconds: Seconds = None,
) -> None:
    """Run a whole plant: OPC UA, MQTT, Sparkplug B and Modbus."""
    counts = _numbers(sources, "--sources") or dict.fromkeys(PROTOCOLS, 1)
    _run(counts, tags, rate, ledger, host, ports, broker, describe, seconds)


@app.command("opcua")
def run_opcua(
    tags: Tags = 100,
    rate: Rate = 600.0,
    sources: Annotated[int, typer.Option(help="How many servers.", min=1)] = 1,
    ledger: LedgerFolder = None,
    host: Host = "127.0.0.1",
    ports: Ports = "",
    describe: Describe = None,
    seconds: Seconds = None,
) -> None:
    """Run OPC UA servers."""
    _run({"opcua": sources}, tags, rate, ledger, host, ports, None, describe, seconds)


@app.command("mqtt")
def run_mqtt(
    tags: Tags = 200,
    rate: Rate = 1200.0,
    sources: Annotated[
        str, typer.Option(help="How many publishers of each kind.", metavar="mqtt=N,sparkplug=N")
    ] = "mqtt=1,sparkplug=1",
    ledger: LedgerFolder = None,
    host: Host = "127.0.0.1",
    ports: Ports = "",
    broker: Broker = None,
    describe: Describe = None,
    seconds: Seconds = None,
) -> None:
    """Run MQTT publishers, JSON and Sparkplug B, and a broker if none is given."""
    counts = _numbers(sources, "--sources")
    if set(counts) - {"mqtt", "sparkplug"}:
        raise typer.BadParameter("only mqtt and sparkplug here", param_hint="--sources")
    _run(counts, tags, rate, ledger, host, ports, broker, describe, seconds)


@app.command("modbus")
def run_modbus(
    tags: Tags = 100,
    rate: Rate = 600.0,
    sources: Annotated[int, typer.Option(help="How many servers.", min=1)] = 1,
    ledger: LedgerFolder = None,
    host: Host = "127.0.0.1",
    ports: Ports = "",
    describe: Describe = None,
    seconds: Seconds = None,
) -> None:
    """Run Modbus TCP servers."""
    _run({"modbus": sources}, tags, rate, ledger, host, ports, None, describe, seconds)


def _numbers(text: str, option: str) -> dict[str, int]:
    """`a=1,b=2` as a mapping."""
    numbers: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, _, number = part.partition("=")
        if key not in PROTOCOLS or not number.isdecimal():
            known = ", ".join(PROTOCOLS)
            raise typer.BadParameter(f"{part!r}: write protocol=number with one of {known}", param_hint=option)
        numbers[key] = int(number)
    return numbers


def _run(
    counts: dict[str, int],
    tags: int,
    rate: float,
    ledger: Path | None,
    host: str,
    ports: str,
    broker: str | None,
    describe: Path | None,
    seconds: float | None,
) -> None:
    try:
        plant = build_plant(tags=tags, rate=rate, sources=counts, ledger=ledger is not None)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    first_ports = {} if ports.strip() == "0" else _PORTS | _numbers(ports, "--ports")
    if wrong := [port for port in first_ports.values() if port > _LAST_PORT]:
        raise typer.BadParameter(f"{wrong[0]} is no port: at most {_LAST_PORT}", param_hint="--ports")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        with Workers(plant, Options(host, first_ports, broker, ledger)) as workers:
            _announce(workers, plant.rate)
            if describe is not None:
                _write(describe, workers.description)
            _wait(workers, stop, seconds)
    except (WorkerError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def _announce(workers: Workers, rate: float) -> None:
    for source in workers.description["sources"]:
        typer.echo(f"{source['name']:<12} {source['endpoint']:<32} {source['readings_per_s']:>8g} readings/s", err=True)
    typer.echo(f"{'in sum':<12} {'':<32} {rate:>8g} readings/s", err=True)


def _write(path: Path, description: object) -> None:
    """Write the description so that a reader never sees half of it."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(description, ensure_ascii=False, indent=1) + "\n")
    draft.replace(path)


def _wait(workers: Workers, stop: threading.Event, seconds: float | None) -> None:
    """Until a signal, the time is over, or a worker dies."""
    left = seconds
    while not stop.is_set() and (left is None or left > 0):
        step = 0.5 if left is None else min(0.5, left)
        stop.wait(step)
        left = None if left is None else left - step
        if not stop.is_set():
            workers.check()


def main() -> None:
    """Run the command line."""
    app(prog_name="sim")


if __name__ == "__main__":
    main()
