import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from normalization.normalizer import Normalizer
from normalization.reading import FACTS, Columns, Quality, Tag, TagTable, ValueType, repeat
from normalization.rules import Routed, Router, Rule, RuleError, compile_condition, take

TAGS = [
    Tag(
        "plant1_opcua",
        "opcua",
        "PLC001",
        "ns=2;s=T",
        "temperature",
        "°C",
        mapping='{"site": "plant1", "line": "line1"}',
    ),
    Tag("plant1_mqtt", "mqtt", "robot1", "robots/1", "conveyor_speed", "m/s", mapping='{"site": "plant1"}'),
    Tag("site2", "modbus", "7", "40001", "steam_pressure", "bar", mapping='{"site": "site2"}'),
    Tag("site2", "modbus", "7", "40003", "a_b%c\\d", "", mapping='{"site": "Ünïcode ✓"}'),
]


def stream(*rows: Any, gateway: Any = "gw", tags: Any = None) -> Any:
    """A normalized batch of rows (tag, value, keywords of Columns.add and `reject`)."""
    tags = tags or TagTable()
    columns = Columns()
    for tag, value, more in rows:
        reject = more.pop("reject", None)
        columns.add(tags.intern(tag), value, **more)
        columns.reject[-1] = reject
    facts = columns.to_batch(np.arange(len(columns), dtype=np.int64) * 1_000_000, 10)
    arrays = [*facts.columns, repeat(gateway, len(columns)), repeat("opcua-0", len(columns))]
    return Normalizer(tags, "{site}/{line}/{tag_name}")(
        pa.RecordBatch.from_arrays(arrays, names=[*FACTS.names, "gateway", "shard"])
    )


def matches(condition: Any, batch: Any) -> Any:
    """Rows for which a condition is true."""
    routed = Router([Rule("r", condition, ("t",))])(batch)
    if "t" not in routed.targets:
        return []
    rows = routed.targets["t"]
    return list(range(batch.num_rows)) if rows is None else rows.tolist()


