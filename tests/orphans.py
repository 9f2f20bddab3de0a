"""Servers of tests end with the tests, also where these are killed: a process beside them ends what they leave.

A signal at the parent's death would not do: it comes when the thread ends that started the server, and many are started from
threads that a test's event loop takes with it.
"""

import functools
import subprocess
import sys
from typing import Any

import psutil

_KEEPER = """
import psutil, sys
started = [line.split() for line in sys.stdin]  # until who writes it is gone
for pid, when in started:
    try:
        process = psutil.Process(int(pid))
        if abs(process.create_time() - float(when)) < 2:  # else it is another one with that number
            for one in (*process.children(recursive=True), process):
                one.kill()
    except psutil.Error:
        pass
"""


@functools.cache
def _keeper() -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _KEEPER]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)


class Server(subprocess.Popen[Any]):
    """A process that does not outlive the one that started it; its own children neither."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        told = _keeper().stdin
        assert told is not None
        told.write(f"{self.pid} {psutil.Process(self.pid).create_time()}\n")
        told.flush()
