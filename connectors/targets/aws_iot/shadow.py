"""The device shadow: which values changed, as documents within its limits, and what its service answers. Pure.

A shadow's state has 8 KB at most. Tags that do not fit into the first shadow go to further named ones, `…-2`, `…-3`; a tag
stays where it was put first.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec
import pyarrow as pa

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError
from connectors.wire.newest import Newest

MOST_STATE: Final = 8 * 1024
_NUMBER: Final = 26  # bytes that a number may come to have
_LONGEST: Final = 256  # bytes of a value; a longer one is not reported
_FRAME: Final = 64  # bytes around the keys: state, reported, a client token
_MORE: Final = "readings"  # name of further shadows beside the classic one


@dataclass(frozen=True, slots=True)
class Update:
    """One request to the service.

    Attributes:
        topic: Where it is published.
        token: What the answer repeats.
        payload: The request.
        state: What is known to be reported once it is accepted: JSON of the value by key.
    """

    topic: str
    token: str
    payload: bytes
    state: dict[str, str]


class Shadow:
    """What was reported, and what is to be.

    Attributes:
        newest: The values.
    """

    def __init__(self, thing: str, name: str | None, key: str) -> None:
        """A shadow of which nothing is known.

        Args:
            thing: Name of the thing.
            name: Name of the shadow; None for the classic one.
            key: Template of the keys.
        """
        self._thing = thing
        self._name = name
        self.newest = Newest(key, _LONGEST)
        self._page: dict[str, int] = {}
        self._room: list[int] = []
        self._next = 0

    def answers(self) -> list[str]:
        """Topic filters of the service's answers."""
        prefix = f"$aws/things/{self._thing}/shadow"
        return [f"{prefix}{name}/update/{kind}" for name in ("", "/name/+") for kind in ("accepted", "rejected")]

    def updates(self, batch: pa.RecordBatch) -> list[Update]:
        """Requests that report the newest value of each tag of the batch, where it is another than the last."""
        changed: dict[int, dict[str, str]] = {}
        for key, text in self.newest.changes(batch).items():
            changed.setdefault(self._page_of(key, len(text.encode())), {})[key] = text
        return [self._update(page, state) for page, state in sorted(changed.items())]

    def _page_of(self, key: str, size: int) -> int:
        page = self._page.get(key)
        if page is None:
            need = (
                len(json.dumps(key, ensure_ascii=False).encode()) + 2 + max(_NUMBER, _LONGEST if size > _NUMBER else 0)
            )
            page = next((at for at, room in enumerate(self._room) if room >= need), len(self._room))
            if page == len(self._room):
                self._room.append(MOST_STATE - _FRAME)
            self._room[page] -= need
            self._page[key] = page
        return page

    def _update(self, page: int, state: dict[str, str]) -> Update:
        self._next += 1
        token = f"b{self._next}"
        pairs = ",".join(f"{msgspec.json.encode(key).decode()}:{text}" for key, text in state.items())
        payload = f'{{"state":{{"reported":{{{pairs}}}}},"clientToken":"{token}"}}'.encode()
        name = self._name if page == 0 else f"{self._name or _MORE}-{page + 1}"
        shadow = f"/name/{name}" if name else ""
        return Update(f"$aws/things/{self._thing}/shadow{shadow}/update", token, payload, state)


def answer(topic: str, payload: bytes) -> tuple[str, int, str] | None:
    """The token of an answer, with 0 or the code of its refusal, and the service's words; None for what is none."""
    try:
        said = json.loads(payload)
        token = str(said.get("clientToken", ""))
        if topic.endswith("/accepted"):
            return token, 0, ""
        return token, int(said.get("code", 500)), str(said.get("message", ""))
    except (ValueError, TypeError, AttributeError):
        return None


def refusal(code: int, words: str, thing: str) -> DeliveryError:
    """The place of a refused update in the tree."""
    text = f"the shadow of `{thing}` refuses an update: {code} {words}".rstrip()
    match code:
        case 401 | 403:
            return AuthError(f"{text} (let the certificate's policy publish to the thing's shadow topics)")
        case 429:
            return CapacityError(text)
        case _ if code == 409 or code >= 500:
            return TransientError(text)
        case _:
            return ConfigError(f"{text} (check thing_name, shadow_name and shadow_key)")


def each(updates: list[Update], most: int) -> Iterator[list[Update]]:
    """The updates, `most` at a time."""
    for start in range(0, len(updates), most):
        yield updates[start : start + most]
