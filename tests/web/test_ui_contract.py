"""What the browser's pages ask for and read is in the API's own description."""

import re
from functools import cache
from pathlib import Path
from typing import Any, Final

from web.reference import openapi

SOURCES: Final = Path(__file__).parents[2] / "web" / "ui" / "src"
# How a type of the pages is called in the OpenAPI; what is not here has no schema of its own there.
SCHEMAS: Final = {
    "Session": "Session", "Problem": "Problem", "PipelineNode": "web__pipeline__Node", "Pipeline": "Pipeline", "Tag": "Tag",
    "TagDetail": "OneTag", "Sample": "web__routes__tags__Sample", "TagPage": "Tags", "TreeChild": "Branch", "TreePage": "Tree", "TestResult": "TestAnswer",
    "BrowseNode": "web__routes__sources__Node", "Applied": "AppliedChange", "RuleCounts": "RulesTest", "Found": "FoundServer",
    "Discovery": "Servers", "Certificate": "Certificate", "Secret": "Secret", "Change": "Change", "Plan": "PlanAnswer",
    "ConfigState": "FilesNow", "HistoryEntry": "Kept", "User": "User", "Token": "Token",
}  # fmt: skip


@cache
def described() -> dict[str, Any]:
    return openapi()


def interfaces() -> dict[str, set[str]]:
    """The fields of each type in types.ts, with those it inherits."""
    found: dict[str, set[str]] = {}
    text = (SOURCES / "api" / "types.ts").read_text(encoding="utf-8")
    for name, of, body in re.findall(r"export interface (\w+)(?: extends (\w+))? \{\n(.*?)\n\}", text, re.DOTALL):
        found[name] = set(re.findall(r"^  (\w+)\??:", body, re.MULTILINE)) | found.get(of, set())
    return found


def test_every_field_that_a_page_reads_is_answered() -> None:
    schemas, types = described()["components"]["schemas"], interfaces()
    assert set(SCHEMAS) <= set(types)
    wrong = {
        f"{name}.{field}"
        for name, schema in SCHEMAS.items()
        for field in types[name] - set(schemas.get(schema, {}).get("properties", {}))
    }
    assert wrong == set()


def test_every_route_that_a_page_asks_for_is_there() -> None:
    known = [re.compile(re.sub(r"\{\w+\}", r"[^/]+", path) + "$") for path in described()["paths"]]
    asked = set()
    for file in SOURCES.rglob("*.ts*"):
        text = file.read_text(encoding="utf-8")
        asked |= {re.sub(r"\$\{what\}", "source", path) for path in re.findall(r"[\"`](/api/[^\"`?\s]+)", text)}
        for parts in re.findall(r"route\(\[([^\]]+)\]", text):
            words = [part.strip() for part in parts.split(",")]
            asked.add("/api/" + "/".join(word.strip('"') if word.startswith('"') else "x" for word in words))
    asked = {path for path in asked if "${" not in path}
    choice = {"/api/x/x": "/api/sources/x", "/api/certificates/x": "/api/certificates/ca"}
    asked = {choice.get(path, path) for path in asked} - {"/api/certificates/x/x"}
    assert len(asked) > 30
    assert {path for path in asked if not any(one.match(path) for one in known)} == set()
