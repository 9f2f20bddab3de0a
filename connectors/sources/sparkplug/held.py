"""Which edge nodes something is waited for from, for how long, and how much may be held meanwhile."""

from connectors.sources.sparkplug.nodes import Held, Node


class Waiting:
    """The messages that are held for all edge nodes of a source, as one account.

    Attributes:
        waits: Whether anything is ever held.
        pending: Edge nodes that something is waited for from, by group and name.
        held: Bytes that are held.
        changed: Messages were held or let go since this was last set to False.
    """

    def __init__(self, timeout: float, most: int) -> None:
        """Nothing is held yet.

        Args:
            timeout: Seconds for which a message may wait; with 0 none does.
            most: Bytes that may be held.
        """
        self._timeout, self._most = timeout, most
        self.waits = timeout > 0
        self.pending: dict[tuple[str, str], Node] = {}
        self.held = 0
        self.changed = False

    def hold(self, node: Node, held: Held) -> bool:
        """Make room for a message; False when there is none."""
        size = len(held.payload)
        if not self.waits or self.held + size > self._most:
            return False
        self.held += size
        self.changed = True
        self.watch(node)
        return True

    def release(self, held: Held) -> None:
        """Give the room of a message back."""
        self.held -= len(held.payload)
        self.changed = True

    def watch(self, node: Node) -> None:
        """Something is waited for from an edge node."""
        self.pending[node.group, node.node] = node

    def due(self, now: float) -> float:
        """What began no later than this has waited long enough."""
        return now - self._timeout

    def deadline(self) -> float | None:
        """When the first has waited long enough; None when nothing is waited for."""
        moments = [since for since in (node.since() for node in self.pending.values()) if since is not None]
        return min(moments) + self._timeout if moments else None
