"""Runs a plant: `Simulation` in this process and event loop, `Workers` in a process per protocol.

Tests use `Simulation`, because its servers can be handed faults. Everything else uses `Workers`, so that no protocol starves
another and the parent stays free::

    with Workers(build_plant(tags=400, rate=2400), Options()) as plant:
        print(plant.description["sources"])

A worker is ``python -m simulator.run``. It gets its job on stdin, answers with one line of JSON when its servers listen, and
ends when stdin is closed, so that none outlives its parent.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from simulator.ledger import Ledger
from simulator.plant import Plant, Source, describe, describe_tags

_START_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 8.0
_MQTT_PROTOCOLS: Final = ("mqtt", "sparkplug")


@dataclass(frozen=True, slots=True)
class Options:
    """How a plant is run.

    Attributes:
        host: Address that servers listen on.
        ports: First port per protocol (opcua, modbus, mqtt for the broker); the next source takes the next port. 0 or no
            entry: a free one.
        broker: URL of an MQTT broker to publish to; one of our own is started if there is none.
        ledger: Folder for ledgers; none are kept without it.
    """

    host: str = "127.0.0.1"
    ports: Mapping[str, int] = field(default_factory=dict)
    broker: str | None = None
    ledger: Path | None = None


class Simulation:
    """Runs the sources of a plant in this event loop. Use as ``async with``.

    Attributes:
        servers: `OpcUaServer`, `MqttPublisher`, `SparkplugNode` or `ModbusServer` per source name.
        endpoints: URL per source name.
        broker: URL of the broker, empty when no source needs one.
    """

    def __init__(self, plant: Plant, options: Options | None = None) -> None:
        self.plant = plant
        self.servers: dict[str, Any] = {}
        self.endpoints: dict[str, str] = {}
        self.broker = ""
        self._options = options or Options()
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> "Simulation":
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def description(self) -> dict[str, Any]:
        """The plant as JSON, see `simulator.plant.describe`."""
        return describe(self.plant, self.endpoints)

    async def _start(self) -> None:
        options = self._options
        if any(source.protocol in _MQTT_PROTOCOLS for source in self.plant.sources):
            self.broker = options.broker or await self._start_broker()
        seen: dict[str, int] = {}
        for source in self.plant.sources:
            ledger = self._ledger(source)
            first = options.ports.get(source.protocol, 0)
            port = first + seen.get(source.protocol, 0) if first else 0
            seen[source.protocol] = seen.get(source.protocol, 0) + 1
            server = _server(self.plant, source, options.host, port, self.broker, ledger)
            self.servers[source.name] = await self._stack.enter_async_context(server)
            self.endpoints[source.name] = server.endpoint

    async def _start_broker(self) -> str:
        from simulator.broker import Broker

        broker = Broker(self._options.host, self._options.ports.get("mqtt", 0))
        await self._stack.enter_async_context(broker)
        return broker.url

    def _ledger(self, source: Source) -> Ledger | None:
        folder = self._options.ledger
        if folder is None:
            return None
        ledger = Ledger(folder, source.name, source.protocol, describe_tags(self.plant, source))
        self._stack.callback(ledger.close)
        return ledger


def _server(plant: Plant, source: Source, host: str, port: int, broker: str, ledger: Ledger | None) -> Any:
    """The server of a source; its library is loaded here, so that a process loads only what it serves."""
    match source.protocol:
        case "opcua":
            from simulator.opcua import OpcUaServer

            return OpcUaServer(plant, source, host, port, ledger)
        case "mqtt":
            from simulator.mqtt import MqttPublisher

            return MqttPublisher(plant, source, broker, ledger)
        case "sparkplug":
            from simulator.sparkplug import SparkplugNode

            return SparkplugNode(plant, source, broker, ledger)
        case "modbus":
            from simulator.modbus import ModbusServer

            return ModbusServer(source, host, port, ledger)


class WorkerError(RuntimeError):
    """A worker did not start, or died."""


@dataclass(slots=True)
class _Worker:
    name: str
    process: "subprocess.Popen[bytes]"
    answers: "queue.SimpleQueue[bytes]" = field(default_factory=queue.SimpleQueue)


class Workers:
    """Runs a plant in a process per protocol (and one for the broker, if it is ours). Use as ``with``.

    Attributes:
        description: The plant as JSON, see `simulator.plant.describe`, with ``broker`` added; known inside the ``with``.
    """

    def __init__(self, plant: Plant, options: Options | None = None) -> None:
        self.description: dict[str, Any] = {}
        self._plant = plant
        self._options = options or Options()
        self._workers: list[_Worker] = []

    def __enter__(self) -> "Workers":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def check(self) -> None:
        """See that all workers live.

        Raises:
            WorkerError: One has ended.
        """
        for worker in self._workers:
            code = worker.process.poll()
            if code is not None:
                raise WorkerError(f"the simulator's {worker.name} process ended with code {code}")

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each worker by protocol."""
        return {worker.name: worker.process.pid for worker in self._workers}

    def stop(self) -> None:
        """End all workers; those that publish first, the broker last."""
        _end([worker for worker in self._workers if worker.name != "broker"])
        _end([worker for worker in self._workers if worker.name == "broker"])
        self._workers.clear()

    def _start(self) -> None:
        options = self._options
        protocols = {source.protocol for source in self._plant.sources}
        if protocols & set(_MQTT_PROTOCOLS) and options.broker is None:
            started = self._spawn("broker", None, options)
            options = replace(options, broker=self._answer(started)["broker"])
        jobs = [("opcua", ["opcua"]), ("mqtt", ["mqtt", "sparkplug"]), ("modbus", ["modbus"])]
        started_all = [
            self._spawn(name, self._plant.only(members), options) for name, members in jobs if protocols & set(members)
        ]
        endpoints: dict[str, str] = {}
        for worker in started_all:
            endpoints.update(self._answer(worker)["endpoints"])
        self.description = describe(self._plant, endpoints) | {"broker": options.broker or ""}

    def _spawn(self, name: str, plant: Plant | None, options: Options) -> _Worker:
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        process = subprocess.Popen(
            [sys.executable, "-m", "simulator.run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            process_group=0,  # Ctrl-C is for the parent, which ends its workers in order
        )
        worker = _Worker(name, process)
        self._workers.append(worker)
        assert process.stdin is not None  # noqa: S101  (a pipe was asked for)
        assert process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):  # it has died already, which _answer will find
            pickle.dump((plant, options), process.stdin)
            process.stdin.flush()
        stdout = process.stdout
        threading.Thread(target=lambda: worker.answers.put(stdout.readline()), daemon=True).start()
        return worker

    def _answer(self, worker: _Worker) -> dict[str, Any]:
        """What a worker says when it is ready."""
        try:
            line = worker.answers.get(timeout=_START_TIMEOUT)
        except queue.Empty:
            raise WorkerError(f"the simulator's {worker.name} process was not ready in {_START_TIMEOUT:g} s") from None
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended; see stderr"}
        if "error" in answer:
            raise WorkerError(f"the simulator's {worker.name} process could not start: {answer['error']}")
        return answer


