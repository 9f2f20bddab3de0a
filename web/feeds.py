"""What event streams tell: how the gateway stands, and the last readings of tags that are looked at."""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import numpy as np
from typing_extensions import override

from web.live import Live
from web.rates import Rates, listed
from web.streams import Feed, event
from web.values import micros, qualities, values

_BY_NAME: Final = ("sources", "targets", "kept")
_ALWAYS: Final = ("gateway", "status", "uptime")


class StatusFeed(Feed):
    """How the gateway, its sources and its targets stand.

    Args:
        status: Tells it.
        rates: Readings per second.
    """

    def __init__(self, status: Callable[[], dict[str, Any]], rates: Rates) -> None:
        self._status, self._rates = status, rates
        self._told: dict[tuple[str, str], bytes] = {}

    @override
    def whole(self) -> bytes:
        """All of it."""
        now = self._now()
        self._told = self._told or _encoded(_parts(now))
        return event("status", {**now, "whole": True})

    @override
    def changes(self) -> bytes:
        """What has changed; of sources and targets only those that have. One that is gone is null."""
        now = self._now()
        parts = _parts(now)
        told = _encoded(parts)
        changed = [at for at, text in told.items() if self._told.get(at) != text]
        gone = [at for at in self._told if at not in told]
        self._told = told
        if all(key in _ALWAYS for key, _ in changed) and not gone:
            return b""
        said: dict[str, Any] = {key: now[key] for key in _ALWAYS}
        for key, name in [*changed, *gone]:
            if name:
                said.setdefault(key, {})[name] = parts.get((key, name))
            else:
                said[key] = now[key]
        return event("status", said)

    def _now(self) -> dict[str, Any]:
        rates = self._rates.now()
        return {
            **self._status(),
            "rates": {kind: listed(rates, kind) for kind in ("source", "target")},
        }


def _parts(status: dict[str, Any]) -> dict[tuple[str, str], Any]:
    parts: dict[tuple[str, str], Any] = {}
    for key, value in status.items():
        parts |= {(key, name): part for name, part in value.items()} if key in _BY_NAME else {(key, ""): value}
    return parts


def _encoded(parts: dict[tuple[str, str], Any]) -> dict[tuple[str, str], bytes]:
    return {at: msgspec.json.encode(part) for at, part in parts.items()}


class TagsFeed(Feed):
    """The last readings of some tags.

    Args:
        live: The readings.
        tags: Numbers of the tags.
    """

    def __init__(self, live: Live, tags: Iterable[int]) -> None:
        self._live = live
        self._tags = np.array(sorted(set(tags)), np.int64)
        self._since = 0

    @override
    def whole(self) -> bytes:
        """All that have a reading."""
        known, folds = self._live.changed(self._tags, 0)
        self._since = self._since or folds
        return self._event(known)

    @override
    def changes(self) -> bytes:
        """Those that have had one since."""
        changed, self._since = self._live.changed(self._tags, self._since)
        return self._event(changed) if len(changed) else b""

    def _event(self, tags: np.ndarray) -> bytes:
        if not len(tags):
            return event("tags", {"tags": []})
        raw, rows = self._live.last(tags)
        columns = {
            "id": tags.tolist(),
            "value": values(rows),
            "raw": values(raw),
            "quality": qualities(rows),
            "time_us": micros(rows, "source_time"),
            "received_us": micros(rows, "received_time"),
        }
        listed_rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        return event("tags", {"tags": listed_rows})
