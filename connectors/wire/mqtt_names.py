"""Topics of what a target publishes: made from a template per tag, safe for MQTT, and encoded once. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from connectors.wire.messages import Template
from connectors.wire.mqtt_outgoing import MAX_TOPIC, topic_fields
from normalization.reading import Quality

_LEVELS: Final = frozenset({"path", "address", "device_id"})  # columns whose slashes divide levels
# wildcards, and what brokers refuse: control characters and code points that are no characters (MQTT 5.0 §1.5.4)
_UNSAFE: Final = re.compile("[+#\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
_UNSAFE_ABOVE: Final = re.compile(
    f"[{''.join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(1, 17))}]"
)
_EVENT: Final = r'"event_type"\s*:'


def clean(column: str, text: str) -> str:
    """What may stand in a topic: `_` for wildcards and for what brokers refuse; a slash stays where it divides levels."""
    text = _UNSAFE_ABOVE.sub("_", _UNSAFE.sub("_", text))
    return text if column in _LEVELS else text.replace("/", "_")


def joined(*parts: str) -> str:
    """Parts of a topic with slashes between; empty ones are left out."""
    return "/".join(part.strip("/") for part in parts if part.strip("/"))


def of_kinds(prefix: str, data: str, event: str, alarm: str, rest: str) -> tuple[str, str, str]:
    """Templates of the topics of data, events and alarms."""
    return joined(prefix, data, rest), joined(prefix, event, rest), joined(prefix, alarm, rest)


def fault(topic: str, most_bytes: int = MAX_TOPIC, most_slashes: int = MAX_TOPIC) -> str | None:
    """Why this cannot be a topic; None when it can."""
    if not topic:
        return "its topic is empty"
    if topic.startswith("$") and not topic.startswith("$aws/rules/"):
        return f"its topic `{topic[:40]}` begins with $, which belongs to the broker: set a topic_prefix"
    if len(topic.encode()) > most_bytes:
        return f"its topic has more than {most_bytes:,} bytes"
    if topic.count("/") > most_slashes:
        return f"its topic has more than {most_slashes} slashes"
    return None


@dataclass(frozen=True, slots=True)
class Topics:
    """Topics of a batch's readings.

    Attributes:
        names: All topics known so far.
        fields: The same as PUBLISH carries them.
        index: Which of them each reading has.
        wrong: Why some of the topics cannot be used, by their number.
    """

    names: Sequence[str]
    fields: pa.Array
    index: np.ndarray
    wrong: dict[int, str]


class TopicTemplate:
    """Renders topics; keeps what it has rendered, so use one for as long as possible."""

    def __init__(
        self,
        text: str,
        check: Callable[[str], str | None] = fault,
        cleaned: Callable[[str, str], str] = clean,
    ) -> None:
        """Read the template.

        Args:
            text: As for `messages.Template`.
            check: Says why a topic cannot be used.
            cleaned: What may stand in a topic, see `messages.Template`.

        Raises:
            ValueError: The template cannot be read.
        """
        self._template: Final = Template(text, cleaned)
        self._check = check
        self._names: list[str] = []
        self._known = 0
        self._fields = topic_fields([])
        self._wrong: dict[int, str] = {}

    def render(self, batch: pa.RecordBatch) -> Topics:
        """The topics of a batch of `normalization.reading.stream_schema`."""
        found = self._template.render(batch)
        if found.names is not self._names:
            self._names, self._known, self._fields, self._wrong = found.names, 0, topic_fields([]), {}
        more = found.names[self._known :]
        if more:
            faults = [self._check(name) for name in more]
            self._wrong |= {self._known + at: why for at, why in enumerate(faults) if why is not None}
            usable = ["" if why else name for name, why in zip(more, faults, strict=True)]
            self._fields = pa.concat_arrays([self._fields, topic_fields(usable)])
            self._known = len(found.names)
        return Topics(found.names, self._fields, found.index, self._wrong)


def merged(choices: Sequence[Topics], chosen: np.ndarray) -> Topics:
    """Topics of which each reading takes one of several.

    Args:
        choices: Topics of the same batch.
        chosen: Which of them each reading takes.
    """
    if len(choices) == 1:
        return choices[0]
    names: list[str] = []
    wrong: dict[int, str] = {}
    index = np.zeros(len(chosen), np.int64)
    for number, one in enumerate(choices):
        rows = chosen == number
        index[rows] = one.index[rows] + len(names)
        wrong |= {len(names) + at: why for at, why in one.wrong.items()}
        names += one.names
    return Topics(names, pa.concat_arrays([one.fields for one in choices]), index, wrong)


DATA, EVENT, ALARM = 0, 1, 2


def kinds(batch: pa.RecordBatch) -> np.ndarray:
    """Whether each reading is data, an event (its properties say which type of event), or an alarm (its quality says so)."""
    found = np.where(batch.column("quality").to_numpy() == Quality.ALARM, ALARM, DATA)
    properties = batch.column("properties")
    if properties.null_count < len(properties):
        events = pc.fill_null(pc.match_substring_regex(properties, _EVENT), False).to_numpy(zero_copy_only=False)
        found[events & (found == DATA)] = EVENT
    return found


class KindTopics:
    """Topics that depend on the kind of a reading, see `kinds`."""

    def __init__(
        self,
        templates: Sequence[str],
        check: Callable[[str], str | None] = fault,
        cleaned: Callable[[str, str], str] = clean,
    ) -> None:
        """Read the templates.

        Args:
            templates: For data, events and alarms; or one for all of them.
            check: Says why a topic cannot be used.
            cleaned: What may stand in a topic, see `messages.Template`.
        """
        self._templates = [TopicTemplate(text, check, cleaned) for text in templates]

    def render(self, batch: pa.RecordBatch) -> Topics:
        """The topics of a batch."""
        if len(self._templates) == 1:
            return self._templates[0].render(batch)
        found = kinds(batch)
        present = np.flatnonzero(np.bincount(found, minlength=len(self._templates)))
        if len(present) <= 1:
            return self._templates[int(present[0]) if len(present) else DATA].render(batch)
        return merged([self._templates[kind].render(batch) for kind in present], np.searchsorted(present, found))