BATCH = stream(
    (TAGS[0], 85.0, {"quality": Quality.BAD, "status": 0x80310000}),
    (TAGS[0], 20.5, {"source_time": 1_767_225_600_000_000}),  # 2026-01-01
    (TAGS[1], 3, {"quality": Quality.ALARM, "flags": 6}),
    (TAGS[1], True, {"quality": Quality.UNCERTAIN}),
    (TAGS[2], None, {"quality": Quality.STALE}),
    (TAGS[2], math.nan, {"flags": 2}),
    (TAGS[3], "High", {"properties": "{}"}),
    (TAGS[3], b"\x00", {}),
)


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        # the seeds' form
        ("tag_name=temperature", [0, 1]),
        ("quality=ALARM", [2]),
        ("device_id=PLC001", [0, 1]),
        ('tag_name = "temperature"', [0, 1]),
        ("quality in (bad, Stale)", [0, 4]),
        ("tag_name IN (temperature, conveyor_speed)", [0, 1, 2, 3]),
        # texts
        ("path LIKE 'plant1/%'", [0, 1, 2, 3]),
        ("path NOT LIKE 'plant1/%'", [4, 5, 6, 7]),
        ("path LIKE 'plant_/line_/%'", [0, 1]),
        ("TAG_NAME ILIKE '%SPEED'", [2, 3]),
        (r"tag_name LIKE 'a\_b\%c\\d'", [6, 7]),
        ("tag_name LIKE 'a!_b!%c\\d' ESCAPE '!'", [6, 7]),
        ("unit IN ('bar', '°C')", [0, 1, 4, 5]),
        ("tag_name > 's'", [0, 1, 4, 5]),
        ("source = 'site2' AND unit = ''", [6, 7]),
        ("site = 'Ünïcode ✓' OR line='line1'", [0, 1, 6, 7]),
        ("gateway = 'gw' AND shard LIKE 'opcua%'", list(range(8))),
        ("gateway = gw2", []),
        ("value_text = 'High'", [6]),
        ("value_text LIKE 'h%'", []),
        ("value_text ILIKE 'h%'", [6]),
        ("NOT value_text = 'Low'", [6]),
        ("properties IS NOT NULL", [6]),
        # qualities and types
        ("quality='BAD' AND value > 80", [0]),
        ("quality <> 'GOOD'", [0, 2, 3, 4]),
        ("NOT quality = GOOD AND type <> 'NULL'", [0, 2, 3]),
        ("type IN (BOOLEAN, BYTES)", [3, 7]),
        # numbers
        ("value > 80", [0]),
        ("NOT value > 80", [1, 2, 3, 5]),
        ("value == 3 OR value != value", [2, 5]),
        ("value BETWEEN 1 AND 20.5", [1, 2, 3]),
        ("value NOT BETWEEN 1 AND 20.5", [0, 5]),
        ("value IN (3, 85)", [0, 2]),
        ("value NOT IN (3, 85)", [1, 3, 5]),
        ("value NOT IN (3, NULL)", []),
        ("value = TRUE", [3]),
        ("value_int <> 3", [3]),
        ("status = 0x80310000", [0]),
        ("status IS NULL AND value IS NOT NULL", [1, 2, 3, 5]),
        ("value_bytes IS NOT NULL", [7]),
        ("(flags & 2) = 2", [2, 5]),
        ("flags & 2 = 2 AND flags | 1 = 7", [2]),
        ("(value - 20) * 2 = 1", [1]),
        ("abs(-value) > 80 and -value < -3", [0]),
        ("value / 0 = 1 OR NOT value % 0 = 1", []),
        ("value / 0 IS NULL", list(range(8))),
        ("value % 2 = 1", [0, 2, 3]),
        ("sequence >= 12 AND sequence < 14", [2, 3]),
        ("priority = 0 AND value_double >= 20", [0, 1]),
        # times
        ("source_time >= '2026-01-01'", [1]),
        ("source_time > '2026-01-01T00:59:59+01:00'", [1]),
        ("source_time < '2026-01-01T00:00:00Z'", []),
        ("'1970-01-01T00:00:02Z' > received_time", [0, 1]),
        ("source_time IS NULL AND received_time BETWEEN '1970-01-01' AND '1970-01-01 00:00:03'", [0, 2, 3]),
        # truths
        ("TRUE", list(range(8))),
        ("FALSE OR NULL", []),
        ("NOT NULL", []),
        ("value = NULL", []),
        ("NOT (value > 80 OR FALSE)", [1, 2, 3, 5]),
        ("1 < 2 AND 'a' = 'a' AND 'b' LIKE '_'", list(range(8))),
        ("value > 80 -- a comment\n OR /* two */ value = 3", [0, 2]),
    ],
)
def test_conditions(condition: Any, rows: Any) -> None:
    assert matches(condition, BATCH) == rows


