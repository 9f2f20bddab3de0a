"""Which tags the patterns of `tags` take: from the configuration where it names them, else from a look at the devices."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from bifrost.screen import Listing
from config.models import Configuration
from connectors.settings import SourceConfig
from flows.trial import Onlooker, read_for


@dataclass(frozen=True, slots=True)
class Taken:
    """What the patterns of one source take.

    Attributes:
        source: Name of the source.
        patterns: Each `match` of its `tags`, in order, and how many tags it took; None where none is known.
        others: Tags that no pattern took; None where none is known.
        problem: Why the device could not be looked at; empty when it was, or nobody looked.
        complete: Whether these are all tags; else the device knows more.
    """

    source: str
    patterns: list[tuple[str, int | None]]
    others: int | None
    problem: str = ""
    complete: bool = True


def certificates(config: Configuration) -> list[str]:
    """What is wrong with files of certificates and keys, and which certificates end soon."""
    from config.certificates.used import ending, unusable
    from config.logs import escaped

    wrong = [f"{owner}: {said}" for owner, said in unusable(config)]
    return [escaped(said) for said in (*wrong, *(one.text for one in ending(config, datetime.now(UTC))))]


def taken(config: Configuration, seconds: float | None) -> list[Taken]:
    """What the patterns of each source take.

    Args:
        config: The configuration.
        seconds: How long to read sources whose tags the configuration does not name; None to connect to nothing.
    """
    return asyncio.run(_all(config, seconds))


async def _all(config: Configuration, seconds: float | None) -> list[Taken]:
    return list(await asyncio.gather(*(_one(source, config, seconds) for source in config.sources)))


async def _one(source: SourceConfig, config: Configuration, seconds: float | None) -> Taken:
    found: dict[int | None, set[str]] = {}
    source.matcher.taken = found
    complete = source.named_tags()
    source.matcher.taken = None
    if complete:
        return _taken(source, found)
    if seconds is None:
        return _at_least(source, found)
    found.clear()
    trial = source.trial()
    trial.matcher.taken = found
    problem = await read_for(seconds, trial, config, Onlooker())
    return _taken(source, found, problem)


def _at_least(source: SourceConfig, found: dict[int | None, set[str]]) -> Taken:
    counts = [(mapping.match, len(found.get(number, ())) or None) for number, mapping in enumerate(source.tags)]
    return Taken(source.name, counts, len(found.get(None, ())) or None, complete=False)


def _taken(source: SourceConfig, found: dict[int | None, set[str]], problem: str = "") -> Taken:
    counts: list[tuple[str, int | None]] = [
        (mapping.match, len(found.get(number, ()))) for number, mapping in enumerate(source.tags)
    ]
    return Taken(source.name, counts, len(found.get(None, ())), problem)


def _shown(count: int | None, of: Taken) -> str:
    if count is None:
        return "?"
    return f"{count:,}" if of.complete else f"≥ {count:,}"


def table(found: Sequence[Taken]) -> Table:
    """What was found, for people."""
    shown = Listing(["source", "match"], ["tags"], ["note"], title="Tags by pattern")
    for one in found:
        for match, count in one.patterns:
            note = "takes no tag" if count == 0 and not one.problem else ""
            shown.add_row(one.source, match, _shown(count, one), note)
        note = one.problem if one.complete else "the device tells its tags; look with --read 10s"
        shown.add_row(one.source, "(no pattern)", _shown(one.others, one), note)
    return shown


def plain(found: Sequence[Taken]) -> list[dict[str, Any]]:
    """What was found, for programs."""
    return [
        {
            "source": one.source,
            "patterns": [{"match": match, "tags": count} for match, count in one.patterns],
            "others": one.others,
            "complete": one.complete,
            "problem": one.problem or None,
        }
        for one in found
    ]
