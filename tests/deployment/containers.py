"""podman with stores of its own under build/, so that nothing is mixed with what a machine has."""

import json
import subprocess
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
INSTALLER: Final = ROOT / "tests" / "counterparts" / "containers.sh"
BASE_TAR: Final = ROOT / "build" / "counterparts" / "debian" / "base.tar"
BASE: Final = "localhost/bifrost-base:bookworm"
_STORE: Final = ROOT / "build" / "containers"


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
    finished = subprocess.run(
        [*engine(), *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE if quiet else None, text=True, check=False, timeout=seconds, cwd=ROOT,
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
        "build", "--format", "docker", "--isolation", "chroot", "--layers=false", "--network", "host", "--quiet",
        "--build-arg", f"BASE_IMAGE={base}", "--build-arg", f"EXTRAS={extras}", "--build-arg", f"REVISION={revision.stdout.strip()}",
        *arguments, "--tag", name, ".",
        seconds=1800, quiet=False,
    )  # fmt: skip


def inspected(kind: str, name: str) -> dict[str, Any]:
    """What podman knows of an image or a container."""
    found: dict[str, Any] = json.loads(podman(kind, "inspect", name))[0]
    return found