@pytest.mark.parametrize(
    ("condition", "line", "column", "message"),
    [
        ("tag_nam = 'x'", 1, 1, "no column `tag_nam`; did you mean `tag_name`?"),
        ("value > 1 OR\n  valu < 3", 2, 3, "no column `valu`; did you mean `value`?"),
        ("site = 'Ünï' AND qality = BAD", 1, 18, "did you mean `quality`?"),
        ("foo(value) > 3", 1, 1, "function `foo` is not known"),
        ("value > upper(tag_name)", 1, 9, "function `UPPER` is not known"),
        ("tag_name = 5", 1, 12, "`tag_name` is text, `5` is a number: they cannot be compared; write '5' in quotes"),
        ("value = 'abc'", 1, 9, "`value_text`"),
        ("value = abc", 1, 9, "no column `abc`"),
        ("value > tag_name", 1, 9, "cannot be compared"),
        ("quality = 'BADD'", 1, 11, "`BADD` is no quality; did you mean `BAD`?"),
        ("quality > 'BAD'", 1, 1, "no order"),
        ("quality = 2", 1, 11, "is compared with a name in quotes: GOOD, UNCERTAIN"),
        ("quality = type", 1, 11, "is compared with a name"),
        ("type = NULL", 1, 1, "is compared with a name in quotes"),
        ("value BETWEEN SYMMETRIC 2 AND 1", 1, 1, "cannot stand here"),
        ("quality LIKE 'B%'", 1, 1, "with = or IN"),
        ("type = FLOAT", 1, 8, "`FLOAT` is no type"),
        ("device_id=PLC-001", 1, 11, "written in quotes"),
        ("source_time > 'yesterday'", 1, 15, "is not a time"),
        ("source_time > 5", 1, 15, "cannot be compared"),
        ("source_time + 5 > 3", 1, 1, "only numbers are calculated with"),
        ("tag_name + 1 > 3", 1, 1, "only numbers are calculated with"),
        ("value & 1 = 1", 1, 1, "not a whole number"),
        ("value LIKE 'a%'", 1, 1, "LIKE is for text"),
        ("path LIKE tag_name", 1, 11, "pattern in quotes"),
        (r"path LIKE 'a\'", 1, 11, "ends in its escape"),
        ("path LIKE 'a' ESCAPE 'ab'", 1, 1, "one character"),
        ("value", 1, 1, "is not a condition"),
        ("'x'", 1, 1, "is not a condition"),
        ("(value > 1) = TRUE", 1, 2, "a value is needed here"),
        ("value IS TRUE", 1, 1, "NULL or NOT NULL"),
        ("value IN (SELECT 1)", 1, 1, "IN takes a list"),
        ("value_bytes = 'x'", 1, 1, "compared with NULL only"),
        ("value > ", 1, 7, "cannot be understood at `>`"),
        ("value > 1 value", 1, 11, "at `value`"),
        ("value = 1; drop table x", 1, 12, "at `drop`"),
        ("tag_name = on", 1, 12, "without its quotes"),
        ("value > 'a", 1, 9, "not closed"),
        ("", 1, 1, "empty"),
        ("  \n ", 1, 1, "empty"),
        ("value > ?", 1, 1, "cannot stand here"),
        ("value IS DISTINCT FROM 2", 1, 1, "no comparison that can be used"),
        ("round(value, 2) > 1", 1, 1, "function `ROUND` is not known"),
        ("value > CASE WHEN value > 1 THEN 1 END", 1, 19, "not known"),
        ("(" * 3000 + "value > 1" + ")" * 3000, 1, 1, "too deeply"),
    ],
)
def test_what_cannot_be_compiled_is_said_with_its_place(condition: Any, line: Any, column: Any, message: Any) -> None:
    with pytest.raises(RuleError) as caught:
        compile_condition(condition)
    assert message in caught.value.message
    assert (caught.value.line, caught.value.column) == (line, column)
    assert str(caught.value).startswith(f"{line}:{column}: ")


def test_a_wrong_rule_is_named() -> None:
    with pytest.raises(RuleError) as caught:
        Router([Rule("good", "value > 1", ()), Rule("wrong", "value >", ())])
    assert caught.value.__notes__ == ["in the condition of the rule `wrong`"]
    with pytest.raises(ValueError, match="32 bits"):
        Router([Rule("r", "value > 1", (), 2**31)])


_PIECES = [
    *"()'\"=<>%_&|+-*/.,;: \n059",
    "value ",
    "tag_name ",
    "x",
    " AND ",
    "NOT ",
    " IN ",
    " LIKE ",
    " IS NULL ",
    "1",
]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=12).map("".join))
def test_any_text_compiles_or_says_why(text: Any) -> None:
    try:
        matches(text, BATCH)
    except RuleError as error:
        assert 1 <= error.line <= text.count("\n") + 1  # noqa: PT017 - most texts do not compile
        assert error.column >= 1  # noqa: PT017


# --- Router


def routed(rules: Any, batch: Any, default: Any = None, source_targets: Any = None) -> Any:
    result = Router([Rule(f"r{i}", *rule) for i, rule in enumerate(rules)], default, source_targets)(batch)
    rows = {t: (list(range(batch.num_rows)) if r is None else r.tolist()) for t, r in result.targets.items()}
    return result, rows


def rows_for(target: str, routing: Routed) -> list[int]:
    rows = routing.targets[target]
    assert rows is not None
    return [int(row) for row in rows]


def test_each_target_gets_a_reading_once_with_the_largest_priority() -> None:
    rules = [("value > 20", ("a", "b"), 1), ("quality = BAD", ("b", "c"), 5), ("tag_name = temperature", ("a",), 3)]
    result, rows = routed(rules, BATCH)
    assert rows == {"a": [0, 1], "b": [0, 1], "c": [0]}
    assert result.batch["priority"].to_pylist() == [5, 3, 0, 0, 0, 0, 0, 0]
    assert result.unmatched.tolist() == [2, 3, 4, 5, 6, 7]
    assert result.select("c")["value"].to_pylist() == [85.0]


