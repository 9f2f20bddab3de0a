import logging
from collections.abc import Generator, Iterator

import pytest
import structlog
from hypothesis import settings

from config.logs import OWN
from tests import evidence, interop, threats

settings.register_profile("any machine", deadline=None)  # time says more of the machine's load than of an example
settings.load_profile("any machine")

SEEN = pytest.StashKey[interop.Seen]()


@pytest.fixture(autouse=True)
def logging_left_as_found() -> Iterator[None]:
    """A command or a chaos scenario that runs in this process sets up logging, which the next test must not inherit."""
    before, loggers = structlog.get_config(), [logging.getLogger(name) for name in ("", *OWN)]
    levels = [logger.level for logger in loggers]
    yield
    structlog.configure(**before)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


_SHARED = ("kafka", "amqp", "timescaledb", "influxdb")
"""Servers that are slow to start, and that all tests of a process share."""


_LONGEST = ("test_ui.py", "test_writers.py", "test_cli.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run side by side, those of one file, of one connector or of one shared server are one process's.

    The longest such groups begin first: none is left at the end, when all other processes are done.
    """
    items.sort(key=lambda item: item.path.name not in _LONGEST)
    for item in items:
        provider = getattr(getattr(item, "callspec", None), "params", {}).get("provider")
        name = f"{item.path.name} {type_of(provider)}" if provider is not None else item.path.name
        shared = next((server for server in _SHARED if server in name), name)
        item.add_marker(pytest.mark.xdist_group(shared))
        item.user_properties += [("threat", number) for mark in item.iter_markers("threat") for number in mark.args]


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


class Threats:
    """Notes what tests of the threat model found; user properties reach the process that started the others."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[list[int], bool]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A phase of a test is over."""
        numbers = [int(str(value)) for name, value in report.user_properties if name == "threat"]
        if numbers and (report.failed or (report.passed and report.when == "call")):
            test = report.nodeid.partition("[")[0].partition("@")[0]
            _, passed = self._found.get(test, ([], True))
            self._found[test] = (numbers, passed and not report.failed)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Write it, unless only some of a test's parameters may have run."""
        option = session.config.option
        chosen = option.keyword or any("::" in argument for argument in session.config.args)
        if self._found and not chosen:
            threats.record(self._found)


def pytest_configure(config: pytest.Config) -> None:
    """One process notes what the tests of the threat model found."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Threats(), "threats")
