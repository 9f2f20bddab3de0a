"""`bifrost commission`: a tag list compared with live data, and the report that is signed."""

import hashlib
import importlib.metadata
import platform
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, duration, load, print_json, stores_told

if TYPE_CHECKING:
    from collections.abc import Callable

    from bifrost.commissioning.report import Sheet
    from bifrost.commissioning.tag_list import TagList
    from config.models import Configuration
    from connectors.settings import SourceConfig
    from flows.commission_watch import Watch

_FAILED = 1
_WRONG = 2
_PIPED = 30.0  # seconds between two lines of progress where there is no terminal
_UNLISTED = 50  # tags that the list does not have, shown on a screen
_LIBRARIES = {"opcua": "asyncua", "mqtt": "paho-mqtt", "sparkplug": "paho-mqtt", "modbus": "pymodbus"}


def commission(
    tags: Annotated[Path, typer.Option("--tags", "-t", help="Tag list (CSV).", show_default=False)],
    config: ConfigFile = DEFAULT_CONFIG,
    seconds: Annotated[str, typer.Option("--for", help="How long to read the sources.", metavar="DURATION")] = "60s",
    source: Annotated[
        list[str] | None, typer.Option("--source", "-s", help="Read this source only. May be repeated.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report",
            "-o",
            help="Where the report goes, without ending: NAME.html and NAME.csv. Default: commissioning-GATEWAY-TIME.",
            metavar="NAME",
        ),
    ] = None,
    beside: Annotated[
        bool, typer.Option("--beside", help="Read beside the running gateway: a second session at each source.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Tags that the list does not have fail too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare a tag list with live data, and write a report to sign (HTML, CSV). Exit code 1 unless all tags pass.

    Reads the sources on trial: nothing is stored, delivered, or written to a device.
    """
    from bifrost.commissioning.tag_list import TagListError, read_tag_list

    loaded = load(config)
    try:
        listed = read_tag_list(tags)
    except TagListError as error:
        raise _stop(str(error), _WRONG) from None
    wanted = _wanted(loaded, source or [])
    with stores_told():
        running = _running(loaded, beside=beside)
        sheet = _compared(loaded, config, tags, listed, wanted, duration(seconds) or 0.0, beside=running)
        name = report or Path(f"commissioning-{_safe(loaded.gateway)}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
        files = _write(sheet, name)
    passed = sheet.passed and not (strict and sheet.found.unlisted)
    if as_json:
        from bifrost.commissioning.report import plain

        print_json({**plain(sheet), "passed": passed, "reports": {file.suffix[1:]: str(file) for file in files}})
    else:
        _show(sheet, files)
    raise typer.Exit(0 if passed else _FAILED)


def _stop(text: str, code: int) -> typer.Exit:
    typer.echo(text, err=True)
    return typer.Exit(code)


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def _wanted(config: "Configuration", names: list[str]) -> "list[SourceConfig]":
    known = {one.name: one for one in config.sources}
    for name in names:
        if name not in known:
            raise _stop(f"there is no source `{name}`; the configuration has: {', '.join(known) or 'none'}", _WRONG)
    wanted = [one for one in config.sources if one.enabled and (not names or one.name in names)]
    if not wanted:
        raise _stop("there is no source to read: the configuration has none that is enabled", _WRONG)
    return wanted


def _running(config: "Configuration", *, beside: bool) -> bool:
    """Whether the gateway runs.

    Raises:
        Exit: It does, and nobody said that its sources may be read beside it.
    """
    from bifrost.commissioning.reading import owner
    from bifrost.run import ask

    process = owner(config)
    runs = process is not None or (config.port is not None and ask(config, "/health") is not None)
    if runs and not beside:
        who = f"`{config.gateway}` runs (process {process})" if process else f"`{config.gateway}` runs"
        raise _stop(
            f"the gateway {who} and reads these sources. A second session at each of them is not opened unasked: some "
            "devices have only one, and a serial line has one master. Stop the gateway, or say --beside",
            _FAILED,
        )
    return runs


def _compared(
    config: "Configuration",
    path: Path,
    tags: Path,
    listed: "TagList",
    wanted: "list[SourceConfig]",
    seconds: float,
    *,
    beside: bool,
) -> "Sheet":
    from bifrost.commissioning.reading import watch_sources
    from bifrost.commissioning.report import Sheet
    from config.desk import base_of
    from config.history import texts_of
    from flows.commission import compare, too_short

    if listed.ignored:
        typer.echo(f"columns that are not compared: {', '.join(listed.ignored)}", err=True)
    needed = too_short(listed.rows, seconds)
    if needed is not None:
        typer.echo(
            f"the longest interval of the list cannot be measured in this time; it needs --for {needed}s", err=True
        )
    problems = _not_read(config, wanted, beside=beside)
    read = [one for one in wanted if one.name not in problems]
    files = texts_of(path)
    began = time.time()
    with _progress(len(listed.rows), seconds) as progress:
        watch, said = watch_sources(config, read, seconds, progress)
    ended = time.time()
    sources = {one.name: problems.get(one.name, "") or said.get(one.name, "") for one in wanted}
    troubles = problems | {name: problem for name, problem in said.items() if problem}
    return Sheet(
        gateway=config.gateway,
        configuration=path.name,
        number=_number(config, files),
        sha256=base_of(files),
        tag_list=tags.name,
        list_sha256=hashlib.sha256(tags.read_bytes()).hexdigest(),
        began=began,
        ended=ended,
        beside=beside,
        versions=_versions(read),
        readings=watch.readings,
        sources=sources,
        found=compare(listed.rows, watch.observed(round(ended * 1e6)), troubles),
    )


def _not_read(config: "Configuration", wanted: "list[SourceConfig]", *, beside: bool) -> dict[str, str]:
    """Sources that are not read, and why."""
    from connectors.sources.modbus.config import ModbusConfig

    names = {one.name for one in wanted}
    found = {}
    for one in config.sources:
        if not one.enabled:
            found[one.name] = "the source is not enabled"
        elif one.name not in names:
            found[one.name] = "the source was not read (--source)"
        elif beside and isinstance(one, ModbusConfig) and one.at.transport == "serial":
            found[one.name] = (
                "not read: the gateway is the master of this serial line, and a second one would disturb it"
            )
    return found


def _number(config: "Configuration", files: dict[str, str]) -> int | None:
    """Number of these texts in the gateway's history."""
    from config.history import entries

    return next((entry.number for entry in reversed(entries(config.directory)) if entry.files == files), None)


def _versions(read: "list[SourceConfig]") -> dict[str, str]:
    versions = {"bifrost": importlib.metadata.version("bifrost-gateway"), "Python": platform.python_version()}
    for library in sorted({_LIBRARIES[one.protocol] for one in read if one.protocol in _LIBRARIES}):
        versions[library] = importlib.metadata.version(library)
    return versions


@contextmanager
def _progress(listed: int, seconds: float) -> "Iterator[Callable[[float, Watch], None]]":
    """Tells how far it is: a bar on a terminal, a line now and then elsewhere."""
    if sys.stderr.isatty():
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        from bifrost.screen import console

        columns = (BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=seconds)
            yield lambda over, watch: bar.update(task, completed=over, description=_so_far(listed, watch))
        return
    told = 0.0

    def tell(over: float, watch: "Watch") -> None:
        nonlocal told
        if over - told >= _PIPED:
            told = over
            typer.echo(f"{over:.0f} of {seconds:.0f} s: {_so_far(listed, watch)}", err=True)

    yield tell


def _so_far(listed: int, watch: "Watch") -> str:
    return f"{len(watch):,} tags seen, {listed:,} in the list, {watch.readings:,} readings"


def _write(sheet: "Sheet", name: Path) -> list[Path]:
    """Write the report; the names of its files."""
    from bifrost.commissioning.report import as_csv, as_html
    from delivery.disk import write_durably

    rows = as_csv(sheet)
    page, table = name.with_name(name.name + ".html"), name.with_name(name.name + ".csv")
    write_durably(table, rows, 0o644)  # they are to be handed on
    write_durably(page, as_html(sheet, rows), 0o644)
    return [page, table]


def _show(sheet: "Sheet", files: list[Path]) -> None:
    from bifrost.screen import Listing, console

    title = f"{sheet.readings:,} readings in {sheet.ended - sheet.began:.0f} s"
    shown = Listing(["tag", "result"], [], ["why"], title=title)
    for one in sheet.found.verdicts:
        if one.result != "pass" or one.remarks:
            shown.add_row(one.expected.label, one.result, "; ".join((*one.reasons, *one.remarks)))
    for other in sheet.found.unlisted[:_UNLISTED]:
        shown.add_row(other.path or other.address, "not listed", _last(other))
    screen = console()
    if shown.row_count:
        screen.print(shown)
    for name, problem in sheet.sources.items():
        if problem:
            screen.print(f"{name}: {problem}", highlight=False)
    more = len(sheet.found.unlisted) - _UNLISTED
    if more > 0:
        screen.print(f"… and {more:,} more that the list does not have", highlight=False)
    counts = ", ".join(f"{count:,} {name}" for name, count in sheet.found.counts.items())
    screen.print(f"{counts}\n{files[0]}\n{files[1]}", highlight=False)


def _last(seen: Any) -> str:
    return " ".join(part for part in (seen.value, seen.unit, seen.quality.name) if part)
