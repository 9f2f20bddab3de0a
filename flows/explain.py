"""What the gateway would do with one reading or one captured message: every step as data. Pure.

It is what `bifrost explain` and `bifrost test-config` show. Each step is done by the code of the running flow: the source's
decoder, `Normalizer`, `Reporter`, `Router`, and the targets' encoders. Nothing is opened and nothing is written.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import numpy as np
import pyarrow as pa

from config.models import POSTED, Configuration
from connectors.contract import Context, DeliveryError
from connectors.dry_run import Captured, Message, Registers, Written
from connectors.settings import SourceConfig
from connectors.wire.json_lines import JsonLinesEncoder
from delivery.journal import SHARDS, shard_of
from flows.isolation import isolate, refuse_routing, refused
from flows.posted import PostedSource, posted_sources, router_of
from normalization.normalizer import Normalizer, NotNormalizableError, normalize_tag
from normalization.passing import REASONS
from normalization.reading import Quality, Tag, TagTable, ValueType, numbers, repeat, view
from normalization.report import Exceptions, Reported, Reporter, Ruled

__all__ = [
    "Explanation",
    "Path",
    "Reading",
    "Report",
    "Target",
    "Verdict",
    "explain",
    "is_named",
    "plain",
    "source_named",
    "sources_of",
]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PLACES: Final = ("site", "area", "line", "equipment", "signal_type")


@dataclass(frozen=True, slots=True)
class Path:
    """How a reading came by its path.

    Attributes:
        path: The ISA-95 path; empty where none results.
        template: The template that it is made by.
        template_of: What said the template: the source, or `normalization.path_template`.
        pattern: `match` of the mapping that took the tag; None where none did.
        places: The places that are known of the tag, with those that are empty left out.
    """

    path: str
    template: str
    template_of: str
    pattern: str | None
    places: dict[str, str]


@dataclass(frozen=True, slots=True)
class Report:
    """What report by exception says.

    Attributes:
        rule: The rule of the tag; None where every reading passes.
        passes: Whether the reading goes on.
        reason: Why it does not; empty where it does.
    """

    rule: dict[str, Any] | None
    passes: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a routing rule says.

    Attributes:
        rule: Its name.
        condition: Its condition.
        matched: Whether it matches.
        values: What the reading has in the columns that the condition looks at.
        connectors: Where it sends what it matches.
        priority: The priority that it gives.
    """

    rule: str
    condition: str
    matched: bool
    values: dict[str, Any]
    connectors: tuple[str, ...]
    priority: int


