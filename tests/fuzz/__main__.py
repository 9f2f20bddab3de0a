"""``python -m tests.fuzz TARGET [SECONDS]``: look for bytes that break a decoder's promise, led by what code they reach.

What is found stays in build/fuzz/TARGET as crash-…; the corpus beside it grows from run to run.
"""

import sys
from pathlib import Path

import atheris  # type: ignore[import-not-found]  # put into build/fuzz by install.sh

with atheris.instrument_imports(include=["connectors", "normalization", "msgspec", "cbor2"]):
    from tests.fuzz.targets import TARGETS


def main(arguments: list[str]) -> None:
    """Fuzz one target for some time."""
    if not arguments or arguments[0] not in TARGETS:
        sys.exit(f"say which: {', '.join(TARGETS)}")
    name, seconds = arguments[0], int(arguments[1]) if len(arguments) > 1 else 60
    folder = Path("build/fuzz") / name
    folder.mkdir(parents=True, exist_ok=True)
    for at, seed in enumerate(TARGETS[name].seeds):
        (folder / f"seed-{at}").write_bytes(seed)
    limits = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=5", "-rss_limit_mb=1024"]
    options = [sys.argv[0], str(folder), f"-artifact_prefix={folder}/", *limits]
    atheris.Setup(options, TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
