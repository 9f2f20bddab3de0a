"""Sources: what each is told and how it stands; adding, changing, removing and testing one."""

import asyncio
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import yaml
from fastapi import APIRouter, Body, Path, Query, Request
from pydantic import BaseModel, Field, ValidationError
from typing_extensions import override

from config import edit
from config.loader import load
from config.models import Source
from config.reference import choices
from config.shown import MASK, plain, with_logins, without_logins
from connectors.contract import Checks, Context, SourceState
from discovery.guard import Guard, RefusedAddressError, numeric, pinned, refusal_of
from flows.trial import Trial, read_for
from web.access.callers import MaybeCaller
from web.access.gate import Caller
from web.access.guard import audit_more
from web.changing import AppliedChange, Changeable, Written, desk_of, edited, worded
from web.errors import ApiError
from web.speeds import Speeds

if TYPE_CHECKING:
    from config.models import Configuration
    from connectors.settings import SourceConfig
    from flows.intake import SourceIntake

Name = Annotated[str, Path(max_length=63)]
Plain = dict[str, Any]
_TEST: Final = 10.0  # seconds that a test may take
_FIRST: Final = 3.0  # seconds after the first reading in which others are waited for
_LET_GO: Final = 2.0  # seconds that a device may take to let the reader go
_SHOWN: Final = 100
_SHOWN_NODES: Final = 2_000


_EXAMPLE: Final = {
    "name": "press4",
    "protocol": "modbus",
    "endpoint": "tcp://127.0.0.1:502",
    "registers": [{"name": "pressure", "address": 100, "type": "float32", "unit": "bar"}],
}
Given = Annotated[Plain, Body(examples=[_EXAMPLE])]


class Read(Changeable):
    """A gateway whose sources are read."""

    intakes: "dict[str, SourceIntake]"


class SourceAnswer(BaseModel):
    """A source."""

    name: str
    protocol: str
    enabled: bool
    endpoint: str
    state: str = Field(description="connected, connecting, … as `bifrost status` has it; off when it is not read")
    detail: str
    received: int = Field(description="readings since the gateway's start")
    rate: float | None = Field(description="readings per second since an earlier look; null at the first")
    last_reading_us: int | None = Field(description="when it last gave a reading, µs since 1970")
    tags: int
    editable: bool = Field(description="false where a template makes it, and it is edited there")
    yaml: str
    config: Plain = Field(description="what it is told, secrets as ********")


class Sources(BaseModel):
    """All sources."""

    gateway: str
    sources: list[SourceAnswer]


class Schemas(BaseModel):
    """What may be said, as JSON schema."""

    by_type: dict[str, Plain]


class Node(BaseModel):
    """What an OPC UA server has below a node."""

    node_id: str = Field(description="node id with the URI of its namespace")
    name: str
    kind: Literal["object", "variable"]
    type: str = Field(description="data type of a variable")
    unit: str
    value: Any = Field(description="what it says now; bytes as hexadecimal digits")
    status: int = Field(description="its status; 0 is good")
    has_children: bool = Field(description="whether it is worth asking for what is below it")


class Nodes(BaseModel):
    """What an OPC UA server has below a node."""

    nodes: list[Node]
    truncated: bool = Field(description="whether there is more than is listed")


class TestAnswer(BaseModel):
    """What a test of a connection found."""

    ok: bool
    findings: list[Plain] = Field(description="what was looked at: ok, subject, detail")
    readings: list[Plain] = Field(description="the first readings, normalized")
    count: int = Field(description="how many came")
    error: str = Field(description="why it is not well; empty when it is")
    took: float = Field(description="seconds")


