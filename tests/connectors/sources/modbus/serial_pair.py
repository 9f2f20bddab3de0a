"""A serial line without a cable: two pseudo terminals, and a process that copies what one writes to the other.

The system gives the name of a terminal that is gone to the next one, of another test in another process: a reader that still
looks for its device would find that one. So terminals have names of their own here.
"""

import os
import subprocess
import sys
import tempfile
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_COPY = """
import os, select, sys
one, other = int(sys.argv[1]), int(sys.argv[2])
while True:
    for fd in select.select([one, other], [], [])[0]:
        os.write(other if fd == one else one, os.read(fd, 512))
"""


@contextmanager
def own_name(fd: int) -> Iterator[str]:
    """A path of a terminal that no other terminal ever has."""
    with tempfile.TemporaryDirectory(prefix="bifrost-line-") as folder:
        path = Path(folder) / "tty"
        path.symlink_to(os.ttyname(fd))
        yield str(path)


@contextmanager
def serial_pair() -> Iterator[tuple[str, str]]:
    """The paths of the two ends."""
    with ExitStack() as stack:
        (one, here), (other, there) = os.openpty(), os.openpty()
        for fd in (one, here, other, there):
            stack.callback(os.close, fd)
            tty.setraw(fd)
        copy = subprocess.Popen([sys.executable, "-c", _COPY, str(one), str(other)], pass_fds=(one, other))
        stack.callback(copy.wait)
        stack.callback(copy.kill)
        yield stack.enter_context(own_name(here)), stack.enter_context(own_name(there))
