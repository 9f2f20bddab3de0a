"""Where a running gateway's configuration is changed: planned, checked, written, applied, and taken back. One change at a time."""

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from config import edit
from config.changes import Change, changes, parts
from config.history import Entry, entries, put, record, texts_for, texts_of
from config.loader import load, places
from config.models import Configuration
from config.yaml_nodes import Place

_NO_SALT = b"compared in memory, kept nowhere"


class OutdatedError(Exception):
    """The files have changed since the caller looked at them."""


class UnknownNumberError(LookupError):
    """The history has no configuration of this number."""


@dataclass(frozen=True, slots=True)
class Files:
    """The files of a configuration.

    Attributes:
        number: Number of the configuration that runs, in the history; None when it is not kept.
        base: Tells these texts from others.
        files: The texts by the names of the files.
    """

    number: int | None
    base: str
    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a change would change.

    Attributes:
        changes: What differs from what runs.
        places: Where each source, target and rule stands in the new files.
        warnings: What is allowed but hardly meant.
    """

    changes: list[Change]
    places: dict[tuple[str, str], Place]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Applied:
    """A change that was made.

    Attributes:
        number: Number of the configuration in the history.
        changes: What it changed.
        next_start: What of it holds from the gateway's next start on.
        took: Seconds.
    """

    number: int | None
    changes: list[Change]
    next_start: tuple[str, ...]
    took: float


class ConfigDesk:
    """The desk of one running gateway.

    Args:
        path: The main file of its configuration.
        running: What it runs with.
        apply: Makes it run as a configuration says; returns what holds from the next start on.
    """

    def __init__(
        self,
        path: Path,
        running: Callable[[], Configuration],
        apply: Callable[[Configuration], tuple[str, ...]],
    ) -> None:
        self.path = path
        self._running, self._apply = running, apply
        self._lock = threading.Lock()

    @property
    def gateway(self) -> str:
        """Name of the gateway."""
        return self._running().gateway

    @property
    def directory(self) -> Path:
        """The gateway's directory, which holds the history."""
        return self._running().directory

    def current(self) -> Files:
        """The files as they are on disk."""
        files, kept = texts_of(self.path), self.history()
        return Files(kept[-1].number if kept else None, base_of(files), files)

    def history(self) -> list[Entry]:
        """The configurations that the gateway has run with, the newest last."""
        return entries(self.directory)

    def entry(self, number: int) -> Entry:
        """One of them.

        Raises:
            UnknownNumberError: It is not kept.
        """
        found = next((entry for entry in self.history() if entry.number == number), None)
        if found is None:
            raise UnknownNumberError(f"the history has no configuration {number}")
        return found

    def plan(self, files: Mapping[str, str]) -> Plan:
        """What these files would change about what runs. Changes nothing.

        Raises:
            ProblemsError: All that is wrong with them.
        """
        new = load(self.path, files)
        return Plan(self._changes(new), places(self.path, files), new.warnings)

    def _changes(self, new: Configuration) -> list[Change]:
        return changes(parts(self._running(), _NO_SALT), parts(new, _NO_SALT))

    def apply(self, files: Mapping[str, str] | None = None, base: str | None = None) -> Applied:
        """Check these files, write them, and run as they say; what they do not change goes on undisturbed.

        When it cannot be done nothing has changed, on disk neither.

        Args:
            files: The texts by the names of the files; None for those that are on disk.
            base: What `current` said of the texts that these were made from; None not to ask.

        Raises:
            OutdatedError: The files are not those of `base` any more.
            ProblemsError: All that is wrong with the files.
            ChangeRefusedError: It cannot be done while the gateway runs.
            StoreError: A store or a file cannot be written.
        """
        with self._lock:
            began = time.monotonic()
            before = texts_of(self.path)
            if base is not None and base != base_of(before):
                raise OutdatedError("the files have changed meanwhile; look at them again, and make the change anew")
            wanted = before if files is None else dict(files)
            new = load(self.path, wanted)
            changed = self._changes(new)
            put(self.path, wanted)
            try:
                later = self._apply(new)
            except BaseException:
                put(self.path, before)
                raise
            number = record(self.path, new, datetime.now(UTC).timestamp())
            return Applied(number or self.current().number, changed, later, time.monotonic() - began)

    def rollback(self, number: int) -> Applied:
        """Run as an earlier configuration says; raises as `apply` and `entry` do."""
        return self.apply(texts_for(self.entry(number), self.path))

    # ------------------------------------------------------------------ edits: the files as they would be

    def put_source(self, name: str | None, source: Mapping[str, Any]) -> dict[str, str]:
        """See `config.edit.put_source`."""
        return edit.put_source(texts_of(self.path), name, source)

    def remove_source(self, name: str) -> dict[str, str]:
        """See `config.edit.remove_source`."""
        return edit.remove_source(texts_of(self.path), name)

    def put_target(self, name: str, target: Mapping[str, Any]) -> dict[str, str]:
        """See `config.edit.put_target`."""
        return edit.put_target(texts_of(self.path), name, target)

    def remove_target(self, name: str) -> dict[str, str]:
        """See `config.edit.remove_target`."""
        return edit.remove_target(texts_of(self.path), name)

    def put_rules(self, rules: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """See `config.edit.put_rules`."""
        return edit.put_rules(texts_of(self.path), rules)


def base_of(files: Mapping[str, str]) -> str:
    """Tells texts from others."""
    told = hashlib.sha256()
    for name in sorted(files):
        for part in (name, files[name]):
            told.update(len(part.encode()).to_bytes(8, "big") + part.encode())
    return told.hexdigest()
