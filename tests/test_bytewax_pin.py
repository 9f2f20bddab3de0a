"""What Bytewax does and the design stands on, documented by it or not. An upgrade that changes it must fail here.

Each test says what follows from it; docs/decisions/0002, 0003 and 0009 say more.
"""

import json
import pickle
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import psutil
import pytest

from tests.wall_clock import WallClock

FLOW = Path(__file__).parent / "pin" / "flow.py"
STORE = Path("recovery") / "part-0.sqlite3"


class Flow:
    """`pin/flow.py` with options, in a process of its own that works in `directory`."""

    def __init__(
        self, directory: Path, prefix: tuple[str, ...] = (), environment: dict | None = None, **options
    ) -> None:
        self.log = directory / "log"
        self.log.unlink(missing_ok=True)
        self._said = directory / "said"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, str(FLOW), json.dumps(options)],
                cwd=directory,
                env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"} | (environment or {}),
                stdout=said,
                stderr=said,
            )

    def lines(self, *beginnings: str) -> list[str]:
        """What the flow noted; only lines that begin so."""
        noted = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in noted if line.startswith(beginnings or ("",))]

    def said(self) -> str:
        return self._said.read_text(errors="replace")

    def end(self, seconds: float = 20.0) -> int:
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)

    def until(self, condition: Callable[[], object], seconds: float = 15.0) -> None:
        deadline, pause = time.monotonic() + seconds, threading.Event()
        while not condition():
            assert self.process.poll() is None, self.said()[-2000:]
            assert time.monotonic() < deadline, self.lines()[-20:]
            pause.wait(0.01)

    def goes_on(self, beginning: str = "next", lines: int = 30) -> None:
        """Wait until it has noted so many lines more."""
        want = len(self.lines(beginning)) + lines
        self.until(lambda: len(self.lines(beginning)) >= want)


@pytest.fixture
def start(tmp_path):
    """Starts flows that work in one directory, and ends those that still run."""
    started: list[Flow] = []

    def begin(**options) -> Flow:
        started.append(Flow(tmp_path, **options))
        return started[-1]

    yield begin
    for flow in started:
        flow.kill()


def numbers(lines: list[str]) -> list[int]:
    return [int(line.split()[2]) for line in lines]


# ---------------------------------------------------------------------- when an epoch is durable


def test_after_a_snapshot_the_next_call_comes_when_the_epoch_is_durable_in_every_output(start):
    """Else the journal would let readings go that are not in a spool."""
    flow = start(sinks=2, look=True, last=150, end="abort")
    assert flow.end() == 0, flow.said()
    lines = flow.lines()
    snapshots = [at for at, line in enumerate(lines) if line.startswith("snapshot a ")]
    seen = 0
    for at in snapshots:
        following = next((i for i in range(at, len(lines)) if lines[i].startswith("next a")), None)
        if following is None:
            continue
        (number,) = numbers([lines[at]])
        between = [line.rstrip() for line in lines[at + 1 : following]]
        assert f"snapshot sink_0.x {number}" in between
        assert f"snapshot sink_1.x {number}" in between
        resumable = json.loads(lines[following].split(" ", 3)[3])
        assert resumable == {"pin.input": number, "pin.sink_0": number, "pin.sink_1": number}
        seen += 1
    assert seen >= 3


def test_inside_an_epoch_nothing_waits(start):
    """Else each batch would wait for the disk."""
    flow = start(last=100, end="abort", epoch=10)
    assert flow.end() == 0, flow.said()
    assert numbers(flow.lines("next a")) == list(range(100))
    assert flow.lines("snapshot") == []


def test_only_a_partitioned_output_holds_its_epoch(start):
    """A DynamicSink behind many steps is written when the source would no longer give the item again, or not at all."""
    behind_many_steps = {"look": True, "last": 150, "end": "stop", "hops": 60, "epoch": 0}
    loose = start(dynamic=True, **behind_many_steps)
    assert loose.end() == 0, loose.said()
    writes = loose.lines("write loose")
    assert any(line.endswith("late") for line in writes)
    assert len(writes) < 150, "lost at an end of stream, with exit code 0"


def test_a_partitioned_output_loses_nothing_behind_many_steps(start):
    flow = start(look=True, last=150, end="stop", hops=60, epoch=0)
    assert flow.end() == 0, flow.said()
    writes = flow.lines("write sink_0.x")
    assert numbers(writes) == list(range(1, 151))
    assert not any(line.endswith("late") for line in writes)


