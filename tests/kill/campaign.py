"""A plant, a broker, a ZeroBus emulator, and a gateway that is killed again and again on the same stores."""

import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import time
import urllib.error
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import psutil
import pyarrow as pa
from deltalake import DeltaTable

from bifrost.demo import gateway_config, table_name
from connectors.targets.zerobus import ddl
from simulator import ledger
from simulator.plant import build_plant
from simulator.run import Options, Workers
from simulator.zerobus.process import EmulatorProcess
from tests import api
from tests.kill.oracle import COLUMNS, Run

ROOT: Final = Path(__file__).parents[2]
SOURCES: Final = {"opcua": 1, "mqtt": 1, "modbus": 1}
PUBLISHING_INTERVAL: Final = 0.2  # seconds between two notifications of the OPC UA server
_TAGS: Final = 360
_LOOK: Final = 0.05
_FIRST_DELIVERY: Final = 30.0
_DRAINED: Final = 60.0

Through = Literal["bifrost_run", "bytewax_run"]
Moment = Literal["any", "start", "commit"]
_Kind = TypeVar("_Kind", bound=str)


@dataclass(slots=True)
class Start:
    """One life of the gateway.

    Attributes:
        through: How it was started.
        moment: Where the kill was aimed at; None for the life that was not killed.
        run: When it lived, for the oracle.
        first_delivery: Seconds from the start of the process to the first reading that a target acknowledged.
        first_delta: The same for Delta alone.
        errors: Lines of its log with level error.
    """

    through: Through
    moment: Moment | None
    run: Run
    first_delivery: float | None = None
    first_delta: float | None = None
    errors: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Campaign:
    """What was done and what was found at the end.

    Attributes:
        starts: All lives of the gateway; the last one was not killed.
        stopped: When the plant began to stop, µs since the epoch.
        seconds: How long the plant ran.
        foreign: Share of the machine's processors that others used meanwhile.
        exit_code: Of the last life, after SIGTERM.
        exit_seconds: How long it took to end.
        account: What ``bifrost ledger --json`` said at the end.
        ledgers: What the plant gave out, by source.
        delta: Rows of the Delta table.
        zerobus: Rows of the emulator's tables.
    """

    starts: list[Start]
    stopped: int
    seconds: float
    foreign: float
    exit_code: int
    exit_seconds: float
    account: dict[str, Any]
    ledgers: dict[str, ledger.Account]
    delta: pa.Table
    zerobus: pa.Table


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the gateway lives."""

    directory: Path
    config: Path
    port: int

    @property
    def data(self) -> Path:
        return self.directory / "data"


def micros() -> int:
    """Now, µs since the epoch."""
    return time.time_ns() // 1000


def carry_out(
    directory: Path, broker: str, *, kills: int, seed: int, rate: float, say: Callable[[str], None]
) -> Campaign:
    """Start everything, kill the gateway `kills` times, drain, and read what arrived.

    Half of the lives go through ``bifrost run``, half through ``python -m bytewax.run``, in random order, all on the same
    stores. Half of the kills come at any moment, up to 5 s after the first delivery of the life; a quarter up to 2 s after
    the start of the process, wherever that is then; a quarter within 30 ms after a commit to Delta, of which the gateway
    may not know yet.
    """
    chance = random.Random(seed)
    ways: list[Through] = _shuffled(chance, ("bifrost_run", "bytewax_run"), kills)
    moments: list[Moment] = _shuffled(chance, ("any", "start", "any", "commit"), kills)
    plant = build_plant(tags=_TAGS, rate=rate, sources=SOURCES, ledger=True)
    with (
        Workers(plant, Options(broker=broker, ledger=directory / "ledgers")) as workers,
        _emulator(directory, [source.name for source in plant.sources]) as emulator,
    ):
        began, others = time.monotonic(), cpu_of_others()
        place = _configure(directory, workers.description, emulator)
        starts = []
        for number, (through, moment) in enumerate(zip(ways, moments, strict=True), 1):
            starts.append(_live_and_die(place, number, through, moment, chance.random()))
            workers.check()
            say(_told(number, starts[-1]))
        last, process = _start(place, kills + 1, chance.choice(("bifrost_run", "bytewax_run")), None)
        with _killed_at_last(process):
            _wait_first_delivery(place, process, last)
            _live(place, process, last, 2.0)  # plain life, so that its readings arrive too
            stopped, seconds = micros(), time.monotonic() - began
            foreign = (cpu_of_others() - others) / seconds / (os.cpu_count() or 1)
            workers.stop()
            _wait_drained(place, process)
            asked = time.monotonic()
            process.terminate()
            exit_code = process.wait(20)
        exit_seconds = time.monotonic() - asked
        last.run.end = micros()
        _read_log(place, kills + 1, last)
        say(_told(kills + 1, last))
        for source in plant.sources:
            emulator.count(table_name(source.name))  # answers when everything accepted is in the table
        return Campaign(
            [*starts, last], stopped, seconds, foreign, exit_code, exit_seconds, _account(place),
            ledger.read_all(directory / "ledgers"),
            _rows(directory / "delta" / "readings"),
            pa.concat_tables([_rows(path) for path in emulator.tables.values()]),
        )  # fmt: skip


def _shuffled(chance: random.Random, kinds: Sequence[_Kind], count: int) -> list[_Kind]:
    """`count` of `kinds`, as many of each as of any other, in random order."""
    made = [kinds[i % len(kinds)] for i in range(count)]
    chance.shuffle(made)
    return made


def _told(number: int, start: Start) -> str:
    lived = (start.run.end - start.run.start) / 1e6
    first = (
        "nothing delivered" if start.first_delivery is None else f"first delivery after {start.first_delivery:.2f} s"
    )
    end = f"killed ({start.moment})" if start.moment else "drained"
    return f"  life {number:2d} through {start.through:<11}: {first}, {end} after {lived:.2f} s"


def cpu_of_others() -> float:
    """Seconds of processor time that neither this process nor any that it started has used, since the machine began."""
    machine = psutil.cpu_times()._asdict()
    busy = sum(machine[name] for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = ended.ru_utime + ended.ru_stime
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            own += times.user + times.system
    return float(busy - own)


# ---------------------------------------------------------------------- what surrounds the gateway


@contextlib.contextmanager
def _emulator(directory: Path, sources: list[str]) -> Iterator[EmulatorProcess]:
    declared = {}
    for source in sources:
        name = table_name(source)
        declared[name] = directory / f"{name}.sql"
        declared[name].write_text(ddl(name))
    with EmulatorProcess(directory / "zerobus", declared) as emulator:
        yield emulator


def _configure(directory: Path, description: dict[str, Any], emulator: EmulatorProcess) -> _Place:
    """The demo's configuration, made a little harder: commits come more often, so that kills fall into them."""
    endpoints = {"endpoint": emulator.endpoint, "unity_catalog_url": emulator.unity_catalog_url}
    config = gateway_config(description, endpoints, directory)
    config["gateway"]["name"] = "kill"
    config["gateway"]["cloud"]["connectors"]["delta"]["flush_interval"] = 0.5
    for source in config["sources"]:
        match source["protocol"]:
            case "opcua":
                source["publishing_interval"] = PUBLISHING_INTERVAL
            case "modbus":
                source["timeout"] = 5.0  # two cores for everything: an answer that is only late is not lost
    path = directory / "gateway.yaml"
    path.write_text(json.dumps(config, indent=1, ensure_ascii=False))
    return _Place(directory, path, config["gateway"]["port"])


