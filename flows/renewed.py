"""Certificates and keys that are renewed while the gateway runs: who connects with them connects anew, and nobody else.

The HTTP port shows its new certificate to whom comes from then on. All files that connections are made with are looked at together, every few seconds. A change counts when it has stood still for one
look, so that a certificate and its key are replaced both, and when certificate and key belong together: what cannot be used
disturbs no connection that works. Links are followed, so that the way Kubernetes swaps mounted secrets is seen too.
"""

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Final, Protocol

import structlog

from config.certificates.files import certificates, pair_problem
from config.certificates.used import Material, materials, pairs
from config.models import Configuration

log = structlog.get_logger()

LOOK: Final = 2.0  # seconds between two looks

Owner = tuple[str, str]
Mark = tuple[int, int, int] | None


class Connected(Protocol):
    """A gateway whose connections can be made anew."""

    config: Configuration

    def reopen(self, sources: Collection[str], targets: Collection[str]) -> None:
        """Connect these anew."""

    def renew_port(self) -> None:
        """Show the HTTP port's renewed certificate."""


def mark(path: Path) -> Mark:
    """What tells that a file has changed; None when it is not there."""
    try:
        found = os.stat(path)  # noqa: PTH116 - the cheapest there is
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Renewed:
    """Looks at the files, and has connections made anew.

    Args:
        gateway: Whose connections.
        marked: What tells that a file has changed.
    """

    def __init__(self, gateway: Connected, marked: Callable[[Path], Mark] = mark) -> None:
        self._gateway = gateway
        self._marked = marked
        self._in_use: dict[Owner, dict[Path, Mark]] = {}
        self._last: dict[Path, Mark] = {}
        self._refused: dict[Owner, str] = {}
        self._config: Configuration | None = None
        self._found: Mapping[Owner, list[Material]] = {}

    def look(self) -> None:
        """Look once."""
        if self._config is not self._gateway.config:
            self._config = self._gateway.config
            self._found = _by_owner(materials(self._config))
        found = self._found
        now = {path: self._marked(path) for path in {one.path for of in found.values() for one in of}}
        still = {path: seen for path, seen in now.items() if self._last.get(path, seen) == seen}
        self._last = now
        self._in_use = {owner: marks for owner, marks in self._in_use.items() if owner in found}
        for owner, used in found.items():
            paths = {one.path for one in used}
            before = self._in_use.setdefault(owner, {path: now[path] for path in paths})
            for path in paths - before.keys():
                before[path] = now[path]
            changed = sorted(p for p in paths if now[p] != before[p] and now[p] is not None)
            if not changed or not paths <= still.keys():
                continue
            first = [path for path in changed if before[path] is None and _made_by_the_source(path, used)]
            before.update({path: now[path] for path in first})
            changed = [path for path in changed if path not in first]
            if changed and self._usable(owner, used):
                before.update({path: now[path] for path in paths})
                log.info(
                    "renewed files, connecting anew", **{owner[0]: owner[1]}, files=[str(path) for path in changed]
                )
                self._renew(*owner)

    def _renew(self, kind: str, name: str) -> None:
        if kind != "gateway":
            self._gateway.reopen([name] if kind == "source" else [], [name] if kind == "target" else [])
            return
        try:
            self._gateway.renew_port()
        except OSError as error:
            log.warning("renewed files cannot be used, the port keeps its certificate", error=str(error))

    def _usable(self, owner: Owner, used: list[Material]) -> bool:
        problem = next((said for one in used if one.role == "ca" and (said := _authority_problem(one.path))), "")
        for certificate, key in pairs(used):
            secret = key.password.get_secret_value() if key.password is not None else None
            problem = problem or pair_problem(certificate.path, key.path, secret) or ""
        if problem and self._refused.get(owner) != problem:
            log.warning("renewed files cannot be used, the connection stays", **{owner[0]: owner[1]}, error=problem)
        self._refused[owner] = problem
        return not problem


def _authority_problem(path: Path) -> str:
    try:
        certificates(path)
    except (OSError, ValueError) as error:
        return f"{path} holds no certificate: {error}"
    return ""


def _made_by_the_source(path: Path, used: Iterable[Material]) -> bool:
    return any(one.path == path and one.made for one in used)


def _by_owner(found: Iterable[Material]) -> Mapping[Owner, list[Material]]:
    owners: dict[Owner, list[Material]] = {}
    for one in found:
        if one.kind in ("source", "target") or one.key.startswith("web_ui."):
            owners.setdefault((one.kind, one.owner), []).append(one)
    return owners