@dataclass(frozen=True, slots=True)
class Target:
    """What a target would be given.

    Attributes:
        name: Its name.
        type: Its type.
        because: Why it gets the reading: rules by name, the source's own table, the default, or that it was posted for it.
        written: What would be sent.
        refused: Why the reading can never be written there; empty where it can.
    """

    name: str
    type: str
    because: list[str]
    written: list[Written] = field(default_factory=list)
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading on its way.

    Attributes:
        raw: It as the decoder made it.
        path: How it came by its path.
        normalized: It after normalizing, with type, unit and quality.
        conversions: What the mapping asks for: scale, offset, type and alarm.
        dead_letter: Why no target gets it; empty where it is sound.
        report: What report by exception says.
        rules: What each routing rule says, in their order; empty where none is asked.
        targets: Where it goes.
        left_out: Why it goes nowhere without being a dead letter; empty otherwise.
        released: Whether it was held back by a swinging door, and passes because of what came now.
    """

    raw: dict[str, Any]
    path: Path
    normalized: dict[str, Any]
    conversions: dict[str, Any]
    dead_letter: str
    report: Report
    rules: list[Verdict]
    targets: list[Target]
    left_out: str
    released: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    """What became of what was captured last.

    Attributes:
        source: The source.
        protocol: Its protocol.
        captured: What came from the device.
        readings: The readings that were made of it.
    """

    source: str
    protocol: str
    captured: dict[str, Any]
    readings: list[Reading]


def source_named(config: Configuration, name: str) -> SourceConfig | None:
    """The source with this name, those of readings that are posted among them; None where there is none."""
    return next((one for one in (*config.sources, *posted_sources(config.targets)) if one.name == name), None)


def sources_of(config: Configuration, tag: str, source: str = "", device: str = "") -> list[tuple[SourceConfig, Tag]]:
    """The sources that read a tag, each with the tag's row.

    A tag that the configuration names goes before one that a source may find at its device. What is posted can have any
    name, so it is looked for only where `source` says so.

    Args:
        config: The configuration.
        tag: Address, name, device/address or path of the tag.
        source: Name of the only source to look in.
        device: The device as its protocol names it, of a tag that the configuration does not name.
    """
    asked = config.sources if not source else [one for one in [source_named(config, source)] if one is not None]
    wanted = [_counting(one) for one in asked]
    named = [(one, row) for one in wanted for row in one.named_rows() if is_named(row, tag, config.path_template)]
    if named:
        return list({(one.name, row): (one, row) for one, row in named}.values())
    return [(one, row) for one in wanted if (row := one.row_of(tag, device)) is not None]


def _counting(source: SourceConfig) -> SourceConfig:
    """A copy that knows which pattern took which tag: the source itself may be in use, and must not be disturbed."""
    copy = source.model_copy()
    copy.__dict__.pop("matcher", None)
    copy.matcher.taken = {}
    return copy


def is_named(row: Tag, wanted: str, template: str) -> bool:
    """Whether a tag is meant by its address, name, device/address or path."""
    if wanted in (row.address, row.tag_name, f"{row.device_id}/{row.address}"):
        return True
    try:
        return normalize_tag(row, template).path == wanted
    except NotNormalizableError:
        return False


def explain(
    config: Configuration,
    source: SourceConfig,
    captured: Sequence[Captured | pa.RecordBatch],
    tags: TagTable,
    received: int | Sequence[int],
) -> Explanation:
    """What the flow makes of what came from a source.

    Args:
        config: The configuration.
        source: The source.
        captured: What came, in this order; the last is explained, those before it are what the source, and report by
            exception, remember. Batches of ``FACTS`` are readings that a reader has made, whose tags are in `tags`.
        tags: The tag table; an empty one unless readings are given.
        received: When it was received, µs since the epoch, UTC; one for all, or one for each.

    Raises:
        CapturedError: The source gets no such thing.
    """
    rest = [one for one in captured if not isinstance(one, pa.RecordBatch)]
    if source.matcher.taken is None:
        source = _counting(source)
    decoded = iter(source.decode_captured(rest, tags.intern) if rest else [])
    flow = _Flow(config, source, tags)
    readings: list[Reading] = []
    sequence = 0
    times = [received] * len(captured) if isinstance(received, int) else received
    for one, when in zip(captured, times, strict=True):
        if isinstance(one, pa.RecordBatch):
            facts = one
        else:
            rows = next(decoded)
            facts = rows.to_batch(np.full(len(rows), when, np.int64), sequence)
        readings = flow.readings(facts)
        sequence += len(facts)
    last = captured[-1]
    told = {} if isinstance(last, pa.RecordBatch) else _told(last)
    return Explanation(source.name, source.protocol, told, readings)


class _Flow:
    """The steps of the flow, one after the other, with what they remember."""

    def __init__(self, config: Configuration, source: SourceConfig, tags: TagTable) -> None:
        self._config, self._source, self._tags = config, source, tags
        self._normalizer = Normalizer(tags, config.path_template)
        self._ruled, self._reporter = Ruled(tags), Reporter(tags)
        self._router = router_of(config)
        self._alone = isinstance(source, PostedSource) and source.name != POSTED
        self._json = JsonLinesEncoder()
        self._context = Context(config.gateway, config.directory)
        self._shard = SHARDS[shard_of(source.protocol, source.name)]

    def readings(self, facts: pa.RecordBatch) -> list[Reading]:
        """What becomes of the readings of one delivery."""
        count = len(facts)
        if not count:
            return []
        names = [*facts.schema.names, "gateway", "shard"]
        columns = [*facts.columns, repeat(self._config.gateway, count), repeat(self._shard, count)]
        raw = pa.RecordBatch.from_arrays(columns, names=names)
        parts = isolate(self._normalizer, lambda row, reason: refused(row, reason, self._tags), raw)
        found: list[Reading] = []
        at = 0
        for batch in parts:
            reported = self._reported(batch)
            for late in [] if reported.late is None else [reported.late]:
                found += [
                    self._reading(late.slice(row, 1), late.slice(row, 1), 0, released=True) for row in range(len(late))
                ]
            for row in range(len(batch)):
                one = batch.slice(row, 1)
                before = self._viewed(raw.slice(at, 1))
                found.append(self._reading(before, one, int(reported.reasons[row])))
                at += 1
        return found

    def _reported(self, batch: pa.RecordBatch) -> Reported:
        if not self._ruled(batch):
            return Reported(np.zeros(len(batch), np.int8), None)
        return self._reporter(batch)

    def _viewed(self, raw: pa.RecordBatch) -> pa.RecordBatch:
        """A reading as the decoder made it, with its names."""
        facts = [raw.column(name) for name in raw.schema.names if name not in ("gateway", "shard")]
        value = numbers(raw.column("type"), raw.column("value_double"), raw.column("value_int"))
        priority = pa.array(np.zeros(len(raw), np.int32))
        return view(facts, raw.column("gateway"), raw.column("shard"), self._tags, value, priority)

    def _said(self, one: pa.RecordBatch) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self._json.encode(one))
        return said

    def _reading(self, raw: pa.RecordBatch, one: pa.RecordBatch, reason: int, *, released: bool = False) -> Reading:
        tag, was = self._tags[one.column("tag")[0].as_py()], self._tags[raw.column("tag")[0].as_py()]
        dead = one.column("reject")[0].as_py() or ""
        report = Report(_rule(tag), not reason, REASONS[reason])
        rules: list[Verdict] = []
        targets: list[Target] = []
        left_out = f"report by exception: {report.reason}" if reason else ""
        if not reason:
            (routed,) = isolate(self._router, refuse_routing, one)
            rules = [] if dead or self._alone else self._verdicts(one)
            if len(routed.dead):
                dead = routed.batch.column("reject")[0].as_py()
            elif len(routed.unmatched):
                left_out = "no rule matches, and there is no default_connector"
            one = routed.batch
            targets = [self._target(name, routed.select(name), rules, tag.source) for name in routed.targets]
        mapping = json.loads(was.mapping)
        conversions = {key: mapping[key] for key in ("scale", "offset", "type", "alarm") if key in mapping}
        normalized = self._said(one)
        return Reading(
            self._said(raw),
            self._path(was, tag),
            normalized,
            conversions,
            dead,
            report,
            rules,
            targets,
            left_out,
            released,
        )

    def _path(self, raw: Tag, tag: Tag) -> Path:
        mapping = json.loads(raw.mapping)
        template = mapping.get("template")
        general = self._config.path_template
        said = self._source.path_template
        of = f"source {self._source.name}" if said and said != general else "normalization.path_template"
        number = next(
            (n for n, names in (self._source.matcher.taken or {}).items() if f"{raw.device_id}/{raw.address}" in names),
            None,
        )
        pattern = None if number is None else self._source.tags[number].match
        places = {name: text for name in _PLACES if (text := getattr(tag, name) or mapping.get(name, ""))}
        return Path(tag.path, template or general, of, pattern, places)

    def _verdicts(self, one: pa.RecordBatch) -> list[Verdict]:
        found = []
        for rule, columns, truth in self._router.verdicts(one):
            matched = truth if isinstance(truth, bool) else bool(truth[0])
            values = {name: _shown(name, one.column(name)[0].as_py()) for name in columns}
            found.append(Verdict(rule.name, rule.condition, matched, values, rule.connectors, rule.priority))
        return found

    def _target(self, name: str, share: pa.RecordBatch, rules: Sequence[Verdict], source: str) -> Target:
        config = self._config.targets[name]
        because = [f"rule {one.rule}" for one in rules if one.matched and name in one.connectors]
        if self._config.source_targets.get(source) == name:
            because.append("the source's own table")
        if self._alone:
            because.append("it was posted for this target alone")
        because = because or ["default_connector"]
        try:
            return Target(name, config.type, because, config.written(share, self._context))
        except DeliveryError as error:
            reasons = getattr(error, "reasons", None)
            return Target(name, config.type, because, [], "; ".join(reasons) if reasons else str(error))


def _rule(tag: Tag) -> dict[str, Any] | None:
    if Exceptions.of(tag) is None:
        return None
    said: dict[str, Any] = json.loads(tag.mapping)["report"]
    return said


def _shown(column: str, value: Any) -> Any:
    """A value of a column as a condition writes it."""
    if column == "quality":
        return Quality(value).name
    if column == "type":
        return ValueType(value).name
    return value


def _told(captured: Captured) -> dict[str, Any]:
    if isinstance(captured, Message):
        return {"topic": captured.topic, "payload": captured.payload, "retained": captured.retained}
    if isinstance(captured, Registers):
        told: dict[str, Any] = {"table": captured.table, "first": captured.first, "words": captured.words}
        if captured.unit_id is not None:
            told["unit_id"] = captured.unit_id
    else:
        tag = captured.tag
        told = {"device": tag.device_id, "tag": tag.address, "value": captured.value}
        told |= {key: said for key in ("quality", "type") if (said := getattr(captured, key)) != ""}
    if captured.time is not None:
        told["time"] = _EPOCH + timedelta(microseconds=captured.time)
    return told


def plain(explanation: Explanation) -> dict[str, Any]:
    """An explanation as values of JSON; bytes are text where they are UTF-8, else base64 in an object."""
    found: dict[str, Any] = _jsonable(asdict(explanation))
    return found


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(part) for part in value]
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, float) and not np.isfinite(value):
        return {np.inf: "Infinity", -np.inf: "-Infinity"}.get(value, "NaN")
    return value if value is None or isinstance(value, bool | int | float | str) else _iso(value)


def _text(data: bytes) -> Any:
    import base64

    try:
        text = data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}
    return {"base64": base64.b64encode(data).decode()} if "\0" in text else text


def _iso(value: Any) -> str:
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
