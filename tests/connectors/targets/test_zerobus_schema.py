"""What of a reading fits a table as Unity Catalog describes it, and the SQL that makes one that fits."""

import duckdb
import pytest
import sqlglot
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from connectors.targets.zerobus import ddl
from connectors.targets.zerobus.errors import HttpError
from connectors.targets.zerobus.schema import TableColumn, columns, descriptor, plan
from normalization.reading import TABLE

SQL = {
    "string": "STRING",
    "int64": "BIGINT",
    "int32": "INT",
    "double": "DOUBLE",
    "date32[day]": "DATE",
    "timestamp[us, tz=UTC]": "TIMESTAMP",
    "binary": "BINARY",
}
WHOLE = [TableColumn(f.name, SQL[str(f.type)].lower(), f.nullable) for f in TABLE]


def changed(name: str, type_: str | None, *, nullable: bool = True) -> list[TableColumn]:
    return [
        TableColumn(name, type_, nullable) if column.name == name else column
        for column in WHOLE
        if column.name != name or type_ is not None
    ]


def test_the_table_of_the_ddl_takes_every_column_of_a_reading():
    fitting = plan(WHOLE)
    assert [c.name for c in fitting.columns] == TABLE.names
    assert (fitting.left_out, fitting.not_ours, fitting.problems) == ((), (), ())
    assert fitting.arrow.equals(TABLE, check_metadata=False)


def test_columns_keep_the_order_and_spelling_of_the_table():
    fitting = plan([TableColumn("Sequence", "bigint", True), TableColumn("GATEWAY", "string", False)])
    assert [(c.name, c.field, c.number) for c in fitting.columns] == [
        ("sequence", "Sequence", 1),
        ("gateway", "GATEWAY", 2),
    ]
    assert "value" in fitting.left_out


def test_a_nullable_column_that_is_not_ours_is_left_alone():
    fitting = plan([*WHOLE, TableColumn("comment", "map<string,string>", nullable=True)])
    assert fitting.not_ours == ("comment",)
    assert not fitting.problems


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ([*WHOLE, TableColumn("plant", "string", nullable=False)], ["`plant`", "NOT NULL", "DROP NOT NULL"]),
        (changed("value", "string"), ["`value` is STRING", "DOUBLE"]),
        (changed("value", "float"), ["`value` is FLOAT", "DOUBLE"]),
        (changed("sequence", "int"), ["`sequence` is INT", "BIGINT"]),
        (changed("source_time", "decimal(10,2)"), ["DECIMAL(10,2)", "TIMESTAMP or TIMESTAMP_NTZ"]),
        ([TableColumn("x", "string", nullable=True)], ["none of the columns", "zerobus ddl"]),
    ],
)
def test_what_does_not_fit_is_told_by_column(table, words):
    problems = "; ".join(plan(table).problems)
    assert all(word in problems for word in words), problems


def test_all_problems_are_told_at_once():
    table = [TableColumn("value", "string", True), TableColumn("flags", "string", True)]
    assert len(plan(table).problems) == 2


@pytest.mark.parametrize(
    ("name", "type_"),
    [("flags", "bigint"), ("source_time", "timestamp_ntz"), ("path", "varchar(200)"), ("sequence", "long")],
)
def test_types_that_hold_every_value_fit(name, type_):
    assert not plan(changed(name, type_)).problems


def test_the_descriptor_is_one_proto2_message_with_the_services_types():
    table = [
        TableColumn("gateway", "string", nullable=False),
        TableColumn("date", "date", nullable=False),
        TableColumn("source_time", "timestamp", nullable=True),
        TableColumn("value", "double", nullable=True),
        TableColumn("value_int", "bigint", nullable=True),
        TableColumn("value_bytes", "binary", nullable=True),
        TableColumn("flags", "int", nullable=True),
    ]
    file = FileDescriptorProto.FromString(descriptor(plan(table).columns))
    (row,) = file.message_type
    f = FieldDescriptorProto
    assert [(x.name, x.number, x.type, x.label) for x in row.field] == [
        ("gateway", 1, f.TYPE_STRING, f.LABEL_REQUIRED),
        ("date", 2, f.TYPE_INT32, f.LABEL_REQUIRED),
        ("source_time", 3, f.TYPE_INT64, f.LABEL_OPTIONAL),
        ("value", 4, f.TYPE_DOUBLE, f.LABEL_OPTIONAL),
        ("value_int", 5, f.TYPE_INT64, f.LABEL_OPTIONAL),
        ("value_bytes", 6, f.TYPE_BYTES, f.LABEL_OPTIONAL),
        ("flags", 7, f.TYPE_INT32, f.LABEL_OPTIONAL),
    ]
    assert not row.nested_type
    assert file.syntax == "proto2"