def test_the_default_takes_what_nothing_matches() -> None:
    result, rows = routed([("quality = GOOD", ("a",), 0)], BATCH, default="z")
    assert rows == {"a": [1, 5, 6, 7], "z": [0, 2, 3, 4]}
    assert result.defaulted == 4
    assert not len(result.unmatched)
    result, rows = routed([], BATCH, default=("x", "y"))
    assert result.targets == {"x": None, "y": None}
    assert result.defaulted == 8


def test_a_default_that_rules_name_too_gets_each_reading_once() -> None:
    _, rows = routed([("quality = GOOD", ("z",), 0)], BATCH, default="z")
    assert rows == {"z": list(range(8))}


def test_source_targets_hold_besides_the_rules_and_give_no_priority() -> None:
    targets = {"plant1_opcua": "table1", "plant1_mqtt": "table2", "nobody": "table3"}
    result, rows = routed([("value > 80", ("a",), -4)], BATCH, "z", targets)
    assert rows == {"a": [0], "table1": [0, 1], "table2": [2, 3], "z": [4, 5, 6, 7]}
    assert result.batch["priority"].to_pylist() == [-4, 0, 0, 0, 0, 0, 0, 0]
    one_source = stream((TAGS[0], 1, {}), (TAGS[0], 2, {}))
    assert routed([], one_source, "z", targets)[0].targets == {"table1": None}


def test_rejects_go_nowhere_but_to_the_dead_letters() -> None:
    batch = stream((TAGS[0], 1, {}), (TAGS[1], 2, {"reject": "broken"}), (TAGS[2], 3, {}))
    result, rows = routed([("value > 1", ("a",), 2)], batch, "z", {"plant1_mqtt": "t"})
    assert rows == {"a": [2], "z": [0]}
    assert result.dead.tolist() == [1]
    result, rows = routed([("TRUE", ("a",), 0)], batch)
    assert rows == {"a": [0, 2]}
    only_dead = stream((TAGS[0], 1, {"reject": "x"}))
    result, rows = routed([("TRUE", ("a",), 0)], only_dead, "z")
    assert (rows, result.dead.tolist(), result.defaulted) == ({}, [0], 0)


def test_what_holds_for_all_rows_or_none_copies_nothing() -> None:
    result, _ = routed([("value >= -1e9 OR value IS NULL OR TRUE", ("a",), 0), ("source = nobody", ("b",), 0)], BATCH)
    assert result.targets == {"a": None}
    assert result.select("a") is BATCH
    assert take(BATCH, np.arange(2, 5))["tag"].buffers()[1].address == BATCH["tag"].buffers()[1].address


def test_an_empty_batch_goes_nowhere() -> None:
    result, rows = routed([("value > 1", ("a",), 1), ("TRUE", ("b",), 0)], BATCH.slice(0, 0), "z", {"site2": "t"})
    assert (rows, result.defaulted, len(result.dead), len(result.unmatched)) == ({}, 0, 0, 0)


def test_texts_are_decided_once_per_tag_and_the_memory_follows_the_tag_table() -> None:
    tags = TagTable()
    router = Router([Rule("r", "tag_name LIKE '%speed' AND source = plant1_mqtt", ("a",))])
    assert router(stream((TAGS[0], 1, {}), tags=tags)).targets == {}
    first = stream((TAGS[0], 1, {}), (TAGS[1], 1, {}), tags=tags)
    assert rows_for("a", router(first)) == [1]
    assert router(first.slice(1)).targets == {"a": None}
    other_table = stream((TAGS[1], 1, {}), (TAGS[0], 1, {}))
    assert rows_for("a", router(other_table)) == [0]
    assert rows_for("a", router(first)) == [1]


# --- Against a model, row by row, with SQL's three-valued logic (None is unknown)

NUMBER_COLUMNS = {"value": float, "value_double": float, "value_int": int, "status": int, "sequence": int, "flags": int}
TEXT_COLUMNS = ["tag_name", "path", "source", "unit", "gateway", "value_text", "properties"]
NAMES = {"quality": [q.name for q in Quality], "type": [t.name for t in ValueType]}

text_literals = st.text(st.sampled_from("ab_%\\'é/"), max_size=4) | st.sampled_from([t.tag_name for t in TAGS])
int_literals = st.integers(-5, 90) | st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 0x80310000])
float_literals = st.sampled_from([0.0, 0.5, 20.5, -1.5, 1e3, 9007199254740992.0]) | st.floats(-100, 100)


