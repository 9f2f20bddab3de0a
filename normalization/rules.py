"""Routing rules: which readings go to which targets, and how urgently.

Conditions are SQL boolean expressions, see `normalization.condition`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from normalization.condition import Condition, RuleError, compile_condition
from normalization.predicates import Mask, Rows, TagRows, Truth, flip, union
from normalization.reading import stream_schema

__all__ = ["Routed", "Router", "Rule", "RuleError", "compile_condition", "take"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Sends the readings that match a condition to targets.

    Attributes:
        name: Name of the rule.
        condition: SQL boolean expression, see `normalization.condition`.
        connectors: Names of targets.
        priority: Larger is more urgent; 32 bits.
    """

    name: str
    condition: str
    connectors: tuple[str, ...]
    priority: int = 0


def _compiled(rule: Rule) -> Condition:
    try:
        condition = compile_condition(rule.condition)
    except RuleError as error:
        error.add_note(f"in the condition of the rule `{rule.name}`")
        raise
    if not -(2**31) <= rule.priority < 2**31:
        raise ValueError(f"rule `{rule.name}`: priority {rule.priority} needs more than 32 bits")
    return condition


@dataclass(frozen=True, slots=True)
class Routed:
    """Where the readings of a batch go.

    Attributes:
        batch: The batch with `priority` filled: the largest priority of the rules that match a reading, else 0.
        targets: Target -> rows that go there, ascending, or None for all rows; targets that get nothing are absent.
        dead: Rows that are rejects, by then or by the router; they go to no target.
        unmatched: Rows that no rule matches while there is no default.
        defaulted: How many readings no rule matches, so that they go to the default.
    """

    batch: pa.RecordBatch
    targets: dict[str, npt.NDArray[np.intp] | None]
    dead: npt.NDArray[np.intp]
    unmatched: npt.NDArray[np.intp]
    defaulted: int

    def select(self, target: str) -> pa.RecordBatch:
        """The readings for one of `targets`."""
        rows = self.targets[target]
        return self.batch if rows is None else take(self.batch, rows)


def take(batch: pa.RecordBatch, rows: npt.NDArray[np.intp]) -> pa.RecordBatch:
    """Some rows of a batch; a run of rows is not copied."""
    if not len(rows) or rows[-1] - rows[0] + 1 == len(rows):
        return batch.slice(int(rows[0]) if len(rows) else 0, len(rows))
    return batch.take(pa.array(rows))


_PRIORITY, _REJECT = (stream_schema(b"").get_field_index(name) for name in ("priority", "reject"))
_NO_ROWS: Final = np.empty(0, np.intp)


