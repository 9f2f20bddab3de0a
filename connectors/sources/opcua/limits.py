"""How much a server takes in one request: what it says, and what was learnt where it said nothing or too much."""

import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

_log = logging.getLogger(__name__)

DEFAULT: Final = 1_000  # nodes in one request to a server that states no limit
_FILE: Final = "limits.json"
TOO_MUCH: Final = {
    StatusCodes.BadTooManyOperations,
    StatusCodes.BadEncodingLimitsExceeded,
    StatusCodes.BadRequestTooLarge,
    StatusCodes.BadResponseTooLarge,
    StatusCodes.BadTcpMessageTooLarge,
}
_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


class OperationLimits:
    """The limits of one server.

    Args:
        directory: Where what is learnt is kept between runs.

    Attributes:
        at_once: How many nodes go into one request, by kind: `read`, `browse`, `items`, `history` …
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / _FILE
        self._server = ""
        self._learnt: dict[str, int] = {}
        self.at_once: dict[str, int] = {}

    def stated(self, server: str, **limits: object) -> None:
        """Take what the server says, and what was learnt of the same server before."""
        self._server = server
        try:
            kept = json.loads(self._path.read_bytes())
        except (OSError, ValueError):
            kept = None
        if isinstance(kept, dict) and kept.get("server") == server and isinstance(kept.get("at_once"), dict):
            sound = {name: n for name, n in kept["at_once"].items() if isinstance(n, int) and n > 0}
            self._learnt = sound
        for name, limit in limits.items():
            said = limit if isinstance(limit, int) and limit > 0 else DEFAULT
            self.at_once[name] = min(said, DEFAULT, self._learnt.get(name, DEFAULT))

    def size(self, kind: str) -> int:
        """How many nodes go into one request."""
        return self.at_once.get(kind, min(DEFAULT, self._learnt.get(kind, DEFAULT)))

    def learn(self, kind: str, size: int) -> None:
        """The server did not take more than `size`; it is remembered."""
        self.at_once[kind] = self._learnt[kind] = size
        _log.info("the server %s takes %d nodes in one request of kind %s", self._server, size, kind)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"server": self._server, "at_once": self._learnt}))

    async def ask(
        self, kind: str, asked: Sequence[_Asked], call: Callable[[Sequence[_Asked]], Awaitable[Sequence[_Answer]]]
    ) -> list[_Answer]:
        """Ask for all, in as many requests as necessary; what is refused as too much is asked for in halves.

        Raises:
            UaStatusCodeError: The server refuses it, also when it is one.
        """
        answers: list[Any] = []
        while len(answers) < len(asked):
            part = asked[len(answers) : len(answers) + self.size(kind)]
            try:
                answered = await call(part)
            except UaStatusCodeError as error:
                if error.code not in TOO_MUCH or len(part) == 1:
                    raise
                self.learn(kind, len(part) // 2)
                continue
            if len(answered) != len(part):
                msg = f"{len(answered)} answers to {len(part)} questions"
                raise ConnectionError(msg)
            answers += answered
        return answers
