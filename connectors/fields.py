"""What the models of the configuration are made of: sections, durations and sizes."""

import re
from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZES = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "tb": 1000**4,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
    "tib": 1024**4,
}


def seconds(value: object) -> object:
    """A duration such as ``5s``, ``250ms`` or ``1h30m`` in seconds; numbers are seconds already."""
    if not isinstance(value, str):
        return value
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)", value)
    if not parts or re.sub(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)", "", value).strip():
        msg = f"`{value}` is not a duration; write a number with a unit: 250ms, 5s, 10m, 24h"
        raise ValueError(msg)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def size(value: object) -> object:
    """A size such as ``64MiB`` or ``2GB`` in bytes; numbers are bytes already."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)
    if not match or match[2].lower() not in _SIZES:
        msg = f"`{value}` is not a size; write a number with a unit: 64KiB, 512MiB, 2GiB"
        raise ValueError(msg)
    return int(float(match[1]) * _SIZES[match[2].lower()])


_DURATION = {"anyOf": [{"type": "number"}, {"type": "string"}], "examples": ["250ms", "5s", "1h30m"]}
_SIZE = {"anyOf": [{"type": "integer"}, {"type": "string"}], "examples": ["64KiB", "512MiB"]}
Duration = Annotated[
    float, BeforeValidator(seconds), Field(ge=0, allow_inf_nan=False), WithJsonSchema(_DURATION, mode="validation")
]
Size = Annotated[int, BeforeValidator(size), Field(ge=0), WithJsonSchema(_SIZE, mode="validation")]


class Settings(BaseModel):
    """A part of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, ignored_types=(cached_property,))
