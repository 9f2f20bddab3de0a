"""What a payload says, by the format and the paths of its subscription: tables of readings. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, compress
from operator import itemgetter
from typing import Any, Final, NamedTuple

from connectors.sources.mqtt.config import CsvSettings, Subscription
from connectors.sources.mqtt.delimited import parse_cells, parse_csv
from connectors.sources.mqtt.formats import MOST_READINGS, PARSERS
from connectors.sources.mqtt.paths import EACH, MISSING, Sizes, Step, at_path, follow, parse_path, spread, widen

_DEPTH: Final = 8
_VALUE: Final = "value"


class Table(NamedTuple):
    """Readings of one payload, in columns of one length.

    Attributes:
        names: Of each reading the field of the topic; empty for the topic itself.
        values: Of each reading the value, as the format has it.
        times: What is said of their times, `MISSING` where nothing is.
        qualities: What is said of their qualities.
        units: What is said of their units.
        rest: What else the payload says, for all of them or one for each.
    """

    names: list[str]
    values: list[Any]
    times: list[Any]
    qualities: list[Any]
    units: list[Any]
    rest: dict[str, Any] | list[dict[str, Any]]


class Item(NamedTuple):
    """What one object says.

    Attributes:
        fields: Names and values of its readings; of one that has a value, this without a name.
        time: Its time, `MISSING` where none is said.
        quality: Its quality.
        unit: Its unit.
        rest: What else it says.
        keys: Keys of value, time, quality and unit, if it is a sample: a JSON object of these and nothing else.
    """

    fields: list[tuple[str, Any]]
    time: Any
    quality: Any
    unit: Any
    rest: dict[str, Any]
    keys: tuple[str, ...] | None = None


class _Role(NamedTuple):
    """Where a name, time, quality or unit stands: at the path given, else under the first of the usual keys."""

    given: str | None
    usual: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its path where there is but one usual key."""
        return self.given or self.usual[0]

    def among(self, keys: Iterable[Any]) -> str | None:
        """Its path in an object with these keys."""
        return self.given or next((key for key in self.usual if key in keys), None)


