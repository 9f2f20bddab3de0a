"""Makes the archive that installs Bifrost without a network: python -m deploy.bundle (`make bundle`); docs/edge-box.md tells how it is used.

Wheels come from the package index, by the hashes of deploy/*.lock, for every architecture and Python that it is made for; which of
them belong to a platform is decided by pip itself, offline, as on the box. The same commit and wheels make the same archive.
"""

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from packaging.markers import Marker
from packaging.specifiers import SpecifierSet
from packaging.utils import parse_wheel_filename

from deploy.sbom import bill

ROOT: Final = Path(__file__).parents[1]
FOLDER: Final = ROOT / "build" / "bundle"
ARCHITECTURES: Final = ("x86_64", "aarch64")
PYTHONS: Final = ("3.11", "3.12")
EXTRAS: Final = ("all", "edge")
GLIBC: Final = (2, 34)  # wheels that want a newer one are not taken; the SDK of ZeroBus wants this one
# what lies in the archive as it lies in the repository, so that links between pages lead somewhere
COPIED: Final = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "config/examples",
    "deploy/all.lock",
    "deploy/bifrost.service",
    "deploy/edge.lock",
    "docs",
    "k8s/observability",
)


class BundleError(Exception):
    """The archive cannot be made; the message says why and what to do."""


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """What wheels are made for.

    Attributes:
        architecture: As `uname -m` says it.
        python: Version of CPython, `3.11`.
    """

    architecture: str
    python: str

    @property
    def said(self) -> str:
        """As people read it."""
        return f"{self.architecture}, Python {self.python}"

    @property
    def tags(self) -> list[str]:
        """Platform tags of wheels that run there, best first."""
        oldest = 5 if self.architecture == "x86_64" else 17
        named = {17: "2014", 12: "2010", 5: "1"}
        found = []
        for minor in range(GLIBC[1], oldest - 1, -1):
            found.append(f"manylinux_2_{minor}_{self.architecture}")
            if minor in named:
                found.append(f"manylinux{named[minor]}_{self.architecture}")
        return [*found, f"linux_{self.architecture}"]

    @property
    def options(self) -> list[str]:
        """How pip is told to look for this platform and not for its own."""
        tags = [word for tag in self.tags for word in ("--platform", tag)]
        return ["--only-binary=:all:", "--implementation=cp", "--python-version", self.python, *tags]


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel that pip takes.

    Attributes:
        file: Its name.
        sha256: Its hash, which the lock has.
    """

    file: str
    sha256: str


# ---------------------------------------------------------------------- what is decided


def for_platform(lock: str, platform: Platform) -> str:
    """The entries of a lock that count on a platform, without their conditions.

    pip judges the conditions by the Python that it is run by, whatever `--python-version` says.
    """
    environment = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": platform.architecture,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{platform.python}.0",
        "python_version": platform.python,
        "sys_platform": "linux",
        "extra": "",
    }
    taken = []
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock.strip()):
        head, _, hashes = entry.partition("\n")
        pin, _, condition = head.removesuffix("\\").partition(";")
        if not condition.strip() or Marker(condition.strip()).evaluate(environment):
            taken.append(f"{pin.strip()} \\\n{hashes}")
    return "\n".join(taken) + "\n"


def chosen(report: Mapping[str, Any], python: str) -> list[Wheel]:
    """Wheels that pip's installation report says would be installed.

    Raises:
        BundleError: One says that it is not for this Python, which pip compares with its own Python alone.
    """
    found = []
    for one in report["install"]:
        info, about = one["download_info"], one["metadata"]
        if not SpecifierSet(about.get("requires_python", "")).contains(f"{python}.0"):
            raise BundleError(f"{about['name']} {about['version']} is not for Python {python}; pin another version")
        found.append(Wheel(info["url"].rsplit("/", 1)[1].replace("%2B", "+"), info["archive_info"]["hashes"]["sha256"]))
    return sorted(found, key=lambda wheel: wheel.file)


def glibc(files: Iterable[str]) -> tuple[int, int]:
    """The oldest glibc on which all of these wheels run, by their names."""
    named = {"1": (2, 5), "2010": (2, 12), "2014": (2, 17)}
    needed = (2, 0)
    for file in files:
        found = []
        for tag in parse_wheel_filename(file)[3]:
            if numbered := re.match(r"manylinux_(\d+)_(\d+)_", tag.platform):
                found.append((int(numbered[1]), int(numbered[2])))
            elif dated := re.match(r"manylinux(1|2010|2014)_", tag.platform):
                found.append(named[dated[1]])
        needed = max(needed, min(found, default=needed))
    return needed


def own_lock(wheels: Iterable[Wheel]) -> str:
    """A lock of wheels that no other lock names: Bifrost's."""
    lines = []
    for wheel in wheels:
        name, version, _, _ = parse_wheel_filename(wheel.file)
        lines.append(f"{name}=={version} \\\n    --hash=sha256:{wheel.sha256}\n")
    return "".join(lines)


