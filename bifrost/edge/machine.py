"""What `bifrost install --systemd` does to a machine, as a list of steps that can be shown, done, and done again."""

import os
import pwd
import re
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
CURRENT: Final = "current"
CONFIGURATION: Final = Path("/etc/bifrost")
STATE: Final = Path("/var/lib/bifrost")
KEY: Final = Path("/etc/bifrost-key")
UNIT: Final = Path("/etc/systemd/system/bifrost.service")
_WANTED: Final = Path("/etc/systemd/system/multi-user.target.wants/bifrost.service")
_PLAIN: Final = re.compile(r"/[A-Za-z0-9._/-]+")
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - by ProtectHome and PrivateTmp of the unit
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
        program: Folder of the versions and of ``current`` on it.
        user: Who the gateway runs as.
    """

    root: Path = Path("/")
    program: Path = PROGRAM
    user: str = USER

    @property
    def here(self) -> bool:
        """Whether it is this one."""
        return self.root == Path("/")

    @property
    def runs_systemd(self) -> bool:
        """Whether systemd runs here and can be told; in a chroot or an image being made it cannot (sd_booted(3))."""
        return self.here and Path("/run/systemd/system").is_dir()

    def at(self, path: Path) -> Path:
        """Where a path of it lies."""
        return self.root / path.relative_to("/")

    def installing(self, unit: str, version: Path, *, start: bool = True) -> list[Step]:
        """Steps that make the gateway a service.

        Args:
            unit: Text of its unit.
            version: The virtual environment that runs, below `program` or elsewhere.
            start: Whether it is started too, where systemd runs.
        """
        steps = []
        if self._id() is None:
            steps.append(Step(f"user {self.user}, who may log in nowhere", self._add_user))
        for path, mode, own in (
            (self.program, 0o755, False),
            (CONFIGURATION, 0o750, False),
            (STATE, 0o700, True),
            (KEY, 0o700, False),
        ):
            steps.append(Step(f"folder {path}, mode {mode:o}", partial(self._folder, path, mode, own=own)))
        link = self.program / CURRENT
        current = self.at(link)
        if not current.is_symlink() and not current.exists():
            steps.append(Step(f"{link} -> {version}", lambda: point(current, version)))
        first = self.at(CONFIGURATION / "gateway.yaml")
        if not first.exists():
            steps.append(Step(f"{CONFIGURATION / 'gateway.yaml'}, to be filled in", lambda: self._configure(first)))
        place = self.at(UNIT)
        if not place.exists() or place.read_text(encoding="utf-8") != unit:
            steps.append(Step(f"unit {UNIT}", lambda: self._write_unit(place, unit)))
        if self.runs_systemd:
            steps.append(Step("systemctl daemon-reload", lambda: _run("systemctl", "daemon-reload")))
            verb = ("enable", "--now") if start else ("enable",)
            steps.append(Step(f"systemctl {' '.join(verb)} bifrost", lambda: _run("systemctl", *verb, "bifrost")))
        else:
            wanted = self.at(_WANTED)
            if not wanted.is_symlink():
                steps.append(Step("it starts with the machine", lambda: self._enable(wanted)))
        return steps

    def taking_away(self, *, purge: bool) -> list[Step]:
        """Steps that take the service away; readings, configuration and user stay, unless `purge`."""
        steps = []
        if self.runs_systemd:
            steps.append(
                Step("systemctl disable --now bifrost", lambda: _run("systemctl", "disable", "--now", "bifrost"))
            )
        for path in (_WANTED, UNIT):
            place = self.at(path)
            if place.is_symlink() or place.exists():
                steps.append(Step(f"without {path}", partial(place.unlink, missing_ok=True)))
        if self.runs_systemd:
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
                found = pwd.getpwnam(self.user)
            except KeyError:
                return None
            return found.pw_uid, found.pw_gid
        passwd = self.at(Path("/etc/passwd"))
        for line in passwd.read_text(encoding="utf-8").splitlines() if passwd.exists() else ():
            name, _, user, group, *_ = line.split(":")
            if name == self.user:
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
            self.user,
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


def unit_text(program: Path = PROGRAM, user: str = USER) -> str:
    """The unit that comes with this version, for a folder of versions and a user.

    Raises:
        StoreError: A folder that a unit cannot name, or would not see.
    """
    unit = Path(__file__).with_name("bifrost.service").read_text(encoding="utf-8")
    if not _PLAIN.fullmatch(str(program)) or any(program.is_relative_to(hidden) for hidden in _HIDDEN):
        raise StoreError(
            f"{program}: the programs must lie in a folder with a plain absolute path, outside of {', '.join(_HIDDEN)}, which the "
            f"service does not see; {PROGRAM} is one"
        )
    unit = unit.replace(f"{PROGRAM}/", f"{program}/")
    if user != USER:  # the group is then the one that the user has
        unit = unit.replace(f"User={USER}\nGroup={USER}\n", f"User={user}\n")
    return unit


def _run(*command: str) -> None:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command line
    except FileNotFoundError:
        raise StoreError(f"{command[0]} is not there: is this a Linux with systemd?") from None
    if finished.returncode != 0:
        raise StoreError(f"{' '.join(command)}: {(finished.stderr or finished.stdout).strip()[:_SEEN]}")
