"""Draws the gateway's dataflow: docs/flow.mmd, which the README shows.

python -m flows.picture [--check]
"""

import sys
from pathlib import Path

from bytewax.visualize import to_mermaid

from config.models import Configuration
from connectors.settings import TargetConfig
from flows.gateway import gateway
from flows.process import Process

PICTURE = Path(__file__).parents[1] / "docs" / "flow.mmd"


def draw() -> str:
    """The dataflow of a gateway with two targets, as Mermaid text."""
    targets = {name: TargetConfig(type=name) for name in ("delta", "zerobus")}
    process = Process(Configuration(gateway="example", directory=Path("data"), targets=targets, default=("delta",)))
    return f"{to_mermaid(gateway(process)).rstrip()}\n"


def main(arguments: list[str]) -> int:
    """Write the picture, or say with `--check` whether it is as the flow is; the exit code."""
    drawn = draw()
    if "--check" not in arguments:
        PICTURE.write_text(drawn, encoding="utf-8")
        return 0
    if PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == drawn:
        return 0
    print(f"{PICTURE} is not the flow any more; draw it again: python -m flows.picture", file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