def sources_router(gateway: Any) -> APIRouter:
    """Routes of the sources.

    Args:
        gateway: Whose; see `Read`.
    """
    router = APIRouter(tags=["sources"])
    speeds, texts = Speeds(), Written(gateway)

    def listed() -> list[SourceAnswer]:
        config: Configuration = gateway.config
        running = {source.name: source for source in config.sources}
        written = texts.sources()
        names = [*dict.fromkeys([*running, *written])]
        return [_told(name, running.get(name), written.get(name), gateway.intakes.get(name), speeds) for name in names]

    @router.get("/api/schema/sources")
    def schema() -> Schemas:
        """What each protocol's source may be told."""
        return Schemas(by_type={name: model.model_json_schema() for name, model in choices(Source).items()})

    @router.get("/api/sources")
    def sources() -> Sources:
        """All sources, and how they stand."""
        return Sources(gateway=gateway.config.gateway, sources=listed())

    @router.post("/api/sources", status_code=201, responses=_CHANGES)
    def add(source: Given, request: Request) -> AppliedChange:
        """Add a source, as it would stand in YAML; it is read from now on."""
        name = str(source.get("name", ""))
        audit_more(request.state, source=name)
        if name in {one.name for one in listed()}:
            raise ApiError(409, f"there is a source `{name}` already")
        refuse_places(gateway, source)
        return edited(desk_of(gateway), lambda files: edit.put_source(files, None, source))

    @router.post("/api/sources/test", responses=_CHANGES)
    def test(source: Given, caller: MaybeCaller, request: Request) -> TestAnswer:
        """Connect, read for a moment, and say what came. Nothing is stored, delivered or written to the device."""
        audit_more(request.state, source=str(source.get("name", "")))
        wanted, config = trial_of(gateway, source, caller)
        return asyncio.run(_tested(wanted, config))

    @router.get("/api/sources/browse", responses=_BROWSES)
    def browse(
        source: Annotated[str, Query(max_length=63, description="name of an OPC UA source")],
        node: Annotated[str, Query(max_length=1_000, description="node id to look below")] = "i=85",
    ) -> Nodes:
        """What an OPC UA server has below a node, with values. Reads only."""
        found = next((one for one in gateway.config.sources if one.name == source), None)
        if found is None or found.protocol != "opcua":
            raise ApiError(404, f"there is no OPC UA source `{source}`")
        return asyncio.run(_browsed(found, gateway.config, node))

    @router.get("/api/sources/{name}")
    def one(name: Name) -> SourceAnswer:
        """One source."""
        found = next((source for source in listed() if source.name == name), None)
        if found is None:
            raise _unknown(name)
        return found

    @router.put("/api/sources/{name}", responses=_CHANGES)
    def change(name: Name, source: Given) -> AppliedChange:
        """Give a source other settings. A secret that is sent as ******** stays as it is."""
        if name not in {one.name for one in listed()}:
            raise _unknown(name)
        refuse_places(gateway, source)
        return edited(desk_of(gateway), lambda files: edit.put_source(files, name, _as_stored(files, name, source)))

    @router.delete("/api/sources/{name}", responses=_CHANGES)
    def remove(name: Name) -> AppliedChange:
        """Remove a source; what it has given is still delivered."""
        if name not in {one.name for one in listed()}:
            raise _unknown(name)
        return edited(desk_of(gateway), lambda files: edit.remove_source(files, name))

    return router


_CHANGES: Final[dict[int | str, dict[str, Any]]] = {
    409: {
        "description": "the name is taken, the files have changed meanwhile, or it cannot be done while the gateway runs"
    }
}


_BROWSES: Final[dict[int | str, dict[str, Any]]] = {
    404: {"description": "there is no such OPC UA source"},
    502: {"description": "the server cannot be used"},
}


async def _browsed(source: Any, config: "Configuration", node: str) -> Nodes:
    from connectors.sources.opcua import BrowseConfig
    from connectors.sources.opcua.look import UnusableServerError, look

    try:
        wanted = BrowseConfig(roots=[node], include=["*"], max_depth=1, max_nodes=_SHOWN_NODES)
        async with asyncio.timeout(_TEST):
            found = await look(source, Context(config.gateway, config.directory / "sources" / source.name), wanted)
    except ValidationError as error:
        raise ApiError(422, f"`{node}` is no node id", [("/query/node", "is no node id")]) from error
    except UnusableServerError as error:
        raise ApiError(502, str(error)) from error
    except TimeoutError as error:
        raise ApiError(502, f"{source.endpoint}: no answer in {_TEST:g} s") from error
    objects = [
        Node(node_id=place, name=name, kind="object", type="", unit="", value=None, status=0, has_children=True)
        for name, place in sorted(found.folders.items())
        if "/" not in name
    ]
    variables = [
        Node(
            node_id=seen.address,
            name=seen.path,
            kind="variable",
            type=seen.type,
            unit=seen.tag.unit,
            value=_jsonable(seen.value),
            status=seen.status,
            has_children=False,
        )
        for seen in found.variables
    ]
    return Nodes(nodes=[*objects, *variables], truncated=found.truncated)


