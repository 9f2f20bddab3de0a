"""What `bifrost install --systemd` does to a machine, as a list of steps that can be shown, done, and done again."""

import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from delivery.disk import StoreError, write_durably

USER: Final = "bifrost"
PROGRAM: Final = Path("/opt/bifrost")
CURRENT: Final = PROGRAM / "current"
CONFIGURATION: Final = Path("/etc/bifrost")
STATE: Final = Path("/var/lib/bifrost")
KEY: Final = Path("/etc/bifrost-key")
UNIT: Final = Path("/etc/systemd/system/bifrost.service")
_SEEN: Final = 1000  # characters of what a command said

FIRST_CONFIGURATION: Final = """\
# What this gateway reads and where to; docs/ explains it, `bifrost create` prints more, `bifrost check` checks it.
gateway:
  directory: /var/lib/bifrost/data
  log_format: json
"""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done.

    Attributes:
        says: What, as a line for people.
        do: Does it.
    """

    says: str
    do: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine, or a folder that will be one's root: an image, a chroot.

    Attributes:
        root: Its root.
    """

    root: Path = Path("/")

    @property
    def here(self) -> bool:
        """Whether it is this one."""
        return self.root == Path("/")

    def at(self, path: Path) -> Path:
        """Where a path of it lies."""
        return self.root / path.relative_to("/")

    def installing(self, unit: str, program: Path, *, start: bool = True) -> list[Step]:
        """Steps that make the gateway a service.

        Args:
            unit: Text of its unit.
            program: The virtual environment that runs, below ``/opt/bifrost`` or elsewhere.
            start: Whether it is started too, when it is this machine.
        """
        steps = []
        if self._id() is None:
            steps.append(Step(f"user {USER}, who may log in nowhere", self._add_user))
        for path, mode, own in (
            (PROGRAM, 0o755, False),
            (CONFIGURATION, 0o750, False),
            (STATE, 0o700, True),
            (KEY, 0o700, False),
        ):
            steps.append(Step(f"folder {path}, mode {mode:o}", partial(self._folder, path, mode, own=own)))
        current = self.at(CURRENT)
        if not current.is_symlink() and not current.exists():
            steps.append(Step(f"{CURRENT} -> {program}", lambda: point(current, program)))
        first = self.at(CONFIGURATION / "gateway.yaml")
        if not first.exists():
            steps.append(Step(f"{CONFIGURATION / 'gateway.yaml'}, to be filled in", lambda: self._configure(first)))
        place = self.at(UNIT)
        if not place.exists() or place.read_text(encoding="utf-8") != unit:
            steps.append(Step(f"unit {UNIT}", lambda: self._write_unit(place, unit)))
        if self.here:
            steps.append(Step("systemctl daemon-reload", lambda: _run("systemctl", "daemon-reload")))
            verb = ("enable", "--now") if start else ("enable",)
            steps.append(Step(f"systemctl {' '.join(verb)} bifrost", lambda: _run("systemctl", *verb, "bifrost")))
        else:
            wanted = self.at(Path("/etc/systemd/system/multi-user.target.wants/bifrost.service"))
            if not wanted.is_symlink():
                steps.append(Step("it starts with the machine", lambda: self._enable(wanted)))
        return steps

    def taking_away(self, *, purge: bool) -> list[Step]:
        """Steps that take the service away; readings, configuration and user stay, unless `purge`."""
        steps = []
        if self.here:
            steps.append(
                Step("systemctl disable --now bifrost", lambda: _run("systemctl", "disable", "--now", "bifrost"))
            )
        wanted = Path("/etc/systemd/system/multi-user.target.wants/bifrost.service")
        gone = (wanted, UNIT)
        for path in gone:
            place = self.at(path)
            if place.is_symlink() or place.exists():
                steps.append(Step(f"without {path}", partial(place.unlink, missing_ok=True)))
        if self.here:
            steps.append(Step("systemctl daemon-reload", lambda: _run("systemctl", "daemon-reload")))
        if purge:
            for path in (STATE, CONFIGURATION, KEY):
                place = self.at(path)
                if place.exists():
                    steps.append(Step(f"without {path} and all in it", partial(shutil.rmtree, place)))
        return steps

    # ------------------------------------------------------------------ what the steps do

    def _id(self) -> tuple[int, int] | None:
        """Numbers of the user and its group."""
        if self.here:
            try:
                return pwd.getpwnam(USER).pw_uid, grp.getgrnam(USER).gr_gid
            except KeyError:
                return None
        passwd = self.at(Path("/etc/passwd"))
        for line in passwd.read_text(encoding="utf-8").splitlines() if passwd.exists() else ():
            name, _, user, group, *_ = line.split(":")
            if name == USER:
                return int(user), int(group)
        return None

    def _add_user(self) -> None:
        there = () if self.here else ("--root", str(self.root.absolute()))
        _run(
            "useradd",
            *there,
            "--system",
            "--user-group",
            "--home-dir",
            str(STATE),
            "--shell",
            "/usr/sbin/nologin",
            USER,
        )

    def _folder(self, path: Path, mode: int, *, own: bool) -> None:
        place = self.at(path)
        place.mkdir(parents=True, exist_ok=True)
        place.chmod(mode)
        user, group = self._id() or (os.geteuid(), os.getegid())
        if os.geteuid() == 0 and path in (CONFIGURATION, STATE):
            os.chown(place, user if own else 0, group)

    def _configure(self, place: Path) -> None:
        write_durably(place, FIRST_CONFIGURATION.encode(), 0o640)
        _, group = self._id() or (0, os.getegid())
        if os.geteuid() == 0:
            os.chown(place, 0, group)

    def _write_unit(self, place: Path, unit: str) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_durably(place, unit.encode(), 0o644)

    def _enable(self, wanted: Path) -> None:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        wanted.symlink_to(UNIT)


def point(link: Path, to: Path) -> None:
    """Have `link` lead to `to` at once: whoever looks finds the old one or the new one."""
    draft = link.with_name(link.name + ".new")
    draft.unlink(missing_ok=True)
    draft.symlink_to(to)
    draft.rename(link)


def unit_text() -> str:
    """The unit that comes with this version."""
    return Path(__file__).with_name("bifrost.service").read_text(encoding="utf-8")


def _run(*command: str) -> None:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command line
    except FileNotFoundError:
        raise StoreError(f"{command[0]} is not there: is this a Linux with systemd?") from None
    if finished.returncode != 0:
        raise StoreError(f"{' '.join(command)}: {(finished.stderr or finished.stdout).strip()[:_SEEN]}")
