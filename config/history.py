"""The configurations that a gateway has run with, so that a change can be planned before it is made and be taken back.

Each is a file below the gateway's directory: the texts of its YAML files as they were, comments and all, and its leaves
(`config.changes`), in which secrets can be compared and not be read.
"""

import base64
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from config.changes import Change, Parts, changes, parts
from config.loader import files_of
from config.models import Configuration
from config.pending import begin, end
from config.pending import texts as pending_texts
from delivery.disk import StoreError, make_directory, sync_directory, write_durably

FOLDER: Final = "configurations"
_KEPT: Final = 50
_FILE: Final = re.compile(r"(\d{6})\.json")
_MORE: Final = re.compile(r"conf\.d/[A-Za-z0-9][A-Za-z0-9_.-]*\.ya?ml")
_SALT: Final = 16


class Entry(BaseModel):
    """A configuration that a gateway has run with.

    Attributes:
        number: Counts from 1.
        since: When it was first run with.
        main: Name of the main file.
        files: Texts by the name of the file, ``conf.d/…`` for those beside the main one.
        salt: What the secrets in `parts` are hashed with.
        parts: See `config.changes.parts`.
    """

    model_config = ConfigDict(extra="forbid")

    number: Annotated[int, Field(ge=1)]
    since: datetime
    main: str
    files: dict[str, str]
    salt: Base64Bytes
    parts: Parts

    def differs(self, config: Configuration) -> list[Change]:
        """What another configuration changes about this one."""
        return changes(self.parts, parts(config, self.salt))


def texts_of(path: Path) -> dict[str, str]:
    """The texts that make the configuration in `path`, by the names of their files below its folder."""
    names = files_of(path)
    pending = pending_texts(path, names)
    return pending or {name: (path.parent / name).read_text(encoding="utf-8") for name in names}


def entries(directory: Path) -> list[Entry]:
    """All that are kept, the newest last; one that cannot be read is left out.

    Args:
        directory: The gateway's directory.
    """
    found = []
    for file in sorted((directory / FOLDER).glob("*.json")):
        if _FILE.fullmatch(file.name):
            try:
                found.append(Entry.model_validate_json(file.read_bytes()))
            except (OSError, ValidationError):
                continue
    return found


def record(path: Path, config: Configuration, now: float) -> int | None:
    """Keep the configuration in `path`, which `config` was loaded from, unless it is the newest one already.

    Args:
        path: The main file.
        config: What was loaded.
        now: Seconds since the epoch.

    Returns:
        Its number; None when it was kept already.

    Raises:
        OSError: It cannot be written.
    """
    files, folder = texts_of(path), config.directory / FOLDER
    known = entries(config.directory)
    if known and known[-1].files == files and not known[-1].differs(config):
        return None
    salt = os.urandom(_SALT)
    entry = Entry(
        number=known[-1].number + 1 if known else 1,
        since=datetime.fromtimestamp(now, UTC),
        main=path.name,
        files=files,
        salt=base64.b64encode(salt),
        parts=parts(config, salt),
    )
    make_directory(folder)
    write_durably(folder / f"{entry.number:06}.json", entry.model_dump_json(indent=1).encode())
    for old in known[: max(0, len(known) + 1 - _KEPT)]:
        (folder / f"{old.number:06}.json").unlink(missing_ok=True)
    return entry.number


def restore(entry: Entry, path: Path) -> list[str]:
    """Put the texts of an earlier configuration in the place of those in `path`; returns the names of the files changed.

    Raises:
        StoreError: A name in the entry leads out of the configuration's directory.
    """
    return put(path, texts_for(entry, path))


def texts_for(entry: Entry, path: Path) -> dict[str, str]:
    """The texts of an earlier configuration, under the names that they have where `path` is the main file."""
    return {(path.name if name == entry.main else name): text for name, text in entry.files.items()}


def put(path: Path, wanted: Mapping[str, str]) -> list[str]:
    """Have the configuration in `path` consist of these texts; returns the names of the files changed.

    Whatever ends the process, the configuration is then the old one or the new one. Files keep their permissions, and one of
    ``conf.d`` that is not among the texts is kept beside as ``….replaced``.

    Raises:
        StoreError: A name leads out of the configuration's folder, or is no file of a configuration.
    """
    folder = path.parent
    for name in wanted:
        if name != path.name and not _MORE.fullmatch(name):
            raise StoreError(f"{name} leads out of {folder}, or is no file of it: conf.d/NAME.yaml would be")
    finish(path)
    present = texts_of(path) if path.exists() else {}
    changed = _differing(present, wanted)
    if len(changed) > 1:
        begin(path, present, wanted)
    _write(path, present, wanted)
    if len(changed) > 1:
        end(path)
    return changed


def finish(path: Path) -> None:
    """Write what is left of a change that was cut off."""
    names = files_of(path) if path.exists() else []
    wanted = pending_texts(path, names)
    if wanted is not None:
        _write(path, {name: (path.parent / name).read_text(encoding="utf-8") for name in names}, wanted)
        end(path)


def _differing(present: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    changed = [name for name in wanted if present.get(name) != wanted[name]]
    return changed + [name for name in present if name not in wanted]


def _write(path: Path, present: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Write the files that differ, the main one last, and move aside those that are not wanted."""
    for name in sorted(_differing(present, wanted), key=lambda name: name == path.name):
        file = path.parent / name
        if name in wanted:
            make_directory(file.parent)
            mode = file.stat().st_mode & 0o777 if file.exists() else 0o600
            write_durably(file, wanted[name].encode(), mode)
        else:
            file.rename(file.with_name(f"{file.name}.replaced"))
            sync_directory(file.parent)
