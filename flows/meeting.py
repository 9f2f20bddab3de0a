"""Members of a cluster meet before Bytewax connects them: none is wired to one whose flow has other steps.

Bytewax connects steps by their place in the flow, and would give readings to the wrong step where flows differ. The first
member listens on its address until all others have said hello, says go, and leaves the address to Bytewax.
"""

import contextlib
import hashlib
import json
import socket
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, Final

import structlog

log = structlog.get_logger()

_GREETING: Final = "bifrost cluster"
_LOOK: Final = 0.1
_ANSWERS: Final = 2.0
_LONGEST: Final = 4096  # bytes of a hello
_GO: Final = b"go\n"
_AGAIN: Final = 1.0
_LISTENS: Final = 0.1  # seconds that the first needs until Bytewax listens


class Meeting:
    """Where the members of one cluster meet, again before each run of the flow.

    Args:
        member: Number of this member.
        addresses: host:port of all.
        steps: The steps of this member's flow.
        leaves: Whether the process is to end.
    """

    def __init__(self, member: int, addresses: Sequence[str], steps: Sequence[str], leaves: Callable[[], bool]) -> None:
        self._member, self._count = member, len(addresses)
        self._mine, self._first = split(addresses[member]), split(addresses[0])
        self._flow = flow_id(steps)
        self._leaves = leaves
        self._told = ""

    def wait(self, waits: Callable[[], None]) -> bool:
        """Return when all are there; False when the process is to end.

        Args:
            waits: Called again and again meanwhile.
        """
        meet = self._host if self._member == 0 else self._come
        while not self._leaves():
            waits()
            try:
                if meet(waits):
                    return True
            except OSError as error:  # the address cannot be had yet, or the first is not there
                if self._member == 0:
                    self._tell(f"{self._mine[0]}:{self._mine[1]}: {error}")
            time.sleep(_LOOK)
        return False

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            self._told = problem
            log.error("members of the cluster do not meet", problem=problem)

    # ------------------------------------------------------------------ the first

    def _host(self, waits: Callable[[], None]) -> bool:
        there: dict[int, socket.socket] = {}
        family = socket.AF_INET6 if ":" in self._mine[0] else socket.AF_INET
        with contextlib.ExitStack() as opened, socket.create_server(self._mine, family=family) as server:
            server.settimeout(_LOOK)
            while len(there) < self._count - 1:
                if self._leaves():
                    return False
                waits()
                with contextlib.suppress(OSError):
                    guest = opened.enter_context(server.accept()[0])
                    if (number := self._admit(guest)) is not None:
                        there[number] = guest
                there = {number: guest for number, guest in there.items() if _listens(guest)}
            for guest in there.values():
                with contextlib.suppress(OSError):
                    guest.sendall(_GO)
        self._told = ""
        return True

    def _admit(self, guest: socket.socket) -> int | None:
        """The number of a member that says hello, unless it cannot join."""
        guest.settimeout(_ANSWERS)
        number, problem = admitted(_line(guest), self._count, self._flow)
        if problem:
            self._tell(problem)
            guest.sendall(f"{problem}\n".encode())
        return None if problem else number

    # ------------------------------------------------------------------ the others

    def _come(self, waits: Callable[[], None]) -> bool:
        with socket.create_connection(self._first, _ANSWERS) as first:
            first.sendall(hello(self._member, self._count, self._flow))
            first.settimeout(_LOOK)
            answer = b""
            while not answer.endswith(b"\n"):
                if self._leaves():
                    return False
                waits()
                with contextlib.suppress(TimeoutError):
                    part = first.recv(_LONGEST)
                    if not part:
                        return False  # it has gone
                    answer += part
        if answer == _GO:
            self._told = ""
            time.sleep(_LISTENS)
            return True
        self._tell(answer.decode("utf-8", "replace").strip())
        time.sleep(_AGAIN)
        return False


def split(address: str) -> tuple[str, int]:
    """Host and port of an address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def flow_id(steps: Sequence[str]) -> str:
    """What is the same in members that may be wired together: the version, and the flow's steps."""
    said = json.dumps([version("bifrost-gateway"), version("bytewax"), list(steps)])
    return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()


def hello(member: int, members: int, flow: str) -> bytes:
    """What a member says to the first."""
    return json.dumps({"greeting": _GREETING, "member": member, "members": members, "flow": flow}).encode() + b"\n"


def admitted(said: bytes, members: int, flow: str) -> tuple[int, str]:
    """Who says hello, and why it cannot join; an empty reason when it can.

    Args:
        said: Its hello.
        members: How many members there are.
        flow: `flow_id` of the first.
    """
    try:
        known: Any = json.loads(said)
        number, its, count = int(known["member"]), known["flow"], known["members"]
        if known["greeting"] != _GREETING or not 0 < number < max(members, count):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        return 0, "somebody who is no member has connected"
    if count != members:
        return (
            number,
            f"member {number} is started with {count} addresses, member 0 with {members}: start all with the same",
        )
    if its != flow:
        return number, (
            f"member {number} has other steps in its flow than member 0, or is of another version: give all the same "
            "targets and the same release, and start them again"
        )
    return number, ""


def _listens(guest: socket.socket) -> bool:
    """Whether the other side is still there; it says nothing more than hello."""
    try:
        guest.setblocking(False)
        return guest.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _line(guest: socket.socket) -> bytes:
    said = b""
    while not said.endswith(b"\n") and len(said) < _LONGEST:
        part = guest.recv(_LONGEST)
        if not part:
            break
        said += part
    return said
