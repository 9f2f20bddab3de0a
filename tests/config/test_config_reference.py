"""The generated reference is complete and fresh."""

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from config import models, reference
from config.reference import choices, editor_schema, main, page, target_pages
from tests.contract.counterpart import target_types


def test_every_key_of_every_source_and_target_is_described_with_type_and_default() -> None:
    text = page()
    for union in (models.Source, models.Target):
        for name, model in choices(union).items():
            assert f"\n### {name}\n" in text
            for key, field in model.model_fields.items():
                assert f"| `{key}` | " in text or key in ("protocol", "type"), f"{name}.{key}"
                assert field.description, f"{name}.{key}"
    assert "| `publishing_interval` | duration, more than 0s | `500ms` | time between notifications" in text
    assert "| `max_message_size` | size, 64KiB or more | `16MiB` | largest message taken" in text
    assert "| `port` | integer, 0 to 65535 |  | HTTP port" in text
    assert "| `schema` | text | **needed** | schema of the table |" in text


@pytest.mark.parametrize("kind", choices(models.Target))
def test_each_target_has_a_page_with_settings_mapping_guarantee_limits_and_evidence(kind: str) -> None:
    text = target_pages()[f"{kind}.md"]
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(found) == [
        "Settings", "What a reading becomes", "Guarantee", "Limits of a unit", "What it was tested against",
    ]  # fmt: skip
    assert all(len(body.strip()) > 60 for body in found.values())
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
        assert (reference.DIRECTORY / "targets" / link).resolve().exists(), link


def test_conditions_and_the_rule_for_characters_are_told() -> None:
    text = page()
    assert "#### Conditions\n\nA condition is a SQL boolean expression" in text
    assert "**The rule for characters.**" in text
    assert "`bifrost_path_collisions`" in text
    assert "``" not in re.sub("^```.*$", "", text, flags=re.MULTILINE)


def test_no_table_has_a_broken_row() -> None:
    for line in page().splitlines():
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") == 5, line


def test_the_pages_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_check_tells_a_stale_page_and_writing_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference, "DIRECTORY", tmp_path / "docs")
    assert main(["--check"]) == 1
    assert "configuration.md is stale; run `python -m config.reference`" in capsys.readouterr().err
    assert not (tmp_path / "docs").exists()
    assert main([]) == 0
    assert main(["--check"]) == 0
    (tmp_path / "docs" / "gateway.schema.json").write_text("{}")
    assert main(["--check"]) == 1
    assert "gateway.schema.json is stale" in capsys.readouterr().err


def test_the_editors_schema_takes_durations_sizes_and_references() -> None:
    schema = json.loads(json.dumps(editor_schema()))
    source = schema["$defs"]["OpcUaConfig"]["properties"]
    assert {"type": "string"} in source["timeout"]["anyOf"]
    assert {"type": "string"} in source["max_message_size"]["anyOf"]
    assert {"type": "string", "pattern": r"\$\{"} in source["enabled"]["anyOf"]
    assert schema["$defs"]["OpcUaConfig"]["additionalProperties"] is False


def test_a_union_is_taken_apart_by_what_chooses_its_models() -> None:
    assert all(issubclass(model, BaseModel) for model in choices(models.Source).values())
    assert list(choices(models.Source)) == ["opcua", "mqtt", "modbus"]
    assert set(choices(models.Target)) == target_types()
