"""For tests that run a command in their own process."""

from typing import Any

import pytest
import structlog


def _silent(*_: object) -> Any:
    raise structlog.DropEvent


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its loggers would keep a stream that is closed when the command ends; tests/conftest.py puts logging back."""
    for place in ("config.loader.configure", "config.logs.configure"):
        monkeypatch.setattr(place, lambda *_: None)
    structlog.configure(processors=[_silent])
