"""What `bifrost create` prints can be pasted."""

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from bifrost.cli import app
from config.loader import load
from config.reference import choices
from config.snippets import UNIONS, snippet, types

KINDS = [(kind, type_) for kind in UNIONS for type_ in types(kind)]


@pytest.mark.parametrize(("kind", "type_"), KINDS)
def test_a_snippet_loads_and_names_every_setting(
    kind: str, type_: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = snippet(kind, type_)
    for name in re.findall(r"\$\{env:(\w+)\}", text):
        monkeypatch.setenv(name, "word")
    file = tmp_path / "gateway.yaml"
    file.write_text(text)
    found = load(file)
    assert len(found.sources if kind == "source" else found.targets) == 1
    model = choices(UNIONS[kind])[type_]
    for key, field in model.model_fields.items():
        assert re.search(rf"^[ #-]*{field.alias or key}:", text, re.MULTILINE), key


@pytest.mark.parametrize(("kind", "type_"), KINDS)
def test_a_setting_that_has_a_default_can_be_uncommented(kind: str, type_: str) -> None:
    text = snippet(kind, type_)
    with_default = re.sub(r"^( +)# (\w+: \S.*?)\s+# .*$", r"\1\2", text, flags=re.MULTILINE)
    with_default = re.sub(r"^( +)# (provider_config:)$", r"\1\2", with_default, flags=re.MULTILINE)
    assert with_default.count("#") < text.count("#")
    yaml.safe_load(with_default)


def test_a_type_that_there_is_not_is_told_with_those_there_are() -> None:
    done = CliRunner().invoke(app, ["create", "target", "kafkaesque"])
    assert done.exit_code == 2
    assert "there is no target" in done.output
    assert "timescaledb" in done.output


def test_the_verb_prints_the_snippet() -> None:
    done = CliRunner().invoke(app, ["create", "target", "delta"])
    assert done.exit_code == 0
    assert done.output == snippet("target", "delta")
