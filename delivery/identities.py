"""Which readings a store has had: the memory that makes a replay harmless."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa


class Identities:
    """Sequences by shard, kept as runs: (first, last) where they are without holes, else an array.

    No high-water mark decides: a sequence below the highest is new unless it is in a run.
    """

    def __init__(self) -> None:
        self._runs: dict[str, list[tuple[int, int, np.ndarray | None]]] = {}
        self._highest: dict[str, int] = {}

    def had(self, shard: str, sequences: np.ndarray) -> np.ndarray | None:
        """Which of `sequences` are known, as booleans; None when none is."""
        highest = self._highest.get(shard)
        if highest is None or not len(sequences):
            return None
        low, high = int(sequences.min()), int(sequences.max())
        if low > highest:
            return None
        known = np.zeros(len(sequences), bool)
        for first, last, members in self._runs[shard]:
            if last < low or first > high:
                continue
            if members is None:
                known |= (sequences >= first) & (sequences <= last)
            else:
                known |= np.isin(sequences, members)
        return known if known.any() else None

    def add(self, shard: str, sequences: np.ndarray) -> None:
        """Remember `sequences`."""
        if not len(sequences):
            return
        if (np.diff(sequences) <= 0).any():
            sequences = np.unique(sequences)
        first, last = int(sequences[0]), int(sequences[-1])
        self._add(shard, first, last, None if last - first + 1 == len(sequences) else sequences.copy())

    def _add(self, shard: str, first: int, last: int, members: np.ndarray | None) -> None:
        runs = self._runs.setdefault(shard, [])
        if members is None and runs and runs[-1][2] is None and runs[-1][1] + 1 == first:
            runs[-1] = (runs[-1][0], last, None)
        else:
            runs.append((first, last, members))
        self._highest[shard] = max(self._highest.get(shard, last), last)

    def forget(self, shard: str, upto: int) -> None:
        """Forget the sequences up to `upto`: they will not come again."""
        runs = self._runs.get(shard)
        if runs is None:
            return
        kept: list[tuple[int, int, np.ndarray | None]] = []
        for first, last, members in runs:
            if last <= upto:
                continue
            if first > upto:
                kept.append((first, last, members))
            elif members is None:
                kept.append((upto + 1, last, None))
            else:
                rest = members[members > upto]
                kept.append((int(rest.min()), last, rest))
        self._runs[shard] = kept
        if not kept:
            del self._runs[shard]
            del self._highest[shard]

    def discard(self, shard: str, sequences: np.ndarray) -> None:
        """Forget these sequences alone."""
        kept: list[tuple[int, int, np.ndarray | None]] = []
        for first, last, members in self._runs.get(shard, []):
            inside = sequences[(sequences >= first) & (sequences <= last)]
            if not len(inside):
                kept.append((first, last, members))
                continue
            rest = np.setdiff1d(np.arange(first, last + 1) if members is None else members, inside)
            if len(rest):
                kept.append((int(rest[0]), int(rest[-1]), rest))
        if kept:
            self._runs[shard] = kept
        elif shard in self._runs:
            del self._runs[shard], self._highest[shard]

    def count(self, shard: str) -> int:
        """How many sequences of `shard` are remembered."""
        return sum(
            last - first + 1 if members is None else len(members) for first, last, members in self._runs.get(shard, [])
        )

    def sequences(self, shard: str) -> np.ndarray:
        """The sequences of `shard` that are remembered."""
        runs = [
            np.arange(first, last + 1) if members is None else members
            for first, last, members in self._runs.get(shard, [])
        ]
        return np.concatenate([np.empty(0, np.int64), *runs])

    def shards(self) -> list[str]:
        """Shards of which something is remembered."""
        return list(self._runs)

    def to_list(self) -> list[Any]:
        """As plain values."""
        return [
            [
                shard,
                [
                    [first, last, b"" if members is None else members.astype("<i8").tobytes()]
                    for first, last, members in runs
                ],
            ]
            for shard, runs in self._runs.items()
        ]

    @staticmethod
    def from_list(values: Iterable[Sequence[Any]]) -> "Identities":
        """From `to_list`."""
        found = Identities()
        for shard, runs in values:
            for first, last, members in runs:
                found._add(shard, first, last, np.frombuffer(members, "<i8") if members else None)
        return found


def fresh(sequences: np.ndarray, had: np.ndarray | None) -> np.ndarray | None:
    """Rows that are not known and the first of their sequence in the batch; None when all are."""
    if (np.diff(sequences) > 0).all():
        return None if had is None else np.flatnonzero(~had)
    first = np.zeros(len(sequences), bool)
    first[np.unique(sequences, return_index=True)[1]] = True
    return np.flatnonzero(first if had is None else first & ~had)


def by_shard(batch: pa.RecordBatch, index: pa.Array) -> list[tuple[np.ndarray, pa.RecordBatch]]:
    """The batch apart by gateway and shard, with the rows of `index` that belong to each part."""
    if not len(batch):
        return []
    shard, gateway = batch.column("shard"), batch.column("gateway")
    rows = index.to_numpy()
    if len(shard.dictionary) == 1 and len(gateway.dictionary) == 1:
        return [(rows, batch)]
    codes = shard.indices.to_numpy().astype(np.int64) * len(gateway.dictionary) + gateway.indices.to_numpy()
    parts = [np.flatnonzero(codes == code) for code in np.unique(codes)]
    return [(rows[part], batch.take(pa.array(part))) for part in parts]


def spelled(sequences: np.ndarray) -> tuple[int, int] | bytes:
    """Sequences as a record holds them: the first and the last when they are without holes."""
    first, last = int(sequences[0]), int(sequences[-1])
    if last - first + 1 == len(sequences) and (np.diff(sequences) == 1).all():
        return first, last
    return sequences.astype("<i8").tobytes()


def unspelled(spelled: Sequence[int] | bytes) -> np.ndarray:
    """Sequences that `spelled` wrote."""
    if isinstance(spelled, bytes):
        return np.frombuffer(spelled, "<i8")
    return np.arange(spelled[0], spelled[1] + 1)
