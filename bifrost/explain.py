"""`bifrost explain`: every step that one reading or one captured message takes, on a screen or as JSON."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typing_extensions import override

from bifrost.options import DEFAULT_CONFIG, AsJson, ConfigFile, duration, load, print_json, stores_told

if TYPE_CHECKING:
    from config.models import Configuration
    from connectors.dry_run import Captured
    from flows.explain import Explanation

_FAILED = 1
_WRONG = 2


def _stop(text: str, code: int) -> typer.Exit:
    typer.echo(text, err=True)
    return typer.Exit(code)


def explain(
    tag: Annotated[
        str | None, typer.Argument(help="Address, name, device/address or ISA-95 path of a tag.", show_default=False)
    ] = None,
    config: ConfigFile = DEFAULT_CONFIG,
    source: Annotated[
        str | None,
        typer.Option(
            "--source", "-s", help="Name of the source; `api`, or `api/` and a target's name, for what is posted."
        ),
    ] = None,
    value: Annotated[
        str | None, typer.Option(help="The value, as JSON; what is no JSON is a text. Default: 1.", metavar="JSON")
    ] = None,
    quality: Annotated[str, typer.Option(help="Its quality, in words or as the protocol's number.")] = "",
    when: Annotated[
        str | None,
        typer.Option("--time", help="When it was measured, ISO 8601; absent: the device does not say.", metavar="TIME"),
    ] = None,
    unit: Annotated[str, typer.Option(help="The unit that the device gives.")] = "",
    device: Annotated[str, typer.Option(help="The device as its protocol names it.")] = "",
    topic: Annotated[str | None, typer.Option(help="Topic of a captured message, with --source and --payload.")] = None,
    payload: Annotated[
        str | None, typer.Option(help="File with its payload; `-` for standard input.", metavar="FILE")
    ] = None,
    before: Annotated[
        list[str] | None,
        typer.Option(
            help="A message that came before, e.g. a Sparkplug birth: topic=FILE. May be repeated.",
            metavar="TOPIC=FILE",
        ),
    ] = None,
    registers: Annotated[
        str | None, typer.Option(help="Captured Modbus registers, e.g. 100:0x41A0,0 from address 100 on.")
    ] = None,
    table: Annotated[str, typer.Option(help="Table of these: holding, input, coil or discrete.")] = "holding",
    unit_id: Annotated[int | None, typer.Option(help="Modbus unit of these; the source's when absent.")] = None,
    read: Annotated[
        str | None, typer.Option(help="Read the source so long and take the tag's last value.", metavar="DURATION")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what would become of a reading: path, unit, quality, rules that match, targets and what they would be given.

    Nothing is connected, stored or sent, but the source with --read. Exit code 1 when no source reads such a tag.
    """
    loaded = load(config)
    from connectors.dry_run import CapturedError
    from flows.explain import plain

    given = [name for name, said in (("TAG", tag), ("--topic", topic), ("--registers", registers)) if said is not None]
    if len(given) != 1:
        raise _stop("say what to explain: a TAG, or --topic with --payload, or --registers", _WRONG)
    try:
        if read is not None and tag is not None:
            with stores_told():
                found = _live(loaded, tag, source or "", duration(read) or 0.0)
        elif tag is not None:
            found = _of_tag(loaded, tag, source or "", _json(value), quality, _micros(when), unit, device)
        elif topic is not None:
            found = _of_message(loaded, source, topic, payload, before or [])
        else:
            found = _of_registers(loaded, source, registers or "", table, unit_id, _micros(when))
    except CapturedError as error:
        raise _stop(str(error), _FAILED) from None
    if as_json:
        print_json(plain(found))
        return
    from bifrost.explained import show
    from bifrost.screen import console

    show(found, console())


def _json(text: str | None) -> Any:
    if text is None:
        return 1
    try:
        return json.loads(text)
    except ValueError:
        return text


