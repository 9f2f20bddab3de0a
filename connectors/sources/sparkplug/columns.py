"""Plain data messages straight into columns: metrics by alias, whose birth says what they are. Pure."""

from typing import Any, Final

import numpy as np

from connectors.sources.sparkplug.decode import RETAINED, micros
from connectors.sources.sparkplug.nodes import CYCLE, Node, Owner
from connectors.wire.sparkplug_columns import Plain, Run, parse_columns
from connectors.wire.sparkplug_values import DataType
from normalization.reading import Columns, Flags, ValueType

_INTEGERS: Final = {
    DataType.INT8: np.int8, DataType.INT16: np.int16, DataType.INT32: np.int32, DataType.INT64: np.int64,
    DataType.UINT8: np.uint8, DataType.UINT16: np.uint16, DataType.UINT32: np.uint32, DataType.UINT64: np.uint64,
}  # fmt: skip
_FITTING: Final = {
    "int_value": frozenset(_INTEGERS),
    "long_value": frozenset(_INTEGERS),
    "float_value": frozenset({DataType.FLOAT, DataType.DOUBLE}),
    "double_value": frozenset({DataType.FLOAT, DataType.DOUBLE}),
    "boolean_value": frozenset({DataType.BOOLEAN}),
}
_PLAIN: Final = 300  # bytes, of some fifteen metrics; for less arrays cost more than they save
_REMEMBERED: Final = 64  # sets of aliases whose tags are remembered: most edge nodes send the same ones again and again

Places = list[tuple[int, np.ndarray, np.ndarray | None]]
"""For each data type the tags, and which of the metrics they are; None for all."""


def read_columns(node: Node | None, device: str, payload: bytes, head: int, now: float, rows: Columns) -> bool:
    """Read a data message whose turn it is; False, and nothing has happened, when it is not as plain as that."""
    if len(payload) < _PLAIN or node is None or not node.born or not node.trusted or node.early:
        return False
    owner = node.owners.get(device)
    plain = parse_columns(payload) if owner is not None and owner.born else None
    if owner is None or plain is None or plain.seq is None:
        return False
    seq = plain.seq % CYCLE
    if (node.seq is not None and seq != (node.seq + 1) % CYCLE) or not read_plain(owner, plain, head, rows):
        return False
    node.seq, node.heard = seq, now
    node.lost.discard(seq)
    return True


def read_plain(owner: Owner, plain: Plain, head: int, rows: Columns) -> bool:
    """Append the values of a message; False, and nothing is appended, when it has to be read one by one."""
    columns: list[dict[str, Any]] = []
    for run in plain.runs:
        places = _places(owner, run)
        times = _times(run, plain.timestamp)
        if places is None or times is None:
            return False
        flags = head & RETAINED | (Flags.HISTORICAL if run.historical else 0)
        for datatype, tags, which in places:
            values = run.values if which is None else run.values[which]
            if datatype in _INTEGERS:
                values = values.astype(_INTEGERS[DataType(datatype)])
                values = values if datatype == DataType.UINT64 else values.astype(np.int64)
            elif datatype != DataType.BOOLEAN:
                values = values.astype(np.float64)
            columns.append(
                {
                    "tags": tags,
                    "values": values,
                    "kind": ValueType.UINT64 if datatype == DataType.UINT64 else None,
                    "source_time": times if which is None or isinstance(times, int) else times[which],
                    "flags": flags,
                }
            )
    for column in columns:
        rows.add_arrays(**column)
    return True


def _places(owner: Owner, run: Run) -> Places | None:
    """What the metrics of a run are; None when a birth does not say so, or says something else than the run."""
    key = run.aliases.tobytes() + run.field.encode() + bytes([run.datatype & 0xFF])
    known: Places | None = owner.remembered.get(key)
    if known is None:
        metrics = [owner.aliases.get(alias) for alias in run.aliases.tolist()]
        fitting = _FITTING[run.field]
        if any(
            metric is None
            or metric.tag < 0
            or metric.datatype not in fitting
            or run.datatype not in {0, metric.datatype}
            for metric in metrics
        ):
            return None
        tags = np.array([metric.tag for metric in metrics if metric is not None], np.int32)
        kinds = np.array([metric.datatype for metric in metrics if metric is not None])
        present = np.unique(kinds).tolist()
        if len(present) == 1:
            known = [(present[0], tags, None)]
        else:
            known = [(kind, tags[kinds == kind], np.flatnonzero(kinds == kind)) for kind in present]
        if len(owner.remembered) >= _REMEMBERED:
            owner.remembered.clear()
        owner.remembered[key] = known
    return known


def _times(run: Run, timestamp: int) -> int | np.ndarray | None:
    """µs since the epoch, for all or one per metric; None when a metric has no time, or one outside the calendar."""
    if isinstance(run.times, np.ndarray):
        sound = run.times.min() > 0 and micros(int(run.times.max())) is not None
        return run.times.astype(np.int64) * 1000 if sound else None
    stamp = run.times or timestamp
    return micros(stamp) if stamp else None
