"""A Bytewax cluster: gateways whose flows are one, so that a keyed step has the data of all of them.

What belongs to a member stays with it: sources, journal, spools and forwarders. Only what a keyed step is given crosses to
the member that has the key. When a member goes, or leaves the flow, Bytewax ends the flow of all; here the others then wait for it,
read on into their journals meanwhile, and begin again together at the last epoch that all of them had.
"""

import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from config.models import Configuration
from flows.change import ChangeRefusedError
from flows.failures import tell_failures
from flows.meeting import Meeting

if TYPE_CHECKING:
    from flows.process import Process

log = structlog.get_logger()

_JOINS: Final = 30.0  # seconds from the meeting until the flow runs, at most
_HASTY: Final = 5.0  # a flow that was left sooner did not get on
_TRIES: Final = 10
_PAUSE: Final = 0.1
_OTHERS_FINISH: Final = 1.5


@dataclass(frozen=True, slots=True)
class Members:
    """The members of a cluster, and which of them this process is.

    Attributes:
        member: Its number.
        names: The gateways' names, by number.
        addresses: Where Bytewax reaches them, as host:port, by number.
    """

    member: int
    names: tuple[str, ...]
    addresses: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the plant: of what is made of the readings of several members."""
        return self.names[0].removesuffix("-0")

    @property
    def keeps_state(self) -> bool:
        """Whether the flow's recovery store lies with this member: with the first, for all."""
        return self.member == 0

    def place(self, name: str) -> int:
        """Where the partition of a member stands among those of all, which Bytewax sorts by their names."""
        return sorted(self.names).index(name)

    def home(self, gateway: str) -> str:
        """The member whose spools get a reading: the one whose journal it came from, else this one."""
        return gateway if gateway in self.names else self.names[self.member]


class LeftError(Exception):
    """A member leaves the flow, to begin again with the others at the last snapshot."""


def members_of(config: Configuration, options: tuple[int, Sequence[str]] | None) -> Members | None:
    """The members of the cluster that a gateway is started in; None where it is started alone.

    Args:
        config: The gateway's configuration.
        options: What `flows.options.cluster_options` found.

    Raises:
        SystemExit: The configuration and the options do not fit; the message says what to do.
    """
    if options is None:
        return None
    process, addresses = options
    count, membership = len(addresses), config.membership
    if membership is None:
        sys.exit(
            f"-i, -a: the members of a cluster share its sources: set gateway.name, gateway.members: {count} and "
            f"gateway.member: {process} (in a pod its name says it)"
        )
    if (membership.member, membership.members) != (process, count):
        sys.exit(
            f"-i {process} of {count} addresses, and the configuration says {membership.told()}: gateway.member must be the "
            "process id and gateway.members the number of addresses, or a source would be read by nobody or by two"
        )
    plant = config.gateway.removesuffix(f"-{process}")
    if plant == config.gateway:
        sys.exit(
            f"gateway `{config.gateway}` cannot be member {process} of a cluster: the others know it by `NAME-{process}`, "
            "with one NAME for all. Set gateway.name alike in all members, and begin with a new directory if this one "
            "was made by a gateway that ran alone"
        )
    reporting = sorted(
        s.name for s in config.plant if s.report is not None or any(t.report is not None for t in s.tags)
    )
    if reporting:
        sys.exit(
            f"report by exception does not work in a cluster (report: of {', '.join(reporting)}): the step that decides would "
            "have every reading cross to one member and back. Run these sources in a gateway of their own, or without report"
        )
    return Members(process, tuple(f"{plant}-{number}" for number in range(count)), tuple(addresses))


def steps_of(flow: Any) -> list[str]:
    """The ids of all steps of a flow, in order: members may only be wired together when theirs are the same."""
    return [step for one in flow.substeps for step in (one.step_id, *steps_of(one))]


class Cluster:
    """The cluster as one of its members runs in it.

    Args:
        process: What the flow lives on; it is started before the others are there, so that sources are read meanwhile.
        members: The members.

    Attributes:
        members: The members.
        apart: Whether the flow waits for members.
    """

    def __init__(self, process: "Process", members: Members) -> None:
        self.members = members
        self.apart = True
        self._process = process
        self._late: threading.Timer | None = None  # runs out when members that met are not connected
        self._finishing: threading.Timer | None = None

    def run(self, run: Callable[[], object], flow: Any) -> None:
        """Run the flow with the other members, in a thread: this one, the main one, hears signals. Never returns.

        Args:
            run: Runs it until somebody has left.
            flow: The flow.

        Raises:
            BaseException: The flow was left again and again soon after it began.
        """
        failed: list[BaseException] = []
        tell_failures(flow, _tell)

        def run_or_fail() -> None:
            try:
                self._run(run, steps_of(flow))
            except BaseException as error:  # noqa: BLE001 - what Bytewax makes of an error is no Exception
                failed.append(error)

        thread = threading.Thread(target=run_or_fail, name="flow", daemon=True)
        thread.start()
        thread.join()
        raise failed[0]

    def _run(self, run: Callable[[], object], steps: Sequence[str]) -> None:
        process = self._process
        process.start()
        meeting = Meeting(self.members.member, self.members.addresses, steps, lambda: process.draining)
        hasty = 0
        while True:
            if not meeting.wait(process.waits_for_room):
                threading.Event().wait()  # another thread ends the process
            process.begin_flow()
            self._late = threading.Timer(_JOINS, self._give_up)
            self._late.daemon = True
            self._late.start()
            began = time.monotonic()
            try:
                run()
            except BaseException as left:  # what Bytewax makes of a connection that has gone is no Exception
                hasty = hasty + 1 if time.monotonic() - began < _HASTY else 0
                if hasty >= _TRIES:
                    raise
                if not process.draining:
                    log.warning(
                        "the cluster's flow was left, it begins again when all members are there", reason=str(left)
                    )
            finally:
                self._late.cancel()
                self.apart = True
            if process.draining:
                process.leave()
            time.sleep(_PAUSE)

    def _give_up(self) -> None:
        log.error("the members of the cluster were not connected, gateway stops to begin again")
        self._process.exit(1)

    def joined(self) -> None:
        """A partition was built: the members are connected."""
        if self.apart and self._late is not None:
            self._late.cancel()
            self.apart = False
            log.info("the cluster's flow runs", members=len(self.members.names))

    def finished(self) -> None:
        """Nothing of this member is in the flow any more: others may be about to stop too, and need it until they have finished."""
        if self._finishing is None:
            self._finishing = threading.Timer(_OTHERS_FINISH, self._process.leave)
            self._finishing.daemon = True
            self._finishing.start()

    def check(self, config: Configuration) -> None:
        """Whether the cluster may go on with another configuration.

        Raises:
            ChangeRefusedError: It may not.
        """
        try:
            members_of(config, (self.members.member, self.members.addresses))
        except SystemExit as refusal:
            raise ChangeRefusedError(f"in a cluster: {refusal}") from None


def _tell(step: str, error: BaseException) -> None:
    log.error("a step of the cluster's flow failed", step=step, exc_info=error)