class Layout:
    """How messages of a subscription are read.

    Attributes:
        scalar: Whether a document may be a value and nothing else.
        trouble: Of the last payload what did not fit while the rest did: why, and its bytes, empty for the whole.
    """

    def __init__(self, rule: Subscription) -> None:
        """How `rule` says.

        Raises:
            ValueError: Its descriptor cannot be used.
        """
        self.trouble: list[tuple[str, bytes]] = []
        self._csv = (rule.csv or CsvSettings.model_validate({})) if rule.format == "csv" else None
        self._encoding = "" if rule.encoding.lower() in {"utf-8", "utf8"} else rule.encoding
        self._parse: Callable[[bytes], Any] = PARSERS.get(rule.format, bytes)
        if rule.format == "protobuf" and rule.descriptor is not None and rule.message is not None:
            from connectors.sources.mqtt.protobuf import ProtobufParser

            self._parse = ProtobufParser(rule.descriptor, rule.message)
        self._fields = rule.fields()
        self._roles = (
            _Role(rule.name),
            _Role(rule.timestamp, ("timestamp", "ts", "time")),
            _Role(rule.quality, ("quality",)),
            _Role(rule.unit, ("unit",)),
        )
        self.scalar = not self._fields and self._csv is None
        self._single: tuple[Step, ...] | None = None
        if rule.name is None and self._csv is None and not isinstance(rule.value, list | dict):
            steps = parse_path(rule.value or _VALUE)
            self._single = None if EACH in steps else steps
        self._sampled = rule.format in {"auto", "json"} and not self._encoding

    def item(self, document: dict[Any, Any]) -> Item | None:
        """What an object says, read for itself; None where that is not enough and `tables` tells it.

        Raises:
            ValueError: It says nothing.
        """
        if self._single is None:
            return None
        _, of_time, of_quality, of_unit = self._roles
        time_path = of_time.among(document) or of_time.usual[0]
        paths = self._single, parse_path(time_path), parse_path(of_quality.path), parse_path(of_unit.path)
        value, time, quality, unit = [at_path(document, path) for path in paths]
        used = {path[0] for path in paths if path}
        rest = {str(key): item for key, item in document.items() if key not in used}
        if value is MISSING:
            if self._fields:
                raise ValueError(f"no {self._wanted()} in the object")
            fields = [leaf for key, item in rest.items() for leaf in leaves(key, item)]
            if not fields:
                raise ValueError("an object without a value")
            return Item(fields, time, quality, unit, {})
        sample = self._sampled and not rest and len(used) == 4 and all(len(path) == 1 for path in paths)
        return Item([("", value)], time, quality, unit, rest, tuple(map(str, chain(*paths))) if sample else None)

    def parse(self, payload: bytes) -> Any:
        """The document in `payload`; of CSV its columns.

        Raises:
            ValueError: It cannot be read.
        """
        self.trouble = []
        if self._encoding:
            payload = payload.decode(self._encoding).encode()
        if self._csv is None:
            return self._parse(payload)
        columns, self.trouble = parse_csv(payload, self._csv)
        return columns

    def tables(self, document: Any) -> Iterator[Table]:
        """The readings of what `parse` returned.

        Raises:
            ValueError: It has none, its arrays do not fit each other, or there are too many.
        """
        count = 0
        for table in self._tables(document):
            count += len(table.values)
            if count > MOST_READINGS:
                raise ValueError(f"more than {MOST_READINGS} readings in one message")
            yield table

    def _tables(self, document: Any) -> Iterable[Table]:
        if self._csv is not None:
            return self._of_cells(document)
        if self._fields:
            return self._by_paths(document)
        items = document if isinstance(document, list | tuple) else (document,)
        if items and all(isinstance(item, dict) for item in items):
            return self._of_objects(items)
        return [Table([""], [document], [MISSING], [MISSING], [MISSING], {})]

    # ---------------------------------------------------------------------- arrays of objects

    def _of_objects(self, items: Sequence[dict[Any, Any]]) -> Iterator[Table]:
        """Samples, or objects of many tags."""
        time_keys = list(map(self._roles[1].among, items))
        usual = next(filter(None, time_keys), None)
        alike: dict[tuple[bool, str | None], list[dict[Any, Any]]] = {}
        for item, time_key in zip(items, time_keys, strict=True):
            alike.setdefault((_VALUE in item, time_key or usual), []).append(item)
        if len(alike) > 1:
            for some in alike.values():
                yield from self._of_objects(some)
            return
        keys = dict.fromkeys(chain.from_iterable(items))
        paths = [role.among(keys) for role in self._roles]
        nothing = [MISSING] * len(items)
        said = [nothing if path is None else follow(list(items), parse_path(path)) for path in paths]
        used = {_first(path) for path in paths if path is not None}
        if _VALUE in keys:
            used.add(_VALUE)
            rest = [{str(key): value for key, value in item.items() if key not in used} for item in items]
            yield _table("", list(map(itemgetter(_VALUE), items)), said, rest if keys.keys() - used else None)
            return
        objects = [
            dict(chain.from_iterable(leaves(str(key), item[key]) for key in item if key not in used)) for item in items
        ]
        names = dict.fromkeys(chain.from_iterable(objects))
        if not names:
            raise ValueError("objects without a value" if len(items) > 1 else "an object without a value")
        if len(names) * len(items) > 4 * MOST_READINGS:
            raise ValueError(f"{len(items)} objects of {len(names)} keys in one message")
        for name in names:
            yield _table(name, [one.get(name, MISSING) for one in objects], said)

    # ---------------------------------------------------------------------- CSV, whose paths are names of columns

    def _of_cells(self, cells: dict[str, list[str]]) -> Iterator[Table]:
        """A column of values with what is said of them, the columns asked for, or else a column for each tag."""
        if self._csv is None or not cells:
            return
        paths = [role.among(cells) for role in self._roles]
        nothing = [MISSING] * len(next(iter(cells.values())))
        said = [nothing if path not in cells else [cell or MISSING for cell in cells[path]] for path in paths]
        others = [key for key in cells if key not in paths]
        wanted = dict(self._fields) or {key: key for key in others}
        if cells.keys().isdisjoint(wanted.values()):
            raise ValueError(f"no column {self._wanted()}" if self._fields else "rows without a value")
        if not self._fields and _VALUE in cells:
            kept = [key for key in others if key != _VALUE]
            rows = zip(*(parse_cells(cells[key], self._csv) for key in kept), strict=True)
            rest = [{key: cell for key, cell in zip(kept, row, strict=True) if cell is not MISSING} for row in rows]
            yield _table("", parse_cells(cells[_VALUE], self._csv), said, rest)
            return
        for name, key in wanted.items():
            if key in cells:
                yield _table(name, parse_cells(cells[key], self._csv), said)

    # ---------------------------------------------------------------------- by paths

    def _wanted(self) -> str:
        return " or ".join(f"`{path}`" for _, path in self._fields)

    def _by_paths(self, document: Any) -> Iterator[Table]:
        keys = document if isinstance(document, dict) else {}
        paths = [role.among(keys) for role in self._roles] + [path for _, path in self._fields]
        used = {_first(path) for path in paths if path is not None}
        rest = {str(key): value for key, value in keys.items() if key not in used}
        found = False
        for name, path in self._fields:
            steps = parse_path(path)
            values, sizes = spread(document, steps)
            lacking = values.count(MISSING)
            if values and lacking == len(values):
                continue
            found = True
            if lacking and len(self._fields) == 1:
                self.trouble.append((f"no `{path}` in {lacking} of {len(values)} samples", b""))
            said = [_said_by(role, document, steps, sizes, len(values)) for role in self._roles]
            yield _table(name, values, said, rest)
        if not found:
            raise ValueError(f"no {self._wanted()} in the object")