@pytest.mark.parametrize("sinks", [1, 3])
def test_an_epoch_costs_four_syncs_whatever_the_number_of_outputs(start, tmp_path, sinks):
    """Epochs of a second are affordable on an SD card; more syncs would have to be counted again."""
    trace = tmp_path / "trace"
    prefix = ("strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,write", "-o", str(trace))
    flow = start(prefix=prefix, sinks=sinks, last=150, end="abort")
    assert flow.end(40) == 0, flow.said()
    between_calls = trace.read_text().split('"next')[1:-1]
    syncs = [text.count("sync(") for text in between_calls if '"snapshot a' in text]
    assert len(syncs) >= 3
    assert set(syncs) == {4}


def test_only_output_partitions_that_got_something_are_asked_for_a_snapshot(start):
    """An idle target costs no sync of its spool."""
    flow = start(parts=["a", "b"], empty=["b"], last=100, end="abort")
    assert flow.end() == 0, flow.said()
    assert len(flow.lines("snapshot sink_0.x")) >= 3
    assert flow.lines("snapshot sink_0.y") == []
    assert len(flow.lines("snapshot b")) == len(flow.lines("snapshot a")), "inputs are asked, idle ones too"


def test_one_call_that_blocks_stops_every_partition_of_the_worker(start):
    """Hence all network I/O is outside the flow, and the partitions wait together."""
    flow = start(parts=["a", "b"], blocks="a", last=30, end="abort")
    assert flow.end() == 0, flow.said()
    lines = flow.lines()
    at = lines.index("blocks a")
    assert lines[at + 1] == "goes on a"
    assert any(line.startswith("next b") for line in lines[:at])
    assert any(line.startswith("next b") for line in lines[at:])


# ---------------------------------------------------------------------- what the recovery store holds


def test_a_partition_that_has_gone_ends_the_next_start(start):
    """Hence the shards of the journal are fixed."""
    assert start(parts=["a", "b"], last=30, end="abort").end() == 0
    fewer = start(parts=["a"], last=60, end="abort")
    assert fewer.end() == 1
    assert "is not in this worker's routing map" in fewer.said()
    more = start(parts=["a", "b", "c"], last=60, end="abort")
    assert more.end() == 0, more.said()
    assert [n > 0 for n in numbers(more.lines("resume"))] == [True, True, False]


class Planted:
    """Unpickled, it makes a file."""

    def __reduce__(self):
        return Path.touch, (Path("planted code ran"),)


@pytest.mark.threat(23)
def test_a_recovery_store_is_code(start, tmp_path):
    """Hence one that others may write is refused (flows/options.py)."""
    assert start(last=30, end="abort").end() == 0
    with closing(sqlite3.connect(tmp_path / STORE)) as store, store:
        states = [
            pickle.loads(row) for (row,) in store.execute("SELECT ser_change FROM snaps WHERE step_id = 'pin.input'")
        ]
        assert states
        assert all(isinstance(state, int) for state in states)
        store.execute("UPDATE snaps SET ser_change = ? WHERE step_id = 'pin.input'", (pickle.dumps(Planted()),))
    start(last=60, end="abort").end()
    assert (tmp_path / "planted code ran").exists()


# ---------------------------------------------------------------------- leaving the flow


def test_leaving_by_abort_makes_no_snapshot_and_the_same_flow_runs_again_in_the_process(start):
    """How the flow begins again when the wall clock was set back (docs/decisions/0009)."""
    flow = start(parts=["a"], last=60, end="abort", runs=3)
    assert flow.end() == 0
    assert flow.said() == ""
    lines = flow.lines()
    begun = [at for at, line in enumerate(lines) if line.startswith("resume a")]
    assert len(begun) == 3
    for at in begun[1:]:
        assert lines[at - 2 : at] == ["close a", "close sink_0.x"]
        kept = numbers([line for line in lines[:at] if line.startswith("snapshot a")])
        assert numbers([lines[at]]) == kept[-1:]


@pytest.mark.parametrize(("end", "first", "second"), [("stop", [10, 10, 6], [4, 10]), ("abort", [10, 10], [10, 10])])
def test_an_end_of_stream_closes_windows_early_and_leaving_does_not(start, end, first, second):
    """Hence a source never ends."""
    # Each item is an epoch: what was given is durable when the source ends.
    one = start(window=True, last=26, end=end, epoch=0)
    assert one.end() == 0, one.said()
    assert numbers(one.lines("write")) == first
    two = start(window=True, last=41, end="abort", epoch=0)
    assert two.end() == 0, two.said()
    assert numbers(two.lines("resume")) == [26]
    assert numbers(two.lines("write")) == second


