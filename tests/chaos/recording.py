"""A disk as `strace` saw it: every write, sync and change of names of a process, and the states that a power cut may leave.

Unlike the recorder of `tests.delivery.power` this sees what libraries do, such as SQLite, and overwrites in the middle of
files. A file that was synced has what it had when the sync began; of what was written later any part may be there, torn at
blocks, in any combination; a name that was given or taken is certain once its directory is synced.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final

CALLS: Final = (
    "openat,creat,write,writev,pwrite64,pwritev,ftruncate,truncate,fallocate,"
    "rename,renameat,renameat2,unlink,unlinkat,link,linkat,mkdir,mkdirat,rmdir,fsync,fdatasync"
)
BLOCK: Final = 512
MAPPED: Final = "-shm"  # files of SQLite that are a map of the memory, written without calls and worth nothing later
_LINE: Final = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>|(\w+)\()(.*?)(?: <unfinished \.\.\.>|\) += (-?\d+)(.*))$")
_TEXT: Final = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_PLACE: Final = re.compile(r"(?:AT_FDCWD|\d+|^)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_NUMBERS: Final = re.compile(r", (\d+)")

Change = tuple[int, bytes] | int
"""Bytes at an offset, or a new size."""


def tracer(output: Path) -> list[str]:
    """The command that records what follows it."""
    options = ["-f", "-qq", "-xx", "-y", "-s", "100000000", "--seccomp-bpf", "-o", str(output), "-e", f"trace={CALLS}"]
    return ["strace", *options]


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that succeeded.

    Attributes:
        name: Its name.
        path: What its descriptor, or its first path, is.
        gone: Whether that has no name any more.
        other: Its second path.
        data: What it wrote.
        numbers: The last two numbers of its arguments.
        text: Its arguments.
        result: What it returned.
        began: How many calls had ended when it began.
    """

    name: str
    path: Path
    gone: bool
    other: Path | None
    data: bytes
    numbers: tuple[int, ...]
    text: str
    result: int
    began: int


def calls(lines: Iterable[str], ended: int = 0) -> Iterator[Call]:
    """The calls of a recording that succeeded, in the order in which they ended; `ended` had before."""
    begun: dict[tuple[str, str], tuple[str, int]] = {}
    for line in lines:
        found = _LINE.match(line)
        if found is None:
            continue
        process, resumed, name, text, result, more = found.groups()
        if resumed:
            before, began = begun.pop((process, resumed), ("", ended))
            name, text = resumed, before + text
        else:
            began = ended
        if result is None:
            begun[process, name] = text, began
        elif int(result) >= 0:
            yield _call(name, text, int(result), more, began)
            ended += 1


def _call(name: str, text: str, result: int, more: str, began: int) -> Call:
    texts = [_bytes(found) for found in _TEXT.findall(text)]
    place = _PLACE.search(more if name in ("openat", "creat") else text)
    where = Path(_bytes(place[1]).decode()) if place else Path()
    if name in ("truncate", "rename", "unlink", "link", "mkdir", "rmdir"):
        return Call(name, *_paths(texts, []), b"", _tail(text), text, result, began)
    if name in ("renameat", "renameat2", "unlinkat", "linkat", "mkdirat"):
        bases = [Path(_bytes(found[0]).decode()) for found in _PLACE.findall(text)]
        return Call(name, *_paths(texts, bases), b"", _tail(text), text, result, began)
    return Call(name, where, bool(place and place[2]), None, b"".join(texts)[:result], _tail(text), text, result, began)


def _paths(texts: list[bytes], bases: list[Path]) -> tuple[Path, bool, Path | None]:
    bases = bases or [Path.cwd()] * 2
    paths = [base / text.decode() for base, text in zip(bases, texts, strict=False)]
    return paths[0], False, paths[1] if len(paths) > 1 else None


