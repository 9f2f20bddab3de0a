"""The archive of a backup: a tar file, what is in it, and how it is written and put back.

``gateway/`` is the gateway's directory, ``configuration/`` what stands beside its configuration file, and ``backup.json``, the
last member, says of which gateway and when, and has a SHA-256 of every file: an archive without it was cut off.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import resource
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from typing_extensions import override

from bifrost.backup.still import is_locked, standing_still
from config.history import texts_of
from config.models import Configuration
from config.secret_keys import key_file
from config.secrets import STORE, STORE_NAME
from config.telemetry import FOLDER
from delivery.disk import RESTORED, StoreError, make_directory, sync_directory, write_durably

FORMAT: Final = "bifrost-backup/1"
GATEWAY: Final = "gateway"
CONFIGURATION: Final = "configuration"
MANIFEST: Final = "backup.json"
_KEY: Final = "secrets-key"
_LEFT_OUT: Final = {"lock", "cli-token"}  # of a running process
_APPENDED: Final = re.compile(r"\d{20}-[0-9a-f]{8}\.log")  # segments: what is there stays as it is
_NAMES_A_FILE: Final = re.compile(r"""^[\s{,-]*(?:\w+_file|descriptor)\s*:\s*["']?([^"'\s,}#]+)""", re.MULTILINE)
_CHUNK: Final = 1024 * 1024


@dataclass(slots=True)
class Written:
    """What a backup holds.

    Attributes:
        files: How many files.
        size: Bytes of them.
        stood_still: Seconds for which the gateway stood still; None when none ran.
        left_out: Folders that are not in it: tables that targets have made.
        with_key: Whether the key of the secrets is in it.
    """

    files: int = 0
    size: int = 0
    stood_still: float | None = None
    left_out: list[str] = field(default_factory=list)
    with_key: bool = False


@dataclass(slots=True)
class _Taken:
    """A file as it was at the moment."""

    name: str
    about: os.stat_result
    content: IO[bytes]
    size: int


def write(out: Path, config: Configuration, path: Path, *, with_key: bool = False) -> Written:
    """Write the backup of a gateway, which may run.

    Args:
        out: The archive; gzip when its name ends in ``gz``.
        config: The gateway's configuration.
        path: Where it was loaded from.
        with_key: Whether the key of the secrets goes with it.

    Raises:
        StoreError: The gateway could not be stopped for a moment, or there is no such directory.
    """
    if not config.directory.is_dir():
        raise StoreError(f"{config.directory} is not there: no gateway has run with this configuration")
    found = Written(with_key=with_key)
    tables = set(_tables(config))
    began = datetime.now(UTC)
    _many_files()
    with contextlib.ExitStack() as held:
        paths = _configuration(path)  # looked for before the gateway stands
        runs, taken = _at_once(config.directory, tables, held, found)
        found.stood_still = found.stood_still if runs else None
        taken += [_opened(file, f"{CONFIGURATION}/{name}", held) for name, file in paths.items()]
        if with_key:
            taken.append(_the_key(held))
        draft = out.with_name(out.name + ".part")
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(fd, "wb") as file:
            with tarfile.open(
                fileobj=file, mode="w:gz" if out.name.endswith("gz") else "w", format=tarfile.PAX_FORMAT
            ) as archive:
                sums = {one.name: _add(archive, one) for one in taken}
                found.files, found.size = len(taken), sum(one.size for one in taken)
                manifest = {
                    "format": FORMAT,
                    "gateway": config.gateway,
                    "version": version("bifrost-gateway"),
                    "began": began.isoformat(timespec="milliseconds"),
                    "directory": str(config.directory.absolute()),
                    "configuration": path.name,
                    "ran": runs,
                    "sha256": sums,
                }
                text = json.dumps(manifest, indent=1).encode()
                about = tarfile.TarInfo(MANIFEST)
                about.size, about.mode, about.mtime = len(text), 0o600, int(time.time())
                archive.addfile(about, io.BytesIO(text))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(out)
        sync_directory(out.absolute().parent)
    return found


def _many_files() -> None:
    """Each segment is held open for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _at_once(
    directory: Path, tables: set[Path], held: contextlib.ExitStack, found: Written
) -> tuple[bool, list[_Taken]]:
    """Every file of the directory at one moment."""
    began = time.monotonic()
    taken: list[_Taken] = []
    with standing_still(directory) as runs:
        for file in _files(directory, tables, found):
            name = f"{GATEWAY}/{file.relative_to(directory).as_posix()}"
            # what is only appended to is read later, up to its present end; even when it is removed meanwhile
            take = _opened if _APPENDED.fullmatch(file.name) else _copied
            taken.append(take(file, name, held))
    found.stood_still = time.monotonic() - began
    return runs, taken


def _files(directory: Path, tables: set[Path], found: Written) -> Iterator[Path]:
    for place, folders, names in os.walk(directory):
        if Path(place) == directory and FOLDER in folders:
            folders.remove(FOLDER)  # samples of the past, which a restored gateway has no reason to send
        for folder in sorted(folders):
            if (Path(place) / folder).absolute() in tables:
                folders.remove(folder)
                found.left_out.append(str(Path(place) / folder))
        for name in sorted(names):
            path = Path(place) / name
            if path.is_symlink() or not path.is_file() or (Path(place) == directory and name in _LEFT_OUT):
                continue
            yield path


def _tables(config: Configuration) -> Iterable[Path]:
    """Folders inside the directory in which targets keep what they were given: that is delivered, and may be large."""
    for target in config.targets.values():
        place = str(getattr(target, "endpoint", None) or "")
        if place and "://" not in place:
            yield Path(place).absolute()


def _configuration(path: Path) -> dict[str, Path]:
    """The configuration's files, its secrets, and the files below its folder that it names."""
    folder = path.absolute().parent
    names = set(texts_of(path))
    for text in texts_of(path).values():
        names.update(_NAMES_A_FILE.findall(text))
    store = Path(os.environ.get(STORE) or folder / STORE_NAME)
    key = key_file()
    found = {}
    for file in (*(folder / name for name in sorted(names)), store):
        if (
            file.is_file()
            and file.resolve().is_relative_to(folder.resolve())
            and (key is None or file.resolve() != key.resolve())
        ):
            found[file.resolve().relative_to(folder.resolve()).as_posix()] = file
    if store.is_file() and STORE_NAME not in found:
        found[STORE_NAME] = store
    return found


def _opened(file: Path, name: str, held: contextlib.ExitStack) -> _Taken:
    content = held.enter_context(file.open("rb"))
    about = os.fstat(content.fileno())
    return _Taken(name, about, content, about.st_size)


def _copied(file: Path, name: str, held: contextlib.ExitStack) -> _Taken:
    copy = held.enter_context(tempfile.SpooledTemporaryFile(max_size=4 * _CHUNK))  # noqa: SIM115 - entered
    with file.open("rb") as content:
        about = os.fstat(content.fileno())
        shutil.copyfileobj(content, copy, _CHUNK)
    size = copy.tell()
    copy.seek(0)
    return _Taken(name, about, copy, size)


def _the_key(held: contextlib.ExitStack) -> _Taken:
    path = key_file()
    if path is None:
        raise StoreError(
            "there is no file with the key of the secrets: set BIFROST_SECRETS_KEY_FILE, or leave --with-key out"
        )
    return _opened(path, f"{CONFIGURATION}/{_KEY}", held)


class _Summed(io.RawIOBase):
    """Reads a file up to a size, and sums it up."""

    def __init__(self, one: _Taken) -> None:
        self.sum = hashlib.sha256()
        self._content, self._left = one.content, one.size

    @override
    def read(self, size: int = -1) -> bytes:
        data = self._content.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        self.sum.update(data)
        return data


def _add(archive: tarfile.TarFile, one: _Taken) -> str:
    about = tarfile.TarInfo(one.name)
    about.size, about.mode, about.mtime = one.size, one.about.st_mode & 0o777, int(one.about.st_mtime)
    about.uid, about.gid = one.about.st_uid, one.about.st_gid
    content = _Summed(one)
    archive.addfile(about, content)
    return content.sum.hexdigest()


# ---------------------------------------------------------------------- putting it back


@dataclass(slots=True)
class Restored:
    """What was put back.

    Attributes:
        gateway: Name of the gateway.
        began: When the backup was begun.
        directory: Where the gateway's directory is now.
        files: How many files are in it.
        configuration: Files of the configuration that were put back.
        kept: Files of the configuration that were there and stay.
    """

    gateway: str
    began: str
    directory: Path
    files: int
    configuration: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)


def restore(file: Path, config: Path, directory: Path | None = None) -> Restored:
    """Put a backup back: the whole directory, or nothing of it.

    Args:
        file: The archive.
        config: Where the configuration file belongs; what stands beside it already stays.
        directory: Where the gateway's directory belongs; None for where it was.

    Raises:
        StoreError: The archive is damaged, or there is something where it belongs.
    """
    try:
        manifest = _checked(file)
    except (tarfile.TarError, EOFError, ValueError, KeyError) as error:
        raise StoreError(f"{file} is no whole backup: {error}") from error
    target = directory or Path(manifest["directory"])
    if target.exists() and (is_locked(target) or any(target.iterdir())):
        raise StoreError(
            f"{target} is not empty: stop the gateway and move its directory away; a backup takes no part of it over"
        )
    make_directory(target.absolute().parent)
    draft = target.with_name(target.name + ".restoring")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    found = Restored(str(manifest["gateway"]), str(manifest["began"]), target, 0)
    with tarfile.open(file) as archive:
        for member in archive:
            top, _, name = member.name.partition("/")
            if top == GATEWAY:
                _extract(archive, member, draft / name)
                found.files += 1
            elif top == CONFIGURATION:
                place = config.parent / (config.name if name == manifest["configuration"] else name)
                if place.exists():
                    found.kept.append(place)
                else:
                    make_directory(place.absolute().parent)
                    _extract(archive, member, place)
                    found.configuration.append(place)
    # its readings go on under numbers that nobody has had: what was read after the backup has had the next ones
    make_directory(draft / "journal")
    write_durably(draft / "journal" / RESTORED, str(manifest["began"]).encode())
    _owned_alike(draft)
    for folder in (draft, *(path for path in draft.rglob("*") if path.is_dir())):
        sync_directory(folder)
    if target.exists():
        target.rmdir()
    draft.rename(target)
    sync_directory(target.absolute().parent)
    return found


def _checked(file: Path) -> dict[str, Any]:
    """The manifest of an archive in which every file is as it was."""
    sums: dict[str, str] = {}
    manifest: dict[str, Any] | None = None
    with tarfile.open(file) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isfile() or path.is_absolute() or ".." in path.parts:
                raise ValueError(f"{member.name} does not belong into it")
            content = archive.extractfile(member)
            if content is None:
                raise ValueError(f"{member.name} is no file")
            if member.name == MANIFEST:
                manifest = json.load(content)
            else:
                sums[member.name] = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
    if manifest is None:
        raise ValueError(f"{MANIFEST} is missing, it was cut off")
    if manifest["format"] != FORMAT:
        raise ValueError(f"it is of the format {manifest['format']}, which this version does not know")
    if wrong := sorted(
        name for name in sums.keys() | manifest["sha256"].keys() if sums.get(name) != manifest["sha256"].get(name)
    ):
        raise ValueError(f"{wrong[0]} is not as it was")
    return manifest


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, place: Path) -> None:
    make_directory(place.absolute().parent)
    content = archive.extractfile(member)
    if content is None:
        raise StoreError(f"{member.name} is no file")
    fd = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "wb") as file:
        shutil.copyfileobj(content, file, _CHUNK)
        os.fchmod(fd, member.mode)
        if os.geteuid() == 0:
            os.fchown(fd, member.uid, member.gid)
        file.flush()
        os.fsync(fd)


def _owned_alike(directory: Path) -> None:
    """Folders belong to whom their files belong; only root can give them away."""
    if os.geteuid() != 0:
        return
    owner = next(
        (path.stat() for path in sorted(directory.rglob("*")) if path.is_file() and path.name != RESTORED), None
    )
    if owner is None:
        return
    for path in (
        directory,
        *(path for path in directory.rglob("*") if path.is_dir()),
        directory / "journal" / RESTORED,
    ):
        os.chown(path, owner.st_uid, owner.st_gid)
