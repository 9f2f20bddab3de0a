"""Notes what the writer suite saw of each target, for the table in docs/targets.md."""

from collections.abc import Generator
from typing import Any

import pytest

from tests import evidence, interop
from tests.contract.counterpart import Provider

SEEN = pytest.StashKey[dict[str, dict[str, Any]]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note the result of a test of one provider: a behaviour passes when every test of it does."""
    report = yield
    provider = _provider(item)
    if provider is not None and (report.when == "call" or report.failed):
        seen = item.config.stash.setdefault(SEEN, {})
        target = seen.setdefault(provider.name, _described(provider))
        behaviours, name = target["behaviours"], interop.behaviour_of(item)
        if report.failed:
            behaviours[name] = "fail"
        elif report.passed:
            behaviours.setdefault(name, "pass")
    return report


def _provider(item: pytest.Item) -> Provider | None:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    found = parameters.get("provider")
    return found if isinstance(found, Provider) else None


def _described(provider: Provider) -> dict[str, Any]:
    name = provider.counterpart
    return {
        "type": provider.type,
        "counterpart": name or "our own reader of what was written",
        "version": interop.version(name) if name else "",
        "behaviours": {},
    }


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Add what was seen to build/evidence/targets.json; behaviours that were not looked at this time stay."""
    seen = session.config.stash.get(SEEN, {})
    if seen:
        evidence.record_within("targets", seen, "behaviours")
