"""The gateway as a Sparkplug B edge node on an MQTT connection: births, data, rebirth on command, and a primary host.

Births and data are QoS 0, as the specification wants them; a unit counts when the broker has answered a ping behind it.
"""

import asyncio
import json
import os
import re
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from typing_extensions import override

from connectors.contract import ConfigError, Context, Finding, Limits, TransientError, Writer
from connectors.targets.mqtt.config import EdgeSettings, MqttTargetConfig
from connectors.targets.mqtt.edge import Edge, Outgo
from connectors.targets.mqtt.writer import check_broker, session_settings
from connectors.wire.mqtt_outgoing import topic_fields
from connectors.wire.mqtt_packets import Publishes
from connectors.wire.mqtt_publisher import Messages, Publisher, Will
from connectors.wire.sparkplug import state_topic


def _now() -> int:
    return time.time_ns() // 1_000_000


def edge_name(own: EdgeSettings, gateway: str) -> str:
    """Name of the edge node."""
    return re.sub(r"[/+#\x00]", "_", own.node or gateway)


def new_edge(own: EdgeSettings, name: str, kept: bytes | None) -> Edge:
    """The edge node, as it was kept by an earlier process if there is such a state."""
    return Edge(own.group, name, own.device, own.metric, kept)


class EdgeWriter(Writer):
    """Writes to one broker as one edge node."""

    def __init__(self, config: MqttTargetConfig, context: Context) -> None:
        own = config.provider_config
        self.limits = Limits(
            rows=config.batch_size or 5_000,
            bytes=8 * 1024**2,
            linger=0.1 if config.flush_interval is None else config.flush_interval,
        )
        self._config = config
        self._context = context
        self._name = edge_name(own.sparkplug, context.gateway)
        # another node has other aliases and another bdSeq
        self._file = context.directory / f"sparkplug-{re.sub(r'[^A-Za-z0-9_.-]', '_', self._name)}.json"
        self._edge: Edge | None = None
        self._publisher = Publisher(config.url, config.timeout)
        self._busy = asyncio.Lock()
        self._rebirths: set[asyncio.Task[None]] = set()
        self._host = state_topic(own.sparkplug.primary_host) if own.sparkplug.primary_host else None
        self._host_since = -1  # timestamp of the last STATE
        self._host_online = asyncio.Event()

    def _node(self) -> Edge:
        if self._edge is None:
            own = self._config.provider_config.sparkplug
            kept = self._file.read_bytes() if self._file.exists() else None
            try:
                self._edge = new_edge(own, self._name, kept)
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(f"{self._file}: cannot be read; remove it and aliases begin anew") from error
        return self._edge

    @override
    async def open(self) -> None:
        """Connect with the next death as will, wait for the primary host, and publish the births; see `Writer.open`."""
        await self.close()
        edge = self._node()
        edge.next_session()
        await asyncio.to_thread(self._keep, edge.state())  # before the will has the number
        death = edge.death(_now())
        self._host_online.clear()
        await self._publisher.open(
            session_settings(self._config, self._context),
            will=Will(death.topic, death.payload, qos=1, retain=False),
            window=1,
            qos=0,
            on_messages=self._hear,
        )
        try:
            await self._publisher.subscribe([(edge.commands(), 1), *([(self._host, 1)] if self._host else [])])
            await self._await_host()
            async with self._busy:
                await self._publish(edge.births(_now(), first=True))
        except BaseException:
            await self._publisher.close()
            raise

    async def _await_host(self) -> None:
        if self._host is None:
            return
        try:
            async with asyncio.timeout(self._config.timeout):
                await self._host_online.wait()
        except TimeoutError:
            raise TransientError(
                f"{self._config.url}: the primary host is not online ({self._host}); readings wait for it"
            ) from None

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        """Publish the readings of the unit, with the births that they need before them; see `Writer.write`."""
        edge = self._node()
        async with self._busy:
            if self._host is not None and not self._host_online.is_set():
                raise TransientError(f"{self._config.url}: the primary host went offline ({self._host})")
            self._publisher.session  # noqa: B018 - it raises before sequence numbers are used up
            messages = list(edge.data(batch, _now())) if len(batch) else []
            if edge.changed:
                await asyncio.to_thread(self._keep, edge.state())
            await self._publish(messages)

    @override
    async def close(self) -> None:
        """Publish the death and disconnect; see `Writer.close`."""
        if self._edge is not None:
            death = self._edge.death(_now())
            self._publisher.say(death.topic, death.payload, qos=0)
        await self._publisher.close()

    async def check(self) -> list[Finding]:
        """Connect beside the running gateway, publish nothing and leave again; see `contract.Checks`."""
        return await check_broker(self._config, self._context, qos=0, retain=False)

    async def _publish(self, messages: list[Outgo]) -> None:
        if not messages:
            return
        topics = list(dict.fromkeys(one.topic for one in messages))
        number = {topic: at for at, topic in enumerate(topics)}
        v5 = self._config.provider_config.version == "5"
        made = Messages(
            topic_fields(topics),
            topics,
            np.array([number[one.topic] for one in messages], np.int64),
            pa.array([one.payload for one in messages], pa.binary()),
            [np.zeros(0, np.int64) if one.rows is None else one.rows for one in messages],
            pa.scalar(b"", pa.binary()) if v5 else None,
        )
        refused = await self._publisher.publish(made, qos=0, most_bytes=self._config.provider_config.max_packet_size)
        if refused.packs and not refused.rows:
            raise ConfigError(f"{self._config.url}: a birth or a message of data is larger than the broker takes")
        refused.settle()

    def _keep(self, state: bytes) -> None:
        """Keep the node's state durably."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".new")
        with draft.open("wb") as out:
            out.write(state)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(self._file)
        _sync(self._file.parent)

    def _hear(self, messages: Publishes) -> None:
        """Commands to the node, and the state of the primary host."""
        for name, content in zip(messages.topics, messages.payloads, strict=True):
            topic = name.decode("utf-8", "replace")
            if topic == self._host:
                self._hear_host(content)
            elif self._edge is not None and self._edge.wants_rebirth(topic, content):
                self._soon(self._rebirth())

    def _hear_host(self, content: bytes) -> None:
        try:
            said = json.loads(content)
            online, since = bool(said["online"] is True), int(said["timestamp"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return
        if since < self._host_since:
            return  # the death of a session that is over
        self._host_since = since
        if online:
            self._host_online.set()
        elif self._host_online.is_set():
            self._host_online.clear()
            self._soon(self.close())

    def _soon(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._rebirths.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._rebirths.discard(task)
        if not task.cancelled():
            task.exception()  # the connection is lost: the next write tells

    async def _rebirth(self) -> None:
        edge = self._node()
        async with self._busy:
            await self._publish(edge.births(_now()))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