# ---------------------------------------------------------------------- the gateway


def _command(place: _Place, through: Through) -> list[str]:
    if through == "bifrost_run":
        return [sys.executable, "-m", "bifrost", "run", "-c", str(place.config)]
    recovery = str(place.data / "recovery")
    return [sys.executable, "-m", "bytewax.run", "flows.gateway", "-r", recovery, "-s", "1", "-b", "0"]


def _log_file(place: _Place, number: int) -> Path:
    return place.directory / f"gateway-{number:02d}.log"


def _start(
    place: _Place, number: int, through: Through, moment: Moment | None
) -> "tuple[Start, subprocess.Popen[bytes]]":
    start = Start(through, moment, Run(micros()))
    with _log_file(place, number).open("wb") as output:
        process = subprocess.Popen(
            _command(place, through),
            cwd=ROOT,
            env={**os.environ, "BIFROST_CONFIG": str(place.config)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    return start, process


def _live_and_die(place: _Place, number: int, through: Through, moment: Moment, fraction: float) -> Start:
    """Start the gateway and kill it; `fraction` says how far into the range of moments."""
    start, process = _start(place, number, through, moment)
    with _killed_at_last(process):
        match moment:
            case "start":
                _live(place, process, start, 2.0 * fraction)
            case "any":
                _wait_first_delivery(place, process, start)
                _live(place, process, start, 5.0 * fraction)
            case "commit":
                _wait_first_delivery(place, process, start)
                _live(place, process, start, 3.0 * fraction)
                _wait_commit(place.directory / "delta" / "readings" / "_delta_log")
                time.sleep(0.03 * fraction)
    start.run.end = micros()
    _read_log(place, number, start)
    return start


def _live(place: _Place, process: "subprocess.Popen[bytes]", start: Start, seconds: float) -> None:
    """Let the gateway live, and see when it delivers."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if start.first_delta is None:
            _look(place, process, start)
        time.sleep(min(_LOOK, left))


def _wait_commit(log: Path) -> None:
    """Until the next commit is in the log of a Delta table."""
    deadline, before = time.monotonic() + _FIRST_DELIVERY, _newest(log)
    while _newest(log) == before:
        assert time.monotonic() < deadline, "Delta gets no commits"
        time.sleep(0.001)


def _newest(log: Path) -> str:
    return max((entry.name for entry in os.scandir(log) if entry.name.endswith(".json")), default="")


@contextlib.contextmanager
def _killed_at_last(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """SIGKILL when the block is left, unless the process has ended by then."""
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _look(place: _Place, process: "subprocess.Popen[bytes]", start: Start) -> None:
    """See what the gateway has delivered in this life."""
    if process.poll() is not None:
        raise AssertionError(f"the gateway ended by itself with code {process.returncode}: {_tail(place)}")
    health = _get(place, "/api/status")
    if health is None:
        return
    lived = micros() / 1e6 - start.run.start / 1e6
    delivered = {name: target["delivered"] for name, target in health["targets"].items()}
    if start.first_delivery is None and any(delivered.values()):
        start.first_delivery = lived
    if start.first_delta is None and delivered.get("delta"):
        start.first_delta = lived


def _wait_first_delivery(place: _Place, process: "subprocess.Popen[bytes]", start: Start) -> None:
    deadline = time.monotonic() + _FIRST_DELIVERY
    while start.first_delivery is None:
        _look(place, process, start)
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing delivered {_FIRST_DELIVERY:g} s after the start: {_tail(place)}")
        time.sleep(_LOOK)


def _wait_drained(place: _Place, process: "subprocess.Popen[bytes]") -> None:
    """Until nothing waits in a store, twice in a row."""
    deadline, empty = time.monotonic() + _DRAINED, 0
    while empty < 2:
        account = _get(place, "/api/ledger")
        if account is not None:
            waiting = sum(line["waiting"] for line in account["sources"].values())
            stored = sum(line["stored"] for lines in account["targets"].values() for line in lines.values())
            empty = empty + 1 if waiting + stored == 0 else 0
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"not drained after {_DRAINED:g} s: {account}, {_tail(place)}")
        time.sleep(0.2)


def _get(place: _Place, path: str) -> Any | None:
    try:
        return json.loads(api.get(place.port, path, place.data))
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return None


def _read_log(place: _Place, number: int, start: Start) -> None:
    """When each source was connected and lost, as the gateway's log says."""
    for line in _log_file(place, number).read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            if line.strip():
                start.errors.append(line)  # a panic or a traceback
            continue
        if event["level"] in ("error", "critical"):
            start.errors.append(line)
        if event["event"] == "source":
            start.run.note(event["source"], event["state"], event["timestamp"])


def _tail(place: _Place) -> str:
    return "\n".join(
        path.read_text(errors="replace")[-1500:] for path in sorted(place.directory.glob("gateway-*.log"))[-1:]
    )


def _account(place: _Place) -> dict[str, Any]:
    command = [sys.executable, "-m", "bifrost", "ledger", "--json", "-c", str(place.config)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert said.stdout, said.stderr.decode()
    return dict(json.loads(said.stdout))


def _rows(table: Path) -> pa.Table:
    return DeltaTable(table).to_pyarrow_table(columns=list(COLUMNS))