@dataclass(frozen=True, slots=True)
class Fit:
    """What the archive has for a platform and a set of extras.

    Attributes:
        platform: Where.
        extras: `all` or `edge`.
        files: Names of the wheels.
        unpacked: Their size when they are installed, in bytes.
    """

    platform: Platform
    extras: str
    files: tuple[str, ...]
    unpacked: int


def manifest(version: str, revision: str, own: str, pip: str, fits: Iterable[Fit]) -> str:
    """What is in the archive, for install.sh and for people."""
    lines = [
        f"version {version}",
        f"revision {revision}",
        f"wheel {own}",
        f"pip {pip}",
        "# architecture, Python, extras, oldest glibc, wheels, MB when installed",
    ]
    for fit in fits:
        needs = ".".join(map(str, glibc(fit.files)))
        megabytes = -(-fit.unpacked // 1_000_000)
        lines.append(
            f"platform {fit.platform.architecture} {fit.platform.python} {fit.extras} {needs} {len(fit.files)} {megabytes}"
        )
    return "\n".join(lines) + "\n"


def sums(files: Mapping[str, str]) -> str:
    """The file that `sha256sum --check` reads, of names and hashes."""
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(files.items()))


# ---------------------------------------------------------------------- what is done


def sha256_of(path: Path) -> str:
    """Hash of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpacked(path: Path) -> int:
    """Bytes of what is in a wheel."""
    with zipfile.ZipFile(path) as wheel:
        return sum(part.file_size for part in wheel.infolist())


def run(*command: str, **more: str) -> str:
    """Run a program; what it prints.

    Raises:
        BundleError: It failed.
    """
    finished = subprocess.run(  # noqa: S603 - our own command line
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **more}
    )
    if finished.returncode != 0:
        raise BundleError(f"{' '.join(command)[:300]}\n{finished.stderr.strip()[-2000:]}")
    return finished.stdout


def pip(*arguments: str, **more: str) -> str:
    """Run pip."""
    return run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, **more)


def resolved(lock: Path, platform: Platform, wheels: Path) -> list[Wheel]:
    """Wheels of a folder that pip would install by a lock on a platform, none missing, each by its hash.

    Raises:
        BundleError: One is missing, or is not what the lock says.
    """
    said = pip(
        "install", "--isolated", "--quiet", "--dry-run", "--report=-", "--no-deps", "--no-index", "--find-links", str(wheels),
        "--target", str(FOLDER / "nowhere"), "--require-hashes", "--ignore-requires-python", *platform.options, "-r", str(lock),
    )  # fmt: skip
    return chosen(json.loads(said), platform.python)


def fetched(lock: Path, platform: Platform, wheels: Path) -> list[Wheel]:
    """The same, and what is missing comes from the package index first."""
    try:
        return resolved(lock, platform, wheels)
    except BundleError:
        print(f"fetching {lock.stem} for {platform.said}", flush=True)
    try:
        pip(
            "download",
            "--quiet",
            "--no-deps",
            "--require-hashes",
            *platform.options,
            "-r",
            str(lock),
            "-d",
            str(wheels),
        )
    except BundleError as failed:
        raise BundleError(
            f"not every package of {lock.name} is had as a wheel for {platform.said}; make the bundle for other platforms "
            f"(--architecture, --python) or pin another version:\n{failed}"
        ) from None
    return resolved(lock, platform, wheels)


def own_wheel(folder: Path, second: str) -> Path:
    """Build Bifrost's wheel, with the browser's pages in it.

    Args:
        folder: Where to.
        second: The time that its files get, for the same wheel from the same commit.
    """
    for old in folder.glob("*.whl"):
        old.unlink()
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", ".", "-w", str(folder), SOURCE_DATE_EPOCH=second)
    (wheel,) = folder.glob("bifrost_gateway-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        if "web/static/index.html" not in opened.namelist():
            raise BundleError("the browser's pages are not built: make ui (it needs Node)")
    return wheel


def bill_of(wheels: Iterable[Path], lock: str, made: str) -> str:
    """Bill of materials of what is installed on a platform."""
    found = metadata.distributions(path=[str(wheel) for wheel in wheels])
    return json.dumps(bill(lock, found, made), indent=1) + "\n"


def pack(archive: Path, top: str, files: Mapping[str, Path | bytes], second: int) -> None:
    """Write the archive: sorted, without owners, all of one time. Wheels are compressed already, so it is not.

    Args:
        archive: The file; it is there whole or not at all.
        top: Folder that all is in.
        files: Contents by name.
        second: Their time, in seconds since 1970.
    """
    draft = archive.with_name(archive.name + ".part")
    with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as packed:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.mtime, entry.mode = second, 0o755 if name.endswith(".sh") else 0o644
            if isinstance(content, bytes):
                entry.size = len(content)
                packed.addfile(entry, io.BytesIO(content))
            else:
                entry.size = content.stat().st_size
                with content.open("rb") as opened:
                    packed.addfile(entry, opened)
    draft.replace(archive)


def copied() -> dict[str, Path]:
    """Files of the repository that go along as they are, as far as they are tracked."""
    names = run("git", "ls-files", "-z", *COPIED).split("\0")
    return {name: ROOT / name for name in names if name}


def make(platforms: list[Platform]) -> Path:
    """Make the archive; its path."""
    wheels = FOLDER / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    second = run("git", "log", "-1", "--format=%ct").strip()
    made = run("git", "log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", "--format=%cd", TZ="UTC").strip()
    revision = run("git", "rev-parse", "HEAD").strip() + (
        "+changes" if run("git", "status", "--porcelain").strip() else ""
    )

    own = own_wheel(FOLDER / "own", second)
    version = str(parse_wheel_filename(own.name)[1])
    (pip_wheel,) = fetched(ROOT / "deploy" / "bundle.lock", platforms[0], wheels)
    ours = own_lock([Wheel(own.name, sha256_of(own))])

    paths: dict[str, Path] = {own.name: own, pip_wheel.file: wheels / pip_wheel.file}
    sha256 = {own.name: sha256_of(own), pip_wheel.file: pip_wheel.sha256}
    fits: list[Fit] = []
    materials: dict[str, bytes] = {}
    for platform in platforms:
        for extras in EXTRAS:
            whole = (ROOT / "deploy" / f"{extras}.lock").read_text()
            lock = FOLDER / f"{extras}-{platform.architecture}-{platform.python}.lock"
            lock.write_text(for_platform(whole, platform))
            taken = fetched(lock, platform, wheels)
            paths |= {wheel.file: wheels / wheel.file for wheel in taken}
            sha256 |= {wheel.file: wheel.sha256 for wheel in taken}
            names = (own.name, *(wheel.file for wheel in taken))
            fits.append(Fit(platform, extras, names, sum(unpacked(paths[name]) for name in names)))
            materials[f"sbom/{extras}-{platform.architecture}-python{platform.python}.cdx.json"] = bill_of(
                (paths[name] for name in names), whole + ours, made
            ).encode()

    files: dict[str, Path | bytes] = {
        **copied(),
        **materials,
        "install.sh": ROOT / "deploy" / "install.sh",
        "deploy/own.lock": ours.encode(),
        "MANIFEST": manifest(version, revision, own.name, pip_wheel.file, fits).encode(),
        **{f"wheels/{name}": path for name, path in paths.items()},
    }
    of_wheels = {f"wheels/{name}": value for name, value in sha256.items()}
    of_others = {
        name: hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else sha256_of(content)
        for name, content in files.items()
        if name not in of_wheels
    }
    files["SHA256SUMS"] = sums(of_wheels | of_others).encode()
    top = f"bifrost-{version}-offline"
    archive = FOLDER / f"{top}.tar"
    pack(archive, top, files, int(second))
    archive.with_name(archive.name + ".sha256").write_text(f"{sha256_of(archive)}  {archive.name}\n")
    print(
        f"{archive.relative_to(ROOT)}: {archive.stat().st_size / 1e6:.0f} MB, {len(paths)} wheels, {len(files)} files"
    )
    for line in manifest(version, revision, own.name, pip_wheel.file, fits).splitlines():
        print(f"  {line}")
    return archive


def main() -> None:
    """Command line."""
    options = argparse.ArgumentParser(prog="python -m deploy.bundle", description="Makes the offline bundle.")
    options.add_argument("--architecture", action="append", choices=ARCHITECTURES, help="only for it; may be repeated")
    options.add_argument("--python", action="append", choices=PYTHONS, help="only for it; may be repeated")
    said = options.parse_args()
    try:
        make([Platform(one, python) for one in said.architecture or ARCHITECTURES for python in said.python or PYTHONS])
    except BundleError as failed:
        sys.exit(f"no bundle: {failed}")


if __name__ == "__main__":
    main()