def _first(path: str) -> str:
    """The key that a path begins with."""
    return str((*parse_path(path), "")[0])


def _said_by(role: _Role, document: Any, steps: Sequence[Step], sizes: Sizes, count: int) -> list[Any]:
    """For each value at `steps` what is said at the path given, or else beside it or at the top."""
    if role.given is not None:
        return widen(*spread(document, parse_path(role.given)), sizes)
    inner = steps[: len(steps) - steps[::-1].index(EACH)] if EACH in steps else ()
    for start in (inner, ()) if inner else ((),):
        for key in role.usual:
            found, its_sizes = spread(document, [*start, key])
            if found.count(MISSING) < len(found):
                return widen(found, its_sizes, sizes)
    return [MISSING] * count


def _table(
    name: str, values: list[Any], said: Sequence[list[Any]], rest: dict[str, Any] | list[dict[str, Any]] | None = None
) -> Table:
    """The readings of one field, without those that have no value."""
    given, times, qualities, units = said
    names = [name] * len(values)
    if given.count(MISSING) < len(given):
        names = [name if one is MISSING else f"{one}.{name}" if name else str(one) for one in given]
    if MISSING not in values:
        return Table(names, values, times, qualities, units, rest or {})
    there = [value is not MISSING for value in values]

    def kept(column: list[Any]) -> list[Any]:
        return list(compress(column, there))

    more = kept(rest) if isinstance(rest, list) else rest or {}
    return Table(kept(names), kept(values), kept(times), kept(qualities), kept(units), more)


def leaves(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """The leaves of nested objects, named ``outer.inner``; arrays are leaves, and so is what is nested too deeply."""
    if isinstance(value, dict) and value and depth < _DEPTH:
        for key, inner in value.items():
            yield from leaves(f"{name}.{key}", inner, depth + 1)
    else:
        yield name, value