def quoted(text: Any) -> Any:
    return "'" + text.replace("'", "''") + "'"


numbers_: st.SearchStrategy[Any] = st.deferred(
    lambda: (
        st.sampled_from(sorted(NUMBER_COLUMNS)).map(lambda name: ("column", name))
        | int_literals.map(lambda value: ("literal", value))
        | float_literals.map(lambda value: ("literal", value))
        | st.tuples(st.sampled_from(["+", "-", "*", "/", "%"]), numbers_, numbers_)
        | st.tuples(st.sampled_from(["abs", "neg"]), numbers_)
        | st.tuples(st.sampled_from(["&", "|"]), whole_numbers, whole_numbers)
    )
)
whole_numbers: st.SearchStrategy[Any] = st.sampled_from(["value_int", "status", "sequence", "flags"]).map(
    lambda name: ("column", name)
) | st.integers(0, 2**40).map(lambda value: ("literal", value))
texts = st.sampled_from(TEXT_COLUMNS).map(lambda name: ("column", name)) | text_literals.map(lambda v: ("text", v))
comparisons = st.sampled_from(["=", "<>", "<", "<=", ">", ">="])
named = st.sampled_from(sorted(NAMES)).flatmap(
    lambda column: st.tuples(
        st.just("named"),
        st.just(column),
        st.booleans(),
        st.lists(st.sampled_from(NAMES[column]), min_size=1, max_size=3),
    )
)
times = st.tuples(
    st.just("time"), st.sampled_from(["source_time", "received_time"]), comparisons, st.integers(0, 4_000_000)
)
conditions = st.recursive(
    st.tuples(st.just("compare"), comparisons, numbers_, numbers_)
    | st.tuples(st.just("compare"), comparisons, texts, texts)
    | st.tuples(st.just("in"), numbers_, st.lists(numbers_, min_size=1, max_size=3), st.booleans())
    | st.tuples(st.just("in"), texts, st.lists(texts, min_size=1, max_size=3), st.booleans())
    | st.tuples(st.just("between"), numbers_, numbers_, numbers_)
    | st.tuples(st.just("between"), texts, texts, texts)
    | st.tuples(st.just("like"), texts, text_literals.filter(lambda p: (len(p) - len(p.rstrip("\\"))) % 2 == 0))
    | st.tuples(st.just("null"), numbers_)
    | st.tuples(st.just("null"), st.sampled_from(TEXT_COLUMNS).map(lambda name: ("column", name)))
    | named
    | times
    | st.sampled_from([("truth", True), ("truth", False), ("truth", None)]),
    lambda inner: (
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=2, max_size=3))
        | st.tuples(st.just("not"), inner)
    ),
    max_leaves=6,
)


def sql(node: Any) -> Any:
    match node:
        case ("column", name):
            return name
        case ("literal", value):
            return repr(value)
        case ("text", value):
            return quoted(value)
        case ("abs" | "neg", inner):
            return f"ABS({sql(inner)})" if node[0] == "abs" else f"(-({sql(inner)}))"
        case ("compare", op, a, b):
            return f"{sql(a)} {op} {sql(b)}"
        case ("in", a, items, null):
            return f"{sql(a)} IN ({', '.join([*map(sql, items), *(['NULL'] if null else [])])})"
        case ("between", a, low, high):
            return f"{sql(a)} BETWEEN {sql(low)} AND {sql(high)}"
        case ("like", a, pattern):
            return f"{sql(a)} LIKE {quoted(pattern)}"
        case ("null", a):
            return f"{sql(a)} IS NULL"
        case ("named", column, among, names):
            return f"{column} IN ({', '.join(map(quoted, names))})" if among else f"{column} <> '{names[0].lower()}'"
        case ("time", column, op, micros):
            return f"{column} {op} '{datetime.fromtimestamp(micros / 1e6, UTC).isoformat()}'"
        case ("truth", truth):
            return "NULL" if truth is None else str(truth).upper()
        case ("and" | "or" as word, parts):
            return "(" + f" {word} ".join(map(sql, parts)) + ")"
        case ("not", inner):
            return f"NOT ({sql(inner)})"
        case (op, a, b):
            return f"({sql(a)} {op} {sql(b)})"


