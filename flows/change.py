"""What has to be done so that a running gateway is as another configuration says. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from config.models import Configuration
from connectors.contract import Limits

# What a process is begun with: it holds until the next start.
_HELD: Final = (
    "gateway", "directory", "listen", "port", "memory_rows", "dead_letters", "commit_interval", "probe_interval", "web",
    "telemetry", "leases",
    "discovery",  # so that nobody widens by the API what may be scanned
)  # fmt: skip


class ChangeRefusedError(Exception):
    """A change cannot be made while the gateway runs; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Steps:
    """The steps from one configuration to another.

    Attributes:
        sources_gone: Sources that are not read any more, or are read anew.
        sources_come: Sources that are begun, or begun anew.
        targets_gone: Targets that go, or whose spool is opened anew.
        targets_come: Targets that come, or whose spool is opened anew.
        writers: Targets that are written to otherwise, while their spool stays.
        next_start: What differs and holds from the next start on.
    """

    sources_gone: tuple[str, ...]
    sources_come: tuple[str, ...]
    targets_gone: tuple[str, ...]
    targets_come: tuple[str, ...]
    writers: tuple[str, ...]
    next_start: tuple[str, ...]

    @property
    def graph(self) -> bool:
        """Whether the flow's graph is built anew."""
        return bool(self.targets_gone or self.targets_come)


def steps(
    now: Configuration, new: Configuration, limits: Mapping[str, Limits], wanted: Callable[[str], Limits]
) -> Steps:
    """The steps from `now` to `new`.

    Args:
        now: What the gateway runs with.
        new: What it is to run with.
        limits: What the writers of its targets take at once, by target.
        wanted: The same for a writer of the new configuration; asked only of targets that differ.
    """
    old_sources = {source.name: source for source in now.sources}
    new_sources = {source.name: source for source in new.sources}
    same = {name for name, target in new.targets.items() if now.targets.get(name) == target}
    kept = {
        name
        for name in new.targets
        if name in now.targets
        and new.buffers.get(name) == now.buffers.get(name)
        and _waits(new.targets[name]) == _waits(now.targets[name])
        and (name in same or _entries(limits[name]) == _entries(wanted(name)))
    }
    return Steps(
        sources_gone=tuple(name for name, source in old_sources.items() if new_sources.get(name) != source),
        sources_come=tuple(name for name, source in new_sources.items() if old_sources.get(name) != source),
        targets_gone=tuple(name for name in now.targets if name not in kept),
        targets_come=tuple(name for name in new.targets if name not in kept),
        writers=tuple(name for name in new.targets if name in kept and name not in same),
        next_start=tuple(key for key in _HELD if getattr(now, key) != getattr(new, key)),
    )


def _entries(limits: Limits) -> tuple[Any, ...]:
    """By which a spool makes its entries."""
    return limits.rows, limits.bytes, limits.remembers_units


def _waits(target: Any) -> tuple[Any, ...]:
    return target.disk_persistent, target.buffer_size


def running(now: Configuration, new: Configuration) -> Configuration:
    """`new`, with what holds until the next start as it is `now`."""
    return replace(new, **{each.name: getattr(now, each.name) for each in fields(now) if each.name in _HELD})
