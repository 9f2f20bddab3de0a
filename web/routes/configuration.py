"""The configuration as a whole: its files, what a change would change, and what there was before."""

import difflib
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import BaseModel, ConfigDict, Field

from config.history import texts_for
from config.reference import editor_schema
from config.shown import told, understood
from config.yaml_nodes import ProblemsError
from delivery.disk import StoreError
from web.changing import AppliedChange, Change, Changeable, applied, desk_of, worded
from web.errors import ApiError, Problem

Texts = Annotated[dict[Annotated[str, Field(max_length=255)], str], Field(min_length=1, max_length=200)]


class FilesNow(BaseModel):
    """The files of the configuration."""

    number: int | None = Field(description="number in the history; null when it is not kept")
    base: str = Field(description="tells these texts from others; to be sent with a change of them")
    files: dict[str, str] = Field(description="the texts by the names of the files")


class Wanted(BaseModel):
    """Files as they should be."""

    model_config = ConfigDict(extra="forbid")

    files: Texts = Field(description="all files by their names: the main one, and conf.d/NAME.yaml")


class WantedNow(Wanted):
    """Files as they should be from now on."""

    gateway: str = Field("", description="name of the gateway that is meant; empty for the one that answers")
    base: str | None = Field(None, description="`base` of the files that these were made from; null not to ask")


class PlanAnswer(BaseModel):
    """What a change would change, or why it cannot be made."""

    changes: list[Change]
    problems: list[Problem]
    warnings: list[str]


class Kept(BaseModel):
    """A configuration that the gateway has run with."""

    number: int
    since_time: datetime
    sources: int
    targets: int
    rules: int
    files: list[str]


class History(BaseModel):
    """The configurations that the gateway has run with, the newest last."""

    configurations: list[Kept]


class KeptFiles(BaseModel):
    """A configuration that the gateway has run with, and what has changed since."""

    number: int
    since_time: datetime
    files: dict[str, str]
    diff: str = Field(description="from it to the files as they are now, as a unified diff")
    changes: list[Change] = Field(description="from it to what runs")


class Rollback(BaseModel):
    """Which configuration is to be run again."""

    model_config = ConfigDict(extra="forbid")

    gateway: str = Field("", description="name of the gateway that is meant; empty for the one that answers")
    number: int = Field(ge=1, le=999_999, strict=True)


def configuration_router(gateway: Changeable) -> APIRouter:
    """Routes to look at the configuration and to change it.

    Args:
        gateway: Whose.
    """
    router = APIRouter(prefix="/api/config", tags=["configuration"])

    @router.get("", responses={409: {"description": "it came from no file"}})
    def files() -> FilesNow:
        """The files as they are. Secrets may stand in them, so that this is for administrators."""
        found = desk_of(gateway).current()
        return FilesNow(number=found.number, base=found.base, files=found.files)

    @router.get("/show")
    def show() -> dict[str, Any]:
        """The configuration that runs, with every default and without secrets."""
        return understood(gateway.config)

    @router.get("/schema")
    def schema() -> dict[str, Any]:
        """The JSON schema of the configuration."""
        return editor_schema()

    @router.post("/plan", responses={409: {"description": "it came from no file"}})
    def plan(order: Wanted) -> PlanAnswer:
        """What these files would change about what runs. Changes nothing."""
        try:
            with worded():
                found = desk_of(gateway).plan(order.files)
        except ProblemsError as error:
            problems = [Problem(where=str(p.place), message=_said(p.path, p.message)) for p in error.problems]
            return PlanAnswer(changes=[], problems=problems, warnings=[])
        places = {part: str(place) for part, place in found.places.items()}
        return PlanAnswer(
            changes=[Change(**told(one, places)) for one in found.changes], problems=[], warnings=list(found.warnings)
        )

    @router.post(
        "/apply", responses={409: {"description": "the files have changed meanwhile, or it cannot be done now"}}
    )
    def apply(order: WantedNow) -> AppliedChange:
        """Check these files, write them, and run as they say; when that cannot be done nothing has changed."""
        desk = desk_of(gateway)
        _meant(gateway, order.gateway)
        try:
            with worded():
                return applied(desk, desk.apply(order.files, order.base))
        except StoreError as error:
            if "no file of it" in str(error):
                raise ApiError(422, str(error), [("/body/files", str(error))]) from error
            raise

    @router.get("/history")
    def history() -> History:
        """The configurations that the gateway has run with, the newest last."""
        entries = [] if gateway.desk is None else gateway.desk.history()
        return History(
            configurations=[
                Kept(
                    number=entry.number,
                    since_time=entry.since,
                    sources=len(entry.parts.get("source", {})),
                    targets=len(entry.parts.get("target", {})),
                    rules=len(entry.parts.get("rule", {})),
                    files=list(entry.files),
                )
                for entry in entries
            ]
        )

    @router.get("/history/{number}", responses={409: {"description": "it came from no file"}})
    def kept(number: Annotated[int, Path(ge=1, le=999_999)]) -> KeptFiles:
        """One of them: its files, and what has changed since."""
        desk = desk_of(gateway)
        with worded():
            entry = desk.entry(number)
        then, now = texts_for(entry, desk.path), desk.current().files
        lines: list[str] = []
        for name in sorted({*then, *now}):
            before, after = (text.get(name, "").splitlines(keepends=True) for text in (then, now))
            lines += difflib.unified_diff(before, after, f"{number}/{name}", f"now/{name}")
        differing = entry.differs(gateway.config)
        return KeptFiles(
            number=number,
            since_time=entry.since,
            files=then,
            diff="".join(line if line.endswith("\n") else line + "\n" for line in lines),
            changes=[Change(**told(one, {})) for one in differing],
        )

    @router.post(
        "/rollback",
        responses={
            404: {"description": "the history has no such configuration"},
            409: {"description": "it cannot be done now"},
        },
    )
    def rollback(order: Rollback) -> AppliedChange:
        """Run as an earlier configuration says, its comments and all."""
        desk = desk_of(gateway)
        _meant(gateway, order.gateway)
        with worded():
            return applied(desk, desk.rollback(order.number))

    return router


def _meant(gateway: Changeable, name: str) -> None:
    own = gateway.config.gateway
    if name not in ("", own):
        raise ApiError(409, f"this is gateway `{own}`, and `{name}` is meant")


def _said(path: str, message: str) -> str:
    return f"{path}: {message}" if path else message
