"""How a gateway stands, in a word."""

from collections.abc import Mapping
from typing import Final, Protocol

from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from flows.intake import SourceIntake

STATES: Final = ("ok", "degraded", "draining")  # by their numbers in the metric


class Standing(Protocol):
    """A gateway that can be looked at."""

    draining: bool
    dead_letters: DeadLetterStore

    @property
    def intakes(self) -> Mapping[str, SourceIntake]:
        """The sources' intakes, by name."""

    @property
    def forwarders(self) -> Mapping[str, Forwarder]:
        """The targets' forwarders, by name."""


def state(gateway: Standing) -> int:
    """Number of the word in `STATES` that says how a gateway stands."""
    if gateway.draining:
        return 2
    sources = all(str(intake.status.state) == "connected" for intake in dict(gateway.intakes).values())
    targets = not any(
        forwarder.status.last_error or forwarder.spool.alarm for forwarder in dict(gateway.forwarders).values()
    )
    return 0 if sources and targets and not gateway.dead_letters.alarm else 1
