"""What targets share that send messages: names made from a template, and readings packed into payloads.

A template such as ``plant/{path}`` is rendered once per row of the tag table. Payloads are cut out of one buffer that holds
the readings of a batch side by side; there is no loop over readings here.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from connectors.wire import rows
from normalization.reading import IDENTITY_COLUMNS, TAG_COLUMNS

_PLACE: Final = re.compile(r"\{([^{}]*)\}")
_PLACES: Final = (*TAG_COLUMNS, *IDENTITY_COLUMNS)
_OPEN: Final = "\ud800"  # a place that is filled per reading; no name can hold it, because it is not UTF-8


@dataclass(frozen=True, slots=True)
class Names:
    """Names of a batch's readings.

    Attributes:
        names: Every name known so far; more than the batch has.
        index: Which of them each reading has, an integer per row.
    """

    names: list[str]
    index: np.ndarray


def as_it_is(column: str, text: str) -> str:  # noqa: ARG001 - see Template
    """`text`, for targets whose names may hold anything."""
    return text


class Template:
    """Renders topics, keys and the like: a text with columns of the tag table, `gateway` and `shard` in braces.

    It keeps what it has rendered for each tag, so use one for as long as possible.
    """

    def __init__(self, text: str, clean: Callable[[str, str], str] = as_it_is) -> None:
        """Read the template.

        Args:
            text: The template.
            clean: Gets a column's name and a text of it, and returns what may stand in the name.

        Raises:
            ValueError: A place is no column.
        """
        if unknown := sorted(set(_PLACE.findall(text)) - set(_PLACES)):
            raise ValueError(f"`{text}`: {', '.join(unknown)} is no column; there are {', '.join(_PLACES)}")
        if set("{}") & set(_PLACE.sub("", text)):
            raise ValueError(f"`{text}`: a brace is not closed; write {{path}} where the path is to stand")
        self._clean = clean
        # text, place, text, place, … text
        self._parts: Final = _PLACE.split(text)
        self._per_reading = [name for name in self._parts[1::2] if name in IDENTITY_COLUMNS]
        self._token = b""
        self._of_tag = np.array([], np.int64)
        self._names: list[str] = []
        self._known: dict[str, int] = {}

    def render(self, batch: pa.RecordBatch) -> Names:
        """The names of a batch of `normalization.reading.stream_schema`."""
        self._learn(batch)
        index = self._of_tag[batch.column("tag").to_numpy()]
        if not self._per_reading:
            return Names(self._names, index)
        return self._with_identity(batch, index)

    def _learn(self, batch: pa.RecordBatch) -> None:
        """Render the tags that are new; what is not constant per tag stays a place."""
        token = (batch.schema.metadata or {}).get(b"tags", b"")
        if token != self._token:
            self._token, self._of_tag = token, np.array([], np.int64)
        known, there = len(self._of_tag), len(batch.column("path").dictionary)
        if known >= there:
            return
        pieces = []
        for at, part in enumerate(self._parts):
            if at % 2 == 0:
                pieces.append([part] * (there - known))
            elif part in IDENTITY_COLUMNS:
                pieces.append([_OPEN] * (there - known))
            else:
                pieces.append([self._clean(part, t) for t in batch.column(part).dictionary.slice(known).to_pylist()])
        texts = ["".join(piece) for piece in zip(*pieces, strict=True)]
        self._of_tag = np.concatenate([self._of_tag, np.array([self._number(text) for text in texts], np.int64)])

    def _number(self, text: str) -> int:
        number = self._known.setdefault(text, len(self._names))
        if number == len(self._names):
            self._names.append(text)
        return number

    def _with_identity(self, batch: pa.RecordBatch, index: np.ndarray) -> Names:
        names, combined = self._names, index
        for place in self._per_reading:
            column = batch.column(place)
            texts = [self._clean(place, text) for text in column.dictionary.to_pylist()]
            pairs = np.stack([combined, column.indices.to_numpy().astype(np.int64)])
            distinct, combined = np.unique(pairs, axis=1, return_inverse=True)
            combined = combined.reshape(-1)
            names = [names[name].replace(_OPEN, texts[text], 1) for name, text in distinct.T.tolist()]
        return Names(names, combined)


@dataclass(frozen=True, slots=True)
class Pack:
    """Readings that make one message.

    Attributes:
        group: What they share, as it was given.
        rows: Their rows in the batch, ascending.
        payload: ``[reading,reading,…]``.
    """

    group: int
    rows: np.ndarray
    payload: bytes


def singly(objects: pa.Array) -> list[bytes]:
    """Each reading's text as a payload of its own; UTF-8."""
    payloads: list[bytes] = objects.cast(pa.binary()).to_pylist()
    return payloads


def pack(objects: pa.Array, groups: np.ndarray, *, most_bytes: int, most_readings: int = 2**31) -> list[Pack]:
    """Readings of one group as JSON arrays, in the order of the batch within each group.

    Args:
        objects: A JSON text per reading.
        groups: A number per reading; readings of different groups do not share a message.
        most_bytes: Bytes of a payload, at most; a reading that is larger is alone, and its payload larger.
        most_readings: Readings in a payload, at most.
    """
    if not len(objects):
        return []
    order = np.argsort(groups, kind="stable")
    sorted_groups = groups[order]
    joined = objects.take(pa.array(order))
    data = memoryview(rows.join([joined, ","]))
    ends = np.cumsum(_lengths(joined) + 1)
    starts = np.concatenate([[0], ends[:-1]])
    stops = np.append(np.flatnonzero(np.diff(sorted_groups)) + 1, len(order))
    packs, first = [], 0
    for stop in stops.tolist():
        while first < stop:
            # a bracket and a comma or a bracket for each reading
            fits = int(np.searchsorted(ends, starts[first] + most_bytes - 1, side="right"))
            last = min(max(fits, first + 1), first + most_readings, stop)
            payload = b"".join((b"[", data[starts[first] : ends[last - 1] - 1], b"]"))
            packs.append(Pack(int(sorted_groups[first]), order[first:last], payload))
            first = last
    return packs


def _lengths(text: pa.Array) -> np.ndarray:
    _, offsets, _ = text.buffers()
    found: np.ndarray = np.diff(np.frombuffer(offsets, np.int32)[text.offset : text.offset + len(text) + 1])
    return found