def test_after_an_end_of_stream_a_source_is_closed_before_its_last_snapshot_is_durable_and_never_called_again(start):
    """Hence a source that ends could never acknowledge what it gave last."""
    flow = start(last=30, end="stop", epoch=60)
    assert flow.end() == 0, flow.said()
    ended = ["snapshot a 30", "close a", "snapshot sink_0.x 30", "close sink_0.x"]
    assert flow.lines("snapshot", "close") == ended
    assert numbers(flow.lines("next"))[-1] == 29


# What a signal does to a flow that has run for a while within one epoch: exit code, and whether partitions are closed.
SIGNALS = {
    "SIGKILL": (signal.SIGKILL, {}, -signal.SIGKILL, False),
    "SIGTERM without a handler": (signal.SIGTERM, {}, -signal.SIGTERM, False),
    "SIGINT": (signal.SIGINT, {}, 1, True),
    "a handler that raises": (signal.SIGTERM, {"on_term": True}, 1, True),
    "SIGINT, two workers": (signal.SIGINT, {"workers": 2}, -signal.SIGINT, None),
    "a handler that raises, two workers": (signal.SIGTERM, {"on_term": True, "workers": 2}, 0, None),
    "a close that raises": (signal.SIGTERM, {"on_term": True, "close_raises": True}, -signal.SIGABRT, True),
}


@pytest.mark.parametrize("case", SIGNALS)
def test_no_signal_makes_a_last_snapshot(start, case):
    """Hence the gateway handles signals itself: it drains, and ends the process."""
    number, options, code, closes = SIGNALS[case]
    flow = start(parts=["a", "b"], epoch=60, **options)
    flow.goes_on()
    flow.process.send_signal(number)
    assert flow.end(5) == code, flow.said()
    assert flow.lines("snapshot") == []
    if closes is not None:
        assert bool(flow.lines("close")) == closes


def test_as_pid_1_a_flow_without_a_handler_ignores_sigterm(start):
    """Hence handlers are set before anything is imported: a container would wait for SIGKILL."""
    flow = start(prefix=("unshare", "--pid", "--fork", "--kill-child"))
    flow.goes_on()
    (child,) = psutil.Process(flow.process.pid).children()
    child.send_signal(signal.SIGTERM)
    flow.goes_on(lines=200)
    assert flow.lines("close") == []
    child.kill()
    assert flow.end(5) != 0


# ---------------------------------------------------------------------- clock and port


def test_a_wall_clock_that_is_set_back_stops_epochs_and_not_items(start, tmp_path):
    """Hence flows/clock.py. Were epochs ended by another clock, it could go."""
    clock = WallClock(tmp_path)
    flow = start(environment=clock.environment)
    flow.goes_on("snapshot a", lines=3)
    clock.set(-3600)
    flow.goes_on("next a", lines=50)  # the epoch that was about to end
    before = len(flow.lines("snapshot a"))
    flow.goes_on("next a", lines=300)
    assert len(flow.lines("snapshot a")) == before
    clock.set(0)
    flow.goes_on("snapshot a", lines=3)
    clock.set(3600)
    flow.goes_on("snapshot a", lines=3)


def test_an_idle_partition_sleeps_as_far_as_the_wall_clock_was_set_back_even_when_it_is_right_again(start, tmp_path):
    """Hence `next_awake` of the shards is a time before all others."""
    clock = WallClock(tmp_path)
    flow = start(environment=clock.environment, empty=["a"])
    flow.goes_on("next a", lines=50)
    clock.set(-3600)
    last = [len(flow.lines("next a"))]

    def stands_still() -> bool:
        with suppress(subprocess.TimeoutExpired):
            flow.process.wait(0.5)
        last.append(len(flow.lines("next a")))
        return last[-1] == last[-2]

    flow.until(stands_still)
    clock.set(0)
    assert stands_still()


@pytest.mark.threat(24)
@pytest.mark.parametrize("value", ["0", "false", ""])
def test_the_variable_for_the_port_opens_one_whatever_its_value(start, value):
    """Hence it is taken out of the environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flow = start(environment={"BYTEWAX_DATAFLOW_API_ENABLED": value, "BYTEWAX_DATAFLOW_API_PORT": str(port)})
    process = psutil.Process(flow.process.pid)
    flow.until(lambda: [c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN])
    (listens,) = [c.laddr for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert tuple(listens) == ("0.0.0.0", port)
