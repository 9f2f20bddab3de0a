"""A process whose children save a configuration, stopped first, so that the test can have each killed at a call of its choice.

For every line on standard input it forks: the child stops itself, and saves when it is continued. The number of the child is
printed; a second line continues it, and how it ended is printed.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from config.history import put, record
from config.loader import load

_PR_SET_PTRACER, _ANY = 0x59616D61, ctypes.c_ulong(-1)


def main(main_file: str, new: str) -> None:
    path = Path(main_file)
    wanted = {name.name if name.parent == Path(new) else f"conf.d/{name.name}": name.read_text() for name in texts(new)}
    config = load(path, wanted)
    libc = ctypes.CDLL(None)
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            libc.prctl(_PR_SET_PTRACER, _ANY, 0, 0, 0)
            os.kill(os.getpid(), signal.SIGSTOP)
            put(path, wanted)
            record(path, config, 1_700_000_000)
            os._exit(0)
        os.waitpid(child, os.WUNTRACED)
        print(child, flush=True)  # noqa: T201 - the answer
        sys.stdin.readline()
        os.kill(child, signal.SIGCONT)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)  # noqa: T201 - the answer


def texts(folder: str) -> list[Path]:
    return [*Path(folder).glob("*.yaml"), *Path(folder, "conf.d").glob("*.yaml")]


if __name__ == "__main__":
    main(*sys.argv[1:])
