"""JSON samples, the common payload: an object of value, time, quality and unit, many of them decoded in one call. Pure."""

from datetime import tzinfo
from typing import Any, Final

import msgspec

_FIELDS: Final = ("value", "time", "quality", "unit")
_SCALAR: Final = int | float | str | bool | None
_TYPES: Final[tuple[Any, ...]] = (_SCALAR | msgspec.UnsetType, int | float | str | None, _SCALAR, str | None)
_DEFAULTS: Final = (msgspec.UNSET, None, None, None)
_UNFIT: Final = (msgspec.DecodeError, ValueError, RecursionError)


class Shape:
    """Samples with the same keys and the same kind of time.

    Attributes:
        times: Form and zone of their times, see `parse_time`.
    """

    def __init__(self, keys: tuple[str, ...], form: str, zone: tzinfo) -> None:
        """A shape.

        Args:
            keys: Keys of value, time, quality and unit.
            form: How times are written.
            zone: The zone of times that name none.
        """
        sample = msgspec.defstruct(
            "Sample",
            [
                (name, kind, msgspec.field(default=default, name=key))
                for name, kind, default, key in zip(_FIELDS, _TYPES, _DEFAULTS, keys, strict=True)
            ],
            forbid_unknown_fields=True,
            gc=False,
        )
        self.times = form, zone
        self._one = msgspec.json.Decoder(sample).decode
        self._many = msgspec.json.Decoder(list[tuple[sample]]).decode  # type: ignore[valid-type]
        self._none: Any = sample()

    def decode(self, payloads: list[bytes]) -> list[Any]:
        """One sample for each payload; where the payload is none, one whose value is unset.

        They are decoded as one array of arrays of one sample. None can be taken for a part of another: between them stands
        what ends an array and begins the next, for no sample can go on over it. Its values are scalars, so that it has no
        brackets but in strings, and no string holds a line break. What holds brackets of its own makes more arrays than there
        are payloads.
        """
        try:
            samples = self._many(b"[[%b]]" % b"],\n[".join(payloads))
        except _UNFIT:
            pass
        else:
            if len(samples) == len(payloads):
                return [sample for (sample,) in samples]
        return [self._decode_one(payload) for payload in payloads]

    def _decode_one(self, payload: bytes) -> Any:
        try:
            return self._one(payload)
        except _UNFIT:
            return self._none
