"""The newest value of each tag, and which of them a target that holds a state does not know yet. Pure."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa

from connectors.wire import rows
from connectors.wire.json_lines import value
from connectors.wire.messages import Template, as_it_is


class Newest:
    """What a device shadow or twin is known to hold: the JSON of a value by key.

    Attributes:
        long: Keys whose value was too long to be reported.
    """

    def __init__(self, key: str, longest: int, clean: Callable[[str, str], str] = as_it_is) -> None:
        """Nothing is known yet.

        Args:
            key: Template of the keys, see `messages.Template`.
            longest: Bytes of the JSON of a value, at most; a longer one is left out.
            clean: What may stand in a key.
        """
        self._keys = Template(key, clean)
        self._longest = longest
        self._reported: dict[str, str] = {}
        self.long: set[str] = set()

    def forget(self) -> None:
        """Nothing is known any more of what the other side has."""
        self._reported = {}

    def accepted(self, state: dict[str, str]) -> None:
        """The other side has taken these."""
        self._reported |= state

    def changes(self, batch: pa.RecordBatch) -> dict[str, str]:
        """The newest value of each key in the batch, where it is another than the last that was accepted."""
        names = self._keys.render(batch)
        _, first = np.unique(names.index[::-1], return_index=True)
        last = np.sort(len(batch) - 1 - first)
        texts = rows.by_type(batch.take(pa.array(last)), value).to_pylist()
        changed: dict[str, str] = {}
        for name, text in zip(names.index[last].tolist(), texts, strict=True):
            key = names.names[name]
            if len(text.encode()) > self._longest:
                self.long.add(key)
            elif self._reported.get(key) != text:
                changed[key] = text
        return changed
