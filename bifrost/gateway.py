"""A gateway in a Python program: ``from bifrost import Gateway``."""

import json
import re
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import PrivateAttr
from typing_extensions import override

from config.loader import load
from config.models import EMBEDDED, NAME_PATTERN, Configuration, default_target
from connectors.contract import Context, Writer
from connectors.settings import TargetConfig
from delivery.account import Account
from flows.hosted import Hosted
from flows.posted import BusyError, CloudData, NotDurableError, NotTakenError, Taken, UnfitError
from normalization.rules import Rule, compile_condition

__all__ = ["BusyError", "CloudData", "Gateway", "NotDurableError", "NotTakenError", "Taken", "UnfitError"]

_BUSY: Final = 0.05
_STARTS_WITHIN: Final = 60.0
Reading = CloudData | Mapping[str, Any]


class _InPython(TargetConfig):
    """A target whose writer is made in Python."""

    type: Literal["python"] = "python"
    _writer: Writer = PrivateAttr()

    @override
    def writer(self, context: Context) -> Writer:
        return self._writer


class Gateway:
    """A gateway that runs in this process: its sources are read, and readings can be sent to its connectors.

    Use it as a context manager, or call `start` and `stop`. One can run in a process at a time. It runs in threads, leaves
    signals to the program, and its metrics are those of the process.

    Args:
        configuration: The file of its configuration, or what would stand in it.
    """

    _one = threading.Lock()

    def __init__(self, configuration: str | Path | Mapping[str, Any]) -> None:
        self._path = Path(configuration) if isinstance(configuration, str | Path) else None
        if self._path is not None:
            self._config = load(self._path)
        else:
            self._config = load(Path("configuration"), {"configuration": json.dumps(configuration, default=str)})
        self._unnamed = _is_embedded(self._config)
        self._process: Hosted | None = None

    @property
    def name(self) -> str:
        """Its name."""
        return self._config.gateway

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.runs

    def register(self, name: str, connector: TargetConfig | Writer, when: str | None = None, priority: int = 0) -> None:
        """Add a connector, before the gateway starts.

        A gateway whose configuration names no connector writes to those that are registered, and not to the embedded Delta
        table. Else a connector gets what is sent to it by name, what `when` says, and what the rules say.

        Args:
            name: Its name.
            connector: Its configuration, or a writer of your own; see docs/own-target.md.
            when: Condition of the readings that it gets, as in a routing rule.
            priority: Priority of those readings; larger is more urgent.

        Raises:
            ValueError: The name is taken or no name, or the condition is wrong.
            RuntimeError: The gateway runs.
        """
        if self._process is not None:
            raise RuntimeError("the gateway runs; register connectors before it starts")
        if not re.fullmatch(NAME_PATTERN.strip("^$"), name):
            raise ValueError(f"`{name}` is no name of a connector: letters and digits, and inside _ . and -")
        config = self._config
        if self._unnamed and list(config.targets) == [EMBEDDED]:
            config = replace(config, targets={}, default=())
        if name in config.targets:
            raise ValueError(f"there is a connector `{name}` already")
        rules, default = config.rules, config.default
        if when is not None:
            compile_condition(when)
            rules = (*rules, Rule(name, when, (name,), priority))
        elif self._unnamed:
            default = (*default, name)
        target = connector if isinstance(connector, TargetConfig) else _in_python(name, connector)
        self._config = replace(config, targets={**config.targets, name: target}, rules=rules, default=default)

    def start(self) -> Self:
        """Open the stores, read the sources, and run the flow; returns when readings are taken.

        Raises:
            StoreError: The directory belongs to another process, or cannot be used.
            RuntimeError: A gateway runs in this process already.
        """
        if not self._one.acquire(blocking=False):
            raise RuntimeError("a gateway runs in this process already; one can at a time")
        self._process = Hosted(self._config)
        try:
            self._process.begin(_STARTS_WITHIN)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop reading, finish what is under way, and close; what a target has not taken waits for the next start.

        Raises:
            StoreError: That was not possible in time; what the stores hold is safe.
        """
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.end()
        finally:
            self._one.release()

    def send(self, reading: Reading | Iterable[Reading], connector: str | None = None, timeout: float = 30.0) -> Taken:
        """Hand over a reading, or several as one; returns when they are durable. Safe from several threads.

        Args:
            reading: What `CloudData` takes; a reading with an `id` that was taken before with the same content is left out.
            connector: The connector that alone gets it; None to go by the rules.
            timeout: Seconds that it may take; as long as much waits for the disk, this waits too.

        Raises:
            ValueError: A reading is wrong, or there is no such connector; nothing was taken.
            RuntimeError: The gateway does not run.
            NotTakenError: It was not taken, or not for certain.
        """
        process = self._process
        if process is None or not process.runs:
            raise RuntimeError("the gateway does not run; start it before readings are sent")
        if connector is not None and connector not in process.config.targets:
            raise ValueError(f"there is no connector `{connector}`; there are {', '.join(process.config.targets)}")
        listed = [reading] if isinstance(reading, CloudData | Mapping) else list(reading)
        readings = [one if isinstance(one, CloudData) else CloudData.model_validate(one) for one in listed]
        until = time.monotonic() + timeout
        while True:
            try:
                return process.hand(readings, connector).result(max(0.0, until - time.monotonic()))
            except BusyError:
                if time.monotonic() + _BUSY > until:
                    raise
                time.sleep(_BUSY)

    def flush(self, timeout: float = 30.0) -> bool:
        """Wait until everything that was sent and read is where it belongs.

        Args:
            timeout: Seconds that it may take.

        Returns:
            Whether it was; what a connector has not taken waits on disk, and goes out as soon as it can be reached.
        """
        until = time.monotonic() + timeout
        while (process := self._process) is not None:
            if not any(line.waiting for line in process.account().sources.values()) and not any(
                spool.stored_rows for spool in process.spools.values()
            ):
                return True
            if time.monotonic() > until:
                return False
            time.sleep(_BUSY)
        raise RuntimeError("the gateway does not run")

    def account(self) -> Account:
        """Every reading and what became of it, while the gateway runs.

        Raises:
            RuntimeError: The gateway does not run.
        """
        if self._process is None:
            raise RuntimeError("the gateway does not run; `bifrost ledger` reads the account of its stores")
        return self._process.account()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


def _in_python(name: str, writer: Writer) -> TargetConfig:
    target = _InPython(name=name)
    target._writer = writer  # noqa: SLF001 - of the class above
    return target


def _is_embedded(config: Configuration) -> bool:
    """Whether the configuration names no connector."""
    return dict(config.targets).keys() == {EMBEDDED} and config.targets[EMBEDDED].name == default_target(Path()).name
