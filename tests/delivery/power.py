"""A disk that can lose its power: what was not synced may be there, gone, torn, or zeroes, in any combination.

The stores run on a real directory. The calls that write, sync, cut and remove files are watched, so that at any moment
it is known what a disk must still have, and states that a power cut could leave can be made from that.
"""

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

BLOCK = 512


@dataclass
class Remains:
    """What is known of the disk at one moment.

    Attributes:
        files: What is in each file.
        synced: Bytes of each file that a power cut leaves.
        older: What a file held before it was cut, as long as the cut is not synced.
        unsynced_names: Files whose names a power cut may take back.
        removed: Files that a power cut may bring back.
    """

    files: dict[Path, bytes]
    synced: dict[Path, int] = field(default_factory=dict)
    older: dict[Path, bytes] = field(default_factory=dict)
    unsynced_names: set[Path] = field(default_factory=set)
    removed: dict[Path, bytes] = field(default_factory=dict)

    def after_power_cut(self, rng: random.Random) -> dict[Path, bytes]:
        """One of the states that a power cut may leave."""
        left: dict[Path, bytes] = {}
        mood = rng.choice(("lost", "kept", "mixed", "mixed", "mixed"))
        for path, data in self.files.items():
            if path in self.unsynced_names and mood != "kept" and rng.random() < (1.0 if mood == "lost" else 0.4):
                continue
            if path in self.older and rng.random() < 0.5:
                left[path] = self.older[path]
                continue
            left[path] = _torn(data, self.synced.get(path, 0), mood, rng)
        for path, data in self.removed.items():
            if rng.random() < 0.5:
                left[path] = data
        return left


def _torn(data: bytes, synced: int, mood: str, rng: random.Random) -> bytes:
    if mood == "kept" or synced >= len(data):
        return data
    if mood == "lost":
        return data[:synced]
    match rng.choice(("cut", "zeroes behind", "holes", "kept", "lost")):
        case "cut":
            return data[: rng.randrange(synced, len(data) + 1)]
        case "zeroes behind":
            end = rng.randrange(synced, len(data) + 1)
            return data[:end] + bytes(len(data) - end)
        case "holes":
            torn = bytearray(data)
            for start in range(synced - synced % BLOCK, len(data), BLOCK):
                if rng.random() < 0.5:
                    begin, end = max(start, synced), min(start + BLOCK, len(data))
                    torn[begin:end] = bytes(end - begin)
            return bytes(torn)
        case "kept":
            return data
        case _:
            return data[:synced]


class Disk:
    """Watches a directory.

    Args:
        root: The directory.
        noticed: Called after each change, while nothing else can change.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        self.noticed: Callable[[], None] = lambda: None
        self._synced: dict[Path, int] = {}
        self._older: dict[Path, bytes] = {}
        self._names: set[Path] = set()
        self._removed: dict[Path, bytes] = {}

    def remains(self) -> Remains:
        """What is known now."""
        files = self._files()
        return Remains(
            {path: path.read_bytes() for path in files},
            dict(self._synced),
            dict(self._older),
            set(files) - self._names,
            dict(self._removed),
        )

    def restore(self, files: dict[Path, bytes], known: Remains | None = None) -> None:
        """Put `files` in place of everything; all of it is synced, unless it is `known` what is."""
        for path in self._files():
            os.unlink(path)  # noqa: PTH108 - `Path.unlink` is watched
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(data)
        self._synced = dict(known.synced) if known else {path: len(data) for path, data in files.items()}
        self._names = set(files) - (known.unsynced_names if known else set())
        self._older, self._removed = {}, {}

    def _files(self) -> list[Path]:
        return [path for path in self.root.rglob("*") if path.is_file() and path.name != "reserve"]

    def _of(self, fd: int) -> Path | None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        return path if path.is_relative_to(self.root) else None

    @contextmanager
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Watch while the context lasts. A sync costs nothing."""
        real = {name: getattr(os, name) for name in ("writev", "write", "fdatasync", "fsync", "ftruncate", "truncate")}
        unlink = Path.unlink

        def exclusive(name: str) -> Callable[..., Any]:
            def call(*args: Any) -> Any:
                with self.lock:
                    found = real[name](*args)
                    self.noticed()
                    return found

            return call

        def sync(fd: int) -> None:
            path = self._of(fd)
            if path is None:
                real["fsync"](fd)
                return
            with self.lock:
                self.noticed()
                if path.is_dir():
                    self._names = {p for p in self._names if p.parent != path} | {
                        p for p in self._files() if p.parent == path
                    }
                    self._removed = {p: data for p, data in self._removed.items() if p.parent != path}
                else:
                    self._synced[path] = os.fstat(fd).st_size
                    self._older.pop(path, None)
                self.noticed()

        def truncate(path: Path, size: int) -> None:
            with self.lock:
                if Path(path).is_relative_to(self.root):
                    self._older.setdefault(path, path.read_bytes())
                    self._synced[path] = min(self._synced.get(path, 0), size)
                real["truncate"](path, size)
                self.noticed()

        def remove(path: Path, missing_ok: bool = False) -> None:
            with self.lock:
                if path.is_relative_to(self.root) and path.name != "reserve" and path.exists():
                    self._removed[path] = path.read_bytes()
                unlink(path, missing_ok)
                self.noticed()

        with monkeypatch.context() as patch:
            patch.setattr(os, "writev", exclusive("writev"))
            patch.setattr(os, "fdatasync", sync)
            patch.setattr(os, "fsync", sync)
            patch.setattr(os, "truncate", truncate)
            patch.setattr(Path, "unlink", remove)
            yield
