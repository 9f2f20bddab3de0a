"""Devices made with modbus-serial and jsmodbus: a program in JavaScript, see its own first lines."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[4]
HERE = ROOT / "tests/counterparts/modbus-node"


def install() -> None:
    """Install what the program needs, unless it is there."""
    subprocess.run([HERE / "install.sh"], check=True, timeout=300)


@contextlib.contextmanager
def node(*options: str | Path) -> Iterator[tuple[dict[str, int], subprocess.Popen[str]]]:
    """The ports of the program, and its process, which ends with the block."""
    command = ["node", HERE / "server.js", *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield json.loads(process.stdout.readline()), process
        finally:
            process.stdin.close()
