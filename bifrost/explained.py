"""An explanation for people: the steps one below the other, what is wrong marked by a word and not by a colour alone."""

import base64
import json
from typing import Any

from rich.console import Console
from rich.text import Text

from config.logs import escaped
from flows.explain import Explanation, Reading, Target, plain

_WIDTH = 12
_MOST = 2_000  # characters of what is written


def show(explanation: Explanation, out: Console) -> None:
    """Print an explanation."""
    steps = _Steps(out)
    steps.title(f"{explanation.source} ({explanation.protocol})")
    told = plain(explanation)
    if explanation.captured:
        steps.add("captured", "; ".join(f"{key} {_value(part)}" for key, part in told["captured"].items()))
    if not explanation.readings:
        steps.add("readings", "none: the source keeps this message for later, or it says nothing of a tag", "yellow")
    for number, (reading, values) in enumerate(zip(explanation.readings, told["readings"], strict=True), 1):
        if len(explanation.readings) > 1:
            steps.title(f"reading {number} of {len(explanation.readings)}")
        _reading(reading, values, steps)


class _Steps:
    def __init__(self, out: Console) -> None:
        self._out = out

    def title(self, text: str) -> None:
        self._out.print(Text(escaped(text), style="bold"))

    def add(self, name: str, text: str, style: str = "") -> None:
        line = Text(f"  {name:<{_WIDTH}}", style="dim")
        line.append(escaped(text), style=style or "not dim")
        self._out.print(line, soft_wrap=True)


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MOST else f"{text[:_MOST]}… ({len(text)} characters)"


def _measured(said: dict[str, Any]) -> str:
    unit = f" {said['unit']}" if said.get("unit") else ""
    when = said.get("source_time")
    time = f"measured {when}" if when else f"received {said['received_time']}, the device gives no time"
    return f"{_value(said.get('value'))}{unit}  {said['type']}  {said['quality']}  {time}"


def _reading(reading: Reading, told: dict[str, Any], steps: _Steps) -> None:
    raw, normalized, path = told["raw"], told["normalized"], reading.path
    if reading.released:
        steps.add("held back", "an earlier reading that a swinging door held back passes now")
    steps.add("parsed", f"{raw.get('device_id', '')}/{raw.get('address', '')}  {_measured(raw)}")
    pattern = f"mapping `{path.pattern}`" if path.pattern is not None else "no mapping of `tags` takes it"
    places = ", ".join(f"{name} {text}" for name, text in path.places.items()) or "no places"
    steps.add("path", path.path or "none", "bold" if path.path else "red")
    steps.add("", f"by {path.template} ({path.template_of}); {pattern}; {places}")
    if reading.conversions:
        steps.add("conversion", ", ".join(f"{key} {_value(part)}" for key, part in reading.conversions.items()))
    steps.add("normalized", _measured(normalized))
    if reading.dead_letter:
        steps.add("DEAD LETTER", reading.dead_letter, "red")
        return
    report = reading.report
    if report.rule is not None:
        verdict = "passes" if report.passes else f"LEFT OUT: {report.reason}"
        steps.add("report", f"{verdict}; rule {_value(report.rule)}", "" if report.passes else "yellow")
    for rule in told["rules"]:
        values = ", ".join(f"{name} = {_value(part)}" for name, part in rule["values"].items())
        mark = "matches " if rule["matched"] else "does not"
        to = f" -> {', '.join(rule['connectors'])}" if rule["matched"] else ""
        steps.add("rule", f"{mark}  {rule['rule']}: {rule['condition']}   ({values}){to}")
    if reading.left_out:
        steps.add("LEFT OUT", reading.left_out, "yellow")
    for target, values in zip(reading.targets, told["targets"], strict=True):
        _target(target, values, steps)


def _target(target: Target, told: dict[str, Any], steps: _Steps) -> None:
    steps.add("target", f"{target.name} ({target.type}), because of {', '.join(target.because)}", "bold")
    if target.refused:
        steps.add("REFUSED", target.refused, "red")
    for one in told["written"]:
        beside = {key: part for key, part in one["fields"].items() if part is not None}
        steps.add("", f"{one['place']}")
        payload = one["payload"]
        if isinstance(payload, dict):
            size = len(base64.b64decode(payload["base64"]))
            steps.add("", f"{size} bytes that are no text; --json has them")
        elif payload is not None:
            steps.add("", _value(payload.rstrip("\n")))
        if beside:
            steps.add("", _value(beside))
