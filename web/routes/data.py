"""Readings that are posted to the gateway, by the rules or to one connector."""

from collections.abc import Sequence
from typing import Any, Final, Protocol

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from config.models import Configuration
from config.schema import plain
from flows.posted import (
    MOST,
    BusyError,
    CloudData,
    LeavingError,
    NotDurableError,
    Posted,
    UnfitError,
)
from web.errors import ApiError, ErrorAnswer

_MOST_BYTES: Final = 1024 * 1024
_MOST_PROBLEMS: Final = 100
_READINGS: Final = TypeAdapter(list[CloudData])
_JSON: Final = "application/json"


class Taker(Protocol):
    """What readings are posted to."""

    config: Configuration
    posted: Posted


class TakenAnswer(BaseModel):
    """What became of the readings of a POST; all of them are durable."""

    accepted: int = Field(description="readings that were new")
    repeated: int = Field(description="readings that had been taken before, and were left out")


def _body() -> dict[str, Any]:
    """What may be posted, for OpenAPI."""
    one = CloudData.model_json_schema()
    many = {"type": "array", "items": one, "maxItems": MOST}
    wrapped = {
        "type": "object",
        "properties": {"readings": many},
        "required": ["readings"],
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {_JSON: {"schema": {"anyOf": [one, many, wrapped]}}}}}


_ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    413: {"model": ErrorAnswer, "description": "too much at once; nothing was taken"},
    415: {"model": ErrorAnswer, "description": "not JSON; nothing was taken"},
    422: {"model": ErrorAnswer, "description": "a reading is wrong; nothing was taken"},
    429: {"model": ErrorAnswer, "description": "too much waits for the disk; nothing was taken"},
    503: {"model": ErrorAnswer, "description": "the gateway is about to stop, or its disk does not answer"},
}


def data_router(gateway: Taker) -> APIRouter:
    """Routes to post readings."""
    router = APIRouter(tags=["data"])

    @router.post("/api/data", responses=_ANSWERS, openapi_extra=_body())
    async def post_data(request: Request) -> TakenAnswer:
        """Take one reading, a list, or {"readings": [...]}, all or none: they go by the rules.

        Answered when they are durable. A reading with an `id` that was taken before with the same content is left out.
        """
        return await _take(gateway, await _readings(request), None)

    @router.post(
        "/api/cloud/connectors/{name}/data",
        responses=_ANSWERS | {404: {"model": ErrorAnswer, "description": "there is no such connector"}},
        openapi_extra=_body(),
    )
    async def post_to_connector(name: str, request: Request) -> TakenAnswer:
        """The same for one connector: it alone gets them, whatever the rules say."""
        known(gateway, name)
        return await _take(gateway, await _readings(request), name)

    return router


def known(gateway: Taker, name: str) -> None:
    """Refuse a connector that is not there.

    Raises:
        ApiError: It is not.
    """
    if name not in gateway.config.targets:
        raise ApiError(404, f"there is no connector `{name}`; there are {', '.join(gateway.config.targets)}")


async def _readings(request: Request) -> list[CloudData]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _JSON:
        raise ApiError(415, f"post readings as {_JSON}; this came as {kind or 'nothing that is named'}")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise ApiError(413, f"more than {_MOST_BYTES} bytes at once; post the readings in parts")
    try:
        found = from_json(bytes(body), allow_inf_nan=False)
    except ValueError as error:
        raise ApiError(422, f"the body is not JSON: {error}", [("", str(error))]) from None
    start: tuple[str | int, ...] = ()
    if isinstance(found, dict) and "readings" in found:
        if len(found) > 1 or not isinstance(found["readings"], list):
            raise ApiError(
                422, "beside `readings`, a list, nothing can be said", [("/readings", "it is a list, alone")]
            )
        found, start = found["readings"], ("readings",)
    alone = not isinstance(found, list)
    readings = [found] if alone else found
    if len(readings) > MOST:
        raise ApiError(413, f"{len(readings)} readings at once; {MOST} are taken, post them in parts")
    try:
        return _READINGS.validate_python(readings)
    except ValidationError as error:
        raise _wrong(error, start, len(readings), alone=alone) from None


def _wrong(error: ValidationError, start: Sequence[str | int], count: int, *, alone: bool) -> ApiError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    problems = []
    for item in found[:_MOST_PROBLEMS]:
        number, *rest = item["loc"]
        place = rest if alone else [*start, number, *rest]
        problems.append(("".join(f"/{part}" for part in place), plain(item["msg"])))
    wrong = {item["loc"][0] for item in found}
    detail = "the reading is wrong" if alone else f"{len(wrong)} of {count} readings are wrong, nothing was taken"
    return ApiError(422, f"{detail}: {problems[0][0]}: {problems[0][1]}", problems)


async def _take(gateway: Taker, readings: Sequence[CloudData], target: str | None) -> TakenAnswer:
    try:
        taken = await gateway.posted.take(readings, target)
    except BusyError as error:
        raise ApiError(429, str(error), headers={"Retry-After": "1"}) from None
    except (LeavingError, NotDurableError) as error:
        raise ApiError(503, str(error), headers={"Retry-After": "5"}) from None
    except UnfitError as error:
        raise ApiError(422, str(error)) from None
    return TakenAnswer(accepted=taken.accepted, repeated=taken.repeated)
