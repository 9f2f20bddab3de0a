"""The dead letters on the gateway's HTTP port.

What changes something wants JSON that names the gateway: a page in a browser cannot send that unasked, and it cannot meet
another gateway.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Final

from fastapi import APIRouter, Depends
from fastapi import Query as Said
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from delivery.letter import Selection
from flows import letters
from web.errors import ApiError

if TYPE_CHECKING:
    from flows.process import Process

JSON_LINES: Final = "application/x-ndjson"
EXPORTED: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {JSON_LINES: {"schema": {"type": "string"}}}}}
OTHERS: Final[dict[int | str, dict[str, Any]]] = {409: {"description": "this is another gateway"}}
_LONGEST_PAGE: Final = 500
_MOST: Final = 2**53

Number = Annotated[int, Field(ge=0, le=_MOST, strict=True)]
Text = Annotated[str, Field(max_length=2_000)]


class JsonLines(StreamingResponse):
    """A JSON object a line."""

    media_type = JSON_LINES


class Order(BaseModel):
    """What is to be done with dead letters, and whose they are."""

    model_config = ConfigDict(extra="forbid")

    gateway: Text = Field("", description="name of the gateway that is meant")
    target: Text | None = None
    source: Text | None = None
    reason: Text | None = None
    since: Annotated[float, Field(strict=True)] | None = Field(None, description="seconds since 1970")
    until: Annotated[float, Field(strict=True)] | None = Field(None, description="seconds since 1970")
    number: Number | None = None
    limit: Number | None = None


def _selection(
    target: str | None = None,
    source: str | None = None,
    reason: str | None = None,
    since: float | None = None,
    until: float | None = None,
    number: Annotated[int | None, Said(ge=0, le=_MOST)] = None,
    limit: Annotated[int | None, Said(ge=0, le=_MOST)] = None,
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
        """Single readings, 500 at most; the export has all."""
        if query.limit is not None and query.limit > _LONGEST_PAGE:
            raise ApiError(
                422, f"a page has {_LONGEST_PAGE} at most; the export has all", [("/query/limit", "too many")]
            )
        page = query if query.limit is not None else replace(query, limit=_LONGEST_PAGE)
        return {"gateway": gateway, **letters.each(process, page)}

    @router.get("/export", response_class=JsonLines, responses=EXPORTED)
    def export(query: Query) -> JsonLines:
        """JSON lines."""
        return JsonLines(letters.export(process, query))

    def done(order: Order, act: "Callable[[Process, Selection], dict[str, Any]]") -> dict[str, Any]:
        wanted = order.model_dump()
        if wanted.pop("gateway") != gateway:
            raise ApiError(409, f"this is gateway `{gateway}`; name it to change something")
        return {"gateway": gateway, **act(process, Selection(**wanted))}

    @router.post("/replay", responses=OTHERS)
    def replay(order: Order) -> dict[str, Any]:
        """Send dead letters again."""
        return done(order, letters.send_again)

    @router.post("/purge", responses=OTHERS)
    def purge(order: Order) -> dict[str, Any]:
        """Delete dead letters."""
        return done(order, letters.purge)

    return router
