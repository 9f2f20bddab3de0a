"""What the parts of one connection share: the session, the nodes that are read, and where readings go."""

from collections import Counter
from collections.abc import Sequence

from asyncua import ua

from connectors.contract import Intake
from connectors.sources.opcua.datatypes import DataTypes
from connectors.sources.opcua.decode import ValueDecoder
from connectors.sources.opcua.nodes import Described
from connectors.sources.opcua.session import Session


class Connection:
    """One connection with one server.

    Args:
        session: Its session, which is open.
        intake: Where readings go.
        described: The nodes that are read.
        types: The server's structures.
        counts: How often something was odd, by what it is.

    Attributes:
        config: The source.
        described: The nodes, by client handle; further ones may follow.
        tags: Their rows of the tag table.
        decoder: Decodes their values.
        timestamps: Which times are asked for.
    """

    def __init__(
        self,
        session: Session,
        intake: Intake,
        described: list[Described],
        types: DataTypes,
        counts: Counter[str] | None = None,
    ) -> None:
        self.config = session.config
        self.session = session
        self.intake = intake
        self.types = types
        self.counts = Counter() if counts is None else counts
        self.described: list[Described] = []
        self.tags: list[int] = []
        server = self.config.timestamps == "server"
        self.timestamps = ua.TimestampsToReturn.Server if server else ua.TimestampsToReturn.Source
        self.decoder = ValueDecoder([], types.types, server_time=server)
        self.extend(described)

    def extend(self, described: Sequence[Described]) -> None:
        """Read further nodes; their handles follow."""
        items = [one.item(self.intake.tag(one.tag)) for one in described]
        self.described += described
        self.tags += [item.tag for item in items]
        self.decoder.extend(items)