def _jsonable(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _unknown(name: str) -> ApiError:
    return ApiError(404, f"there is no source `{name}`")


def _written(files: Mapping[str, str]) -> dict[str, Plain]:
    try:
        return edit.sources(files)
    except edit.EditError:  # the files are being edited by hand, and are not YAML at the moment
        return {}


def _as_stored(files: Mapping[str, str], name: str, source: Plain) -> Plain:
    found: Plain = with_logins(source, _written(files).get(name))
    return found


def _told(
    name: str, running: "SourceConfig | None", written: Plain | None, intake: "SourceIntake | None", speeds: Speeds
) -> SourceAnswer:
    config = without_logins(written if written is not None else plain(running) if running is not None else {})
    status = None if intake is None else intake.status
    last = None if status is None or not status.last_reading else round(status.last_reading * 1e6)
    return SourceAnswer(
        name=name,
        protocol=str(config.get("protocol", "")),
        enabled=running is not None,
        endpoint=str(config.get("endpoint", "")),
        state="off" if status is None else str(status.state),
        detail="" if status is None else status.detail,
        received=0 if status is None else status.received,
        rate=None if status is None else speeds.of(name, status.received),
        last_reading_us=last,
        tags=0 if status is None else len(status.tags),
        editable=written is not None,
        yaml=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        config=config,
    )


def trial_of(gateway: Any, source: Plain, caller: Caller | None) -> "tuple[SourceConfig, Configuration]":
    """A source that somebody wants to try, as it would be in the gateway's configuration, and that configuration.

    Args:
        gateway: The gateway.
        source: The source as in YAML.
        caller: Who asks: secrets of the gateway go to a device only if it has them already, or an administrator asks.

    Raises:
        ApiError: It may not be tried.
        ProblemsError: What is wrong with it.
    """
    desk = desk_of(gateway)
    files = desk.current().files
    there = _written(files)
    name = str(source.get("name", ""))
    if name not in there or without_logins(there[name]) != source:
        refuse_secrets(source, caller)
    with worded():
        whole = with_logins({"enabled": True, **source}, there.get(name))
        new = edit.put_source(files, name if name in there else None, whole)
        config = load(desk.path, new)
    found = next((one for one in config.sources if one.name == name), None)
    if found is None:
        raise ApiError(422, "the source is not enabled, or has no name")
    try:
        return pinned(found.trial(), Guard(own_port=config.port)), config
    except RefusedAddressError as error:
        raise ApiError(422, str(error)) from error
    except OSError:  # a name without an address: the trial says so
        return found.trial(), config


def refuse_places(gateway: Any, connector: Plain) -> None:
    """Nothing that is written as a number leads to what no source or target is: link-local, a cloud's metadata, this API.

    Raises:
        ApiError: It would.
    """
    if reason := refusal_of(connector, Guard(own_port=gateway.config.port), numeric):
        raise ApiError(422, reason)


def refuse_secrets(wanted: Plain, caller: Caller | None) -> None:
    """Nobody but an administrator has a secret or file of the gateway sent to an address of the caller's own choice.

    Raises:
        ApiError: It would be.
    """
    if caller is not None and caller.role == "admin":
        return
    text = yaml.safe_dump(wanted)
    if "${" in text or MASK in text or "_file" in text:
        raise ApiError(
            403,
            "only an administrator tries settings that name secrets or files of the gateway; as they are stored, everybody may",
        )


class _Trial(Trial):
    """Knows also why a device is not reached."""

    down = ""

    @override
    def state(self, state: SourceState, detail: str = "") -> None:
        self.down = (detail or "it is not reached") if state is SourceState.DOWN else ""


async def _tested(source: "SourceConfig", config: "Configuration") -> TestAnswer:
    began = time.monotonic()
    findings: list[Plain] = []
    trial = _Trial()
    error = ""
    try:
        async with asyncio.timeout(_TEST):
            reader = source.reader(Context(config.gateway, config.directory / "sources" / source.name))
            if isinstance(reader, Checks):
                findings = [{"ok": f.ok, "subject": f.subject, "detail": f.detail} for f in await reader.check()]
            if all(finding["ok"] for finding in findings):
                left = _TEST - (time.monotonic() - began) - 0.5
                error = await _until_read(trial, read_for(max(1.0, left), source, config, trial))
    except TimeoutError:
        error = f"no answer in {_TEST:g} s; is the address right, and is it reached?"
    except ImportError as missing:
        error = f"{missing}; install the extra of this protocol: see the README"
    readings = trial.readings(config)[:_SHOWN] if trial.count else []
    wrong = next((finding["detail"] for finding in findings if not finding["ok"]), "")
    if not error and not wrong and not trial.count:
        error = "it is connected, and gave no reading in this time"
    return TestAnswer(
        ok=not error and not wrong,
        findings=findings,
        readings=readings,
        count=trial.count,
        error=error or str(wrong),
        took=round(time.monotonic() - began, 3),
    )


async def _until_read(trial: _Trial, reading: Any) -> str:
    """Read until something came, and a little longer for what comes with it; why it ended early."""
    task = asyncio.create_task(reading)
    first: float | None = None
    while not task.done():
        await asyncio.wait([task], timeout=0.1)
        if trial.count and first is None:
            first = time.monotonic()
        if trial.down or (first is not None and time.monotonic() - first > _FIRST):
            task.cancel()
            await asyncio.wait([task], timeout=_LET_GO)
            return "" if trial.count else trial.down
    return "" if trial.count else str(task.result())
