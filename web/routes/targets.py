"""Targets and rules: what each is told and how it stands; adding, changing, removing and testing."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import pyarrow as pa
import yaml
from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from config import edit
from config.loader import load
from config.models import NAME_PATTERN, Target
from config.reference import choices
from config.shown import plain, with_logins, without_logins
from discovery.guard import Guard, refusal_of
from flows.doctor import examine_target
from normalization.rules import Router, Rule, RuleError
from web.access.callers import MaybeCaller
from web.access.guard import audit_more
from web.changing import AppliedChange, Written, desk_of, edited, worded
from web.errors import ApiError
from web.routes.sources import Schemas, refuse_secrets
from web.speeds import Speeds
from web.status import target_status

if TYPE_CHECKING:
    from config.models import Configuration
    from connectors.settings import TargetConfig
    from delivery.forwarder import Forwarder

Name = Annotated[str, Path(max_length=63)]
Plain = dict[str, Any]
_TEST: Final = 10.0
_CHANGES: Final[dict[int | str, dict[str, Any]]] = {
    409: {
        "description": "the name is taken, the files have changed meanwhile, or it cannot be done while the gateway runs"
    }
}


class TargetAnswer(BaseModel):
    """A target."""

    name: str
    type: str
    enabled: bool
    endpoint: str
    status: Plain = Field(description="as in GET /api/status; empty when it is not written to")
    rate: float | None = Field(description="readings per second since an earlier look; null at the first")
    editable: bool = Field(description="false where the section zerobus or the default makes it")
    yaml: str
    config: Plain = Field(description="what it is told, secrets as ********")


class Targets(BaseModel):
    """All targets."""

    gateway: str
    targets: list[TargetAnswer]


class NewTarget(BaseModel):
    """A target to be added."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "archive", "config": {"type": "file", "endpoint": "data/archive"}}]},
    )

    name: str = Field(pattern=NAME_PATTERN)
    config: Plain = Field(description="as it would stand in YAML under its name")


class TryTarget(NewTarget):
    """A target to be tried."""

    write: StrictBool = Field(False, description="whether one test record is written, of the source `bifrost-doctor`")


class TargetTest(BaseModel):
    """What a test of a target found."""

    ok: bool
    findings: list[Plain] = Field(description="what was looked at: ok, subject, detail")
    error: str
    took: float


class Rules(BaseModel):
    """The routing rules, in their order."""

    rules: list[Plain]


