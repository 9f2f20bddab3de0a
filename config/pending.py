"""A change of several files as one: it is written down whole before the first of them is touched.

From that moment on the configuration is what is written down, although some of its files are still the old ones; whoever is
killed in between leaves the new configuration, not a half of each. What a person has changed since goes before it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from delivery.disk import sync_directory, write_durably


def _file(path: Path) -> Path:
    return path.with_name(f".{path.name}.change")


def begin(path: Path, before: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Write down a change of the configuration in `path`.

    Args:
        path: The main file.
        before: The texts of its files as they are, by name.
        wanted: The texts as they are to be.
    """
    write_durably(_file(path), json.dumps({"before": dict(before), "wanted": dict(wanted)}).encode())


def end(path: Path) -> None:
    """All files are as they were to be."""
    _file(path).unlink(missing_ok=True)
    sync_directory(path.parent)


def texts(path: Path, names: Iterable[str]) -> dict[str, str] | None:
    """The texts of a change that was cut off; None when there is none, or somebody has changed the files since.

    Args:
        path: The main file.
        names: The files that there are, by their names below its folder.
    """
    try:
        said = json.loads(_file(path).read_bytes())
        before, wanted = dict(said["before"]), dict(said["wanted"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for name in {*before, *wanted, *names}:
        try:
            text = (path.parent / name).read_text(encoding="utf-8")
        except (OSError, ValueError):
            text = None
        if text not in (before.get(name), wanted.get(name)):
            return None
    return wanted
