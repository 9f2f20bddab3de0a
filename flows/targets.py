"""The targets of a gateway: a spool and a forwarder each, which can come, change and go while the others deliver."""

import time
from collections.abc import Callable, Collection, Iterable
from typing import Final

from config.models import Configuration
from connectors.contract import Context, Writer
from delivery import metrics
from delivery.dead_letters import DeadLetterStore
from delivery.forwarder import Forwarder
from delivery.journal import Journal
from delivery.pace import RateLimit
from delivery.retry import RetryPolicy
from delivery.spool import Spool
from flows.change import ChangeRefusedError
from flows.spools import file_name
from normalization.reading import TagTable

_PATIENCE: Final = 4.0  # seconds for what is under way to a target that goes or changes


class Targets:
    """The spools and forwarders of a gateway.

    Args:
        journal: Tells what will not come again.
        dead_letters: Where rejected readings go.
        tags: The process's tag table.
        own_shard: Whether a shard is one of this gateway's journal.
        now: The clock that readings age by, in seconds.
    """

    def __init__(
        self,
        journal: Journal,
        dead_letters: DeadLetterStore,
        tags: TagTable,
        own_shard: Callable[[str], bool],
        now: Callable[[], float],
    ) -> None:
        self.spools: dict[str, Spool] = {}
        self.forwarders: dict[str, Forwarder] = {}
        self._journal, self._dead_letters, self._tags, self._own_shard, self._now = (
            journal, dead_letters, tags, own_shard, now,
        )  # fmt: skip

    def open(self, config: Configuration, names: Iterable[str]) -> None:
        """Open the spools of some targets, in their order in the configuration; `start` lets them deliver.

        Raises:
            StoreError: A spool cannot be opened.
        """
        for name in names:
            target = config.targets[name]
            made = writer(config, name)
            spool = Spool(
                config.directory / "targets" / file_name(name) / "spool",
                self._tags,
                self._own_shard,
                persistent=target.disk_persistent,
                policy=config.buffers.get(name),
                priorities=[rule.priority for rule in config.rules],
                entry_rows=made.limits.rows,
                entry_bytes=made.limits.bytes,
                memory_rows=target.buffer_size or config.memory_rows,
                now=self._now,
                marks_resent=not made.limits.remembers_units,
            )
            if not target.disk_persistent:
                spool.follow(self._journal.settled(name), self._dead_letters.came(name))
            self._journal.on_trimmed.append(spool.forget)
            self.spools = self.spools | {name: spool}  # never changed in place: others look at it at any time
            self.forwarders = self.forwarders | {name: self._forwarder(config, name, made)}
        order = [name for name in config.targets if name in self.spools]
        self.spools = {name: self.spools[name] for name in order}
        self.forwarders = {name: self.forwarders[name] for name in order}

    def _forwarder(self, config: Configuration, name: str, made: Writer) -> Forwarder:
        target = config.targets[name]
        return Forwarder(
            name,
            made,
            self.spools[name],
            self._dead_letters,
            policy=RetryPolicy(first=target.retry_delay, cap=config.probe_interval),
            threshold=target.retry_count,
            rate=RateLimit(target.rate_limit.rows, target.rate_limit.bytes, target.rate_limit.messages),
            zerobus=target.type == "zerobus",
        )

    def start(self, names: Iterable[str]) -> None:
        """Begin to deliver to some targets."""
        for name in names:
            self.forwarders[name].start()

    def rewrite(self, config: Configuration, names: Collection[str]) -> None:
        """Deliver what the spools of some targets hold as another configuration says."""
        self._stop(names)
        made = {name: self._forwarder(config, name, writer(config, name)) for name in names}
        self.forwarders = self.forwarders | made
        self.start(names)

    def close(self, names: Collection[str]) -> None:
        """Stop delivering to some targets and close their spools, which keep what was not sent.

        Raises:
            StoreError: The disk refused.
        """
        self._stop(names)
        going = {name: self.spools[name] for name in names}
        self.spools = {name: spool for name, spool in self.spools.items() if name not in going}
        self.forwarders = {name: each for name, each in self.forwarders.items() if name not in going}
        for name, spool in going.items():
            self._journal.on_trimmed.remove(spool.forget)
            spool.close()
            metrics.forget("connector", name)

    def _stop(self, names: Collection[str], patience: float = _PATIENCE) -> None:
        for name in names:
            self.forwarders[name].stop()
        deadline = time.monotonic() + patience
        for name in names:
            self.forwarders[name].join(max(0.0, deadline - time.monotonic()))

    def shut(self, patience: float) -> None:
        """Stop all, give what is under way `patience` seconds; the spools stay open."""
        self._stop(self.forwarders, patience)

    def refuse_loss(self, names: Iterable[str]) -> None:
        """Readings that wait in memory would be gone with their spool.

        Raises:
            ChangeRefusedError: Some wait.
        """
        for name in names:
            spool = self.spools[name]
            if not spool.persistent and spool.stored_rows:
                raise ChangeRefusedError(
                    f"target {name}: {spool.stored_rows} readings wait for it in memory and would be lost; apply the change "
                    "when it has taken them, or change it before the next start"
                )


def writer(config: Configuration, name: str) -> Writer:
    """A target's writer; it opens nothing yet."""
    place = config.directory / "targets" / file_name(name)
    return config.targets[name].writer(Context(config.gateway, place))