def _end(workers: list[_Worker]) -> None:
    """Close the workers' stdin and wait until they are gone."""
    for worker in workers:
        if worker.process.stdin is not None:
            with contextlib.suppress(OSError):  # it died with something unread
                worker.process.stdin.close()
    deadline = time.monotonic() + _STOP_TIMEOUT
    for worker in workers:
        try:
            worker.process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        if worker.process.stdout is not None:
            worker.process.stdout.close()


async def _work(plant: Plant | None, options: Options) -> None:
    """The life of a worker: start, say so, wait for the end of stdin or SIGTERM, stop."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    threading.Thread(target=_wait_for_parent, args=(loop, stop), daemon=True).start()
    async with contextlib.AsyncExitStack() as stack:
        try:
            if plant is None:
                from simulator.broker import Broker

                broker = await stack.enter_async_context(Broker(options.host, options.ports.get("mqtt", 0)))
                ready: dict[str, Any] = {"broker": broker.url}
            else:
                simulation = await stack.enter_async_context(Simulation(plant, options))
                ready = {"endpoints": simulation.endpoints}
            gc.freeze()  # what was made until now stays: the collector need not look at it again
        except (OSError, RuntimeError, ValueError) as error:
            ready = {"error": str(error)}
            stop.set()
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        await stop.wait()


def _wait_for_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed: we are ending anyway
        loop.call_soon_threadsafe(stop.set)


def _main() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="simulator %(name)s: %(message)s")
    for noisy in ("amqtt", "asyncua", "pymodbus"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    plant, options = pickle.load(sys.stdin.buffer)  # noqa: S301  (from our own parent)
    asyncio.run(_work(plant, options))


if __name__ == "__main__":
    _main()