def test_unity_catalogs_columns_come_in_the_tables_order():
    answer = {
        "columns": [
            {"name": "b", "type_text": "BIGINT", "nullable": False, "position": 1},
            {"name": "a", "type_text": "string", "position": 0},
        ]
    }
    assert columns(answer) == (TableColumn("a", "string", True), TableColumn("b", "bigint", False))


@pytest.mark.parametrize(
    "answer", [{}, {"columns": None}, {"columns": [{"name": "a"}]}, {"columns": ["a"]}, {"columns": [{"type_text": 1}]}]
)
def test_an_answer_without_columns_is_an_error_of_the_service(answer):
    with pytest.raises(HttpError, match="names no columns"):
        columns(answer)


def test_the_ddl_is_sql_with_every_column_its_type_and_its_meaning():
    statements = sqlglot.parse(ddl("main.plant1.readings", "app-1"), dialect="databricks")
    create = statements[0]
    assert create.this.this.sql("databricks") == "`main`.`plant1`.`readings`"
    made = {d.name: d for d in create.find_all(sqlglot.exp.ColumnDef)}
    assert list(made) == TABLE.names
    for field in TABLE:
        column = made[field.name]
        assert column.kind.sql("databricks") == SQL[str(field.type)]
        assert bool(column.find(sqlglot.exp.NotNullColumnConstraint)) is not field.nullable
        comment = column.find(sqlglot.exp.CommentColumnConstraint).this.this
        assert comment == field.metadata[b"comment"].decode()
    assert create.find(sqlglot.exp.PartitionedByProperty).this.expressions[0].name == "date"
    grants = ddl("main.plant1.readings", "app-1").split("\n\n")[-1].splitlines()
    assert [g.split(" ON ")[0] for g in grants] == [
        "GRANT USE CATALOG",
        "GRANT USE SCHEMA",
        "GRANT SELECT",
        "GRANT MODIFY",
    ]
    assert all(g.endswith("TO `app-1`;") for g in grants)


def test_the_view_shows_each_reading_once():
    create, view, *_ = ddl("memory.main.readings").strip().split(";\n\n")
    plain = "\n".join(line for line in view.splitlines() if not line.startswith("COMMENT"))
    with duckdb.connect() as db:
        db.execute(sqlglot.transpile(create, read="databricks", write="duckdb")[0].split(" PARTITIONED")[0])
        row = "INSERT INTO readings (gateway, shard, sequence, date, received_time, type, quality, flags, priority) "
        for sequence, minute in [(1, 0), (2, 1), (1, 2), (1, 0), (3, 0)]:
            db.execute(
                f"{row} VALUES ('g', 's', {sequence}, '2026-01-01', '2026-01-01 00:0{minute}', 'NULL', 'GOOD', 0, 0)"
            )
        db.execute(sqlglot.transpile(plain, read="databricks", write="duckdb")[0])
        rows = db.execute("SELECT sequence, minute(received_time) FROM readings_once ORDER BY sequence").fetchall()
    assert rows == [(1, 0), (2, 1), (3, 0)]


@pytest.mark.parametrize("name", ["readings", "a.b", "a.b.c.d", "a.b.c`; DROP TABLE x; --", ""])
def test_the_ddl_takes_full_names_only(name):
    with pytest.raises(ValueError, match=r"catalog\.schema\.table"):
        ddl(name)
