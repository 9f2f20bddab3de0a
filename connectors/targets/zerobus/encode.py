"""Readings as what ZeroBus takes: Arrow batches, or the protobuf records of `connectors.wire.protobuf`, cut to its limits. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from connectors.targets.zerobus.schema import Column
from connectors.wire.lanes import offsets

MAX_RECORDS: Final = 100_000
MAX_BYTES: Final = 10 * 1024 * 1024 - 65 * 1024
_FRAME: Final = 6  # tag and length of a record inside a request: at most 1 + 5 bytes


def missing(values: dict[str, pa.Array], columns: Sequence[Column]) -> dict[int, str]:
    """Rows without a value in a column that the service wants NOT NULL, with the reason."""
    found: dict[int, str] = {}
    for column in columns:
        if not column.nullable and values[column.name].null_count:
            for row in np.flatnonzero(values[column.name].is_null().to_numpy(zero_copy_only=False)).tolist():
                found.setdefault(row, f"column `{column.field}` is NOT NULL at the service, the reading has no value")
    return found


def to_arrow(values: dict[str, pa.Array], columns: Sequence[Column], schema: pa.Schema) -> pa.RecordBatch:
    """The columns that are sent as one Arrow batch of the service's types.

    Args:
        values: See `connectors.wire.protobuf.reading_columns`.
        columns: See `schema.Plan`.
        schema: `schema.Plan.arrow`.
    """
    arrays = []
    for column in columns:
        array = values[column.name]
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        arrays.append(array if array.type == column.kind.arrow else array.cast(column.kind.arrow))
    # Readings lack values in columns that are NOT NULL at the service only in rows that `missing` names.
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def arrow_sizes(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Bytes of each row in Arrow's own layout."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for array in batch.columns:
        if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
            sizes += pc.binary_length(array).fill_null(0).to_numpy().astype(np.int64) + 4
        else:
            sizes += array.type.bit_width // 8
    sizes += (batch.num_columns + 7) // 8
    return sizes


def record_sizes(records: pa.BinaryArray) -> npt.NDArray[np.int64]:
    """Bytes that each encoded record takes in a request."""
    return np.diff(offsets(records)).astype(np.int64) + _FRAME


def requests(sizes: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Cut rows into requests within the service's limits.

    Args:
        sizes: Bytes of each row; none above `MAX_BYTES`.

    Yields:
        First row and the row after the last.
    """
    ends = np.cumsum(sizes)
    start, sent = 0, 0
    while start < len(sizes):
        stop = min(int(np.searchsorted(ends, sent + MAX_BYTES, side="right")), start + MAX_RECORDS)
        yield start, stop
        start, sent = stop, int(ends[stop - 1])


def oversized(sizes: npt.NDArray[np.int64]) -> dict[int, str]:
    """Rows that are larger than a request may be, with the reason."""
    return {
        row: f"the record has {int(sizes[row])} bytes, the service takes at most {MAX_BYTES}"
        for row in np.flatnonzero(sizes > MAX_BYTES).tolist()
    }
