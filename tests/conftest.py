from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture(autouse=True)
def logging_left_as_found() -> Iterator[None]:
    """A command or a chaos scenario that runs in this process sets up logging, which the next test must not inherit."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
