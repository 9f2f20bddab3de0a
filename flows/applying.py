"""Having a running gateway run as another configuration says: what it does not change goes on undisturbed."""

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from config.logs import configure
from config.models import Configuration
from delivery.disk import StoreError
from flows.change import ChangeRefusedError, Steps, running, steps
from flows.spools import file_name, kept_line
from flows.targets import Targets, writer

if TYPE_CHECKING:
    from flows.process import Process

log = structlog.get_logger()


@dataclass(slots=True)
class _Change:
    """Targets that come, go or wait otherwise, for which the flow has to be left and built anew."""

    config: Configuration
    steps: Steps
    done: threading.Event = field(default_factory=threading.Event)
    error: StoreError | None = None


class Applying:
    """Changes a process, one change at a time.

    Args:
        process: The process.

    Attributes:
        rebuilds: Whether the flow's graph is built anew when the flow was left.
    """

    def __init__(self, process: "Process") -> None:
        self.rebuilds = False
        self._process = process
        self._lock = threading.Lock()
        self._change: _Change | None = None

    @property
    def pending(self) -> bool:
        """Whether the flow is to be left, so that its graph can change."""
        return self._change is not None

    def apply(self, new: Configuration, targets: Targets) -> tuple[str, ...]:
        """Run as another configuration says. Not for the flow's threads.

        Args:
            new: The configuration.
            targets: The process's targets.

        Returns:
            What of it holds from the next start on, as names of fields of `Configuration`.

        Raises:
            ChangeRefusedError: It cannot be done while the gateway runs; nothing has changed.
            StoreError: A store of a new target cannot be opened; nothing has changed.
        """
        process = self._process
        with self._lock:
            if process.cluster is not None:
                process.cluster.check(new)
            wanted = running(process.config, new)
            present = {name: forwarder.limits for name, forwarder in process.forwarders.items()}
            todo = steps(process.config, new, present, lambda name: writer(wanted, name).limits)
            targets.refuse_loss(todo.targets_gone)
            for spool in process.spools.values():
                spool.prepare(rule.priority for rule in new.rules)
            if todo.graph:
                self._change_graph(wanted, todo)
            else:
                process.config = wanted
            targets.rewrite(wanted, todo.writers)
            process.set_pace()
            configure(new.log_level, new.log_format)
            sources = [source for source in new.sources if source.name in todo.sources_come]
            assert process.loop is not None  # noqa: S101 - it reads
            asyncio.run_coroutine_threadsafe(process.change_reading(todo.sources_gone, sources), process.loop).result()
            log.info(
                "configuration applied",
                sources=_names(todo.sources_gone, todo.sources_come),
                targets=_names(todo.targets_gone, todo.targets_come, todo.writers),
            )
            return todo.next_start

    def _change_graph(self, config: Configuration, todo: Steps) -> None:
        """Have the flow's own thread leave it, change the targets, and run it again from its last snapshot."""
        if not self.rebuilds:
            names = ", ".join(sorted(_names(todo.targets_gone, todo.targets_come)))
            raise ChangeRefusedError(
                f"targets that come, go or wait otherwise ({names}) change the flow's graph, which stays as it is under "
                "`python -m bytewax.run` and with several workers: put the change into the file and start the gateway again"
            )
        change = self._change = _Change(config, todo)
        change.done.wait()
        if change.error is not None:
            raise change.error

    def change_targets(self, targets: Targets) -> None:
        """Called by the flow's own thread between two runs of the flow: make the change that waits."""
        change, self._change = self._change, None
        assert change is not None  # noqa: S101 - it is pending
        process, todo = self._process, change.steps
        left = {file_name(name): kept_line(targets.spools[name]) for name in todo.targets_gone}
        try:
            try:
                targets.close(todo.targets_gone)
                targets.open(change.config, todo.targets_come)
                process.config = change.config
            except StoreError as error:
                change.error = error
                targets.close([name for name in todo.targets_come if name in targets.spools])
                targets.open(process.config, [name for name in todo.targets_gone if name not in targets.spools])
        except StoreError as error:
            process.fail(error)
        targets.start(name for name, each in targets.forwarders.items() if not each.started)
        process.set_pace()
        present = {file_name(name) for name in targets.spools}
        gone = {name: line for name, line in left.items() if line["readings"]}
        process.kept = {name: line for name, line in (process.kept | gone).items() if name not in present}
        change.done.set()


def _names(*parts: Iterable[str]) -> list[str]:
    return [*dict.fromkeys(name for part in parts for name in part)]
