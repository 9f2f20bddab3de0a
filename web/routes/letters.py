"""The dead letters on the gateway's HTTP port.

What changes something wants JSON that names the gateway: a page in a browser cannot send that unasked, and it cannot meet
another gateway.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, HTTPException
from fastapi.responses import StreamingResponse

from delivery.letter import Selection
from flows import letters

if TYPE_CHECKING:
    from flows.process import Process


@dataclass(frozen=True, slots=True)
class Order(Selection):
    """What is to be done with dead letters, and whose they are."""

    gateway: str = ""


def _selection(
    target: str | None = None,
    source: str | None = None,
    reason: str | None = None,
    since: float | None = None,
    until: float | None = None,
    number: int | None = None,
    limit: int | None = None,
) -> Selection:
    return Selection(target, source, reason, since, until, number, limit)


def letters_router(process: "Process") -> APIRouter:
    """Routes to look at dead letters, to send them again, and to delete them."""
    router = APIRouter(prefix="/api/dead-letters", tags=["store and forward"])
    gateway = process.config.gateway
    Query = Annotated[Selection, Depends(_selection)]  # noqa: N806 - a type

    @router.get("")
    def groups(query: Query) -> dict[str, Any]:
        """Groups by target, class and reason."""
        return {"gateway": gateway, **letters.groups(process, query)}

    @router.get("/each")
    def each(query: Query) -> dict[str, Any]:
        """Single readings."""
        return {"gateway": gateway, **letters.each(process, query)}

    @router.get("/export")
    def export(query: Query) -> StreamingResponse:
        """JSON lines."""
        lines = letters.export(process, query)
        return StreamingResponse(lines, media_type="application/x-ndjson")

    def done(order: Order, act: "Callable[[Process, Selection], dict[str, Any]]") -> dict[str, Any]:
        wanted = asdict(order)
        if wanted.pop("gateway") != gateway:
            raise HTTPException(409, f"this is gateway `{gateway}`; name it to change something")
        return {"gateway": gateway, **act(process, Selection(**wanted))}

    @router.post("/replay")
    def replay(order: Order) -> dict[str, Any]:
        """Send dead letters again."""
        return done(order, letters.send_again)

    @router.post("/purge")
    def purge(order: Order) -> dict[str, Any]:
        """Delete dead letters."""
        return done(order, letters.purge)

    return router
