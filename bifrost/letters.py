"""Looking after dead letters: through the gateway where it runs, else in its stores."""

import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final

from rich.table import Table

from bifrost.run import ask, fetch
from bifrost.screen import Listing
from bifrost.stopped import has_run, stores
from config.models import Configuration
from delivery.letter import Selection
from flows import letters
from flows.process import Process

_PATH: Final = "/api/dead-letters"
_PATIENCE: Final = 600.0  # seconds that a move of very many readings may take


def _query(selection: Selection) -> str:
    return urllib.parse.urlencode({key: value for key, value in asdict(selection).items() if value is not None})


def _look(
    config: Configuration,
    path: str,
    selection: Selection,
    look: Callable[[Process, Selection], dict[str, Any]],
    *,
    change: bool = False,
) -> dict[str, Any]:
    found = None
    if config.port is not None and change:
        found = ask(config, f"{_PATH}{path}", asdict(selection), _PATIENCE)
    elif config.port is not None:
        found = ask(config, f"{_PATH}{path}?{_query(selection)}", patience=_PATIENCE)
    if found is not None:
        return found
    if not has_run(config):
        return {"gateway": config.gateway, **_NOTHING}
    with stores(config) as process:
        return {"gateway": config.gateway, **look(process, selection)}


_NOTHING: Final[dict[str, Any]] = {
    "groups": [], "more_groups": 0, "selected": 0, "letters": [], "stored": 0, "bytes": 0, "purged": 0,
    "discarded": 0, "alarm": "", "replay": {},
}  # fmt: skip


def groups(config: Configuration, selection: Selection) -> dict[str, Any]:
    """Dead letters by target, class and reason."""
    return _look(config, "", selection, letters.groups)


def each(config: Configuration, selection: Selection) -> dict[str, Any]:
    """Single dead letters."""
    return _look(config, "/each", selection, letters.each)


def replay(config: Configuration, selection: Selection) -> dict[str, Any]:
    """Send dead letters again."""
    return _look(config, "/replay", selection, letters.send_again, change=True)


def purge(config: Configuration, selection: Selection) -> dict[str, Any]:
    """Delete dead letters."""
    return _look(config, "/purge", selection, letters.purge, change=True)


def export(config: Configuration, selection: Selection, out: BinaryIO) -> None:
    """Write dead letters as JSON lines."""
    if fetch(config, f"{_PATH}/export?{_query(selection)}", out, _PATIENCE):
        return
    if has_run(config):
        with stores(config) as process:
            out.writelines(letters.export(process, selection))


# ---------------------------------------------------------------------- for people


def time_of(seconds: float) -> str:
    """A time as tables show it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def group_table(found: dict[str, Any]) -> Table:
    """The answer of `groups` as a table."""
    shown = Listing(["target", "class"], ["count", "first (UTC)", "last (UTC)"], ["reason"], title="Dead letters")
    for line in found["groups"]:
        times = (time_of(line["first"]), time_of(line["last"]))
        shown.add_row(line["target"], line["error_class"], f"{line['count']:,}", *times, line["reason"])
    return shown


def each_table(found: dict[str, Any]) -> Table:
    """The answer of `each` as a table."""
    shown = Listing(
        ["target"], ["number", "last (UTC)"], ["source", "path or tag", "value", "reason"], title="Dead letters"
    )
    for line in found["letters"]:
        about = line["dead_letter"]
        name = line.get("path") or line.get("tag_name") or line.get("address", "")
        last = time_of(about["last"])
        value = str(line["value"])[:60]
        shown.add_row(about["target"], about["number"], last, line.get("source", ""), name, value, about["reason"])
    return shown


def described(letter: dict[str, Any]) -> Iterator[str]:
    """One dead letter, a line for each thing that is known of it."""
    about = letter["dead_letter"]
    for key, value in about.items():
        yield f"{key}: {time_of(value) + ' UTC' if key in ('first', 'last') else value}"
    for key, value in letter.items():
        if key != "dead_letter":
            yield f"{key}: {value}"


_WORDS: Final = {
    "moved": "{:,} are on their way again",
    "no_rule": "{:,} match no rule any more and went nowhere",
    "refused": "{:,} stay: they still cannot be decoded or normalized",
    "under_way": "{:,} stay: their target has not let go of them yet; ask again",
    "no_room": "{:,} stay: a spool is full",
    "no_target": "{:,} stay: their target is not in the configuration",
}


def replay_words(done: dict[str, int]) -> list[str]:
    """What became of dead letters that were to be sent again, in words."""
    said = [words.format(done[key]) for key, words in _WORDS.items() if done.get(key)]
    return said or ["no dead letter is meant"]
