"""What is happening now: event streams, the newest readings, and the pipeline."""

from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from normalization.rules import RuleError
from web.errors import ApiError
from web.feeds import StatusFeed, TagsFeed
from web.live import Live
from web.pipeline import Drawn, Pipeline, pipeline
from web.rates import Rates
from web.streams import Feed, Streams
from web.tail import Tail, filter_of

_MOST_TAGS: Final = 500
_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "server-sent events"}
}


def live_router(process: Drawn, live: Live, rates: Rates, status: Callable[[], dict[str, Any]]) -> APIRouter:
    """Routes to watch.

    Args:
        process: The gateway.
        live: The readings.
        rates: Readings per second.
        status: How the gateway stands.
    """
    router = APIRouter(prefix="/api", tags=["live"])
    streams = Streams()

    @router.get("/events", response_class=StreamingResponse, responses=_STREAM)
    async def events(
        topics: Annotated[
            str, Query(max_length=8192, description="`status`, and `tags:1,2,3` for the last readings of these tags")
        ] = "status",
    ) -> StreamingResponse:
        """Events `status` and `tags` with what has changed, between once and four times a second.

        The first of each holds everything. `tags:` takes 500 numbers; a comment comes every 15 s when nothing else does.
        """
        wants_status, tags = _topics(topics)
        feeds: dict[str, Callable[[], Feed]] = {}
        if wants_status:
            feeds["status"] = lambda: StatusFeed(status, rates)
        if tags is not None:
            feeds[f"tags {tags}"] = lambda: TagsFeed(live, tags)
        return streams.open(feeds)

    @router.get("/pipeline")
    def read_pipeline() -> Pipeline:
        """The way of the readings: sources, steps, targets and dead letters, how they stand, and what goes between them."""
        return pipeline(process, rates)

    @router.get("/tail", response_class=StreamingResponse, responses=_STREAM)
    async def tail(
        condition: Annotated[
            str,
            Query(
                alias="filter", max_length=4096, description="condition as in a routing rule; empty for all readings"
            ),
        ] = "",
    ) -> StreamingResponse:
        """Events `tail` with the newest readings that match: 50 at most, between once and four times a second.

        `left_out` counts the others that match, `not_looked_at` those that nobody had the time to look at.
        """
        try:
            chosen = filter_of(condition)
        except RuleError as error:
            raise _wrong(error, "/query/filter") from None
        return streams.open({f"tail {condition}": lambda: Tail(live, chosen)})

    return router


def _topics(text: str) -> tuple[bool, tuple[int, ...] | None]:
    """Whether the status is wanted, and the numbers of the tags that are."""
    wants_status, tags, in_tags = False, set[int](), False
    for word in filter(None, (part.strip() for part in text.split(","))):
        if word == "status":
            wants_status, in_tags = True, False
            continue
        number = word
        if word.startswith("tags:"):
            in_tags, number = True, word.removeprefix("tags:").strip()
            if not number:
                continue
        if not in_tags or not (number.isascii() and number.isdecimal() and len(number) < 10):
            message = f"`{word}` is no topic; there are status, and tags: with numbers of tags"
            raise ApiError(422, message, [("/query/topics", message)])
        tags.add(int(number))
    if len(tags) > _MOST_TAGS:
        message = f"{len(tags)} tags in one stream; {_MOST_TAGS} can be watched"
        raise ApiError(422, message, [("/query/topics", message)])
    if not wants_status and not tags:
        message = "name what to watch: status, or tags: with numbers of tags"
        raise ApiError(422, message, [("/query/topics", message)])
    return wants_status, tuple(sorted(tags)) if tags else None


def _wrong(error: RuleError, place: str) -> ApiError:
    where = f"{place}:{error.line}:{error.column}"
    return ApiError(
        422, f"the condition is wrong at {error.line}:{error.column}: {error.message}", [(where, error.message)]
    )
