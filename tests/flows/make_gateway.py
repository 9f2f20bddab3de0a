"""Writes the directory of a killed gateway of the version that runs it, for `test_upgrade_gateway`.

``PYTHONPATH=CHECKOUT python tests/flows/make_gateway.py CHECKOUT OUT.tar.xz``: one target has what it was to get, the other
refused everything, and the gateway was killed with readings on their way.
"""

import sys
import tarfile
import tempfile
from pathlib import Path

ENOUGH = 300  # readings at the target that takes them


def main(checkout: Path, out: Path) -> None:
    """Let it live under `bytewax.run`, kill it, and pack its directory."""
    sys.path.insert(0, str(checkout / "tests" / "flows"))
    from running import Running

    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        gateway = Running(directory, "bytewax_run", rate=100, fail_second=True)
        gateway.deliver(ENOUGH, ("first",))
        gateway.process.kill()
        gateway.process.wait()
        with tarfile.open(out, "w:xz") as archive:
            for path in sorted(directory.iterdir()):
                if path.name != "log":
                    archive.add(path, path.name, filter=lambda i: None if i.name.endswith("/reserve") else i)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
