"""Errors as every route answers them: one sentence, and where it helps a list of problems with their places."""

from collections.abc import Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from config.schema import plain
from config.yaml_nodes import ProblemsError
from delivery.disk import StoreError
from flows.spools import NoSuchSpoolError

log = structlog.get_logger()


class Problem(BaseModel):
    """One thing that is wrong."""

    where: str = Field(description="file, line and column, or a JSON pointer into the body or the query")
    message: str = Field(description="what is wrong there, in plain words")


class ErrorAnswer(BaseModel):
    """What is answered when something is not done."""

    detail: str = Field(description="what, where, and what to do, in one sentence")
    problems: list[Problem] = Field([], description="each thing that is wrong, with its place")


class ApiError(Exception):
    """Something is not done.

    Attributes:
        status: The status of the answer.
        detail: One plain sentence.
        problems: Places and messages.
        headers: Headers of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        problems: Sequence[tuple[str, str]] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.detail, self.problems, self.headers = status, detail, tuple(problems), headers


def body_of(detail: str, problems: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """The body of an error's answer."""
    listed = [{"where": where, "message": message} for where, message in problems]
    return {"detail": detail, "problems": listed}


def _answer(status: int, detail: str, problems: Sequence[tuple[str, str]] = (), headers: Any = None) -> JSONResponse:
    return JSONResponse(body_of(detail, problems), status, headers=headers)


def _pointer(loc: Sequence[int | str]) -> str:
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in loc)


def install(app: FastAPI) -> None:
    """Have an app answer errors in this form."""

    @app.exception_handler(ApiError)
    async def _api(_: Request, error: ApiError) -> JSONResponse:
        return _answer(error.status, error.detail, error.problems, error.headers)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        detail = str(error.detail)
        if error.status_code == 404 and detail == "Not Found":
            detail = f"there is nothing at {request.url.path}; the API is described at /openapi.json"
        elif error.status_code == 405:
            detail = f"{request.url.path} does not take {request.method}"
        return _answer(error.status_code, detail, (), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [(_pointer(item["loc"]), plain(item["msg"])) for item in error.errors()]
        return _answer(422, "the request is not as this route takes it", problems)

    @app.exception_handler(ProblemsError)
    async def _problems(_: Request, error: ProblemsError) -> JSONResponse:
        problems = [(str(problem.place), problem.message) for problem in error.problems]
        return _answer(422, "the configuration is not sound; nothing was changed", problems)

    @app.exception_handler(NoSuchSpoolError)
    async def _no_spool(_: Request, error: NoSuchSpoolError) -> JSONResponse:
        return _answer(404, str(error))

    @app.exception_handler(UnicodeEncodeError)
    async def _no_text(_: Request, error: UnicodeEncodeError) -> JSONResponse:
        return _answer(422, f"a text has half of a character in it, which cannot be written: {error.reason}")

    @app.exception_handler(StoreError)
    async def _store(_: Request, error: StoreError) -> JSONResponse:
        return _answer(503, str(error))

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", method=request.method, path=request.url.path, exc_info=error)
        return _answer(500, "the gateway made a mistake; its log says more. Data flows on")
