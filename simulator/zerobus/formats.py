"""What the three record formats have in common."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import pyarrow as pa

from simulator.zerobus.schema import TableSchema


class Checked(NamedTuple):
    """A request that fits its table: the client's offset (None where it sent none) and how many records it carries."""

    offset: int | None
    rows: int


class RowFormat(Protocol):
    """One record format on one stream: `check` runs before the acknowledgement, `columns` later and from the log."""

    kind: str
    spec: bytes  # with `kind` and the table's schema, what makes the same format again

    def check(self, request: bytes) -> Checked:
        """Check a request, a whole gRPC message, against the table.

        Raises:
            Refused: it does not fit, or is no request that records can be in.
        """
        ...

    def columns(self, requests: Sequence[bytes]) -> pa.Table:
        """The records of requests that `check` has passed, in order, typed as the table's columns."""
        ...


def open_format(kind: str, spec: bytes, schema: TableSchema) -> RowFormat:
    """The format `kind` for records described by `spec`, checked against the table.

    Raises:
        Refused: the description does not fit the table.
    """
    from simulator.zerobus.arrow_rows import ArrowRows
    from simulator.zerobus.json_rows import JsonRows
    from simulator.zerobus.proto_rows import ProtoRows

    formats: dict[str, type[ProtoRows | JsonRows | ArrowRows]] = {
        ProtoRows.kind: ProtoRows,
        JsonRows.kind: JsonRows,
        ArrowRows.kind: ArrowRows,
    }
    return formats[kind](spec, schema)
