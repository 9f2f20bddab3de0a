"""The recorder sees what a process does to a disk, and what a power cut may take of it."""

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.recording import Call, Recorded, calls, tracer

LIFE = """
import os, sqlite3, sys, threading
root = sys.argv[1]
os.mkdir(root + "/store")
fd = os.open(root + "/store/log", os.O_RDWR | os.O_CREAT)
os.write(fd, b"synced ")
os.fdatasync(fd)
folder = os.open(root + "/store", os.O_RDONLY)
os.fsync(folder)
os.writev(fd, [b"not ", b"synced"])
os.pwrite(fd, b"S", 0)
with open(root + "/gone", "w") as file:
    file.write("x" * 5000)
os.rename(root + "/gone", root + "/kept")
os.truncate(root + "/kept", 10)
os.link(root + "/kept", root + "/store/again")
store = sqlite3.connect(root + "/store/part.sqlite3")
store.execute("PRAGMA journal_mode=WAL")
store.execute("CREATE TABLE t (n)")
def insert(first):
    own = sqlite3.connect(root + "/store/part.sqlite3", timeout=20)
    for n in range(first, first + 8):
        with own:
            own.execute("INSERT INTO t VALUES (?)", (n,))
threads = [threading.Thread(target=insert, args=(100 * n,)) for n in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
os.mkdir(root + "/moved")
os.rename(root + "/store", root + "/moved/store")
os.write(fd, b" late")
os.kill(os.getpid(), 9)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    folder = tmp_path_factory.mktemp("recorded")
    root, trace = folder / "disk", folder / "trace"
    root.mkdir()
    subprocess.run([*tracer(trace), sys.executable, "-c", LIFE, str(root)], check=False, timeout=110)
    return root, list(calls(trace.read_text().splitlines()))


def _played(recorded: tuple[Path, list[Call]]) -> Iterator[tuple[Recorded, Call]]:
    root, made = recorded
    disk = Recorded(root)
    for call in made:
        if disk.apply(call):
            yield disk, call


def test_every_byte_of_every_file_is_explained_by_the_calls(recorded: tuple[Path, list[Call]]) -> None:
    disk = Recorded(recorded[0])
    for disk, _ in _played(recorded):  # noqa: B007 - the last one is meant
        pass
    assert disk.content(recorded[0] / "moved" / "store" / "log") == b"Synced not synced late"
    assert disk.content(recorded[0] / "kept") == b"x" * 10
    assert disk.learn(recorded[0]) == []


def test_what_was_synced_stays_and_what_was_not_may_go(recorded: tuple[Path, list[Call]]) -> None:
    log, found, synced = recorded[0] / "store" / "log", set[bytes | None](), False
    for disk, call in _played(recorded):
        synced = synced or (call.name == "fsync" and call.path == log.parent)
        if call.name == "rename" and call.path == log.parent:
            break
        for seed in range(20):
            left = disk.after_power_cut(random.Random(seed)).get(log)
            if synced and left is not None:
                assert left[1:7] == b"ynced "
                assert left[:1] in b"sS"
            found.add(left)
    assert None in found, "the folder was never synced into its own, so that all may go"
    assert {b"synced ", b"Synced ", b"synced not synced", b"Synced not synced"} <= found


def test_a_sync_covers_what_was_written_before_it_began_only(tmp_path: Path) -> None:
    def line(process: int, text: str) -> str:
        return f"{process}  {text}"

    path = "".join(f"\\x{byte:02x}" for byte in bytes(tmp_path / "log"))
    made = list(
        calls(
            [
                line(1, f'openat(AT_FDCWD<\\x2f>, "{path}", O_RDWR|O_CREAT, 0600) = 3<{path}>'),
                line(1, f'write(3<{path}>, "\\x61", 1) = 1'),
                line(1, f"fdatasync(3<{path}> <unfinished ...>"),
                line(2, f'write(3<{path}>, "\\x62", 1) = 1'),
                line(2, f'write(3<{path}>, "\\x63\\x64", 2 <unfinished ...>'),
                line(1, "<... fdatasync resumed>) = 0"),
                line(2, "<... write resumed>) = 1"),
                line(2, f'write(3<{path}>, "\\x65", 1) = -1 ENOSPC (No space left on device)'),
            ]
        )
    )
    disk = Recorded(tmp_path)
    for call in made:
        disk.apply(call)
    assert disk.content(tmp_path / "log") == b"abc"
    states = {tuple(disk.after_power_cut(random.Random(seed)).values()) for seed in range(60)}
    assert states >= {(), (b"a",), (b"abc",)}
    assert all(state == () or state[0].startswith(b"a") for state in states)


def test_what_no_call_explains_is_told_and_taken_over(tmp_path: Path) -> None:
    disk = Recorded(tmp_path)
    (tmp_path / "log").write_bytes(b"from somewhere")
    assert disk.learn(tmp_path) == [tmp_path / "log"]
    assert disk.learn(tmp_path) == []
    assert disk.content(tmp_path / "log") == b"from somewhere"