class Router:
    """Applies routing rules to batches. Not shared between threads.

    A reading goes to every target that a matching rule names, once. ``source_targets`` holds besides the rules and gives no
    priority. What matches neither goes to the default.

    Args:
        rules: The rules.
        default: Targets of what nothing matches.
        source_targets: Source -> target of all its readings.
        only: Source -> target that alone gets its readings: no rule and no default holds for them, and they have no priority.
        refusal: Source -> why its readings can go nowhere and become rejects; empty where they can. Asked once for each tag.

    Raises:
        RuleError: A condition is wrong; a note names the rule.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        default: str | Sequence[str] | None = None,
        source_targets: Mapping[str, str] | None = None,
        only: Mapping[str, str] | None = None,
        refusal: Callable[[str], str] | None = None,
    ) -> None:
        self._rules = tuple(rules)
        self._conditions = [_compiled(rule) for rule in rules]
        self._by_priority = sorted(range(len(rules)), key=lambda number: rules[number].priority)
        self._ranked = any(rule.priority for rule in rules)
        self._default = (default,) if isinstance(default, str) else tuple(default or ())
        sources, alone = dict(source_targets or {}), dict(only or {})
        tables = tuple(dict.fromkeys(sources.values()))
        self._tables = tables + tuple(dict.fromkeys(alone.values()))
        self._shared = len(tables)  # of the tables are for readings that the rules hold for too
        self._table_number = {source: tables.index(table) + 1 for source, table in sources.items()}
        self._table_number |= {s: self._tables.index(table, self._shared) + 1 for s, table in alone.items()}
        self._table_of = np.empty(0, np.int32)  # by tag: number of its source's table, 0 where it has none
        self._any_table = False
        self._refusal = refusal
        self._reasons: dict[str, int] = {}  # why readings are refused, with a number from 1
        self._reason_of = np.empty(0, np.int32)  # by tag: number of the reason, 0 where it is not refused
        columns = {name for condition in self._conditions for name in condition.tag_columns}
        self._columns = sorted(columns | ({"source"} if self._tables or refusal else set()))
        self._token: bytes | None = None
        self._tags = TagRows(self._columns)

    def __call__(self, batch: pa.RecordBatch) -> Routed:
        """Route a batch of `stream_schema`."""
        size = batch.num_rows
        rows = Rows(batch, self._known_tags(batch))
        batch = self._refused(batch, rows)
        truths = self._truths(rows)
        tables = self._source_tables(rows)
        alone = union([truth for number, truth in tables if number > self._shared])
        if alone is not False:
            truths = [_without(truth, alone, size) for truth in truths]

        reject = batch.column("reject")
        dead = None if reject.null_count == size else reject.is_valid().to_numpy(zero_copy_only=False)
        wanted: dict[str, list[Truth]] = {}
        for rule, truth in zip(self._rules, truths, strict=True):
            if truth is not False:
                for target in rule.connectors:
                    wanted.setdefault(target, []).append(truth)
        for number, truth in tables:
            wanted.setdefault(self._tables[number - 1], []).append(truth)
        matched = union([*truths, *(truth for _, truth in tables)])

        others = flip(matched)
        unmatched, defaulted = _NO_ROWS, 0
        left = _selected(others, dead, size)
        if left is None or len(left):
            if self._default:
                defaulted = size if left is None else len(left)
                for target in self._default:
                    wanted.setdefault(target, []).append(others)
            else:
                unmatched = np.arange(size) if left is None else left
        targets = {}
        for target, each in wanted.items():
            chosen = _selected(union(each), dead, size)
            if chosen is None or len(chosen):
                targets[target] = chosen
        return Routed(
            self._with_priority(batch, truths),
            targets if size else {},
            _NO_ROWS if dead is None else np.flatnonzero(dead),
            unmatched,
            defaulted,
        )

    def verdicts(self, batch: pa.RecordBatch) -> list[tuple[Rule, tuple[str, ...], Truth]]:
        """Each rule with the columns that its condition looks at, and which readings of a batch it matches."""
        truths = self._truths(Rows(batch, self._known_tags(batch)))
        columns = [condition.columns for condition in self._conditions]
        return list(zip(self._rules, columns, truths, strict=True))

    def _truths(self, rows: Rows) -> list[Truth]:
        return [condition(rows) for condition in self._conditions]

    def _known_tags(self, batch: pa.RecordBatch) -> TagRows:
        token = (batch.schema.metadata or {}).get(b"tags")
        if token is None or token != self._token:
            self._token, self._tags = token, TagRows(self._columns)
            self._table_of, self._any_table = np.empty(0, np.int32), False
            self._reason_of, self._reasons = np.empty(0, np.int32), {}
        self._tags.update(batch)
        return self._tags

    def _source_tables(self, rows: Rows) -> list[tuple[int, Truth]]:
        """Numbers, from 1, of the tables that rows go to because of their source, and which rows those are."""
        if not self._tables:
            return []
        tags = rows.tags.rows
        if len(self._table_of) < len(tags):
            new = [self._table_number.get(row["source"], 0) for row in tags[len(self._table_of) :]]
            self._table_of = np.concatenate([self._table_of, np.array(new, np.int32)])
            self._any_table = self._any_table or any(new)
        if not self._any_table:
            return []
        numbers = self._table_of.take(rows.index())
        if not len(numbers):
            return []
        if (numbers == numbers[0]).all():
            return [(int(numbers[0]), True)] if numbers[0] else []
        return [(number, numbers == number) for number in np.unique(numbers).tolist() if number]

    def _refused(self, batch: pa.RecordBatch, rows: Rows) -> pa.RecordBatch:
        """The batch with a reason in `reject` where a reading can go nowhere because of its source."""
        if self._refusal is None:
            return batch
        tags = rows.tags.rows
        if len(self._reason_of) < len(tags):
            said = [self._refusal(row["source"]) for row in tags[len(self._reason_of) :]]
            new = [self._reasons.setdefault(why, len(self._reasons) + 1) if why else 0 for why in said]
            self._reason_of = np.concatenate([self._reason_of, np.array(new, np.int32)])
        if not self._reasons:
            return batch
        numbers = self._reason_of.take(rows.index())
        if not numbers.any():
            return batch
        reasons = pa.array([None, *self._reasons], pa.string()).take(pa.array(numbers))
        both = pc.coalesce(batch.column(_REJECT), reasons)  # what was wrong with a reading before, goes before
        return batch.set_column(_REJECT, batch.schema.field(_REJECT), both)

    def _with_priority(self, batch: pa.RecordBatch, truths: Sequence[Truth]) -> pa.RecordBatch:
        """The batch with the largest priority of the rules that match."""
        if not self._ranked:
            return batch
        priority: npt.NDArray[np.int32] | None = None
        for number in self._by_priority:
            truth, value = truths[number], self._rules[number].priority
            if truth is not False:
                priority = np.zeros(batch.num_rows, np.int32) if priority is None else priority
                if truth is True:
                    priority.fill(value)
                else:
                    np.putmask(priority, truth, value)
        if priority is None:
            return batch
        return batch.set_column(_PRIORITY, batch.schema.field(_PRIORITY), pa.array(priority))


def _without(truth: Truth, others: Truth, size: int) -> Truth:
    """Where `truth` holds and `others` does not."""
    if truth is False or others is True:
        return False
    left = ~others if isinstance(others, np.ndarray) else np.ones(size, bool)
    return left if truth is True else truth & left


def _selected(truth: Truth, dead: Mask | None, size: int) -> npt.NDArray[np.intp] | None:
    """The live rows for which `truth` holds; None for all rows."""
    if isinstance(truth, bool):
        if not truth:
            return _NO_ROWS
        return None if dead is None else np.flatnonzero(~dead)
    rows = np.flatnonzero(truth if dead is None else truth & ~dead)
    return None if len(rows) == size else rows
