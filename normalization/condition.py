"""The compiler of conditions.

A condition is a SQL boolean expression over the columns of a stream item::

    quality = 'BAD' AND value > 80
    path LIKE 'plant1/%' OR unit IN ('bar', 'mbar')
    value BETWEEN 10 AND 20 AND NOT (flags & 2 = 2)
    tag_name = temperature              a bare word beside a text column is a text

* **Columns**: the names of the tag table (`source`, `tag_name`, `path`, `unit` …), `gateway`, `shard`, `value`,
  `value_double`, `value_int`, `value_text`, `quality`, `type`, `status`, `sequence`, `flags`, `priority`, `source_time`,
  `received_time`, `properties`.
* **Operators**: ``= == <> != < <= > >= AND OR NOT IN BETWEEN LIKE ILIKE IS NULL``, ``+ - * / %`` and ``ABS`` on numbers, ``&``
  and ``|`` on whole numbers. LIKE's escape is a backslash unless ESCAPE names another. Names of qualities and types are compared
  without case. Times are compared with ISO 8601 texts, UTC where they do not say. TRUE and FALSE are 1 and 0 beside a number.
* **NULL** is SQL's: a comparison with it is unknown, and so is its negation; unknown does not match. A division by zero is
  NULL.
* **NaN** is IEEE's: only ``<>`` holds. Two integers are compared exactly, all other numbers as 64-bit floats.

Texts about a tag are decided once per tag and remembered by its number; numbers are compared a batch at a time. The parser
runs when a rule is compiled and never again.
"""

import difflib
import operator
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from normalization.predicates import (
    COLUMNS,
    NAMED,
    Constant,
    Named,
    Null,
    Number,
    Operand,
    PerRow,
    Predicate,
    Rows,
    Text,
    Time,
    Truth,
    all_of,
    any_of,
    as_test,
    calculate,
    calculate_bits,
    compare_numbers,
    compare_texts,
    constant_number,
    constant_text,
    flip,
    match_text,
    operand_of_column,
    settle,
)
from normalization.reading import TAG_COLUMNS


