"""Report by exception one reading at a time, as the documentation says it."""

import math
from dataclasses import dataclass
from typing import Any

from normalization.reading import Flags, Quality
from normalization.report import LATE

SECOND = 1_000_000


@dataclass(frozen=True)
class Given:
    tag: int
    value: Any
    time: int  # µs
    quality: Quality = Quality.GOOD
    flags: int = 0


class Model:
    """The same rules, one reading at a time."""

    def __init__(self, rule: dict[str, Any], shard: str = "mqtt-0") -> None:
        self.rule, self.shard = rule, shard
        self.last: tuple[Any, int, Quality] | None = None
        self.held: list[tuple[Any, int, int]] = []  # value, time, sequence of what the door keeps in

    def kind(self, value: Any) -> Any:
        if isinstance(value, bool | str | None):
            return type(value)
        return "number" if math.isfinite(value) else (type(value), "odd")

    def same(self, one: Any, two: Any) -> bool:
        return type(one) is type(two) and (one == two or str(one) == str(two) == "nan")

    def __call__(self, given: Given, sequence: int) -> list[tuple[str, int]]:
        """The identities that pass because of this reading."""
        if given.flags & Flags.HISTORICAL:
            return [(self.shard, sequence)]
        late: list[tuple[str, int]] = []
        passes = False
        if (
            self.last is None
            or self.last[2] is not given.quality
            or self.kind(self.last[0]) != self.kind(given.value)
            or given.flags & Flags.GAP
        ):
            late, passes = self.let_out(), True
        elif given.time < (self.held[-1][1] if self.held else self.last[1]):
            return [(self.shard, sequence)]
        elif self.rule.get("swinging_door") and self.kind(given.value) == "number":
            late, passes = self.swing(given, sequence)
        else:
            passes = self.plain(given)
        if passes:
            self.last, self.held = (given.value, given.time, given.quality), []
            late.append((self.shard, sequence))
        return late

    def plain(self, given: Given) -> bool:
        assert self.last is not None
        value, time, _ = self.last
        since = given.time - time
        if since >= self.rule.get("max_interval", math.inf) * SECOND:
            return True
        if self.kind(given.value) != "number":
            return not self.same(given.value, value)
        band = max(self.rule.get("deadband", 0), self.rule.get("deadband_percent", 0) / 100 * abs(value))
        differs = abs(given.value - value) > band if band else not self.same(given.value, value)
        return differs and since >= self.rule.get("min_interval", 0) * SECOND

    def swing(self, given: Given, sequence: int) -> tuple[list[tuple[str, int]], bool]:
        assert self.last is not None
        door, late = self.rule["swinging_door"], []
        if self.held and not self.fits(given.value, given.time):
            late = self.let_out()
        since = given.time - self.last[1]
        if since >= self.rule["max_interval"] * SECOND:
            return late, True
        if since == 0:
            return late, abs(given.value - self.last[0]) > door
        self.held.append((given.value, given.time, sequence))
        return late, False

    def fits(self, value: float, time: int) -> bool:
        """Whether a line to this number comes within the deviation of all that are held."""
        assert self.last is not None
        slope = (value - self.last[0]) / (time - self.last[1])
        door = self.rule["swinging_door"]
        bounds = [
            ((held - door - self.last[0]) / (at - self.last[1]), (held + door - self.last[0]) / (at - self.last[1]))
            for held, at, _ in self.held
        ]
        return all(low <= slope <= high for low, high in bounds)

    def let_out(self) -> list[tuple[str, int]]:
        if not self.held or self.last is None:
            return []
        value, time, sequence = self.held[-1]
        self.last, self.held = (value, time, self.last[2]), []
        return [(f"{self.shard}{LATE}", sequence)]
