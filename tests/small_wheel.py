"""A wheel of Bifrost's name with a small program in it, for tests of what installs and upgrades."""

import zipfile
from pathlib import Path


def small_wheel(folder: Path, version: str, program: str) -> Path:
    """A version of the program.

    Args:
        folder: Where the wheel is put.
        version: Its number.
        program: Source of a module with a function `main`, which is the command `bifrost`.
    """
    file = folder / f"bifrost_gateway-{version}-py3-none-any.whl"
    about = f"bifrost_gateway-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("tried.py", program)
        made.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: bifrost-gateway\nVersion: {version}\n")
        made.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{about}/entry_points.txt", "[console_scripts]\nbifrost = tried:main\n")
        made.writestr(f"{about}/RECORD", "")
    return file
