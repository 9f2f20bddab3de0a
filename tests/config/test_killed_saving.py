"""SIGKILL at each system call of saving a configuration and of its history: the old one or the new one, never neither."""

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from config.history import FOLDER, entries, finish, put, record, texts_for, texts_of
from config.loader import load
from config.pending import begin

ROOT = Path(__file__).parents[2]
MAIN = "gateway: {{name: gw, directory: {directory}}}\n# {which}\n{padding}"
MORE = "sources: [{{name: {name}, protocol: modbus, endpoint: 'tcp://h', registers: [{{address: 1}}]}}]\n"
LOOKING = {
    "read",
    "close",
    "access",
    "lseek",
    "ioctl",
    "fstat",
    "newfstatat",
    "stat",
    "lstat",
    "getdents64",
    "statx",
    "readlink",
    "fcntl",
}
"""What changes nothing: a kill at one of these leaves what a kill at the next other call leaves."""
PADDING = "#" * 79 + "\n"


def write(folder: Path, directory: Path, which: str, more: dict[str, str]) -> dict[str, str]:
    """A configuration of a main file and more; its texts."""
    files = {"gateway.yaml": MAIN.format(directory=directory, which=which, padding=PADDING * 200)}
    files |= {f"conf.d/{name}.yaml": MORE.format(name=source) for name, source in more.items()}
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return files


class Saving:
    """A process that saves as often as it is told; each time it can be killed as it enters a system call."""

    def __init__(self, path: Path, new: Path) -> None:
        command = [sys.executable, "-m", "tests.config.killed_saving", str(path), str(new)]
        self.process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def save(self, trace: Path, inject: str = "") -> int:
        """Save once; how the child ended. The calls that it made are written to `trace`."""
        child = int(self._answer("save"))
        options = ["-e", "trace=%file,%desc", *(["-e", f"inject={inject}"] if inject else [])]
        command = ["strace", *options, "-o", str(trace), "-p", str(child)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            assert "attached" in strace.stderr.readline()
            return int(self._answer("go"))

    def _answer(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(word, file=self.process.stdin, flush=True)
        return self.process.stdout.readline()

    def end(self) -> None:
        self.process.communicate(timeout=20)


@pytest.mark.threat(29)
@pytest.mark.parametrize("more", [False, True], ids=["one file", "files beside"])
def test_a_kill_at_any_call_of_saving_leaves_the_old_configuration_or_the_new_one(tmp_path: Path, more: bool) -> None:
    assert shutil.which("strace"), "make counterparts installs it"
    directory, folder, trace = tmp_path / "data", tmp_path / "etc", tmp_path / "trace"
    path = folder / "gateway.yaml"
    old = write(folder, directory, "old", {"press": "press"} if more else {})
    new = write(tmp_path / "new", directory, "new", {"press": "drill", "oven": "oven"} if more else {})
    config = load(path)

    def begin() -> None:
        shutil.rmtree(directory, ignore_errors=True)
        shutil.rmtree(folder / "conf.d", ignore_errors=True)
        put(path, old)
        record(path, config, 1_600_000_000)

    saving = Saving(path, tmp_path / "new")
    begin()
    assert saving.save(trace) == 0
    made = Counter(name for name in re.findall(r"^(\w+)\(", trace.read_text(), re.MULTILINE) if name not in LOOKING)
    assert {"openat", "write", "fsync", "rename"} <= set(made)
    assert sum(made.values()) > (25 if more else 12)
    named = (["press"], ["drill", "oven"]) if more else ([], [])  # the sources of the old one and of the new one
    seen: Counter[bool] = Counter()
    for name, number in ((name, number) for name, count in made.items() for number in range(1, count + 1)):
        begin()
        assert saving.save(trace, f"{name}:signal=KILL:when={number}") == -signal.SIGKILL
        found = texts_of(path)
        assert found in (old, new), f"{name} {number}: neither"
        assert {source.name for source in load(path).sources} == set(named[found == new])
        seen[found == new] += 1
        kept = entries(directory)
        assert len(kept) == len([*(directory / FOLDER).glob("*.json")]), "all are whole"
        assert texts_for(kept[0], path) == old, "the last good one is there"
        assert [texts_for(entry, path) for entry in kept[1:]] in ([], [new])
        put(path, new)  # what was cut off is done again
        assert texts_of(path) == new
        assert record(path, load(path), 1_700_000_001) == (None if len(kept) > 1 else 2)
    saving.end()
    assert min(seen[False], seen[True]) > 3


def cut_off(folder: Path, directory: Path) -> tuple[Path, dict[str, str], dict[str, str]]:
    """A change of three files of which one is written; its main file, and the texts before and after."""
    path = folder / "gateway.yaml"
    old = write(folder, directory, "old", {"press": "press"})
    new = write(folder.with_name("other"), directory, "new", {"press": "drill", "oven": "oven"})
    begin(path, old, new)
    (folder / "conf.d/press.yaml").write_text(new["conf.d/press.yaml"])
    return path, old, new


def test_a_change_that_was_cut_off_is_finished(tmp_path: Path) -> None:
    path, _, new = cut_off(tmp_path / "etc", tmp_path / "data")
    assert texts_of(path) == new
    assert [source.name for source in load(path).sources] == ["oven", "drill"]
    assert path.with_name(".gateway.yaml.change").stat().st_mode & 0o777 == 0o600
    finish(path)
    assert {name: (path.parent / name).read_text() for name in new} == new
    assert not path.with_name(".gateway.yaml.change").exists()


@pytest.mark.parametrize("edited", ["gateway.yaml", "conf.d/press.yaml", "conf.d/more.yaml"])
def test_what_a_person_wrote_since_a_change_was_cut_off_goes_before_it(tmp_path: Path, edited: str) -> None:
    path, _, _ = cut_off(tmp_path / "etc", tmp_path / "data")
    file = path.parent / edited
    text = (file.read_text() if file.exists() else "") + "# mine\n"
    file.write_text(text)
    assert texts_of(path)[edited] == text
    finish(path)
    assert file.read_text() == text
    put(path, texts_of(path) | {"conf.d/later.yaml": "# later\n", "conf.d/last.yaml": "# last\n"})
    assert texts_of(path)[edited] == text
