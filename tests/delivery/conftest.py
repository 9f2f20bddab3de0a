import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from normalization.reading import TagTable
from tests.delivery.lanes import OPEN
from tests.delivery.stores import tag_table


@pytest.fixture(scope="module", autouse=True)
def plain_tracebacks() -> Iterator[None]:
    """One with the values of all variables takes seconds, and in these tests errors are meant."""
    before = structlog.get_config()
    structlog.configure(processors=[structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)])
    yield
    structlog.configure(**before)


@pytest.fixture
def table() -> TagTable:
    return tag_table()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(autouse=True)
def lanes_closed_at_last() -> Iterator[None]:
    yield
    while OPEN:
        OPEN.pop().close()
