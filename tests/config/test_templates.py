"""Equipment described once: sources from a template and the rows of a CSV."""

import pytest

from connectors.sources.modbus import ModbusConfig
from tests.loaded_config import Load, Problems

TEXT = """\
sources:
  - {name: other, protocol: opcua, endpoint: opc.tcp://h}
templates:
  press:
    rows_file: rows/presses.csv
    defaults: {port: 502, offset: 0.5}
    source:
      name: "press_{number}"
      protocol: modbus
      endpoint: "tcp://{host}:{port}"
      unit_id: "{unit}"
      equipment: "P{number}"
      line: "{line}"
      path_template: "{area}/{line}/{{equipment}}/{tag_name}"
      metadata: {serial: "{serial}"}
      registers:
        - {name: oil, address: 1, type: int16, unit: °C, offset: "{offset}"}
"""
ROWS = """\
number,host,unit,line,serial,offset
# north hall
1,10.0.0.1,3,L1,0123,2.5

02,10.0.0.2,4,,"a, b",
"""


def test_each_row_is_a_source_with_numbers_and_texts_as_they_are_meant(loaded: Load) -> None:
    found = loaded(TEXT, **{"rows__presses.csv": ROWS})
    other, first, second = found.sources
    assert other.name == "other"
    assert isinstance(first, ModbusConfig)
    assert isinstance(second, ModbusConfig)
    assert (first.name, first.endpoint, first.unit_id) == ("press_1", "tcp://10.0.0.1:502", 3)
    assert (first.equipment, first.line, first.metadata) == ("P1", "L1", {"serial": "0123"})
    assert first.registers[0].offset == 2.5
    assert first.path_template == "{area}/L1/{equipment}/{tag_name}"
    assert (second.name, second.line, second.metadata) == ("press_02", None, {"serial": "a, b"})
    assert second.registers[0].offset == 0.5


def test_a_semicolon_may_divide_cells_and_a_template_may_have_fifty_rows(loaded: Load) -> None:
    rows = "number;host;unit;line;serial\n" + "".join(f"{n};10.0.0.{n};{n};L{n};s\n" for n in range(1, 51))
    found = loaded(TEXT, **{"rows__presses.csv": "\ufeff" + rows})
    assert [source.name for source in found.sources[1:]] == [f"press_{n}" for n in range(1, 51)]


def test_what_is_wrong_with_a_row_is_told_with_file_row_and_column(problems: Problems) -> None:
    rows = """\
number,host,unit,line,serial,foo
1,10.0.0.1,x3,L1,a,1
1,10.0.0.2,400,L1,a,1
2,10.0.0.2
3,10.0.0.2,4,L1,"a,1
"""
    assert problems(TEXT, {"rows/presses.csv": rows}) == [
        "rows/presses.csv:1:30: templates.press: the column `foo` is used nowhere in the template; take it out, or use it",
        "rows/presses.csv:2:1: sources.1.name: two sources are called `press_1`",
        "rows/presses.csv:2:12: sources.1.unit_id: should be a valid integer, unable to parse string as an integer, not `x3`",
        "rows/presses.csv:3:1: sources.2.name: two sources are called `press_1`",
        "rows/presses.csv:3:12: sources.2.unit_id: should be less than or equal to 255, not `400`",
        "rows/presses.csv:4:1: templates.press: has 2 cells, the header 6",
        "rows/presses.csv:5:1: templates.press: a quote is opened and not closed in this line",
    ]


def test_what_is_wrong_with_the_template_is_told_once_and_in_its_place(problems: Problems) -> None:
    rows = "number,hots,unit,line,serial\n1,a,1,b,c\n2,a,1,b,c\n"
    text = TEXT.replace("type: int16", "typ: int16")
    missing = (
        "gateway.yaml:10:17: templates.press: `{host}`: rows/presses.csv has no column `host`, and `defaults` says nothing; "
        "there are hots, line, number, offset, port, serial, unit; for the characters themselves write {{host}}"
    )
    found = problems(text, {"rows/presses.csv": rows})
    assert found == [
        missing,
        "gateway.yaml:17:35: sources.1.registers.0.typ: there is no key `typ`; did you mean `type`?",
        "rows/presses.csv:1:8: templates.press: the column `hots` is used nowhere in the template; take it out, or use it",
    ]


def test_a_file_without_rows_or_with_a_wrong_header_is_told(problems: Problems) -> None:
    assert problems(TEXT) == [
        "gateway.yaml:5:16: templates.press: rows/presses.csv cannot be read: No such file or directory"
    ]
    assert problems(TEXT, {"rows/presses.csv": "\n# nothing\n"}) == [
        "rows/presses.csv:1:1: templates.press: has no header; the first line names the columns"
    ]
    assert problems(TEXT, {"rows/presses.csv": "number,host,unit,line,serial\n"}) == [
        "rows/presses.csv:1:1: templates.press: has a header and no row"
    ]
    header = problems(TEXT, {"rows/presses.csv": "number,host,unit,line,serial,host,no way\n1,a,2,b,c,d,e\n"})
    assert header[:2] == [
        "rows/presses.csv:1:30: templates.press: two columns are called `host`",
        "rows/presses.csv:1:35: templates.press: `no way` is no name of a column: letters, digits and `_`",
    ]


def test_a_missing_key_is_told_at_its_row_and_references_are_resolved(
    problems: Problems, loaded: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "number,host,unit,line,serial\n1,${env:PRESS_HOST},1,b,c\n"
    monkeypatch.setenv("PRESS_HOST", "10.9.8.7")
    found = loaded(TEXT, **{"rows__presses.csv": rows})
    source = found.sources[1]
    assert isinstance(source, ModbusConfig)
    assert source.endpoint == "tcp://10.9.8.7:502"
    nameless = TEXT.replace('name: "press_{number}"', 'name: "{number}"')
    assert problems(nameless, {"rows/presses.csv": "number,host,unit,line,serial\n,h,1,b,c\n"}) == [
        "rows/presses.csv:2:1: sources.1.name: is needed: name of the source, unique"
    ]


def test_a_section_that_is_no_template_is_told_by_its_keys(problems: Problems) -> None:
    needed, unknown = problems("templates: {press: {rows: a.csv, source: {}}}\n")
    assert needed.startswith("gateway.yaml:1:20: templates.press.rows_file: is needed: CSV file: its first line")
    assert unknown == "gateway.yaml:1:21: templates.press.rows: there is no key `rows`; did you mean `rows_file`?"
