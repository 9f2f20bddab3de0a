"""Protobuf's wire format by columns: a field of bytes or text for many messages at once.

The wire format does not care how a message was put together: a column of fields beside another is a column of messages.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_DELIMITED = 2  # the wire type of bytes, texts and messages


def varint(value: int) -> bytes:
    """A number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, content: bytes) -> bytes:
    """A field of bytes, text or a message."""
    return varint(number << 3 | _DELIMITED) + varint(len(content)) + content


def fields(number: int, contents: pa.Array) -> pa.Array:
    """The same field of many messages; where there is null there is no field."""
    column = contents.cast(pa.binary())
    lengths = pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    # messages of one kind have few lengths: what stands before the content is made once for each
    distinct, index = np.unique(lengths, return_inverse=True)
    tag = varint(number << 3 | _DELIMITED)
    heads = pa.array([tag + varint(int(length)) for length in distinct], pa.binary()).take(pa.array(index))
    found = pc.binary_join_element_wise(heads, column, b"")
    return pc.fill_null(found, b"") if column.null_count else found
