"""Takes out of a virtual environment what a gateway never loads: python slim.py FOLDER. Prints what it saved and what is large.

Files go that are there to compile against a package, to check its types or to test it, and parts that nothing of ours imports
(`imports.py` tells when one is missed after all). Of libraries go the tables that only linkers and debuggers read.
"""

import shutil
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = (
    "**/tests",
    "**/*.pyi",
    "**/*.pyx",
    "**/*.pxd",
    "**/*.pxi",
    "**/*.[ch]",
    "**/*.cc",
    "**/*.hpp",
    "**/*.a",
    "pyarrow/include",
    "pyarrow/includes",
    "pyarrow/src",
    "pyarrow/_pyarrow_cpp_tests*",
    # Flight, and the stores that Arrow opens itself: Delta opens its own
    "pyarrow/libarrow_flight.so*",
    "pyarrow/libarrow_python_flight.so*",
    "pyarrow/_flight*",
    "pyarrow/libarrow_s3.so*",
    "pyarrow/_s3fs*",
    "pyarrow/_gcsfs*",
    "pyarrow/_azurefs*",
    "pyarrow/_hdfs*",
    # the same library under the names that a linker looks for; what is loaded is libarrow_python.so.NUMBER
    "pyarrow/libarrow_python*.so",
    "pyarrow/libarrow_python*.so.*.*",
    "numpy/f2py",
    "numpy/_core/include",
    "amqtt/scripts",
    "pymodbus/server/simulator/web",
)
# under the LGPL, which lets everybody exchange it: it stays as its authors built it
UNTOUCHED = ("psycopg_binary", "psycopg_binary.libs")

_ELF64_LITTLE = b"\x7fELF\x02\x01"
_HEADER = 64  # bytes of an ELF header; section headers are named at 40, program headers at 32


def size(path: Path) -> int:
    """Bytes of a file or of all in a folder."""
    if path.is_dir() and not path.is_symlink():
        return sum(part.lstat().st_size for part in path.rglob("*") if not part.is_dir() or part.is_symlink())
    return path.lstat().st_size


def loaded(library: bytes) -> int:
    """Where that ends which a program header names, in bytes from the start: all that the kernel and the loader read."""
    (headers,) = struct.unpack_from("<Q", library, 32)
    each, count = struct.unpack_from("<HH", library, 54)
    end = max(_HEADER, headers + each * count)
    for number in range(count):
        offset, _, _, stored = struct.unpack_from("<QQQQ", library, headers + each * number + 8)
        end = max(end, offset + stored)
    return end


def stripped(library: bytes) -> bytes:
    """A library without section headers, symbols for linkers and debug information; what is loaded stays byte by byte.

    `strip` lays a library out anew, which breaks some that a wheel's builder has patched. This only cuts off its end.
    """
    kept = bytearray(library[: loaded(library)])
    struct.pack_into("<Q", kept, 40, 0)  # no section headers: offset, size of each, count, index of their names
    struct.pack_into("<HHH", kept, 58, 0, 0, 0)
    return bytes(kept)


def libraries(packages: Path) -> Iterator[Path]:
    """Shared objects of the packages, those without that must stay as they are."""
    for path in sorted(packages.rglob("*.so*")):
        if path.is_symlink() or not path.is_file() or path.relative_to(packages).parts[0] in UNTOUCHED:
            continue
        with path.open("rb") as file:
            if file.read(len(_ELF64_LITTLE)) == _ELF64_LITTLE:
                yield path


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
        without = size(folder)
        for path in libraries(packages):
            path.write_bytes(stripped(path.read_bytes()))
        print(
            f"{folder}: {before / 1e6:.0f} MB, {without / 1e6:.0f} MB without what is never loaded, {size(folder) / 1e6:.0f} MB stripped"
        )
        for part in sorted(packages.iterdir(), key=size, reverse=True)[:25]:
            print(f"  {size(part) / 1e6:6.1f} MB {part.name}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
