"""Imports all that our modules name in an import, wherever in them it stands: python imports.py [--some] FOLDER, by its own Python.

What cannot be imported is told and ends it, so that nothing is left out of an image that a gateway needs; with ``--some``, for a
variant without some extras, a module that no package has brought is let pass. What was imported is compiled from then on.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
import sys
from pathlib import Path

OURS = ("bifrost", "flows", "connectors", "delivery", "discovery", "normalization", "config", "simulator", "web")


def named(source: str) -> set[str]:
    """Modules that a source names in its imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return found


def brought() -> set[str]:
    """Modules that the installed packages brought, those too that were taken out since."""
    found: set[str] = set()
    for package in importlib.metadata.distributions():
        for file in package.files or ():
            parts = [*file.parts[:-1], file.name.split(".")[0]]
            found |= {".".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    return found


def main(packages: Path, *, some: bool) -> int:
    """Import them; returns how many could not be."""
    sources = [path for name in OURS for path in sorted((packages / name).rglob("*.py"))]
    wanted = {".".join(path.relative_to(packages).with_suffix("").parts).removesuffix(".__init__") for path in sources}
    wanted -= {name for name in wanted if name.endswith("__main__")}
    for path in sources:
        wanted |= named(path.read_text("utf-8"))
    there = brought()
    failed, absent = [], set()
    for name in sorted(wanted):
        try:
            importlib.import_module(name)
        except ImportError as error:
            missed = error.name or name
            if some and missed not in there and missed.split(".")[0] not in sys.stdlib_module_names:
                absent.add(missed)
            else:
                failed.append(f"{name}: {error}")
    print(f"{len(wanted)} modules are named; not brought by a package: {', '.join(sorted(absent)) or 'none'}")
    for line in failed:
        print(f"cannot import {line}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(1 if main(Path(sys.argv[-1]), some="--some" in sys.argv) else 0)
