"""The way of the readings as a graph, coloured by how its parts stand."""

from collections.abc import Mapping
from typing import Final, Literal, Protocol

from pydantic import BaseModel, Field

from config.models import Configuration
from connectors.contract import SourceState
from delivery.breaker import BreakerState
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from delivery.journal import Journal
from flows.intake import SourceIntake
from web.rates import Rates, rounded

Health = Literal["ok", "warn", "bad", "idle"]
_OLD: Final = 60.0  # seconds that a reading may wait for a target before that is worth a word


class Node(BaseModel):
    """A part of the pipeline."""

    id: str = Field(description="unique in the graph")
    kind: Literal["source", "step", "target"] = Field(description="what it is")
    name: str = Field(description="its name")
    health: Health = Field(description="ok, warn, bad, or idle when nothing is to be done")
    detail: str = Field(description="why, in words")
    rate: float | None = Field(
        description="readings per second over the last seconds; null when it is too early to tell"
    )


class Edge(BaseModel):
    """Where readings go from one part to another."""

    from_: str = Field(alias="from", description="id of the part that they come from")
    to: str = Field(description="id of the part that they go to")
    rate: float | None = Field(description="readings per second over the last seconds")


class Pipeline(BaseModel):
    """The parts, in the order of the data's way, and what connects them."""

    nodes: list[Node] = Field(description="the parts")
    edges: list[Edge] = Field(description="what connects them")


class Drawn(Protocol):
    """What is drawn."""

    config: Configuration
    journal: Journal
    dead_letters: DeadLetterStore

    @property
    def intakes(self) -> Mapping[str, SourceIntake]:
        """The sources' intakes."""

    @property
    def forwarders(self) -> Mapping[str, Forwarder]:
        """The targets' forwarders."""


def pipeline(process: Drawn, rates: Rates) -> Pipeline:
    """The pipeline as it is now."""
    found = rates.now()
    nodes: list[Node] = []
    edges: list[Edge] = []

    def rate(kind: str, name: str) -> float | None:
        return rounded(found.get((kind, name), 0.0 if found else None))

    def step(name: str, health: Health, detail: str, through: float | None) -> str:
        nodes.append(Node(id=f"step:{name}", kind="step", name=name, health=health, detail=detail, rate=through))
        return f"step:{name}"

    def edge(start: str, end: str, through: float | None) -> None:
        edges.append(Edge.model_validate({"from": start, "to": end, "rate": through}))

    intakes = dict(process.intakes)
    for name, intake in intakes.items():
        health, detail = _source(intake)
        nodes.append(
            Node(id=f"source:{name}", kind="source", name=name, health=health, detail=detail, rate=rate("source", name))
        )
    read = _sum(found, "source")
    waiting = process.journal.waiting_rows
    behind = waiting > process.journal.memory_rows // 2
    journal = step("journal", "warn" if behind else "ok", f"{waiting} readings wait for the flow", read)
    for name in intakes:
        edge(f"source:{name}", journal, rate("source", name))
    last = step("normalize", "ok", "path, quality, type and unit", rate("step", "normalize"))
    edge(journal, last, rate("step", "normalize"))
    if any(source.report is not None or any(tag.report for tag in source.tags) for source in process.config.sources):
        report = step(
            "report by exception", "ok", "readings that say nothing new are left out", rate("step", "normalize")
        )
        edge(last, report, rate("step", "normalize"))
        last = report
    route = step("route", "ok", f"{len(process.config.rules)} rules", _sum(found, "to"))
    edge(last, route, rate("step", "normalize"))
    for name, forwarder in dict(process.forwarders).items():
        health, detail = _target(forwarder)
        nodes.append(
            Node(id=f"target:{name}", kind="target", name=name, health=health, detail=detail, rate=rate("target", name))
        )
        edge(route, f"target:{name}", rate("to", name))
    letters = process.dead_letters
    dead: Health = "bad" if letters.alarm else "warn" if letters.total else "idle"
    said = letters.alarm or (f"{letters.total} readings that no target takes" if letters.total else "none")
    grows = rate("step", "dead letters")
    nodes.append(Node(id="dead_letters", kind="target", name="dead letters", health=dead, detail=str(said), rate=grows))
    edge(route, "dead_letters", grows)
    return Pipeline(nodes=nodes, edges=edges)


def _sum(rates: Mapping[tuple[str, str], float], kind: str) -> float | None:
    return rounded(sum(rate for (of, _), rate in rates.items() if of == kind)) if rates else None


def _source(intake: SourceIntake) -> tuple[Health, str]:
    status = intake.status
    match status.state:
        case SourceState.CONNECTED:
            return ("ok", f"{len(status.tags)} tags") if status.received else ("idle", "connected, no reading yet")
        case SourceState.CONNECTING:
            return "warn", status.detail or "connecting"
        case SourceState.DOWN:
            return "bad", status.detail or "not connected"
    return "idle", "stopped"


def _target(forwarder: Forwarder) -> tuple[Health, str]:
    status, spool = forwarder.status, forwarder.spool
    if spool.alarm:
        return "bad", str(spool.alarm)
    waits = f"{spool.stored_rows} readings wait"
    if status.last_error:
        return ("warn" if status.breaker is BreakerState.CLOSED else "bad"), f"{status.last_error}; {waits}"
    age = spool.oldest_age or 0.0
    if age > _OLD:
        return "warn", f"{waits}, the oldest for {age:.0f} s"
    return ("ok" if status.delivered else "idle"), waits
