"""``python -m simulator.zerobus``: the emulator as a process of its own."""

import typer

from simulator.zerobus.cli import zerobus

if __name__ == "__main__":
    typer.run(zerobus)
