"""Normalizing: raw readings in, readings with ISA-95 path, one type system and one quality scale out.

The work on names is done on the tag table, once per new tag: a raw row gets a normalized row beside it. A batch then costs
one lookup of row numbers, and column operations for the tags whose mapping converts values.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from normalization.path import PLACES, path_template, signal_type
from normalization.reading import FACTS, Tag, TagTable, numbers, view
from normalization.values import Conversion, Conversions

_TYPE, _DOUBLE, _INT, _REJECT = (
    FACTS.get_field_index(name) for name in ("type", "value_double", "value_int", "reject")
)
_COLUMNS: Final = [*FACTS.names, "gateway", "shard"]
_UNKNOWN: Final = Tag("", "", "", "", "", mapping="")  # stands for a number that the tag table does not have

_Rows = npt.NDArray[np.uint32]


class NotNormalizableError(ValueError):
    """A tag that has no path; the message says why."""


def normalize_tag(tag: Tag, template: str) -> Tag:
    """The normalized row of a raw tag: path, places and kind of signal filled.

    Args:
        tag: A row as `connectors.settings.SourceConfig.tag` writes it; a row that has a path already is returned as it is.
        template: The general path template; the source's own, in the tag's mapping, wins.

    Raises:
        NotNormalizableError: The mapping cannot be read, the template is wrong, or no path results.
    """
    return tag if tag.path else _fill(tag, template, _object(tag.mapping, "mapping"))


def _normalized(tag: Tag, template: str) -> tuple[Tag, Conversion | None]:
    if tag.path:
        return tag, None
    mapping = _object(tag.mapping, "mapping")
    return _fill(tag, template, mapping), Conversion.of(mapping)


def _fill(tag: Tag, template: str, mapping: Mapping[str, Any]) -> Tag:
    places = {name: _text(mapping, name) for name in PLACES}
    kind = _text(mapping, "signal_type") or signal_type(tag.unit, tag.tag_name)
    values = places | {
        "signal_type": kind,
        "tag_name": tag.tag_name.strip() or tag.address,
        "source": tag.source,
        "protocol": tag.protocol,
        "device_id": tag.device_id,
        "address": tag.address,
        "unit": tag.unit,
    }
    try:
        parsed = path_template(_text(mapping, "template") or template)
    except ValueError as error:
        raise NotNormalizableError(str(error)) from None
    if any(name.startswith("metadata.") for name in parsed.placeholders):
        for key, value in _object(tag.metadata, "metadata").items():
            if isinstance(value, str | int | float):
                values[f"metadata.{key}"] = str(value)
    if "tag_name" in parsed.placeholders and not values["tag_name"].strip():
        raise NotNormalizableError("the tag has neither a name nor an address")
    path = parsed.fill(values)
    if not path:
        raise NotNormalizableError(f"no placeholder of the path template `{parsed.text}` has a value")
    return replace(tag, path=path, signal_type=kind, **places)


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise NotNormalizableError(f"the tag's {what} is not a JSON object")
    return value


def _text(mapping: Mapping[str, Any], key: str) -> str:
    value = mapping.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise NotNormalizableError(f"mapping: {key} is not a text")
    return value.strip()


class Normalizer:
    """Normalizes batches; pure but for what it remembers of tags. May be shared by several threads.

    Attributes:
        collisions: Path -> the raw tags that have it, for paths that more than one tag has. Their readings are delivered,
            each with its own source, device and address.
        rejected: Raw tags that cannot be normalized -> reason; each of their readings becomes a reject.
    """

    def __init__(self, tags: TagTable, template: str) -> None:
        path_template(template)
        self._tags = tags
        self._template = template
        self._conversions = Conversions()
        self._reasons = [""]
        # By raw row: its normalized row (-1: not seen yet), and what to do with its values (0: nothing, > 0: number of a
        # conversion, < 0: number of the reason to reject them).
        self._rows = np.full(1024, -1, np.int32)
        self._todo = np.zeros(1024, np.int32)
        self._zeros = pa.array(np.zeros(1024, np.int32))
        self._treats = False
        self._schema: pa.Schema | None = None
        self._lock = threading.Lock()
        self._by_path: dict[str, Tag] = {}
        self._unreported: list[str] = []
        self.collisions: dict[str, list[Tag]] = {}
        self.rejected: dict[Tag, str] = {}

    def __call__(self, raw: pa.RecordBatch) -> pa.RecordBatch:
        """Normalize a batch.

        Args:
            raw: The columns of ``FACTS`` and the dictionary columns `gateway` and `shard`; `tag` holds raw rows.

        Returns:
            A batch of `stream_schema` with the same readings in the same order: `tag` and the names are the normalized
            rows', `value` is filled, `priority` is 0. What could not be normalized or converted has `reject` set and its
            values as they came; a row whose `reject` was set already is left alone.
        """
        *facts, gateway, shard = raw.columns if self._in_order(raw) else [raw.column(name) for name in _COLUMNS]
        tag = facts[0] if not facts[0].null_count else facts[0].fill_null(-1)
        index = tag.to_numpy().view(np.uint32)  # a negative number is out of range, as one that is too large
        try:
            rows = self._rows.take(index)
            if len(rows) and rows.min() < 0:
                index, rows = self._learn(index)
        except IndexError:
            index, rows = self._learn(index)
        facts[0] = pa.array(rows)
        if self._treats:
            facts = self._treat(facts, index)
        size = len(rows)
        if size > len(self._zeros):
            self._zeros = pa.array(np.zeros(2 * size, np.int32))
        value = numbers(facts[_TYPE], facts[_DOUBLE], facts[_INT])
        return view(facts, gateway, shard, self._tags, value, self._zeros.slice(0, size))

    def new_collisions(self) -> list[tuple[str, list[Tag]]]:
        """Paths that have become a collision, or a larger one, since the last call, with their tags."""
        if not self._unreported:
            return []
        with self._lock:
            paths, self._unreported = list(dict.fromkeys(self._unreported)), []
            return [(path, list(self.collisions[path])) for path in paths]

    def _in_order(self, raw: pa.RecordBatch) -> bool:
        schema = raw.schema
        if self._schema is not None and schema.equals(self._schema):
            return True
        if schema.names != _COLUMNS:
            return False
        self._schema = schema
        return True

    def _treat(self, facts: list[pa.Array], index: _Rows) -> list[pa.Array]:
        todo = self._todo.take(index)
        if not todo.any():
            return facts
        rejects = todo < 0
        if rejects.any():
            sound = facts[_REJECT].is_null().to_numpy(zero_copy_only=False)
            reasons = pa.array(self._reasons, pa.string()).take(pa.array(-todo, mask=~(rejects & sound)))
            facts[_REJECT] = facts[_REJECT].fill_null(reasons) if sound.any() else facts[_REJECT]
            todo = np.maximum(todo, 0)
        return self._conversions.apply(facts, todo)

    def _learn(self, index: _Rows) -> tuple[_Rows, npt.NDArray[np.int32]]:
        """Normalize the tags of `index` that are new; `index` with a known row for every reading, and normalized rows."""
        with self._lock:
            known = len(self._tags)
            if len(index) and index.max() >= known:
                unknown = self._tags.intern(_UNKNOWN)
                index = np.where(index < known, index, np.uint32(unknown))
                known = len(self._tags)
            if known > len(self._rows):
                added = 2 * known - len(self._rows)
                self._todo = np.concatenate([self._todo, np.zeros(added, np.int32)])
                self._rows = np.concatenate([self._rows, np.full(added, -1, np.int32)])
            for row in np.unique(index).tolist():
                if self._rows[row] < 0:
                    self._learn_tag(row)
            return index, self._rows.take(index)

    def _learn_tag(self, row: int) -> None:
        tag = self._tags[row]
        try:
            normalized, conversion = _normalized(tag, self._template)
        except ValueError as error:
            reason = str(error) if tag != _UNKNOWN else "the reading's tag is not in the tag table"
            self._todo[row] = -len(self._reasons)
            self._reasons.append(reason)
            self.rejected[tag] = reason
            number = row
        else:
            self._todo[row] = self._conversions.number(conversion)
            number = self._tags.intern(normalized)
            self._note(normalized)
        self._treats = self._treats or bool(self._todo[row])
        self._rows[row] = number  # last: another thread may read it at any time

    def _note(self, tag: Tag) -> None:
        first = self._by_path.setdefault(tag.path, tag)
        if _identity(first) == _identity(tag):
            return
        tags = self.collisions.setdefault(tag.path, [first])
        if all(_identity(other) != _identity(tag) for other in tags):
            tags.append(tag)
            self._unreported.append(tag.path)


def _identity(tag: Tag) -> tuple[str, str, str, str]:
    return tag.source, tag.device_id, tag.address, tag.tag_name
