"""Samples as Prometheus remote write 1.0 has them: a protobuf ``WriteRequest``, compressed by snappy. Pure."""

import struct
from collections.abc import Iterable, Mapping
from typing import Final

import pyarrow as pa
from prometheus_client import Metric
from prometheus_client.samples import Sample

from connectors.wire.lanes import varint
from connectors.wire.protobuf import field

HEADERS: Final = {
    "content-type": "application/x-protobuf",
    "content-encoding": "snappy",
    "x-prometheus-remote-write-version": "0.1.0",
}
STALE: Final = struct.pack("<Q", 0x7FF0000000000002)  # the one NaN that says that a series has ended
_SNAPPY: Final = pa.Codec("snappy")  # the raw format, without frames, as remote write wants it
_VALUE: Final = b"\x09"  # field 1, 64 bits
_TIME: Final = b"\x10"  # field 2, varint
_DOUBLE: Final = struct.Struct("<d")

Key = tuple[str, tuple[tuple[str, str], ...]]


class Series:
    """The series of one gateway: what their labels are in bytes, and which of them there were in the last request.

    Args:
        labels: Labels of each series, where it has not the label itself.
    """

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._rendered: dict[Key, bytes] = {}

    def request(self, families: Iterable[Metric], time_ms: int) -> tuple[bytes, int]:
        """A sample of each series, and the end of each that is not there any more.

        Args:
            families: What the registry has.
            time_ms: When that was so, ms since the epoch.

        Returns:
            The request, and how many samples it holds.
        """
        before, self._rendered, parts = self._rendered, {}, list[bytes]()
        ending = _TIME + varint(time_ms)
        for family in families:
            for sample in family.samples:
                key = sample.name, tuple(sample.labels.items())
                labels = self._rendered[key] = before.pop(key, b"") or self._render(sample)
                parts.append(_series(labels, _DOUBLE.pack(sample.value), ending))
        parts += [_series(labels, STALE, ending) for labels in before.values()]
        return compressed(parts), len(parts)

    def end(self, time_ms: int) -> tuple[bytes, int]:
        """The end of every series, as `request` has it."""
        return self.request((), time_ms)

    def _render(self, sample: Sample) -> bytes:
        labels = self._labels | {name: value for name, value in sample.labels.items() if value}
        named = sorted({"__name__": sample.name, **labels}.items(), key=lambda label: label[0].encode())
        return b"".join(field(1, field(1, name.encode()) + field(2, value.encode())) for name, value in named if value)


def _series(labels: bytes, value: bytes, ending: bytes) -> bytes:
    return field(1, labels + field(2, _VALUE + value + ending))


def compressed(parts: Iterable[bytes]) -> bytes:
    """A request of its series."""
    return _SNAPPY.compress(b"".join(parts), asbytes=True)  # type: ignore[no-any-return]
