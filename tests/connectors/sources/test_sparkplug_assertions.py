"""docs/sparkplug.md says which test shows which assertion of the Sparkplug specification: the tests say so in their docstrings."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]
_ID = re.compile(r"tck-id-[A-Za-z0-9-]+")
_BEGIN, _END = "| assertion | shown by |\n|---|---|\n", "\n\n"


def shown() -> dict[str, list[str]]:
    """The tests of each assertion."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in sorted((ROOT / "tests" / "connectors").rglob("test_sparkplug*.py")):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for name in _ID.findall(ast.get_docstring(node) or ""):
                    found[name].append(f"{file.parent.name}/{file.stem}: {node.name[5:].replace('_', ' ')}")
    return found


def table() -> str:
    """The rows of the table, as they stand in the page."""
    return "\n".join(f"| {name} | {'; '.join(tests)} |" for name, tests in sorted(shown().items()))


def test_the_page_says_which_test_shows_which_assertion() -> None:
    page = (ROOT / "docs" / "sparkplug.md").read_text("utf-8") + _END
    begin = page.index(_BEGIN) + len(_BEGIN)
    assert page[begin : page.index(_END, begin)].rstrip("\n") == table()


def test_no_assertion_is_named_outside_a_docstring_of_a_test() -> None:
    for file in (ROOT / "tests" / "connectors").rglob("test_sparkplug*.py"):
        named = set(_ID.findall(file.read_text("utf-8"))) - {"tck-id-"}
        assert named <= shown().keys(), file
