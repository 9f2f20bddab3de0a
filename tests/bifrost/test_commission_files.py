"""Tag lists as planners write them, and reports that no plant's string breaks."""

import csv
import io
from pathlib import Path

import pytest

from bifrost.commissioning.report import Sheet, as_csv, as_html, cell
from bifrost.commissioning.tag_list import TagListError, parse_tag_list, read_tag_list
from flows.commission import Expected, Observed, compare
from normalization.facts import Quality, ValueType


@pytest.mark.parametrize(
    "text",
    [
        "tag,type,unit,min,max,quality,interval\npump,INT,rpm,0,1450.5,GOOD/UNCERTAIN,500ms\n",
        "Tag;Data type;Eng. Units;Range low;Range high;Quality;Interval (ms)\npump;Int;rpm;0;1450,5;good, uncertain;500\n",
        "POINT\tExpected Type\tUoM\tMINIMUM\tMAXIMUM\tstatus\trate\npump\tint\trpm\t0\t1450,5\tGOOD or UNCERTAIN\t2 Hz\n",
        "\ufefftag,type,unit,min,max,quality,cycle time\r\n\r\npump,int, rpm ,0,1.4505e3,UNCERTAIN+GOOD,0.5\r\n,,,\r\n",
    ],
)
def test_headers_dividers_and_numbers_may_be_written_in_many_ways(text: str) -> None:
    (row,) = parse_tag_list(text, "x").rows
    line = 3 if "\r\n\r\n" in text else 2
    allowed = frozenset({Quality.GOOD, Quality.UNCERTAIN})
    assert row == Expected(line, "pump", type="int", unit="rpm", low=0, high=1450.5, qualities=allowed, interval=0.5)


def test_a_list_of_a_spreadsheet_in_windows_1252_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("Tag;Unit;Who\nÖl;°C;Jürgen\n".encode("cp1252"))
    found = read_tag_list(tmp_path / "t.csv")
    assert (found.rows, found.ignored) == ([Expected(2, "Öl", unit="°C")], ["Who"])


def test_a_kepware_export_is_a_tag_list() -> None:
    text = 'Tag Name,Address,Data Type,Scan Rate,Eng Units,Description\n"force",400101,Float,250,kN,"of the press"\n'
    (row,) = parse_tag_list(text, "x").rows
    assert (row.tag_name, row.type, row.unit, row.interval) == ("force", "float", "kN", 0.25)
    assert row.description == "of the press"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "t:1: no column names the tags"),
        ("type,unit\nint,V\n", "t:1: no column names the tags"),
        ("tag\n\n", "t: has a header and no tag"),
        ("tag,point\na,b\n", "t:1: columns `tag` and `point` mean the same"),
        ("tag,rate,interval\na,1,1\n", "t:1: say the interval or the rate"),
        ("tag,unit\n,V\n", "t:2: says no tag"),
        ("tag\na,b\n", "t:2: more cells than the header has"),
        ("tag,interval\na,0\n", "t:2: interval: `0` is not above 0"),
        ("tag,rate\na,often\n", "t:2: rate: `often` is no number"),
        ("tag,quality\na,fine\n", "t:2: quality: `fine` is no quality"),
        ("tag,max\na,inf\n", "t:2: max: `inf` is no number"),
        ('tag,max\n"a\nb",x\n', "t:2: max: `x` is no number"),
    ],
)
def test_what_is_wrong_with_a_list_is_told_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(TagListError) as caught:
        parse_tag_list(text, "t")
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"), ("+1+cmd", "'+1+cmd"), ("-2+3", "'-2+3"), ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "\\t=1"), ("-40.5", "-40.5"), ("+7", "+7"), (-3.5, "-3.5"), ("  =1", "'  =1"), ("a=b", "a=b"), (None, ""),
        ("two\nlines", "two\\nlines"),
    ],
)  # fmt: skip
def test_a_cell_is_no_formula(text: object, shown: str) -> None:
    assert cell(text) == shown


HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J\u202e'\"&=1+1"


def test_a_string_of_the_plant_breaks_neither_the_page_nor_the_table() -> None:
    seen = Observed("plc", HOSTILE, HOSTILE, HOSTILE, HOSTILE, [HOSTILE], 1, {ValueType.TEXT: 1}, {Quality.GOOD: 1})
    seen.value = "=cmd|' /C calc'!A0"
    found = compare([Expected(2, tag="door", description=HOSTILE)], [seen], {"plc": HOSTILE})
    sheet = Sheet("g", "c", None, "0", HOSTILE, "0", 0, 1, False, {"x": HOSTILE}, 1, {"plc": HOSTILE}, found)
    rows = as_csv(sheet)
    page = as_html(sheet, rows).decode()
    assert page.count("<img") == 0
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") > 6
    assert not {"\x1b", "\u202e"} & {*page, *rows.decode("utf-8-sig")}
    table = list(csv.DictReader(io.StringIO(rows.decode("utf-8-sig"))))
    assert [row["last_value"] for row in table] == ["", "'=cmd|' /C calc'!A0"]
    assert len(table) == 2
