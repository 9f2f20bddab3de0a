"""What encoders share that turn a batch of columns into text, a row each: whole columns of text, joined at the end.

There is no loop over readings here: a column becomes a string array by Arrow's own kernels, and `join` hands out the
bytes of the joined column as they lie in memory.
"""

import base64
import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from normalization.reading import ValueType

_MASK = 0xFFFF_FFFF_FFFF_FFFF

Part: TypeAlias = pa.Array | str
"""A column of text, or a text that stands in each row."""


def beside(parts: Sequence[Part]) -> pa.Array:
    """The rows that `parts` make side by side; null where one of them is. One at least is an array."""
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part  # each part costs time in each row
        else:
            joined.append(part)
    return pc.binary_join_element_wise(*joined, "")


def join(parts: Sequence[Part]) -> bytes:
    """The rows that `parts` make side by side, one after the other; no part has nulls."""
    return joined(parts)[0]


def joined(parts: Sequence[Part]) -> tuple[bytes, np.ndarray]:
    """As `join`, and where in it each row ends."""
    return laid_out(beside(parts))


def laid_out(column: pa.Array) -> tuple[bytes, np.ndarray]:
    """The texts or bytes of a column without nulls, one after the other, and where each ends."""
    if not len(column):
        return b"", np.zeros(0, np.int64)
    _, offsets, data = column.buffers()
    found = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1].astype(np.int64)
    start, stop = int(found[0]), int(found[-1])
    return (b"" if data is None else data.slice(start, stop - start).to_pybytes()), found[1:] - start


def unsigned(bits: pa.Array) -> pa.Array:
    """The numbers of UINT64 values that are kept as the bit pattern of an int64."""
    return bits.view(pa.uint64())


def base64_text(values: pa.Array) -> pa.Array:
    """Bytes as base64; bytes are rare, and Arrow has no kernel for them."""
    return pa.array([None if v is None else base64.b64encode(v).decode() for v in values.to_pylist()], pa.string())


class Rows(Protocol):
    """Readings whose columns can be asked for: a record batch, or some rows of one."""

    def column(self, name: str) -> pa.Array:
        """A column."""

    def __len__(self) -> int: ...


class _Taken:
    """Some rows of a batch; a column is taken when it is asked for."""

    def __init__(self, batch: pa.RecordBatch, rows: np.ndarray) -> None:
        self._batch, self._rows = batch, pa.array(rows)

    def column(self, name: str) -> pa.Array:
        return self._batch.column(name).take(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


def types(batch: pa.RecordBatch) -> list[ValueType]:
    """The value types that there are in a batch."""
    return [ValueType(kind) for kind in np.flatnonzero(np.bincount(batch.column("type").to_numpy())).tolist()]


def by_type(batch: pa.RecordBatch, render: Callable[[ValueType, Rows], pa.Array]) -> pa.Array:
    """A string column made by `render` from the rows of each value type, in the order of `batch`.

    Args:
        batch: Has the column `type`.
        render: Gets a type and the rows that are of it, and returns a string array of as many rows.
    """
    kinds, present = batch.column("type").to_numpy(), types(batch)
    if not present:
        return pa.array([], pa.string())
    if len(present) == 1:
        return render(present[0], batch)
    rows = [np.flatnonzero(kinds == kind) for kind in present]
    texts = [render(kind, _Taken(batch, index)) for kind, index in zip(present, rows, strict=True)]
    order = np.empty(len(kinds), np.int64)
    order[np.concatenate(rows)] = np.arange(len(kinds))
    return pa.concat_arrays(texts).take(pa.array(order))


def fingerprint(batch: pa.RecordBatch) -> int:
    """A number below 2^63 that is equal for the same readings, in whatever order and however they are encoded.

    It speaks of the identities (`gateway`, `shard`, `sequence`): two units of the same number but of other readings are
    told apart by it. It is no defense against somebody who looks for a collision.
    """
    mixed = batch.column("sequence").to_numpy().view(np.uint64) * np.uint64(0x9E37_79B9_7F4A_7C15)
    for name in ("gateway", "shard"):
        column = batch.column(name)
        numbers = np.array([_number(name, text) for text in column.dictionary.to_pylist()], np.uint64)
        mixed = _mix(mixed ^ numbers[column.indices.to_numpy()])
    total = (int(mixed.sum(dtype=np.uint64)) + len(mixed)) & _MASK
    return total >> 1


def _number(column: str, text: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{column}:{text}".encode(), digest_size=8).digest(), "big")


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of splitmix64: every bit of the input moves half of the output's."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed
