"""Configurations written to a folder of their own."""

from pathlib import Path

import pytest

from config.loader import load
from config.models import Configuration
from config.yaml_nodes import ProblemsError
from tests.loaded_config import Load, Problems


def _write(folder: Path, text: str | bytes, files: dict[str, str | bytes]) -> Path:
    for name, content in {"gateway.yaml": text, **files}.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / "gateway.yaml"


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Load a text, beside which other files lie."""

    def load_text(text: str | bytes, **files: str | bytes) -> Configuration:
        return load(_write(tmp_path, text, {name.replace("__", "/"): content for name, content in files.items()}))

    return load_text


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    """The problems of a text as `file:line:column: key: what`, without the folder."""

    def problems_of(text: str | bytes, files: dict[str, str | bytes] | None = None) -> list[str]:
        with pytest.raises(ProblemsError) as caught:
            load(_write(tmp_path, text, files or {}))
        return [str(problem).replace(f"{tmp_path}/", "") for problem in caught.value.problems]

    return problems_of


@pytest.fixture(autouse=True)
def _outside_tmp(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout under /tmp would be warned of its relative folder."""
    monkeypatch.chdir("/")