def evaluate(node: Any, row: Any) -> Any:
    """The value of an operand."""
    match node:
        case ("column", name):
            return row[name]
        case ("literal" | "text", value):
            return value
        case ("abs" | "neg", inner):
            value = evaluate(inner, row)
            if node[0] == "neg" and inner[0] == "literal":
                return -value
            return None if value is None else (abs(float(value)) if node[0] == "abs" else -float(value))
        case ("&" | "|", a, b):
            a, b = evaluate(a, row), evaluate(b, row)
            return None if a is None or b is None else (a & b if node[0] == "&" else a | b)
        case (op, a, b):
            a, b = evaluate(a, row), evaluate(b, row)
            if a is None or b is None or (op in "/%" and b == 0):
                return None
            a, b = np.float64(a), np.float64(b)
            with np.errstate(all="ignore"):
                return float(
                    {"+": a + b, "-": a - b, "*": a * b}[op] if op in "+-*" else a / b if op == "/" else np.fmod(a, b)
                )


def compare(op: Any, a: Any, b: Any) -> Any:
    if a is None or b is None:
        return None
    if isinstance(a, float) or isinstance(b, float):
        a, b = float(a), float(b)
    return {"=": a == b, "<>": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[op]


def both(truths: Any) -> Any:
    return False if False in truths else (None if None in truths else True)


def either(truths: Any) -> Any:
    return True if True in truths else (None if None in truths else False)


def like(text: Any, pattern: Any) -> Any:
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(like(text[i:], pattern[1:]) for i in range(len(text) + 1))
    if pattern[0] == "\\":
        return text[:1] == pattern[1] and like(text[1:], pattern[2:])
    return bool(text) and pattern[0] in ("_", text[0]) and like(text[1:], pattern[1:])


def truth(node: Any, row: Any) -> Any:
    match node:
        case ("compare", op, a, b):
            return compare(op, evaluate(a, row), evaluate(b, row))
        case ("in", a, items, null):
            found = [compare("=", evaluate(a, row), evaluate(item, row)) for item in items]
            return either([*found, *([None] if null else [])])
        case ("between", a, low, high):
            value = evaluate(a, row)
            return both([compare(">=", value, evaluate(low, row)), compare("<=", value, evaluate(high, row))])
        case ("like", a, pattern):
            text = evaluate(a, row)
            return None if text is None else like(text, pattern)
        case ("null", a):
            return evaluate(a, row) is None
        case ("named", column, among, names):
            name = NAMES[column][row[column]]
            return name in names if among else name != names[0]
        case ("time", column, op, micros):
            return compare(op, row[column], micros)
        case ("truth", value):
            return value
        case ("and" | "or", parts):
            return (both if node[0] == "and" else either)([truth(part, row) for part in parts])
        case ("not", inner):
            value = truth(inner, row)
            return None if value is None else not value


def micros(time: Any) -> Any:
    return None if time is None else round((time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)


def rows_of(batch: Any) -> Any:
    rows = batch.to_pylist()
    for row in rows:
        row["source_time"], row["received_time"] = micros(row["source_time"]), micros(row["received_time"])
    return rows


row_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 90),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63), 2**64 - 1]),
    st.floats(),
    st.sampled_from([0.5, 20.5, -0.0]),
    text_literals,
    st.binary(max_size=2),
    st.lists(st.integers(0, 3), max_size=2),
)
stream_rows = st.lists(
    st.tuples(
        st.sampled_from(TAGS),
        row_values,
        st.fixed_dictionaries(
            {"quality": st.sampled_from(Quality), "flags": st.integers(0, 31)},
            optional={
                "status": st.sampled_from([0, 5, 0x80310000, -1]),
                "source_time": st.integers(0, 4_000_000),
                "properties": text_literals,
                "reject": st.sampled_from(["broken", None]),
            },
        ).map(dict),
    ),
    max_size=8,
)


@settings(max_examples=400, deadline=None)
@given(stream_rows, conditions, st.integers(0, 3))
def test_any_condition_agrees_with_sql_row_by_row(rows: Any, condition: Any, start: Any) -> None:
    batch = stream(*[(tag, value, {k: v for k, v in more.items() if k != "reject"}) for tag, value, more in rows])
    batch = batch.slice(start)
    expected = [i for i, row in enumerate(rows_of(batch)) if truth(condition, row) is True]
    assert matches(sql(condition), batch) == expected, sql(condition)


