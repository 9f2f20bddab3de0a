"""A new version beside the present one, switched to at once, and back when it does not get ready in time."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bifrost.edge.machine import CONFIGURATION, PROGRAM, point
from delivery.disk import StoreError

_WHEEL: Final = re.compile(r"bifrost_gateway-([0-9][A-Za-z0-9.+!]*)-py3-none-any\.whl")
_STOPS_WITHIN: Final = 30.0
_SAID: Final = 2000


class UpgradeError(StoreError):
    """The new version is not run; the message says why, and which one runs."""


@dataclass(slots=True)
class Upgrade:
    """An upgrade of the service of this machine.

    Attributes:
        wheel: The new version; the wheels that it needs lie beside it, unless `online`.
        extras: What it is installed with.
        ready_within: Seconds in which it must get ready.
        online: Whether what is not beside it may come from the package index.
        program: Folder of the versions.
        configuration: What the service runs.
        say: Tells what is done.
    """

    wheel: Path
    extras: str
    ready_within: float
    online: bool = False
    program: Path = PROGRAM
    configuration: Path = CONFIGURATION / "gateway.yaml"
    say: Callable[[str], None] = print

    def run(self) -> None:
        """Carry it out.

        Raises:
            UpgradeError: The new version does not run.
        """
        named = _WHEEL.fullmatch(self.wheel.name)
        if named is None or not self.wheel.is_file():
            raise UpgradeError(f"{self.wheel} is no wheel of Bifrost (bifrost_gateway-VERSION-py3-none-any.whl)")
        current, new = self.program / "current", self.program / named[1]
        if not current.is_symlink():
            raise UpgradeError(f"{current} is no link to a version: bifrost install --systemd makes it")
        old = (self.program / current.readlink()).resolve()
        if old == new.resolve():
            raise UpgradeError(f"{new} is what runs already")
        self._install(new)
        self._checked(new)
        self.say(f"{current} -> {new}")
        self._systemctl("stop", _STOPS_WITHIN)
        point(current, new)
        wrong = self._systemctl("start", self.ready_within)
        if wrong is None:
            self.say(f"{new} runs; {old} stays until it is removed")
            return
        self.say(f"it did not get ready: {wrong}; back to {old}")
        self._systemctl("stop", _STOPS_WITHIN)
        point(current, old)
        again = self._systemctl("start", self.ready_within)
        if again is not None:
            raise UpgradeError(
                f"{new} did not get ready ({wrong}), and {old} does not start again ({again}): if it says that the stores were "
                f"written by a newer version, put the backup back or mend what stops {new}; `journalctl -u bifrost` tells more"
            )
        raise UpgradeError(f"{new} did not get ready ({wrong}); {old} runs again")

    def _install(self, new: Path) -> None:
        if new.exists():
            self.say(f"{new} is there, and taken as it is")
            return
        self.say(f"{new}: {self.wheel.name}[{self.extras}]")
        source = [] if self.online else ["--no-index"]
        wanted = f"{self.wheel.absolute()}[{self.extras}]" if self.extras else str(self.wheel.absolute())
        try:
            self._done([sys.executable, "-m", "venv", str(new)])
            pip = [str(new / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            self._done([*pip, *source, "--find-links", str(self.wheel.absolute().parent), wanted])
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _checked(self, new: Path) -> None:
        """Whether the new version understands the configuration, before anything stops."""
        self._done([str(new / "bin" / "bifrost"), "check", "-c", str(self.configuration)])

    def _done(self, command: list[str]) -> None:
        finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command line
        if finished.returncode != 0:
            said = (finished.stderr.strip() or finished.stdout.strip())[-_SAID:]
            raise UpgradeError(f"{' '.join(command)}: {said}; what ran before still runs")

    def _systemctl(self, verb: str, within: float) -> str | None:
        """None when it was done in time; a unit of the type notify is started when it has said that it is ready."""
        try:
            finished = subprocess.run(  # noqa: S603 - our own command line
                ["systemctl", verb, "bifrost"],  # noqa: S607 - where the system has it
                capture_output=True, text=True, check=False, timeout=within,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"not within {within:.0f} s"
        except FileNotFoundError:
            raise UpgradeError("systemctl is not there: is this a Linux with systemd?") from None
        return None if finished.returncode == 0 else (finished.stderr or finished.stdout).strip()[-_SAID:] or "it ended"
