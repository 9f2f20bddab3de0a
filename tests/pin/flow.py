"""A small Bytewax flow in a process of its own, which writes what happens, in order, to the file `log`.

python tests/pin/flow.py '{"parts": ["a", "b"], "last": 20, "end": "stop"}'
"""

import json
import os
import pickle
import signal
import sqlite3
import sys
import threading
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bytewax.operators as op
from bytewax.dataflow import Dataflow, Stream
from bytewax.inputs import AbortExecution, FixedPartitionedSource, StatefulSourcePartition
from bytewax.operators.windowing import EventClock, TumblingWindower, collect_window
from bytewax.outputs import DynamicSink, FixedPartitionedSink, StatefulSinkPartition, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig, init_db_dir
from bytewax.run import cli_main

RECOVERY = Path("recovery")
START = datetime(2024, 1, 1, tzinfo=UTC)
LOG = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@dataclass
class Options:
    """What the flow is made of.

    Attributes:
        parts: Partitions of the input; each gives 1, 2, 3 … in batches of one.
        empty: Partitions that give empty batches only.
        blocks: The partition that does not return from its fifth call for a time.
        last: Number after which a partition ends.
        end: How it ends: ``stop`` is an end of stream, ``abort`` leaves the flow.
        sinks: How many outputs with partitions `x` and `y`, of which only `x` gets items.
        dynamic: The output is a DynamicSink instead.
        window: Items pass through windows of ten.
        hops: Steps between input and output that do nothing.
        epoch: Seconds.
        look: The input says what the recovery store holds when it is called, and the output whether an item came too late.
        on_term: SIGTERM and SIGINT raise SystemExit.
        close_raises: Closing the output raises.
        runs: How often the same flow is run.
    """

    parts: tuple[str, ...] = ("a",)
    empty: tuple[str, ...] = ()
    blocks: str = ""
    last: int = 0
    end: str = ""
    sinks: int = 1
    dynamic: bool = False
    window: bool = False
    hops: int = 0
    epoch: float = 0.05
    look: bool = False
    on_term: bool = False
    close_raises: bool = False
    workers: int = 1
    runs: int = 1


def say(*words: object) -> None:
    os.write(LOG, (" ".join(map(str, words)) + "\n").encode())


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def durable() -> dict[str, int]:
    """What each step would resume with after a crash now: the newest state before the resume epoch."""
    with closing(sqlite3.connect(f"file:{RECOVERY / 'part-0.sqlite3'}?mode=ro", uri=True)) as store:
        (resume,) = store.execute("SELECT max(worker_frontier) FROM fronts").fetchone()
        rows = store.execute(
            "SELECT step_id, ser_change FROM snaps WHERE snap_epoch < ? ORDER BY snap_epoch", (resume or 0,)
        )
        return {step: pickle.loads(state) for step, state in rows if state is not None}


class Numbers(StatefulSourcePartition[int, int]):
    def __init__(self, options: Options, name: str, resume: int | None) -> None:
        self._options, self._name, self._number = options, name, resume or 0
        say("resume", name, self._number)

    def next_batch(self) -> list[int]:
        o = self._options
        if o.last and self._number >= o.last:
            if o.end == "abort":
                raise AbortExecution
            if o.end == "stop":
                raise StopIteration
        say("next", self._name, self._number, json.dumps(durable()) if o.look and not o.dynamic else "")
        if o.epoch:
            wait(0.002)
        if self._name in o.empty:
            return []
        self._number += 1
        if self._name == o.blocks and self._number == 5:
            say("blocks", self._name)
            wait(0.3)
            say("goes on", self._name)
        return [self._number]

    def snapshot(self) -> int:
        say("snapshot", self._name, self._number)
        return self._number

    def close(self) -> None:
        say("close", self._name)


class Source(FixedPartitionedSource[int, int]):
    def __init__(self, options: Options) -> None:
        self._options = options

    def list_parts(self) -> list[str]:
        return list(self._options.parts)

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Numbers:
        return Numbers(self._options, for_part, resume_state)


def written(options: Options, sink: str, item: object) -> None:
    late = options.look and durable().get("pin.input", 0) >= item
    say("write", sink, item, "late" if late else "")


class Part(StatefulSinkPartition[object, object]):
    def __init__(self, options: Options, name: str) -> None:
        self._options, self._name, self._newest = options, name, None

    def write_batch(self, values: list[object]) -> None:
        for value in values:
            written(self._options, self._name, value)
            self._newest = value

    def snapshot(self) -> object:
        say("snapshot", self._name, self._newest)
        return self._newest

    def close(self) -> None:
        say("close", self._name)
        if self._options.close_raises:
            raise RuntimeError("close")


class Sink(FixedPartitionedSink[object, object]):
    def __init__(self, options: Options, name: str) -> None:
        self._options, self._name = options, name

    def list_parts(self) -> list[str]:
        return ["x", "y"]

    def build_part(self, step_id: str, for_part: str, resume_state: object) -> Part:
        return Part(self._options, f"{self._name}.{for_part}")

    def part_fn(self, item_key: str) -> int:
        return 0


class Loose(DynamicSink[object]):
    def __init__(self, options: Options) -> None:
        self._options = options

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "LoosePart":
        return LoosePart(self._options)


class LoosePart(StatelessSinkPartition[object]):
    def __init__(self, options: Options) -> None:
        self._options = options

    def write_batch(self, items: list[object]) -> None:
        for item in items:
            written(self._options, "loose", item)


def windows(keyed: "Stream[tuple[str, int]]") -> "Stream[tuple[str, int]]":
    clock = EventClock(lambda n: START + timedelta(seconds=n - 1), wait_for_system_duration=timedelta(0))
    ten = TumblingWindower(length=timedelta(seconds=10), align_to=START)
    return op.map("count", collect_window("window", keyed, clock, ten).down, lambda kv: (kv[0], len(kv[1][1])))


def build(options: Options) -> Dataflow:
    flow = Dataflow("pin")
    items = op.input("input", flow, Source(options))
    for number in range(options.hops):
        items = op.map(f"hop_{number}", items, lambda item: item)
    if options.dynamic:
        op.output("loose", items, Loose(options))
        return flow
    keyed = op.key_on("key", items, lambda _: "key")
    if options.window:
        keyed = windows(keyed)
    for number in range(options.sinks):
        op.output(f"sink_{number}", keyed, Sink(options, f"sink_{number}"))
    return flow


def main() -> None:
    options = Options(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    if options.on_term:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
    if not RECOVERY.exists():
        RECOVERY.mkdir(mode=0o700)
        init_db_dir(RECOVERY, 1)
    flow = build(options)
    for _ in range(options.runs):
        cli_main(
            flow,
            workers_per_process=options.workers,
            epoch_interval=timedelta(seconds=options.epoch),
            recovery_config=RecoveryConfig(RECOVERY, timedelta(0)),
        )


if __name__ == "__main__":
    main()
