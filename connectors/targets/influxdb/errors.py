"""What a server's answer means, as the contract's errors: one table of statuses, and what its words tell of lines. Pure.

InfluxDB writes what it can of a request and says how much it dropped (1.x, 2.x: ``partial write: … dropped=N``; 3.x: a list
of lines), or nothing of it (2.x when a line cannot be parsed). Which lines are at fault is told by their number, by their
text, or by the name of a field; where it is not told, the request is halved, which does no harm: a point that is written
again is the same point.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, Final

from connectors.contract import AuthError, CapacityError, ConfigError, DeliveryError, TransientError

_DROPPED: Final = re.compile(r"dropped=(\d+)|dropped (\d+) points")
_UNPARSABLE: Final = re.compile(r"unable to parse '(.*?)': [^\n]*", re.DOTALL)
_CONFLICT: Final = re.compile(r'field type conflict: input field "([^"]+)" on measurement')
_NUMBERED: Final = re.compile(r"\bline (\d+)\b")

# What a 400 or 422 says when it is not about the lines, but about the request.
_SETTINGS: Final = re.compile(
    r"precision|consistency|database is required|database name|retention policy not found|bucket (name|is)|organization|"
    r"\borg\b|gzip|content.encoding|decompress",
    re.IGNORECASE,
)
_FULL: Final = re.compile(
    r"cache-max-memory-size exceeded|no space left|too many (open files|requests|concurrent)|limit exceeded",
    re.IGNORECASE,
)
_STATUSES: Final[Mapping[int, tuple[Callable[[str], DeliveryError], str]]] = {
    401: (AuthError, "check username, password and token"),
    403: (AuthError, "grant the gateway's user or token to write there"),
    404: (ConfigError, "check `database`, `bucket` and `organization`, or set `create: auto`"),
    405: (ConfigError, "check `url` and `version`"),
    407: (AuthError, "a proxy stands between"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        status: HTTP status.
        text: What it said, in one line.
        retry_after: Seconds after which it wants to be asked again.
        is_influx: Whether it answered as InfluxDB does; else it may be a proxy's page.
        whole: All that it said.
        lines: Lines that it names, from 0, with its words about each.
    """

    status: int
    text: str
    retry_after: float | None = None
    is_influx: bool = True
    whole: str = ""
    lines: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Fault:
    """Lines of a request that the server does not take.

    Attributes:
        reasons: Its words by line, from 0; empty when it does not say which lines.
        text: Its words.
        rest_written: Whether it has written the others.
    """

    reasons: Mapping[int, str]
    text: str
    rest_written: bool


def read_answer(status: int, headers: Mapping[str, str], body: bytes, now: float) -> Answer:
    """An answer as it came; `now` is the time in seconds since the epoch, for a Retry-After that is a date."""
    after = _seconds(headers.get("Retry-After"), now)
    said = body.decode("utf-8", "replace")
    try:
        found = json.loads(said)
    except ValueError:
        given = headers.get("X-Influxdb-Error")
        return Answer(status, _short(given or said), after, is_influx=given is not None, whole=given or said)
    if not isinstance(found, dict):
        return Answer(status, _short(said), after, is_influx=False)
    text = str(found.get("message") or found.get("error") or said)
    return Answer(status, _short(text), after, whole=text, lines=_named(found, text))


def _named(found: Mapping[str, Any], text: str) -> dict[int, str]:
    """The lines that an answer names by their number, which counts from 1."""
    data = found.get("data")
    items = data if isinstance(data, list) else [data] if isinstance(data, dict) else []
    named = {
        int(item["line_number"]) - 1: _short(str(item.get("error_message", text)))
        for item in items
        if isinstance(item, dict) and isinstance(item.get("line_number"), int)
    }
    if not named and isinstance(found.get("line"), int) and not isinstance(found["line"], bool):
        named = {int(number) - 1: _short(text) for number in _NUMBERED.findall(text)} or {
            int(found["line"]) - 1: _short(text)
        }
    return named


def _short(text: str) -> str:
    return " ".join(text.split())[:600]


def _seconds(value: str | None, now: float) -> float | None:
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None


def delivery_error(answer: Answer, where: str) -> DeliveryError:
    """The place of an answer that is not about lines in the tree.

    Args:
        answer: The answer.
        where: Who answered, without secrets.
    """
    text = f"{where}: HTTP {answer.status}: {answer.text or 'without a word'}"
    if answer.status in _STATUSES:
        make, advice = _STATUSES[answer.status]
        return make(f"{text} ({advice})")
    if answer.status in (429, 503) or (answer.status >= 500 and _FULL.search(answer.text)):
        return CapacityError(text, answer.retry_after)
    if "retention policy not found" in answer.text:
        return ConfigError(f"{text} (check `retention_policy`, or set `create: auto`)")
    if answer.status >= 500 or answer.status in (408, 425) or "pending deletion" in answer.text:
        return TransientError(text, answer.retry_after)
    if 300 <= answer.status < 400:
        return ConfigError(f"{text} (it wants to be asked elsewhere: check `url`)")
    if answer.status < 300:
        return ConfigError(f"{text} (InfluxDB answers 204: check `url` and `version`)")
    return ConfigError(f"{text} (check `url`, `version` and the settings beside them)")


def fault(
    answer: Answer, lines: Callable[[], Sequence[bytes]], with_field: Callable[[str], Sequence[int]]
) -> Fault | None:
    """What an answer says about the lines of a request; None when it is about something else.

    Args:
        answer: The answer.
        lines: Gives the lines that were sent.
        with_field: Gives the lines that have the field of a name.
    """
    if answer.status == 413:
        return Fault(_alone(lines(), f"too large for the server: {answer.text}"), answer.text, rest_written=True)
    if answer.status not in (400, 422) or not answer.is_influx or "pending deletion" in answer.text:
        return None
    partial = "partial write" in answer.text
    if not partial and not answer.lines and _SETTINGS.search(_UNPARSABLE.sub("", answer.whole)):
        return None
    sent = lines()
    reasons = _at_fault(answer, sent, with_field) or _alone(sent, answer.text)
    return Fault(reasons, answer.text, rest_written=partial)


def _alone(sent: Sequence[bytes], why: str) -> dict[int, str]:
    """The line, where it is the only one."""
    return {0: why} if len(sent) == 1 else {}


def _at_fault(answer: Answer, sent: Sequence[bytes], with_field: Callable[[str], Sequence[int]]) -> dict[int, str]:
    """The lines at fault; empty unless it is sure that they are all."""
    if answer.lines:
        sound = all(0 <= line < len(sent) for line in answer.lines)
        return dict(answer.lines) if sound else {}
    if texts := {_short(match[1]): _short(match[0]) for match in _UNPARSABLE.finditer(answer.whole)}:
        named = {at: texts[text] for at, line in enumerate(sent) if (text := _short(line.decode())) in texts}
        return named if len(named) == answer.whole.count("unable to parse '") else {}
    dropped = sum(int(one or other) for one, other in _DROPPED.findall(answer.whole)[-1:])
    if dropped == len(sent):
        return dict.fromkeys(range(dropped), answer.text)
    if conflict := _CONFLICT.search(answer.whole):
        suspects = with_field(conflict[1])
        if len(suspects) == dropped:
            return dict.fromkeys(suspects, answer.text)
    return {}