def _micros(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        said = datetime.fromisoformat(text)
    except ValueError:
        raise _stop(f"`{text}` is no time; write it as 2026-01-31T12:00:00Z", _WRONG) from None
    return round((said if said.tzinfo else said.replace(tzinfo=UTC)).timestamp() * 1e6)


def _explained(config: "Configuration", source: Any, captured: "Sequence[Captured]") -> "Explanation":
    from flows.explain import explain as explained
    from normalization.reading import TagTable

    return explained(config, source, captured, TagTable(), time.time_ns() // 1000)


def _named(config: "Configuration", name: str | None) -> Any:
    from flows.explain import source_named

    if name is None and len(config.sources) == 1:
        return config.sources[0]
    found = source_named(config, name or "")
    if found is None:
        known = ", ".join(one.name for one in config.sources) or "none"
        raise _stop(f"name the source with --source; the configuration has: {known}", _WRONG)
    return found


def _of_tag(
    config: "Configuration",
    tag: str,
    source: str,
    value: Any,
    quality: str,
    when: int | None,
    unit: str,
    device: str,
) -> "Explanation":
    from connectors.dry_run import CapturedError, Sample
    from flows.explain import sources_of

    if source:
        _named(config, source)
    found = sources_of(config, tag, source, device)
    if not found:
        raise CapturedError(f"no source reads `{tag}`; `bifrost check` and `bifrost browse` tell what there is")
    if len(found) > 1:
        names = ", ".join(f"{one.name} ({row.device_id}/{row.address})" for one, row in found)
        raise CapturedError(f"`{tag}` may be meant in several places, say more, or --source: {names}")
    (one, row), *_ = found
    if unit or device:
        row = one.row_of(row.address, device, unit) or row
    said = int(quality, 0) if quality.strip().isdecimal() or quality.startswith("0x") else quality
    return _explained(config, one, [Sample(row, value, said, when)])


def _bytes(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise _stop(f"{file}: {error.strerror}", _WRONG) from None


def _of_message(
    config: "Configuration", source: str | None, topic: str, payload: str | None, before: list[str]
) -> "Explanation":
    from connectors.dry_run import Message

    if payload is None:
        raise _stop("--topic needs --payload FILE, or `-` for standard input", _WRONG)
    earlier = []
    for one in before:
        name, divider, file = one.partition("=")
        if not divider:
            raise _stop(f"`{one}`: write --before TOPIC=FILE", _WRONG)
        earlier.append(Message(name, _bytes(file)))
    return _explained(config, _named(config, source), [*earlier, Message(topic, _bytes(payload))])


def _of_registers(
    config: "Configuration", source: str | None, text: str, table: str, unit_id: int | None, when: int | None
) -> "Explanation":
    from typing import get_args

    from connectors.dry_run import Registers, Table

    first, _, rest = text.partition(":")
    try:
        start, words = int(first, 0), tuple(int(word, 0) for word in rest.split(","))
    except ValueError:
        raise _stop(f"`{text}`: write --registers ADDRESS:NUMBER,NUMBER…", _WRONG) from None
    if table not in get_args(Table):
        raise _stop(f"`{table}` is no table; there are {', '.join(get_args(Table))}", _WRONG)
    known: Any = table
    return _explained(config, _named(config, source), [Registers(start, words, known, unit_id, when)])


# ---------------------------------------------------------------------- the plant's own value


def _live(config: "Configuration", tag: str, source: str, seconds: float) -> "Explanation":
    """The last value that a source gives of a tag within some time."""
    import numpy as np

    from connectors.dry_run import CapturedError
    from flows.explain import explain as explained
    from flows.explain import is_named
    from flows.trial import Onlooker, read_for
    from normalization.reading import Columns

    class Last(Onlooker):
        """Keeps of a tag what came last."""

        found: Any = None

        @override
        def see(self, rows: Columns) -> None:
            now = np.full(len(rows), time.time_ns() // 1000, np.int64)
            batch = rows.to_batch(now, 0)
            for at, number in enumerate(batch.column("tag").to_pylist()):
                if is_named(self.tags[number], tag, config.path_template):
                    self.found = batch.slice(at, 1)

    wanted = [_named(config, source)] if source else list(config.sources)
    problems = []
    for one in wanted:
        trial, last = one.trial(), Last()
        trial.matcher.taken = {}
        problem = asyncio.run(read_for(seconds, trial, config, last))
        if last.found is not None:
            return explained(config, trial, [last.found], last.tags, time.time_ns() // 1000)
        problems.append(f"{one.name}: {problem or 'it did not tell of the tag'}")
    raise CapturedError(f"`{tag}` gave no value within {seconds:g} s; " + "; ".join(problems))