@settings(max_examples=100, deadline=None)
@given(
    stream_rows,
    st.lists(st.tuples(conditions, st.lists(st.sampled_from("abcz"), max_size=3), st.integers(-3, 3)), max_size=4),
    st.sampled_from([None, "z", ("y", "z")]),
    st.dictionaries(st.sampled_from([tag.source for tag in TAGS]), st.sampled_from("abt")),
)
def test_routing_agrees_with_a_model_row_by_row(rows: Any, rules: Any, default: Any, source_targets: Any) -> None:
    batch = stream(*[(tag, value, dict(more)) for tag, value, more in rows])
    targets: dict[str, Any] = {}
    dead, unmatched, priorities, defaulted = [], [], [], 0
    for i, row in enumerate(rows_of(batch)):
        matching = [rule for rule in rules if truth(rule[0], row) is True]
        priorities.append(max((rule[2] for rule in matching), default=0))
        if row["reject"] is not None:
            dead.append(i)
            continue
        to = {target for rule in matching for target in rule[1]}
        table = source_targets.get(row["source"])
        if not matching and table is None:
            defaulted += default is not None
            if default is None:
                unmatched.append(i)
            to |= set(default or ())
        for target in to | ({table} if table else set()):
            targets.setdefault(target, []).append(i)
    result, found = routed(
        [(sql(c), tuple(connectors), priority) for c, connectors, priority in rules], batch, default, source_targets
    )
    assert found == targets
    assert result.dead.tolist() == dead
    assert result.unmatched.tolist() == unmatched
    assert result.defaulted == defaulted
    assert result.batch["priority"].to_pylist() == priorities
    for target, indices in targets.items():
        chosen = result.select(target)
        assert chosen["sequence"].to_pylist() == [10 + i for i in indices]
        assert chosen["priority"].to_pylist() == [priorities[i] for i in indices]


def test_what_is_for_one_target_alone_goes_by_no_rule_and_no_default() -> None:
    rules = [Rule("high", "value > 2", ("a", "b"), 7), Rule("all", "TRUE", ("b",), 0)]
    router = Router(rules, "z", {"plant1_opcua": "table1"}, {"plant1_mqtt": "b", "api/z": "z"})
    result = router(BATCH)
    rows = {t: (list(range(len(BATCH))) if r is None else r.tolist()) for t, r in result.targets.items()}
    assert rows == {"a": [0, 1], "b": list(range(len(BATCH))), "table1": [0, 1]}  # 2 and 3 are in b by themselves
    assert result.batch["priority"].to_pylist() == [7, 7, 0, 0, 0, 0, 0, 0]
    posted = Tag("api/z", "api", "PLC001", "t", "t", mapping='{"site": "s"}')
    only = router(stream((posted, 90.0, {}), (posted, 91.0, {"reject": "broken"}), (TAGS[0], 1.0, {})))
    rows = {t: (r if r is None else r.tolist()) for t, r in only.targets.items()}
    assert rows == {"z": [0], "b": [2], "table1": [2]}
    assert (only.dead.tolist(), only.defaulted) == ([1], 0)
    alone = router(stream((posted, 90.0, {}), (posted, 1.0, {})))
    assert (alone.targets, alone.batch["priority"].to_pylist()) == ({"z": None}, [0, 0])


def test_what_can_go_nowhere_becomes_a_reject_with_the_reason_and_others_are_not_touched() -> None:
    router = Router(
        [Rule("all", "TRUE", ("a",), 3)],
        "z",
        refusal=lambda source: f"{source} is gone" if source.startswith("api/") else "",
    )
    gone, other, sound = (
        Tag(source, "api", "PLC001", "t", "t", mapping='{"site": "s"}') for source in ("api/x", "api/y", "api")
    )
    found = router(stream((gone, 1.0, {}), (sound, 2.0, {}), (other, 3.0, {}), (gone, 4.0, {"reject": "broken"})))
    assert {t: r if r is None else r.tolist() for t, r in found.targets.items()} == {"a": [1]}
    assert (found.dead.tolist(), found.unmatched.tolist(), found.defaulted) == ([0, 2, 3], [], 0)
    assert found.batch["reject"].to_pylist() == ["api/x is gone", None, "api/y is gone", "broken"]
    untouched = router(stream((sound, 2.0, {})))
    assert (untouched.targets, untouched.dead.tolist()) == ({"a": None}, [])