class WantedRule(BaseModel):
    """A routing rule."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=255)
    condition: str = Field(
        max_length=10_000, description="SQL boolean expression over the columns of a reading, or name=value"
    )
    connectors: list[str] = Field(min_length=1, max_length=100, description="targets that get the readings that match")
    priority: int = Field(0, ge=-(2**31), lt=2**31, strict=True, description="larger is more urgent")


class WantedRules(BaseModel):
    """The routing rules as they should be."""

    model_config = ConfigDict(extra="forbid")

    rules: list[WantedRule] = Field(max_length=500)


class RuleMatches(BaseModel):
    """How often a rule matched."""

    name: str
    matched: int
    of: int
    error: str = Field(description="why its condition cannot be used; empty when it can")


class RulesTest(BaseModel):
    """How often each rule matched recent readings."""

    rules: list[RuleMatches]
    unmatched: int = Field(description="readings that no rule matched")
    of: int = Field(description="recent readings that were looked at")


@dataclass(frozen=True, slots=True)
class _Looks:
    running: "Mapping[str, TargetConfig]"
    written: Mapping[str, Plain]
    forwarders: "Mapping[str, Forwarder]"
    speeds: Speeds


def targets_router(gateway: Any, recent: Callable[[], Sequence[pa.RecordBatch]] = list) -> APIRouter:
    """Routes of targets and rules.

    Args:
        gateway: Whose: with `config`, `desk` and `forwarders`.
        recent: Readings that came lately, normalized, which rules are tried on.
    """
    router = APIRouter(tags=["targets"])
    speeds, texts = Speeds(), Written(gateway)

    def listed() -> list[TargetAnswer]:
        config: Configuration = gateway.config
        looks = _Looks(config.targets, texts.targets(), gateway.forwarders, speeds)
        return [_told(name, looks) for name in dict.fromkeys([*looks.running, *looks.written])]

    def see(name: str) -> None:
        if name not in {one.name for one in listed()}:
            raise ApiError(404, f"there is no target `{name}`")

    @router.get("/api/schema/targets")
    def schema() -> Schemas:
        """What each type of target may be told."""
        return Schemas(by_type={name: model.model_json_schema() for name, model in choices(Target).items()})

    @router.get("/api/targets")
    def targets() -> Targets:
        """All targets, and how they stand."""
        return Targets(gateway=gateway.config.gateway, targets=listed())

    @router.post("/api/targets", status_code=201, responses=_CHANGES)
    def add(target: NewTarget, request: Request) -> AppliedChange:
        """Add a target; it is written to from now on."""
        audit_more(request.state, target=target.name)
        if target.name in {one.name for one in listed()}:
            raise ApiError(409, f"there is a target `{target.name}` already")
        return edited(desk_of(gateway), lambda files: edit.put_target(files, target.name, target.config))

    @router.post("/api/targets/test", responses=_CHANGES)
    def test(target: TryTarget, caller: MaybeCaller, request: Request) -> TargetTest:
        """Connect and look; writes nothing unless told to."""
        audit_more(request.state, target=target.name, write=str(target.write))
        desk = desk_of(gateway)
        files = desk.current().files
        there = _written(files).get(target.name)
        if there is None or without_logins(there) != target.config:
            refuse_secrets(target.config, caller)
        with worded():
            config = load(desk.path, edit.put_target(files, target.name, with_logins(target.config, there)))
        found = config.targets.get(target.name)
        if found is None:
            raise ApiError(422, "the target is not enabled")
        if reason := refusal_of(found, Guard(own_port=config.port)):
            raise ApiError(422, reason)
        began = time.monotonic()

        async def look() -> list[Plain]:
            async with asyncio.timeout(_TEST):
                seen = await examine_target(target.name, found, config, write=target.write, now=datetime.now(UTC))
                return [{"ok": f.ok, "subject": f.subject, "detail": f.detail} for f in seen.findings]

        try:
            findings, error = asyncio.run(look()), ""
        except TimeoutError:
            findings, error = [], f"no answer in {_TEST:g} s; is the address right, and is it reached?"
        error = error or next((str(finding["detail"]) for finding in findings if not finding["ok"]), "")
        return TargetTest(ok=not error, findings=findings, error=error, took=round(time.monotonic() - began, 3))

    @router.get("/api/targets/{name}")
    def one(name: Name) -> TargetAnswer:
        """One target."""
        see(name)
        return next(target for target in listed() if target.name == name)

    @router.put("/api/targets/{name}", responses=_CHANGES)
    def change(name: Name, target: Plain) -> AppliedChange:
        """Give a target other settings. A secret that is sent as ******** stays as it is."""
        see(name)
        return edited(
            desk_of(gateway), lambda files: edit.put_target(files, name, with_logins(target, _written(files).get(name)))
        )

    @router.delete("/api/targets/{name}", responses=_CHANGES)
    def remove(name: Name) -> AppliedChange:
        """Remove a target. What waits for it is kept, and `bifrost spool` tells of it."""
        see(name)
        return edited(desk_of(gateway), lambda files: edit.remove_target(files, name))

    @router.get("/api/rules")
    def rules() -> Rules:
        """The routing rules, in their order."""
        if gateway.desk is not None:
            with worded():
                return Rules(rules=edit.rules(gateway.desk.current().files))
        return Rules(
            rules=[
                {"name": r.name, "condition": r.condition, "connectors": list(r.connectors), "priority": r.priority}
                for r in gateway.config.rules
            ]
        )

    @router.put("/api/rules", responses=_CHANGES)
    def put_rules(order: WantedRules) -> AppliedChange:
        """Replace the routing rules; readings that come from now on go by them."""
        wanted = [rule.model_dump(mode="json", exclude_unset=True) for rule in order.rules]
        return edited(desk_of(gateway), lambda files: edit.put_rules(files, wanted))

    @router.post("/api/rules/test")
    def test_rules(order: WantedRules) -> RulesTest:
        """How often these rules match the readings that came lately. Changes nothing."""
        batches = list(recent())
        of = sum(len(batch) for batch in batches)
        matches, sound = [], []
        for wanted in order.rules:
            rule = Rule(wanted.name, wanted.condition, tuple(wanted.connectors), wanted.priority)
            try:
                router = Router([rule], (), {})
                sound.append(rule)
                matched = sum(_matched(router, batch) for batch in batches)
                matches.append(RuleMatches(name=rule.name, matched=matched, of=of, error=""))
            except RuleError as error:
                matches.append(RuleMatches(name=rule.name, matched=0, of=of, error=str(error)))
        every = Router(sound, (), {})
        return RulesTest(rules=matches, unmatched=of - sum(_matched(every, batch) for batch in batches), of=of)

    return router


def _matched(router: Router, batch: pa.RecordBatch) -> int:
    return len(batch) - len(router(batch).unmatched)


def _written(files: Mapping[str, str]) -> dict[str, Plain]:
    try:
        return edit.targets(files)
    except edit.EditError:
        return {}


def _told(name: str, looks: _Looks) -> TargetAnswer:
    running, written, forwarder = looks.running.get(name), looks.written.get(name), looks.forwarders.get(name)
    config = without_logins(written if written is not None else plain(running) if running is not None else {})
    return TargetAnswer(
        name=name,
        type=str(config.get("type", "")),
        enabled=running is not None,
        endpoint=str(config.get("endpoint", "")),
        status={} if forwarder is None else target_status(forwarder),
        rate=None if forwarder is None else looks.speeds.of(name, forwarder.status.delivered),
        editable=written is not None,
        yaml=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
        config=config,
    )
