"""The gateway's dataflow, to be read and edited."""

import os
import signal
import sys


def main_module() -> str:
    """Name of the module that `python -m` runs."""
    return str(getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", ""))


if main_module() == "bytewax.run":
    # As PID 1 a process without a handler ignores SIGTERM. Until the flow runs there is nothing to finish.
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, lambda *_: os._exit(0))
