"""The configurations that a gateway has run with, so that a change can be planned before it is made and be taken back.

Each is a file below the gateway's directory: the texts of its YAML files as they were, comments and all, and its leaves
(`config.changes`), in which secrets can be compared and not be read.
"""

import base64
import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from config.changes import Change, Parts, changes, parts
from config.models import Configuration
from delivery.disk import StoreError, make_directory, sync_directory, write_durably

FOLDER: Final = "configurations"
_KEPT: Final = 50
_FILE: Final = re.compile(r"(\d{6})\.json")
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


def files_of(path: Path) -> dict[str, str]:
    """The texts that make the configuration in `path`, by their names below its directory."""
    more = sorted(file for file in (path.parent / "conf.d").glob("*.y*ml") if file.suffix in (".yaml", ".yml"))
    return {str(file.relative_to(path.parent)): file.read_text(encoding="utf-8") for file in (path, *more)}


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
    files, folder = files_of(path), config.directory / FOLDER
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

    The main file comes last, and a file of ``conf.d`` that was not there then is kept beside as ``….replaced``.

    Raises:
        StoreError: A name in the entry leads out of the configuration's directory.
    """
    folder = path.parent
    wanted = {(path.name if name == entry.main else name): text for name, text in entry.files.items()}
    for name in wanted:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise StoreError(f"{name} leads out of {folder}: the history was tampered with")
    present = files_of(path) if path.exists() else {}
    changed = [name for name in wanted if present.get(name) != wanted[name]]
    for name in sorted(changed, key=lambda name: name == path.name):
        make_directory((folder / name).parent)
        write_durably(folder / name, wanted[name].encode())
    for name in present:
        if name not in wanted:
            (folder / name).rename(folder / f"{name}.replaced")
            sync_directory((folder / name).parent)
            changed.append(name)
    return changed
