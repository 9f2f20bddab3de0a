"""podman with stores of its own under build/, so that nothing is mixed with what a machine has."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
INSTALLER: Final = ROOT / "tests" / "counterparts" / "containers.sh"
BASE_TAR: Final = ROOT / "build" / "counterparts" / "debian" / "base.tar"
BASE: Final = "localhost/bifrost-base:bookworm"
_STORE: Final = ROOT / "build" / "containers"
# a machine that is itself a container gives no more files and processes than this; a pod's pause container asks for them too
_SETTINGS: Final = """[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""


def installed() -> None:
    """Have podman and the stand-in for the public base image."""
    subprocess.run(["sh", str(INSTALLER)], check=True, timeout=1500)


def engine() -> tuple[str, ...]:
    """The command line of podman with these stores."""
    stores = ("--root", str(_STORE / "root"), "--runroot", str(_STORE / "run"), "--tmpdir", str(_STORE / "tmp"))
    drivers = (
        "--storage-driver",
        "vfs",
        "--cgroup-manager",
        "cgroupfs",
        "--runtime",
        "runc",
        "--events-backend",
        "none",
    )
    return ("podman", *stores, *drivers)


def podman(*arguments: str, check: bool = True, seconds: float = 120, quiet: bool = True) -> str:
    """Run podman; returns what it prints."""
    settings = _STORE / "containers.conf"
    settings.parent.mkdir(parents=True, exist_ok=True)
    settings.write_text(_SETTINGS)
    finished = subprocess.run(
        [*engine(), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None, text=True, check=False, timeout=seconds, cwd=ROOT,
        env=os.environ | {"CONTAINERS_CONF": str(settings)},
    )  # fmt: skip
    if check and finished.returncode != 0:
        raise AssertionError(f"podman {' '.join(arguments)}\n{finished.stdout}{finished.stderr}")
    return finished.stdout.strip()


def base_image() -> str:
    """Name of the stand-in for the public base image, which is brought in when it is missing."""
    if not podman("images", "--quiet", BASE, check=False):
        podman("import", str(BASE_TAR), BASE, seconds=600)
    return BASE


def build(name: str, *, base: str, extras: str = "all", arguments: tuple[str, ...] = ()) -> None:
    """Build the image.

    Args:
        name: Its name.
        base: What it is made from.
        extras: The variant.
        arguments: More arguments of `podman build`.
    """
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, cwd=ROOT)
    podman(
        "build", "--format", "docker", "--isolation", "chroot", "--layers=false", "--network", "host",
        "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"EXTRAS={extras}", "--build-arg", f"REVISION={revision.stdout.strip()}",
        *arguments, "--tag", name, ".",
        seconds=1800, quiet=False,
    )  # fmt: skip


def inspected(kind: str, name: str) -> dict[str, Any]:
    """What podman knows of an image or a container."""
    found: dict[str, Any] = json.loads(podman(kind, "inspect", name))[0]
    return found


def bytes_of(image: str) -> tuple[int, dict[str, int]]:
    """Bytes of an image's files, unpacked, and how many of them each package of its virtual environment has."""
    root = Path(podman("image", "mount", image, seconds=600))
    whole, packages = 0, dict[str, int]()
    for folder, _, files in os.walk(root):
        size = sum(Path(folder, name).lstat().st_size for name in files)
        whole += size
        _, environment, below = folder.partition("/site-packages/")
        if environment:
            name = below.split("/")[0].removesuffix(".libs")
            packages[name] = packages.get(name, 0) + size
    podman("image", "umount", image)
    return whole, packages
