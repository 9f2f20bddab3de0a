"""The README's commands work as printed, in their order, with the configuration that it names."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
COMMANDS = [shlex.split(line, comments=True) for block in BLOCKS for line in block.splitlines()]
OWN = [words[1:] for words in COMMANDS if words[0] == ".venv/bin/bifrost"]


def start(folder: Path, *arguments: str, stderr: int = subprocess.DEVNULL) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "bifrost", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def ended(folder: Path, *arguments: str) -> tuple[int, str]:
    with start(folder, *arguments) as process:
        said, _ = process.communicate(timeout=60)
    return process.returncode, said


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with the configuration that the README names, and the plant that it reads; ports alone differ."""
    ports = {"4840": free_port(), "1883": free_port(), "5020": free_port(), "8080": free_port()}
    text = (ROOT / "config" / "gateway.yaml").read_text(encoding="utf-8")
    for known, port in ports.items():
        text = text.replace(f"127.0.0.1:{known}", f"127.0.0.1:{port}").replace(f"port: {known}", f"port: {port}")
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "gateway.yaml").write_text(text, encoding="utf-8")
    listen = f"opcua={ports['4840']},mqtt={ports['1883']},modbus={ports['5020']}"
    with start(tmp_path, "sim", "all", "--ports", listen, stderr=subprocess.PIPE) as plant:
        assert plant.stderr is not None
        for line in plant.stderr:
            if line.startswith("in sum"):
                break
        yield tmp_path
        plant.terminate()
        plant.communicate(timeout=30)


def test_its_commands_for_a_plant_work_as_printed(folder: Path) -> None:
    create, check, doctor, test, run, status, ledger = OWN
    code, said = ended(folder, *create)
    assert (code, said.splitlines()[0]) == (0, "gateway:")
    code, said = ended(folder, *check)
    assert (code, said.splitlines()[0]) == (0, "config/gateway.yaml is sound.")
    code, said = ended(folder, *doctor)
    assert code == 0, said
    assert "WRONG" not in said
    code, said = ended(folder, *test)
    assert code == 0
    assert "plant1/production/line1/plc1/temperature/reactor_temp" in said
    with start(folder, *run) as gateway:
        deadline = time.monotonic() + 30
        delivered = 0
        while not delivered and time.monotonic() < deadline:
            code, said = ended(folder, *status, "--json")
            delivered = json.loads(said)["targets"]["lake"]["delivered"] if code == 0 else 0
        assert delivered
        code, said = ended(folder, *status)
        assert (code, said.splitlines()[0].strip()) == (0, "Gateway ok")
        code, said = ended(folder, *ledger)
        assert code == 0
        assert {"opcua1", "mqtt1", "sparkplug1", "modbus1"} <= set(said.split())
        gateway.send_signal(signal.SIGINT)
        gateway.communicate(timeout=30)
    assert gateway.returncode == 0


def test_every_target_of_make_that_it_names_is_there() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = {*(words[1] for words in COMMANDS if words[0] == "make"), *re.findall(r"`make ([a-z]+)`", README)}
    assert named >= {"run", "test", "bench"}
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_file_that_it_links_to_is_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
