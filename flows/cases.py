"""Runs a test of a configuration on the engine of `flows.explain`, and says what is not as it was expected. Pure."""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from config.cases import Case, Expected, Given, WrittenExpected
from config.models import Configuration
from connectors.dry_run import Captured, CapturedError, Message, Registers, Sample
from connectors.settings import SourceConfig
from flows.explain import Explanation, Reading, explain, plain, source_named, sources_of
from normalization.reading import TagTable

_CLOSE: Final = 1e-9
_SAID: Final = {"tag_name": "tag_name", "device": "device_id", "type": "type", "quality": "quality", "status": "status"}


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Something that is not as it was expected.

    Attributes:
        path: Where in the case the expectation stands.
        message: What was expected, and what was found.
    """

    path: tuple[str | int, ...]
    message: str


def run(config: Configuration, case: Case) -> list[Mismatch]:
    """What is not as a case expects it; nothing when all is.

    Args:
        config: The configuration.
        case: The case.
    """
    try:
        source, captured = _captured(config, case)
        received = [_micros(one.received) for one in (*case.before, case.given)]
        found = explain(config, source, captured, TagTable(), received)
    except (CapturedError, OSError) as error:
        return [Mismatch(("given",), str(error))]
    return list(_compared(case, found))


def _captured(config: Configuration, case: Case) -> tuple[SourceConfig, list[Captured]]:
    source = _source(config, case)
    return source, [_one(config, source, given) for given in (*case.before, case.given)]


def _source(config: Configuration, case: Case) -> SourceConfig:
    name, tag = case.given.source, case.given.tag
    known = ", ".join(one.name for one in config.sources) or "none"
    if name and source_named(config, name) is None:
        raise CapturedError(f"there is no source `{name}`; the configuration has: {known}")
    if tag is not None:
        found = sources_of(config, tag, name, case.given.device)
        if not found:
            raise CapturedError(f"no source reads `{tag}`; the configuration has: {known}")
        if len({one.name for one, _ in found}) > 1:
            raise CapturedError(f"`{tag}` may be of {', '.join(one.name for one, _ in found)}; name the `source`")
        return found[0][0]
    named = config.sources[0] if not name and len(config.sources) == 1 else source_named(config, name)
    if named is not None:
        return named
    raise CapturedError(f"name the `source`; the configuration has: {known}")


def _one(config: Configuration, source: SourceConfig, given: Given) -> Captured:
    when = None if given.time is None else _micros(given.time)
    if given.topic is not None:
        return Message(given.topic, given.payload_bytes, given.retained)
    if given.registers is not None:
        said = given.registers
        return Registers(said.first, tuple(said.words), said.table, said.unit_id, when)
    tag = given.tag or ""
    rows = [row for one, row in sources_of(config, tag, source.name, given.device)]
    if given.device or given.unit or not rows:
        address = rows[0].address if rows else tag
        row = source.row_of(address, given.device, given.unit)
        rows = [row] if row is not None else []
    if not rows:
        raise CapturedError(f"the source {source.name} does not read `{tag}`")
    if len(rows) > 1:
        places = ", ".join(f"{row.device_id}/{row.address}" for row in rows)
        raise CapturedError(f"`{tag}` may be one of {places}; write the longer name")
    return Sample(rows[0], given.value, given.quality, when, given.type)


def _micros(when: datetime) -> int:
    return round((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1e6)


# ---------------------------------------------------------------------- comparing


def _compared(case: Case, found: Explanation) -> Iterator[Mismatch]:
    told = plain(found)["readings"]
    several = isinstance(case.expect, list)
    wanted: Sequence[Expected] = case.expect if isinstance(case.expect, list) else [case.expect]
    if len(wanted) != len(told):
        names = ", ".join(one["normalized"].get("tag_name", "") for one in told)
        yield Mismatch(
            ("expect",), f"expected {_counted(len(wanted))}, found {_counted(len(told))} ({names or 'none'})"
        )
        return
    for at, (expected, reading, values) in enumerate(zip(wanted, found.readings, told, strict=True)):
        base = ("expect", at) if several else ("expect",)
        for mismatch in _of_reading(expected, reading, values):
            yield Mismatch((*base, *mismatch.path), mismatch.message)


def _counted(count: int) -> str:
    return f"{count} reading{'' if count == 1 else 's'}"


def _of_reading(expected: Expected, reading: Reading, told: Mapping[str, Any]) -> Iterator[Mismatch]:
    said = told["normalized"]
    asked = expected.model_fields_set

    def differs(key: str, found: Any) -> Iterator[Mismatch]:
        wanted = getattr(expected, key)
        if key in asked and not _same(wanted, found):
            yield Mismatch((key,), f"expected {_shown(wanted)}, found {_shown(found)}")

    yield from differs("path", reading.path.path)
    yield from differs("pattern", reading.path.pattern)
    for key, name in _SAID.items():
        yield from differs(key, said.get(name))
    yield from differs("value", said.get("value"))
    yield from differs("unit", said.get("unit", ""))
    yield from differs("priority", said.get("priority", 0))
    if expected.time is not None:
        text = said.get("source_time")
        if text is None or _micros(datetime.fromisoformat(text)) != _micros(expected.time):
            yield Mismatch(("time",), f"expected {expected.time.isoformat()}, found {_shown(text)}")
    for key, found in (
        ("rules", [one.rule for one in reading.rules if one.matched]),
        ("targets", [one.name for one in reading.targets]),
    ):
        wanted = getattr(expected, key)
        if wanted is not None and sorted(wanted) != sorted(found):
            yield Mismatch((key,), f"expected {_shown(sorted(wanted))}, found {_shown(sorted(found))}{_why(reading)}")
    for key, reason in (("dead_letter", reading.dead_letter), ("left_out", reading.left_out)):
        yield from _reason(getattr(expected, key), reason, (key,))
    if reading.dead_letter and expected.dead_letter is None:
        yield Mismatch((), f"the reading is a dead letter: {reading.dead_letter}")
    by_name = {one["name"]: one for one in told["targets"]}
    for name in [*expected.written, *expected.refused]:
        key = "written" if name in expected.written else "refused"
        if name not in by_name:
            yield Mismatch((key, name), f"the target does not get the reading{_why(reading)}")
    for name, reason in expected.refused.items():
        if name in by_name:
            yield from _reason(reason, by_name[name]["refused"], ("refused", name))
    for target in reading.targets:
        if target.refused and target.name not in expected.refused:
            yield Mismatch((), f"the target {target.name} would refuse it: {target.refused}")
        elif target.name in expected.written:
            yield from _of_target(expected.written[target.name], by_name[target.name]["written"], target.name)


def _why(reading: Reading) -> str:
    reason = reading.left_out or reading.dead_letter
    return f": {reason}" if reason else ""


def _reason(wanted: str | None, found: str, path: tuple[str, ...]) -> Iterator[Mismatch]:
    if wanted is not None and (wanted not in found or not found):
        yield Mismatch(path, f"expected a reason with {_shown(wanted)}, found {_shown(found or None)}")


def _of_target(expected: WrittenExpected, written: Sequence[Mapping[str, Any]], name: str) -> Iterator[Mismatch]:
    """Something of what is written must be as expected; else what comes nearest is told."""
    tries = [list(_of_written(expected, one)) for one in written]
    if not tries:
        yield Mismatch(("written", name), "expected something to be written, found nothing")
        return
    for mismatch in min(tries, key=len):
        yield Mismatch(("written", name, *mismatch.path), mismatch.message)


def _of_written(expected: WrittenExpected, found: Mapping[str, Any]) -> Iterator[Mismatch]:
    if expected.place is not None and expected.place != found["place"]:
        yield Mismatch(("place",), f"expected {_shown(expected.place)}, found {_shown(found['place'])}")
    payload = found["payload"]
    if "payload" in expected.model_fields_set:
        said = _payload(payload, expected.payload)
        if not _within(expected.payload, said):
            yield Mismatch(("payload",), f"expected {_shown(expected.payload)}, found {_shown(said)}")
    if expected.payload_base64 is not None:
        data = payload["base64"] if isinstance(payload, dict) else base64.b64encode((payload or "").encode()).decode()
        if data != expected.payload_base64:
            yield Mismatch(("payload_base64",), f"expected {_shown(expected.payload_base64)}, found {_shown(data)}")
    for key, wanted in expected.fields.items():
        if key not in found["fields"]:
            there = ", ".join(found["fields"]) or "nothing"
            yield Mismatch(("fields", key), f"expected {_shown(wanted)}, found no such field; there are {there}")
        elif not _within(wanted, found["fields"][key]):
            yield Mismatch(("fields", key), f"expected {_shown(wanted)}, found {_shown(found['fields'][key])}")


def _payload(payload: Any, wanted: Any) -> Any:
    if not isinstance(payload, str):
        return payload
    if isinstance(wanted, str):
        return payload.removesuffix("\n") if not wanted.endswith("\n") else payload
    try:
        return json.loads(payload)
    except ValueError:
        return payload


def _within(wanted: Any, found: Any) -> bool:
    """Whether what is found says what is wanted; it may say more in mappings."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(
            key in found and _within(part, found[key]) for key, part in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(found, list)
            and len(wanted) == len(found)
            and all(_within(one, other) for one, other in zip(wanted, found, strict=True))
        )
    return _same(wanted, found)


def _same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is found
    if isinstance(wanted, float) and not math.isfinite(wanted):  # as JSON lines say it
        wanted = "NaN" if math.isnan(wanted) else "Infinity" if wanted > 0 else "-Infinity"
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        if isinstance(wanted, int) and isinstance(found, int):
            return wanted == found
        return math.isclose(wanted, found, rel_tol=_CLOSE)
    return bool(wanted == found)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
