"""The tags that a source has read, so that after a restart too it can be told which of them have a gap. Pure."""

import zlib
from collections.abc import Iterable

import msgspec

_Topics = dict[str, tuple[bool, list[tuple[str, str]]]]

MOST = 20_000
"""Topics that are remembered; of more, those that have been silent longest are forgotten."""


class KnownTags:
    """Topics with the fields and units read from them, those that were heard last at the end.

    Attributes:
        topics: By name: whether a session of the broker keeps its messages, which come at QoS 1, and its fields.
    """

    def __init__(self, stored: bytes = b"") -> None:
        """What `dump` returned, or nothing.

        Raises:
            ValueError: `stored` is not what `dump` returned; also as ``zlib.error``.
        """
        self.topics: _Topics = msgspec.msgpack.decode(zlib.decompress(stored), type=_Topics) if stored else {}

    def update(self, seen: Iterable[tuple[str, bool, list[tuple[str, str]]]]) -> None:
        """Take over what was read on this connection."""
        for name, kept, fields in seen:
            _, before = self.topics.pop(name, (kept, []))
            self.topics[name] = kept, [*fields, *(pair for pair in before if pair not in fields)]
        for name in list(self.topics)[: max(0, len(self.topics) - MOST)]:
            del self.topics[name]

    def dump(self) -> bytes:
        """All of it, some bytes a topic."""
        return zlib.compress(msgspec.msgpack.encode(self.topics), 1)