def _bytes(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def _tail(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBERS.findall(text)[-2:])


# ---------------------------------------------------------------------- the disk


@dataclass(eq=False)
class _File:
    """What is in a file for certain, and what was done to it since.

    Attributes:
        certain: What it had at the last sync.
        changes: Later ones, each with how many calls had ended then.
    """

    certain: bytes = b""
    changes: list[tuple[int, Change]] = field(default_factory=list)

    def content(self) -> bytes:
        """What a process reads."""
        return _changed(self.certain, [change for _, change in self.changes])

    def size(self) -> int:
        """Its size for a process."""
        found = len(self.certain)
        for _, change in self.changes:
            found = change if isinstance(change, int) else max(found, change[0] + len(change[1]))
        return found

    def sync(self, began: int) -> None:
        """What had been done when a sync began is certain."""
        done = [change for moment, change in self.changes if moment < began]
        self.certain, self.changes = _changed(self.certain, done), self.changes[len(done) :]

    def after_power_cut(self, mood: str, chance: Random) -> bytes:
        """What may be left of it."""
        if mood == "kept":
            return self.content()
        if mood == "lost":
            return self.certain
        kept: list[Change] = []
        for _, change in self.changes:
            fate = chance.random()
            if fate < 0.5 or (isinstance(change, int) and fate < 0.75):
                kept.append(change)
            elif fate < 0.75 and not isinstance(change, int):
                kept.append(_torn(*change, chance))
        return _changed(self.certain, kept)


def _torn(offset: int, data: bytes, chance: Random) -> Change:
    """A write of which some blocks at its start or end are missing."""
    edges = [0, *range(BLOCK - offset % BLOCK, len(data), BLOCK), len(data)]
    first, last = sorted(chance.choices(range(len(edges)), k=2))
    return offset + edges[first], data[edges[first] : edges[last]]


def _changed(content: bytes, changes: Iterable[Change]) -> bytes:
    found = bytearray(content)
    for change in changes:
        if isinstance(change, int):
            del found[change:]
            found.extend(bytes(change - len(found)))
        elif change[1]:
            offset, data = change
            found.extend(bytes(max(0, offset - len(found))))
            found[offset : offset + len(data)] = data
    return bytes(found)


Names = dict[Path, _File | None]
"""Files by path; None for a directory."""
Rename = tuple[Path | None, Path | None, _File | None]
"""A name that goes, one that comes, and for what."""


class Recorded:
    """The disk below `root`, call by call."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ended = 0
        self.names: Names = {}
        self._certain: Names = {}
        self._renames: list[tuple[int, Path, Rename]] = []  # with the calls that had ended, and the directory

    def begin(self) -> None:
        """What is there now is there for certain."""
        for path in self.root.rglob("*"):
            self.names[path] = None if path.is_dir() else _File(path.read_bytes())
        self._certain = dict(self.names)

    def apply(self, call: Call) -> bool:
        """What a call did; returns whether that concerned this disk."""
        paths = [path for path in (call.path, call.other) if path is not None]
        ours = not call.gone and any(self.root in path.parents or path == self.root for path in paths)
        if ours:
            self._apply(call)
        self.ended += 1
        return ours

    def contents(self) -> dict[Path, bytes]:
        """What a process reads in all files."""
        return {path: file.content() for path, file in self.names.items() if file is not None}

    def _apply(self, call: Call) -> None:
        path, names = call.path, self.names
        match call.name.removesuffix("at2").removesuffix("at"):
            case "open" | "creat":
                if "O_DIRECTORY" in call.text or names.get(path, path) is None:
                    return
                if ("O_CREAT" in call.text or call.name == "creat") and path not in names:
                    self._rename(path.parent, (None, path, _File()))
                if "O_TRUNC" in call.text:
                    self._change(path, 0)
            case "write" | "writev" | "pwrite64" | "pwritev":
                found = names.get(path)
                if found is not None:
                    self._change(path, (call.numbers[-1] if call.name.startswith("p") else found.size(), call.data))
            case "ftruncate" | "truncate":
                self._change(path, call.numbers[-1])
            case "fallocate":
                found = names.get(path)
                if found is not None:
                    self._change(path, max(found.size(), sum(call.numbers)))
            case "rename":
                assert call.other is not None
                self._rename(call.other.parent, (path, call.other, names.get(path)))
            case "link":
                assert call.other is not None
                self._rename(call.other.parent, (None, call.other, names.get(path)))
            case "mkdir":
                self._rename(path.parent, (None, path, None))
            case "unlink" | "rmdir":
                self._rename(path.parent, (path, None, None))
            case _:
                self._sync(path, call.began)

    def _change(self, path: Path, change: Change) -> None:
        found = self.names.get(path)
        if found is not None:
            found.changes.append((self.ended, change))

    def _rename(self, folder: Path, rename: Rename) -> None:
        self._renames.append((self.ended, folder, rename))
        _renamed(self.names, rename)

    def _sync(self, path: Path, began: int) -> None:
        found = self.names.get(path)
        if found is not None:
            found.sync(began)
            return
        later = []
        for moment, folder, rename in self._renames:
            if folder == path and moment < began:
                _renamed(self._certain, rename)
            else:
                later.append((moment, folder, rename))
        self._renames = later

    @property
    def uncertain_names(self) -> int:
        """How many names were given or taken that a power cut may take back."""
        return len(self._renames)

    def content(self, path: Path) -> bytes:
        """What a process reads in a file; nothing when it is not there."""
        found = self.names.get(path)
        return b"" if found is None else found.content()

    def learn(self, place: Path) -> list[Path]:
        """Take from a copy of the real disk what no call explains; returns the files concerned.

        A killed process may have ended a call that nobody saw the end of. What is mapped into the memory is left out.
        """
        found = []
        real = {self.root / path.relative_to(place): path for path in place.rglob("*") if path.is_file()}
        for path, copy in real.items():
            if path.name.endswith(MAPPED):
                continue
            content, file = copy.read_bytes(), self.names.get(path)
            if file is None:
                file = _File()
                self._rename(path.parent, (None, path, file))
            if file.content() != content:
                file.changes += [(self.ended, len(content)), (self.ended, (0, content))]
                found.append(path)
        return found + [path for path, file in self.names.items() if file is not None and path not in real]

    def after_power_cut(self, chance: Random) -> dict[Path, bytes]:
        """One of the states that a power cut may leave now."""
        mood = chance.choice(("lost", "kept", "mixed", "mixed", "mixed"))
        names = dict(self._certain)
        for _, _, rename in self._renames:
            if mood == "kept" or (mood == "mixed" and chance.random() < 0.6):
                _renamed(names, rename)
        there = {path for path, file in names.items() if file is None} | {self.root}
        return {
            path: file.after_power_cut(mood, chance)
            for path, file in names.items()
            if file is not None and all(above in there for above in path.parents if self.root in above.parents)
        }


def _renamed(names: Names, rename: Rename) -> None:
    gone, come, file = rename
    if gone is not None and come is not None:
        for path in [path for path in names if gone in path.parents]:  # a folder takes along what is in it
            names[come / path.relative_to(gone)] = names.pop(path)
    if gone is not None:
        names.pop(gone, None)
    if come is not None:
        names[come] = file
