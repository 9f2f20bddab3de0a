"""Registers that were captured, as the reader would decode them. Pure."""

from collections.abc import Callable

import numpy as np

from connectors.dry_run import CapturedError, Registers
from connectors.sources.modbus.config import ModbusConfig
from connectors.sources.modbus.decode import Decoder
from connectors.sources.modbus.plan import Kind, plan
from normalization.reading import Columns, Tag


def decode(config: ModbusConfig, captured: Registers, intern: Callable[[Tag], int]) -> Columns:
    """The readings of every configured value whose addresses are all among the captured ones.

    Args:
        config: The source.
        captured: What the device answered.
        intern: Gives a tag its row of the tag table.

    Raises:
        CapturedError: There is no such value, or the numbers are none that an address holds.
    """
    kind = Kind[captured.table.upper()]
    unit = config.unit_id if captured.unit_id is None else captured.unit_id
    end = captured.first + len(captured.words)
    most = 1 if kind.is_bits else 0xFFFF
    if not all(0 <= word <= most for word in captured.words):
        raise CapturedError(f"an address of the table {captured.table} holds 0 to {most}")
    found = [
        (point, row)
        for (_, _, point), row in zip(config.values, config.tag_rows(), strict=True)
        if (point.unit_id, point.kind) == (unit, kind) and captured.first <= point.address and point.end <= end
    ]
    if not found:
        where = f"{captured.table} {captured.first} to {end - 1} of unit {unit}"
        raise CapturedError(f"no value of the source lies in {where}; addresses count from 0, as on the wire")
    points = [point for point, _ in found]
    blocks = plan(points, config.max_gap, config.max_registers, config.max_bits, config.closed)
    data = b""
    for block in blocks:
        words = captured.words[block.address - captured.first : block.end - captured.first]
        data += (
            np.packbits(np.array(words, np.uint8), bitorder="little").tobytes()
            if kind.is_bits
            else np.array(words, ">u2").tobytes()
        )
    rows = Columns()
    source_time = captured.time if config.source_time == "received" else None
    Decoder(blocks, points, [intern(row) for _, row in found]).decode(data, rows, source_time)
    return rows
