from collections.abc import Generator, Iterator

import pytest
import structlog
from hypothesis import settings

from tests import evidence, interop

settings.register_profile("any machine", deadline=None)  # time says more of the machine's load than of an example
settings.load_profile("any machine")

SEEN = pytest.StashKey[interop.Seen]()


@pytest.fixture(autouse=True)
def logging_left_as_found() -> Iterator[None]:
    """A command or a chaos scenario that runs in this process sets up logging, which the next test must not inherit."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


_SHARED = ("kafka", "amqp", "timescaledb", "influxdb")
"""Servers that are slow to start, and that all tests of a process share."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side, those of one file, of one connector or of one shared server are one process's."""
    for item in items:
        provider = getattr(getattr(item, "callspec", None), "params", {}).get("provider")
        name = f"{item.path.name} {type_of(provider)}" if provider is not None else item.path.name
        shared = next((server for server in _SHARED if server in name), name)
        item.add_marker(pytest.mark.xdist_group(shared))


def type_of(provider: object) -> str:
    """Protocol or type of a provider of a contract suite."""
    return str(getattr(provider, "type", None) or getattr(provider, "protocol", provider))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what a test that talks to software of others found."""
    report = yield
    counterpart = interop.counterpart_of(item)
    if counterpart is not None and (report.when == "call" or report.failed):
        seen = item.config.stash.setdefault(SEEN, {})
        interop.note(seen, counterpart, interop.behaviour_of(item), report.outcome)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Add what was seen to build/evidence/interop.json."""
    seen = session.config.stash.get(SEEN, {})
    if seen:
        interop.record(seen, evidence.FOLDER / "interop.json")
