"""A serial line without a cable: two pseudo terminals, and a process that copies what one writes to the other."""

import os
import subprocess
import sys
import tty
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_COPY = """
import os, select, sys
one, other = int(sys.argv[1]), int(sys.argv[2])
while True:
    for fd in select.select([one, other], [], [])[0]:
        os.write(other if fd == one else one, os.read(fd, 512))
"""


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
        yield os.ttyname(here), os.ttyname(there)
