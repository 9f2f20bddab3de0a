"""What the HTTP port sees of a gateway: little, so that a test or a part of a gateway can stand for it."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from config.models import Configuration
    from delivery.account import Account
    from delivery.dead_letters import DeadLetterStore
    from delivery.forwarder import Forwarder
    from flows.intake import SourceIntake


class Gateway(Protocol):
    """What the port tells about."""

    config: "Configuration"
    started: float
    draining: bool
    dead_letters: "DeadLetterStore"
    kept: dict[str, dict[str, Any]]

    @property
    def intakes(self) -> "dict[str, SourceIntake]":
        """The sources' intakes, by name."""

    @property
    def forwarders(self) -> "dict[str, Forwarder]":
        """The targets' forwarders, by name."""

    def account(self) -> "Account":
        """The account of the gateway."""

    def refresh_metrics(self) -> None:
        """Set the gauges that are counted when somebody looks."""

    def lives(self, patience: float) -> str:
        """What stands still though it should not; empty when all goes on."""

    def unready(self) -> str:
        """Why readings are not taken at the moment; empty when they are."""
