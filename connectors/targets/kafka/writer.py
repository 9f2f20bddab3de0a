"""Writes units to Kafka: a message per reading, in a worker thread, acknowledged before `write` returns.

One unit is under way at a time, so that the readings of a tag keep their order whatever has to be sent again. librdkafka
sends the first messages of a unit while the last are still handed over.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import pyarrow as pa
from typing_extensions import override

from connectors.contract import Context, Finding, Limits, RejectedRecords, TransientError, Writer
from connectors.targets.kafka import preflight, topics
from connectors.targets.kafka.client import connecting, producing
from connectors.targets.kafka.config import KafkaConfig
from connectors.targets.kafka.encode import RECORD, SCHEMAS, MessageEncoder, Messages
from connectors.targets.kafka.registry import Registry
from connectors.targets.kafka.sender import Sender

Result = TypeVar("Result")
_ROWS: Final = 10_000
_SINGLY: Final = {"batch.num.messages": 1, "enable.idempotence": False, "retries": 0}  # it would wait at each refusal


class KafkaWriter(Writer):
    """Sends each unit and waits for it; see the module."""

    def __init__(self, config: KafkaConfig, context: Context) -> None:
        self.limits = Limits(
            rows=config.batch_size or _ROWS,
            bytes=16 * 1024**2,
            linger=0.0 if config.flush_interval is None else config.flush_interval,
        )
        self._config = config
        self._gateway = context.gateway
        self._encoder = MessageEncoder(config.provider_config)
        self._thread: ThreadPoolExecutor | None = None
        self._sender: Sender | None = None
        self._known: set[str] = set()  # topics that are there
        self._schema_ids: dict[str, int] = {}

    @override
    async def open(self) -> None:
        """Reach the cluster, and see to the topic and its schema; see `Writer.open`."""
        await self.close()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="kafka")
        await self._in_thread(self._connect)

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Send the unit; return when every message is acknowledged. See `Writer.write`."""
        if not len(batch):
            return
        given_up = threading.Event()
        try:
            await self._in_thread(lambda: self._write(batch, given_up))
        finally:
            given_up.set()

    @override
    async def close(self) -> None:
        """Let go of the cluster; see `Writer.close`."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._leave)
            thread.shutdown(wait=False)

    async def check(self) -> list[Finding]:
        """What stands between this gateway and the topic; see `contract.Checks`. Writes nothing."""
        return await asyncio.to_thread(lambda: list(preflight.findings(self._config, self._gateway)))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        if self._thread is None:
            raise TransientError(f"{self._config.endpoint}: not open")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    # ------------------------------------------------------------------ in the worker thread

    def _deadline(self) -> float:
        return time.monotonic() + self._config.timeout

    def _connect(self) -> Sender:
        self._leave()
        own, deadline = self._config.provider_config, self._deadline()
        sender = Sender(producing(self._config, self._gateway, self.limits.rows), self._config.endpoint)
        try:
            if "{" in own.topic:
                sender.metadata("bifrost", deadline)
            else:
                self._see_to(sender, [own.topic], deadline)
            sender.begin(deadline)
        except BaseException:
            sender.close()
            raise
        self._sender = sender
        return sender

    def _leave(self) -> None:
        sender, self._sender = self._sender, None
        self._known.clear()
        self._schema_ids.clear()
        if sender is not None:
            sender.close()

    def _write(self, batch: pa.RecordBatch, given_up: threading.Event) -> None:
        sender = self._sender or self._connect()
        deadline = self._deadline()
        names, refused = self._encoder.topics(batch)
        rows = range(len(batch))
        if refused:
            rows = [row for row in rows if row not in refused]  # type: ignore[assignment]
            batch = batch.take(pa.array(rows, pa.int64()))
        try:
            if len(batch):
                self._see_to(sender, names, deadline)
                messages = self._encoder.encode(batch, self._schema_ids)
                found = self._send(sender, messages, deadline, given_up)
                refused |= {rows[row]: reason for row, reason in found.items()}
        except RejectedRecords as some:
            raise RejectedRecords([rows[row] for row in some.indices], some.reasons) from None
        finally:
            if sender.broken:
                self._leave()
        if refused:
            indices = sorted(refused)
            raise RejectedRecords(indices, [refused[row] for row in indices], rest_written=True)

    def _send(self, sender: Sender, messages: Messages, deadline: float, given_up: threading.Event) -> dict[int, str]:
        """Send them, and again those that were refused together with others; returns which are refused, and why."""
        sent = sender.send(messages, deadline, given_up)
        if not sent.doubtful:
            return sent.refused
        rows = sorted(sent.doubtful)
        rest = messages.only(rows)
        if sent.named:
            found = self._send(sender, rest, deadline, given_up)
        else:
            found = self._send_singly(rest, sent.doubtful[rows[0]], deadline, given_up)
        return sent.refused | {rows[row]: reason for row, reason in found.items()}

    def _send_singly(
        self, messages: Messages, reason: str, deadline: float, given_up: threading.Event
    ) -> dict[int, str]:
        """Find those that a broker refuses without naming them: each in a batch of its own."""
        properties = producing(self._config, self._gateway, self.limits.rows) | _SINGLY
        alone = Sender(properties, self._config.endpoint)
        try:
            return alone.send(messages, deadline, given_up).refused
        except TransientError:
            if given_up.is_set() or time.monotonic() < deadline:
                raise
            raise RejectedRecords([], [reason]) from None  # too many for one unit: in halves they get done
        finally:
            alone.close()

    def _see_to(self, sender: Sender, names: list[str], deadline: float) -> None:
        """Make the topics that are missing, and learn the numbers of their schemas."""
        own, where = self._config.provider_config, self._config.endpoint
        new = [name for name in names if name not in self._known]
        if not new:
            return
        if lacking := topics.missing(sender, new, deadline, where):
            topics.make(connecting(self._config, self._gateway), lacking, own, deadline, where)
        if own.registry is not None:
            kind, schema = SCHEMAS[own.format]
            registry = Registry(own.registry, max(1.0, deadline - time.monotonic()))
            for name in new:
                subject = RECORD if own.registry.subject == "record" else f"{name}-value"
                self._schema_ids[name] = registry.schema_id(subject, kind, schema())
        self._known.update(new)


__all__ = ["KafkaWriter"]
