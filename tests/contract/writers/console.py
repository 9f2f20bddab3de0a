"""The console's JSON lines; standard output is a file meanwhile."""

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from connectors.settings import TargetConfig
from connectors.targets.console import ConsoleConfig
from tests.contract.counterpart import Counterpart, Provider
from tests.contract.readings import Row
from tests.contract.writers.file import json_row


class Screen:
    def __init__(self, path: Path, stack: contextlib.ExitStack) -> None:
        self.path = path
        self.stack = stack
        self.stdout = stack.enter_context(path.open("w", encoding="utf-8"))

    def config(self, **settings: Any) -> TargetConfig:
        if sys.stdout is not self.stdout:  # not before the test runs: pytest puts its own there
            self.stack.enter_context(contextlib.redirect_stdout(self.stdout))
        return ConsoleConfig.model_validate({"format": "jsonl"} | settings)

    def rows(self) -> list[Row]:
        return [json_row(line) for line in self.path.read_bytes().decode().split("\n")[:-1]]

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        closed = io.TextIOWrapper(io.BytesIO())
        closed.close()
        with contextlib.redirect_stdout(closed):
            yield


@contextlib.contextmanager
def screen(folder: Path) -> Iterator[Counterpart]:
    with contextlib.ExitStack() as stack:
        yield Screen(folder / "screen", stack)


PROVIDERS = [Provider("console", "console", screen, ordered=True)]
