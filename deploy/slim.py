"""Takes out of a virtual environment what a gateway never loads: python slim.py FOLDER. Prints what it saved."""

import shutil
import sys
from pathlib import Path

# of each package: what is for compiling against it, for testing it, or a part that nothing of ours imports
LEFT_OUT = (
    "pyarrow/include",
    "pyarrow/includes",
    "pyarrow/src",
    "pyarrow/tests",
    "pyarrow/libarrow_flight.so*",
    "pyarrow/_flight*",
    "pyarrow/*.pyx",
    "pyarrow/*.pxi",
    "numpy/**/tests",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/f2py",
    "grpc/_cython/*.pyx",
    "amqtt/scripts",
    "pymodbus/server/simulator/web",
)


def size(path: Path) -> int:
    """Bytes of a file or of all in a folder."""
    if path.is_dir() and not path.is_symlink():
        return sum(part.lstat().st_size for part in path.rglob("*") if not part.is_dir() or part.is_symlink())
    return path.lstat().st_size


def main(folder: Path) -> None:
    """Take it out."""
    before = size(folder)
    for packages in folder.glob("lib/python3*/site-packages"):
        for pattern in LEFT_OUT:
            for path in sorted(packages.glob(pattern)):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                elif path.exists() or path.is_symlink():
                    path.unlink()
    print(f"{folder}: {before / 1e6:.0f} MB, {size(folder) / 1e6:.0f} MB without what is never loaded")
    for part in sorted(folder.glob("lib/python3*/site-packages/*"), key=size, reverse=True)[:12]:
        print(f"  {size(part) / 1e6:5.0f} MB {part.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
