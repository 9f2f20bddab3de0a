"""The gateway's dataflow, to be read and edited."""

import os
import signal
import sys


def main_module() -> str:
    """Name of the module that `python -m` runs."""
    return str(getattr(getattr(sys.modules.get("__main__"), "__spec__", None), "name", ""))


def leave_on_signals() -> None:
    """Until the flow runs there is nothing to finish: SIGTERM and SIGINT end the process with exit code 0.

    As PID 1, a process without a handler would ignore them.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))


if main_module() == "bytewax.run":
    leave_on_signals()