class RuleError(ValueError):
    """A condition that cannot be compiled.

    Attributes:
        message: What is wrong and what would be right.
        line: Line of the condition, from 1.
        column: Column in that line, from 1.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"{line}:{column}: {message}")
        self.message = message
        self.line = line
        self.column = column


class Condition:
    """A compiled condition; see `compile_condition`.

    Attributes:
        tag_columns: Columns of the tag table that it looks at.
        columns: All columns that it looks at, in the order in which they stand there.
    """

    def __init__(self, condition: Predicate, tag_columns: frozenset[str], columns: tuple[str, ...]) -> None:
        self._test = as_test(condition)
        self.tag_columns = tag_columns
        self.columns = columns

    def __call__(self, rows: Rows) -> Truth:
        """Where it is true: one truth for all rows, or one per row."""
        return self._test(rows)


def compile_condition(text: str) -> Condition:
    """Compile a condition.

    Raises:
        RuleError: It is no condition, or names an unknown column or function, or compares what cannot be compared.
    """
    compiler = _Compiler(text)
    try:
        condition = compiler.condition(compiler.parse(), negated=False)
    except RecursionError:
        raise RuleError("the condition is nested too deeply") from None
    return Condition(condition, frozenset(compiler.tag_columns), tuple(compiler.columns))


_KNOWN_ARGUMENTS: Final = {
    *("this", "expression", "expressions", "low", "high", "negate", "query"),
    *("is_string", "table", "db", "catalog", "typed", "safe"),
}
_KINDS: Final = {Number: "a number", Time: "a time", Text: "text", Named: "a name", Null: "NULL"}


class _Compiler:
    def __init__(self, text: str) -> None:
        from sqlglot import exp

        self._exp = exp
        self._text = text
        self.tag_columns: set[str] = set()
        self.columns: dict[str, None] = {}  # a set that keeps the order
        self._comparisons: dict[Any, Callable[[Any, Any], Any]] = {
            exp.EQ: operator.eq,
            exp.NEQ: operator.ne,
            exp.LT: operator.lt,
            exp.LTE: operator.le,
            exp.GT: operator.gt,
            exp.GTE: operator.ge,
        }
        self._arithmetic: dict[Any, Callable[[Any, Any], Any]] = {
            exp.Add: operator.add,
            exp.Sub: operator.sub,
            exp.Mul: operator.mul,
            exp.Div: operator.truediv,
            exp.Mod: np.fmod,
        }

    def parse(self) -> Any:
        import sqlglot
        from sqlglot.errors import ParseError, SqlglotError

        if not self._text.strip():
            raise RuleError("the condition is empty")
        try:
            return sqlglot.parse_one(self._text, dialect="sqlite", into=self._exp.Condition)
        except ParseError as error:
            where = error.errors[0] if error.errors else {}
            word = where.get("highlight") or ""
            column = (where.get("col") or 1) - len(word) + 1
            raise RuleError(
                f"this is not a SQL condition: it cannot be understood at `{word}`; "
                "is something missing, or a text without its quotes ('…')?",
                where.get("line") or 1,
                max(column, 1),
            ) from None
        except SqlglotError:
            at = max(self._text.rfind("'"), self._text.rfind('"'), self._text.rfind("/*"), 0)
            raise RuleError("a text, name or comment is not closed", *self._position(at)) from None

    def _position(self, offset: int) -> tuple[int, int]:
        before = self._text[:offset]
        return before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1

    def _error(self, node: Any, message: str) -> RuleError:
        starts = [part.meta["start"] for part in node.walk() if part.meta and "start" in part.meta]
        return RuleError(message, *self._position(min(starts, default=0)))

    def _check(self, node: Any) -> None:
        """Refuse what the parser understands beyond what is compiled here (BETWEEN SYMMETRIC, DISTINCT …)."""
        if any(value and name not in _KNOWN_ARGUMENTS for name, value in node.args.items()):
            raise self._error(node, f"`{self._sql(node)}` cannot stand here")

    # Conditions

    def condition(self, node: Any, *, negated: bool) -> Predicate:
        """Where `node` is true, or, when `negated`, where it is false."""
        exp = self._exp
        self._check(node)
        match node:
            case exp.Paren():
                return self.condition(node.this, negated=negated)
            case exp.Not():
                return self.condition(node.this, negated=not negated)
            case exp.And() | exp.Or():
                parts = [self.condition(part, negated=negated) for part in node.flatten()]
                return all_of(parts) if isinstance(node, exp.And) is not negated else any_of(parts)
            case exp.Boolean():
                return bool(node.this) is not negated
            case exp.Null():
                return False
            case exp.Between():
                value, low, high = node.this, node.args["low"], node.args["high"]
                parts = [
                    self._comparison(operator.ge, value, low, negated),
                    self._comparison(operator.le, value, high, negated),
                ]
                return any_of(parts) if negated else all_of(parts)
            case exp.In() if node.args.get("query") is None and node.expressions:
                parts = [self._comparison(operator.eq, node.this, each, negated) for each in node.expressions]
                return all_of(parts) if negated else any_of(parts)
            case exp.Is() if isinstance(node.expression, exp.Null):
                return self._is_null(node.this, negated is not bool(node.args.get("negate")))
            case exp.In():
                raise self._error(node, "IN takes a list of values, as in `unit IN ('bar', 'mbar')`")
            case exp.Is():
                raise self._error(node, "IS is followed by NULL or NOT NULL")
            case exp.Like() | exp.ILike():
                return self._like(node, "\\", negated)
            case exp.Escape() if isinstance(node.this, exp.Like | exp.ILike):
                escape = node.expression
                if not (isinstance(escape, exp.Literal) and escape.is_string and len(escape.this) == 1):
                    raise self._error(node, "ESCAPE takes one character in quotes")
                return self._like(node.this, escape.this, negated)
        compare = self._comparisons.get(type(node))
        if compare is not None:
            return self._comparison(compare, node.this, node.expression, negated)
        if isinstance(node, exp.Predicate | exp.Connector):
            raise self._error(node, f"`{self._sql(node)}` is no comparison that can be used here")
        self._operand(node)
        raise self._error(
            node, f"`{self._sql(node)}` is not a condition; compare it with something, as in `value > 80`"
        )

    def _comparison(self, compare: Callable[[Any, Any], Any], left: Any, right: Any, negated: bool) -> Predicate:
        a: Operand = self._operand(left)
        b: Operand = self._operand(right, beside=a)
        x: Operand
        y: Operand
        if (isinstance(a, Null) or isinstance(b, Null)) and not (isinstance(a, Named) or isinstance(b, Named)):
            return False
        equality = compare in {operator.eq, operator.ne}
        if isinstance(a, Named) or isinstance(b, Named):
            return self._compare_named(compare, (left, a), (right, b), negated)
        match a, b:
            case (Constant(str() as text), Time()) | (Time(), Constant(str() as text)):
                time = self._time(text, left if isinstance(a, Constant) else right)
                x, y = (a if isinstance(a, Time) else time), (b if isinstance(b, Time) else time)
                return compare_numbers(compare, x, y, negated)
            case (Time(), Time()):
                return compare_numbers(compare, a, b, negated)
        if isinstance(a, Constant) and isinstance(b, Constant) and type(a.value) is type(b.value):
            return bool(compare(a.value, b.value)) is not negated
        x, y = self._written(a, b, equality), self._written(b, a, equality)
        if isinstance(x, Number) and isinstance(y, Number):
            return compare_numbers(compare, x, y, negated)
        if isinstance(x, Text) and isinstance(y, Text):
            return compare_texts(compare, x, y, negated)
        raise self._mismatch(left, a, right, b)

    def _written(self, operand: Operand, beside: Operand, equality: bool) -> Operand:
        """A constant as what it means beside `beside`."""
        if not isinstance(operand, Constant):
            return operand
        if isinstance(operand.value, str):
            return constant_text(operand.value)
        return constant_number(int(operand.value)) if equality and isinstance(beside, Number) else operand

    def _mismatch(self, left: Any, a: Operand, right: Any, b: Operand) -> RuleError:
        hint = ""
        if isinstance(a, Text) and isinstance(b, Number):
            hint = f"; write '{self._sql(right)}' in quotes if the text is meant"
        elif isinstance(a, Number) and isinstance(b, Text | Constant):
            hint = "; the texts of readings are in `value_text`" if self._sql(left) == "value" else ""
        return self._error(
            right,
            f"`{self._sql(left)}` is {self._kind(a)}, `{self._sql(right)}` is {self._kind(b)}: they cannot be compared{hint}",
        )

    def _kind(self, operand: Operand) -> str:
        if isinstance(operand, Constant):
            return "a text" if isinstance(operand.value, str) else "a truth value"
        return _KINDS[type(operand)]

    def _compare_named(
        self,
        compare: Callable[[Any, Any], Any],
        left: tuple[Any, Operand],
        right: tuple[Any, Operand],
        negated: bool,
    ) -> Predicate:
        (named_node, named), (node, other) = (left, right) if isinstance(left[1], Named) else (right, left)
        column = named.column if isinstance(named, Named) else ""
        names = NAMED[column]
        if not (isinstance(other, Constant) and isinstance(other.value, str)):
            raise self._error(node, f"`{column}` is compared with a name in quotes: {', '.join(names)}")
        if compare not in {operator.eq, operator.ne}:
            raise self._error(named_node, f"`{column}` is compared with = <> or IN; its names have no order")
        if other.value.upper() not in names:
            raise self._error(
                node,
                f"`{other.value}` is no {column}{_suggestion(other.value.upper(), names)}; there are {', '.join(names)}",
            )
        code = names.index(other.value.upper())
        equal = (compare is operator.eq) is not negated
        decide = operator.eq if equal else operator.ne
        return PerRow(lambda rows: decide(rows.numbers(column)[0], code))

    def _is_null(self, node: Any, negated: bool) -> Predicate:
        exp = self._exp
        while isinstance(node, exp.Paren):
            node = node.this
        if isinstance(node, exp.Column) and self._name(node) == "value_bytes":
            self.columns["value_bytes"] = None
            operand: Operand = Text(lambda rows: rows.texts("value_bytes"))
        else:
            operand = self._operand(node)
        match operand:
            case Null():
                return not negated
            case Number() | Time():
                read = operand.read

                def test(rows: Rows) -> Truth:
                    null = read(rows)[1]
                    truth = False if null is None else settle(null)
                    return flip(truth) if negated else truth

                return PerRow(test)
            case Text() if operand.of_tag is None:
                name = self._name(node)
                return PerRow(lambda rows: flip(rows.nulls(name)) if negated else rows.nulls(name))
            case _:
                return negated

    def _like(self, node: Any, escape: str, negated: bool) -> Predicate:
        exp = self._exp
        self._check(node)
        negated = negated is not bool(node.args.get("negate"))
        ignore_case = isinstance(node, exp.ILike)
        operand = self._operand(node.this)
        if isinstance(operand, Null) or isinstance(node.expression, exp.Null):
            return False
        if not (isinstance(operand, Text) or (isinstance(operand, Constant) and isinstance(operand.value, str))):
            what = "compare names with = or IN" if isinstance(operand, Named) else "LIKE is for text"
            raise self._error(node.this, f"`{self._sql(node.this)}` is {self._kind(operand)}; {what}")
        if not (isinstance(node.expression, exp.Literal) and node.expression.is_string):
            raise self._error(node.expression, "LIKE takes a pattern in quotes, as in 'plant1/%'")
        try:
            pattern = _regex(node.expression.this, escape)
        except ValueError as error:
            raise self._error(node.expression, str(error)) from None
        if isinstance(operand, Constant):
            flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
            return (re.fullmatch(pattern, str(operand.value), flags) is None) is negated
        return match_text(operand, pattern, ignore_case, negated)

    # Operands

    def _operand(self, node: Any, beside: Operand | None = None) -> Operand:
        """An operand; a bare word is a text when it stands `beside` one and is no column."""
        exp = self._exp
        if isinstance(node, exp.Connector | exp.Not | exp.Predicate):
            raise self._error(node, f"`{self._sql(node)}` is a condition; a value is needed here")
        if isinstance(node, exp.Func) and not isinstance(node, exp.Abs):
            name = node.name if isinstance(node, exp.Anonymous) else node.sql_name()
            raise self._error(node, f"the function `{name}` is not known; there is ABS")
        self._check(node)
        match node:
            case exp.Paren():
                return self._operand(node.this, beside)
            case exp.Column():
                name = self._name(node)
                if name in COLUMNS:
                    self.columns[name] = None
                    if name in TAG_COLUMNS:
                        self.tag_columns.add(name)
                    return operand_of_column(name)
                if isinstance(beside, Text | Named):
                    return Constant(".".join(part.name for part in node.parts))
                raise self._unknown_column(node)
            case exp.Literal():
                if node.is_string:
                    return Constant(node.this)
                return self._literal(node)
            case exp.Boolean():
                return Constant(bool(node.this))
            case exp.Null():
                return Null()
            case exp.Neg():
                if isinstance(node.this, exp.Literal) and not node.this.is_string:
                    return self._literal(node.this, sign=-1)
                return self._number(node.this, lambda x: calculate(operator.mul, x, constant_number(-1)))
            case exp.Abs():
                return self._number(node.this, lambda x: calculate(lambda a, _: np.abs(a), x, x))
            case exp.BitwiseAnd() | exp.BitwiseOr():
                bits = operator.and_ if isinstance(node, exp.BitwiseAnd) else operator.or_
                return self._numbers(node, lambda a, b: calculate_bits(bits, a, b), whole=True)
        operation = self._arithmetic.get(type(node))
        if operation is not None:
            divides = isinstance(node, exp.Div | exp.Mod)
            return self._numbers(node, lambda a, b: calculate(operation, a, b, divides=divides), beside=beside)
        raise self._error(node, f"`{self._sql(node)}` cannot stand here")

    def _number(self, node: Any, make: Callable[[Number], Number]) -> Operand:
        operand = self._operand(node)
        if isinstance(operand, Null):
            return operand
        if not isinstance(operand, Number):
            raise self._error(node, f"`{self._sql(node)}` is {self._kind(operand)}; only numbers are calculated with")
        return make(operand)

    def _numbers(
        self,
        node: Any,
        make: Callable[[Number, Number], Number],
        *,
        whole: bool = False,
        beside: Operand | None = None,
    ) -> Operand:
        operands = []
        for part in (node.this, node.expression):
            try:
                operand = self._operand(part)
            except RuleError as error:
                if isinstance(beside, Text | Named):
                    hint = f"{error.message}; a text with such characters is written in quotes"
                    raise RuleError(hint, error.line, error.column) from None
                raise
            if not isinstance(operand, Number | Null):
                raise self._error(
                    part, f"`{self._sql(part)}` is {self._kind(operand)}; only numbers are calculated with"
                )
            if whole and isinstance(operand, Number) and not operand.whole:
                raise self._error(
                    part, f"`{self._sql(part)}` is not a whole number; & and | take bits of whole numbers"
                )
            operands.append(operand)
        left, right = operands
        if isinstance(left, Null) or isinstance(right, Null):
            return Null()
        return make(left, right)

    def _literal(self, node: Any, sign: int = 1) -> Number:
        try:
            return constant_number(sign * (int(node.this) if node.this.isdecimal() else float(node.this)))
        except (ValueError, OverflowError):
            raise self._error(node, f"`{node.this}` is not a number") from None

    def _time(self, text: str, node: Any) -> Time:
        try:
            time = datetime.fromisoformat(text)
        except ValueError:
            raise self._error(node, f"`{text}` is not a time; write it as '2026-01-31T12:00:00Z'") from None
        offset = (time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH
        constant = np.int64((offset.days * 86_400 + offset.seconds) * 1_000_000 + offset.microseconds)
        return Time(lambda _rows: (constant, None))

    def _name(self, node: Any) -> str:
        """Name of a column; quoted ones too are found without case."""
        return ".".join(part.name for part in node.parts).lower()

    def _unknown_column(self, node: Any) -> RuleError:
        name = self._name(node)
        known = [*COLUMNS, "value_bytes"]
        if name in known:
            return self._error(node, f"`{name}` is bytes; it can be compared with NULL only")
        return self._error(node, f"there is no column `{name}`{_suggestion(name, known)}")

    def _sql(self, node: Any) -> str:
        return str(node.sql(dialect="sqlite"))


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def _suggestion(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1, 0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def _regex(pattern: str, escape: str) -> str:
    """The regular expression of a LIKE pattern."""
    out, characters = [], iter(pattern)
    for character in characters:
        if character == escape:
            escaped = next(characters, None)
            if escaped is None:
                raise ValueError(f"the pattern ends in its escape character `{escape}`")
            out.append(re.escape(escaped))
        elif character in "%_":
            out.append(".*" if character == "%" else ".")
        else:
            out.append(re.escape(character))
    return "".join(out)
