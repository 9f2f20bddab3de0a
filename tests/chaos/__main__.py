"""``python -m tests.chaos [--short] [--seed N] [--only NAME]``: run the scenarios, print the goals, write chaos.json.

The exit code is 1 when something was lost, wrong, visible twice or unaccounted for, or needed an operator. Figures that depend on the
machine (milliseconds, ratios) fail the long run only, and any with ``--strict``; else they are marked and noted. Ctrl-C and
SIGTERM end a run early, behind the round that goes on: what was finished is printed and written, the rest is named, and the
exit code is 1. The second time they end it at once.
"""

import argparse
import secrets
import sys
import time
from typing import Final

from tests.chaos import runner
from tests.chaos.interruption import INTERRUPTION
from tests.chaos.scenario import Length, load_all

_TELLS: Final = "%H:%M:%S"


def _say(line: str) -> None:
    sys.stdout.write(f"{time.strftime(_TELLS)} {line}\n")
    sys.stdout.flush()


def main(arguments: list[str]) -> int:
    """Run; the exit code is 1 when something did not hold that must."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="what CI runs, under 15 minutes")
    parser.add_argument("--tiny", action="store_true", help="what the tests run, under a minute")
    parser.add_argument("--seed", type=int, default=None, help="repeat what an earlier run drew")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a scenario; may be given again")
    parser.add_argument("--strict", action="store_true", help="missed figures fail a short run too")
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N", help="run N scenarios at a time; few figures hold then"
    )
    parser.add_argument(
        "--kills", type=int, default=None, metavar="N", help="so many kills in a scenario that counts them"
    )
    given = parser.parse_args(arguments)
    length: Length = "tiny" if given.tiny else "short" if given.short else "long"
    seed = secrets.randbelow(2**31) if given.seed is None else given.seed
    scenarios = load_all()
    known = {scenario.name for scenario in scenarios}
    if unknown := sorted(set(given.only) - known):
        parser.error(f"no such scenario: {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    chosen = [scenario for scenario in scenarios if not given.only or scenario.name in given.only]
    if given.kills is not None and not any("kills" in scenario.load for scenario in chosen):
        parser.error("--kills is for " + ", ".join(sorted(s.name for s in scenarios if "kills" in s.load)))
    _say(f"chaos, {length}: {len(chosen)} scenarios, seed {seed}")
    began = time.monotonic()
    with INTERRUPTION.heard():
        outcomes = runner.run_all(chosen, length, seed, _say, given.kills, given.jobs)
    _say(f"done in {time.monotonic() - began:.0f} s\n{runner.table(outcomes, seed)}")
    return 1 if runner.failed(outcomes, strict=given.strict or length == "long") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
