"""Members of a Bytewax cluster as processes, and what a plant-wide average over their sources must have become.

``python -m bytewax.run tests.chaos.clustered:flow -r DIR -s 1 -b 0 -i N -a ADDRESSES``, with ``CLUSTERED`` as JSON.

The time of a reading is its number in microseconds, so what every window must hold can be worked out from the numbers alone.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import Dataflow
from pydantic import Field
from typing_extensions import override

from config.members import Membership, member_name
from config.models import Configuration
from connectors.contract import Context, Intake, Limits, Reader, SourceState, Writer
from connectors.settings import SourceConfig, TagMapping, TargetConfig
from flows.examples import plant_average
from flows.inputs import GatewaySource, ModbusSource, MqttSource, OpcUaSource
from flows.operators import Row, collect, explode_by_tag, normalize, route
from flows.outputs import DeadLetterSink, SpoolSink
from flows.process import under_bytewax
from normalization.reading import Columns
from tests.appending import Appender, whole_numbers
from tests.chaos.lives import ROOT, ChaosError, handles, until
from tests.chaos.numbered import last_number
from tests.ports import free_port

WINDOW: Final = 200  # µs of event time, which are the numbers of readings
WAIT: Final = 20
LINES: Final = ("press", "mixer")
PROTOCOLS: Final = ("mqtt", "modbus", "opcua")
PLANT: Final = "plant"
_TAGS: Final = 10
_PERIOD: Final = 0.02
_AVERAGE: Final = f"{PLANT}/average"


@dataclass(frozen=True)
class Setup:
    """What a member is made of.

    Attributes:
        directory: Where each member has a folder, and the sources their files.
        members: How many there are.
        member: Which of them it is.
        rate: Readings per second of each source; each line has one source at each member.
        idle: Whether the sources give nothing.
        targets: How many targets there are.
    """

    directory: str
    members: int = 2
    member: int = 0
    rate: int = 400
    idle: bool = False
    targets: int = 1

    @property
    def folder(self) -> Path:
        return Path(self.directory) / f"m{self.member}"


def value_of(source: str, n: int) -> float:
    """The value of a source's reading `n`; each source has others, so that one that is missing in a window shows."""
    return float(n % 1000 + 10_000 * (1 + int(source.rsplit("_", 1)[1])))


class LineConfig(SourceConfig):
    protocol: Literal["mqtt", "modbus", "opcua"] = "mqtt"
    rate: int = Field(400, description="readings per second; 0 for none")
    acked: Path = Field(description="file of acknowledged numbers")

    @override
    def reader(self, context: Context) -> Reader:
        return LineReader(self)


class LineReader(Reader):
    """Goes on after the newest number that was acknowledged, as a broker does."""

    def __init__(self, config: LineConfig) -> None:
        self._config = config

    @override
    async def run(self, intake: Intake, state: bytes | None) -> None:
        config = self._config
        n = max(int(state or b"0"), last_number(config.acked))
        tags = [intake.tag(config.tag("dev", f"a{i}", f"tag_{i}")) for i in range(_TAGS)]
        intake.state(SourceState.CONNECTED)
        if not config.rate:
            await asyncio.Event().wait()
        with Appender(config.acked, whole_numbers) as acked:
            began, given = time.monotonic(), 0
            while True:
                due = int((time.monotonic() - began) * config.rate)
                rows = Columns()
                for _ in range(due - given):
                    n += 1
                    rows.add(tags[n % _TAGS], value_of(config.name, n), source_time=n)
                if due > given:
                    done = intake.append(rows, str(n).encode())
                    done.add_done_callback(partial(_note, acked, n))
                    await done
                given = due
                await asyncio.sleep(_PERIOD)


def _note(acked: Appender, n: int, done: "asyncio.Future[None]") -> None:
    if not done.cancelled() and done.exception() is None:
        acked.append(n.to_bytes(8, "little"))


class TellingConfig(TargetConfig):
    type: Literal["telling"] = "telling"
    path: Path = Field(description="file of what came")

    @override
    def writer(self, context: Context) -> Writer:
        return TellingWriter(self)


class TellingWriter(Writer):
    """Appends identity, source, number, value and arrival of each reading as a line."""

    def __init__(self, config: TellingConfig) -> None:
        self.limits = Limits(rows=2000, linger=0.02)
        self._config = config

    @override
    async def open(self) -> None:
        self._file = Appender(self._config.path)

    @override
    async def write(self, batch: pa.RecordBatch, unit: int) -> None:
        names = [batch.column(name).to_pylist() for name in ("gateway", "shard", "sequence", "source", "path", "value")]
        numbers, now = batch.column("source_time").cast(pa.int64()).to_pylist(), time.time()
        self._file.append("".join(f"{json.dumps([*row, now])}\n" for row in zip(*names, numbers, strict=True)).encode())

    @override
    async def close(self) -> None:
        self._file.close()


# ---------------------------------------------------------------------- inside a member


def sources_of(setup: Setup) -> list[LineConfig]:
    """All sources of the plant: of each line one at each member."""
    return [
        LineConfig(
            name=f"{line}_{member}",
            protocol=PROTOCOLS[(member + place) % len(PROTOCOLS)],  # type: ignore[arg-type]
            rate=0 if setup.idle else setup.rate,
            acked=Path(setup.directory) / f"{line}_{member}.acked",
            member=member,
            site="site",
            area="area",
            line=line,
            tags=[TagMapping(match="*", unit="°C")],
        )
        for place, line in enumerate(LINES)
        for member in range(setup.members)
    ]


def configuration(setup: Setup) -> Configuration:
    """The configuration of a member."""
    every = sources_of(setup)
    targets = {f"t{number}": TellingConfig(path=setup.folder / f"t{number}.jsonl") for number in range(setup.targets)}
    return Configuration(
        gateway=member_name(PLANT, setup.member),
        directory=setup.folder / "data",
        sources=tuple(source for source in every if source.member == setup.member),
        plant=tuple(every),
        membership=Membership(setup.member, setup.members, {source.name: source.member or 0 for source in every}),
        targets=targets,
        default=tuple(targets),
        port=None,
        log_level="info",
        log_format="json",
    )


def _setup() -> Setup:
    return Setup(**json.loads(os.environ["CLUSTERED"]))


def flow() -> Dataflow:
    """The example, with windows that are short enough."""
    micros = timedelta(microseconds=1)
    return plant_average.gateway(under_bytewax(configuration(_setup())), WINDOW * micros, WAIT * micros)


def crossing() -> Dataflow:
    """Every reading passes a keyed step with state, which most often runs on another member than the one that read it."""
    process = under_bytewax(configuration(_setup()))
    flow = Dataflow("gateway")
    sources = {"opcua": OpcUaSource, "mqtt": MqttSource, "modbus": ModbusSource, "own": GatewaySource}
    readings = op.merge("readings", *(op.input(name, flow, made(process)) for name, made in sources.items()))
    normalized = normalize("normalize", readings, process)
    rows = explode_by_tag("rows", normalized, process)
    counted = op.stateful_map("counted", rows, _count)
    routes = route("route", collect("collected", counted, process), process)
    for target, readings_for_target in routes.targets.items():
        op.output(f"to_{target}", readings_for_target, SpoolSink(process, target))
    op.output("dead_letters", routes.dead_letters, DeadLetterSink(process))
    return flow


def _count(so_far: int | None, row: Row) -> tuple[int, Row]:
    return (so_far or 0) + 1, row


# ---------------------------------------------------------------------- outside


class Member:
    """A member in a process of its own.

    Args:
        setup: What it is made of.
        addresses: Those of all; none for a gateway of its own.
        flow: The factory in this module.
        environment: More environment variables.
    """

    def __init__(
        self,
        setup: Setup,
        addresses: Sequence[str],
        flow: str = "flow",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.setup = setup
        setup.folder.mkdir(parents=True, exist_ok=True)
        self.log = setup.folder / "log"
        recovery = setup.folder / "data" / "recovery"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("BYTEWAX")}
        options = ["-r", str(recovery), "-s", "1", "-b", "0"]
        if addresses:
            options += ["-i", str(setup.member), "-a", ";".join(addresses)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bytewax.run", f"tests.chaos.clustered:{flow}", *options],
                env=inherited
                | {"CLUSTERED": json.dumps(asdict(setup)), "PYTHONPATH": str(ROOT)}
                | dict(environment or {}),
                cwd=ROOT,
                stdout=log,
                stderr=log,
            )

    def alive(self) -> bool:
        return self.process.poll() is None

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-2500:]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def ask(self) -> None:
        """SIGTERM, once it would not just end the process."""
        until(lambda: not self.alive() or handles(self.process.pid, signal.SIGTERM), 20.0, "a handler for SIGTERM")
        self.process.send_signal(signal.SIGTERM)

    def stop(self, patience: float = 20.0) -> int:
        """Have it end; returns the exit code."""
        self.ask()
        return self.process.wait(patience)


@dataclass
class Plant:
    """All members of a cluster.

    Attributes:
        directory: Where everything lies.
        members: How many there are.
        rate: Readings per second of each source.
        flow: The factory of their flow.
        apart: Whether they are gateways of their own.
        environment: More environment variables.
        idle: Whether the sources give nothing.
        lives: The members that run.
    """

    directory: Path
    members: int = 2
    rate: int = 400
    flow: str = "flow"
    apart: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    idle: bool = False
    lives: dict[int, Member] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.addresses = [] if self.apart else [f"127.0.0.1:{free_port()}" for _ in range(self.members)]

    def setup(self, member: int, *, targets: int = 1) -> Setup:
        return Setup(str(self.directory), self.members, member, self.rate, self.idle, targets)

    def start(self, *members: int, targets: int = 1) -> None:
        for member in members or range(self.members):
            setup = self.setup(member, targets=targets)
            self.lives[member] = Member(setup, self.addresses, self.flow, self.environment)

    def kill(self, member: int) -> None:
        self.lives.pop(member).kill()

    def stop(self) -> dict[int, int]:
        """SIGTERM to all at once; returns the exit codes."""
        for life in self.lives.values():
            life.ask()
        return {member: self.lives.pop(member).process.wait(20) for member in list(self.lives)}

    def end(self) -> None:
        for life in self.lives.values():
            if life.alive():
                life.kill()

    def until(self, condition: Callable[[], object], what: str, seconds: float = 60.0) -> float:
        """Wait for something while all members run that should; returns the seconds that it took."""

        def look() -> object:
            for member, life in self.lives.items():
                assert life.alive(), f"member {member} ended with {life.process.returncode}: {life.said()}"
            return condition()

        try:
            return until(look, seconds, what)
        except ChaosError as error:
            raise ChaosError(f"{error}: {[life.said() for life in self.lives.values()]}") from None

    # ------------------------------------------------------------------ what became of it

    def rows(self) -> dict[tuple[str, str, int], list[Any]]:
        """What targets have by identity, whichever member's they are; each identity is always the same reading."""
        found: dict[tuple[str, str, int], list[Any]] = {}
        for path in self.directory.glob("m*/t0.jsonl"):
            for line in path.read_text().split("\n")[:-1]:
                gateway, shard, sequence, *rest, _ = json.loads(line)
                known = found.setdefault((gateway, shard, sequence), rest)
                assert known == rest, f"{gateway} {shard} {sequence} came as {known} and as {rest}"
        return found

    def size(self) -> int:
        """Grows with everything that a target takes."""
        return sum(path.stat().st_size for path in self.directory.glob("m*/t0.jsonl"))

    def averages(self) -> int:
        """How many lines the targets have of windows."""
        return sum(path.read_bytes().count(_AVERAGE.encode()) for path in self.directory.glob("m*/t0.jsonl"))

    def delivered(self, source: str) -> int:
        """The newest number of a source that a target has."""
        return max((number for name, _, _, number in self.rows().values() if name == source), default=0)

    def acknowledged(self) -> dict[str, int]:
        """The newest number of each source that was acknowledged."""
        return {source.name: last_number(source.acked) for source in sources_of(self.setup(0))}

    def accounts(self) -> list[dict[str, Any]]:
        """The ledgers of the members, which do not run."""
        from bifrost.run import account

        return [account(configuration(self.setup(member))) for member in range(self.members)]

    def found(self) -> dict[str, int]:
        """Everything that was delivered, against what a straight computation over the numbers says; counts of what is wrong."""
        raw: dict[str, set[int]] = defaultdict(set)
        got: dict[tuple[str, int], list[float]] = defaultdict(list)
        wrong = 0
        for source, path, value, number in self.rows().values():
            if source == _AVERAGE:
                got[path.split("/")[2], number].append(value)
            else:
                raw[source].add(number)
                wrong += value != value_of(source, number)
        acknowledged = self.acknowledged()
        wanted = windows({name: max(numbers, default=0) for name, numbers in raw.items()})
        ledgers = self.accounts()
        delivered = sum(one["targets"]["t0"].get(_AVERAGE, {}).get("delivered", 0) for one in ledgers)
        journalled = {
            name: sum(one["sources"].get(name, {}).get("journalled", 0) for one in ledgers) for name in acknowledged
        }
        return {
            "obligations": sum(acknowledged.values()),
            "lost": sum(len(set(range(1, newest + 1)) - raw[name]) for name, newest in acknowledged.items()),
            "lost_by_the_ledgers": sum(max(0, newest - journalled[name]) for name, newest in acknowledged.items()),
            "wrong_values": wrong,
            "windows": len(wanted),
            "windows_lost": len(wanted.keys() - got.keys()),
            "windows_closed_early": len(got.keys() - wanted.keys()),
            "windows_doubled": sum(len(values) - 1 for values in got.values()),
            "windows_doubled_by_the_ledgers": delivered - len(got),
            "windows_wrong": sum(abs(got[key][0] - wanted[key]) > 1e-6 for key in wanted.keys() & got.keys()),
            "unaccounted": sum(abs(one["unaccounted"]) for one in ledgers),
        }


def windows(newest: dict[str, int]) -> dict[tuple[str, int], float]:
    """Line, start and average of each window that all sources of the line are past.

    Args:
        newest: The newest number of each source.
    """
    found = {}
    for line in LINES:
        sources = {name: last for name, last in newest.items() if name.startswith(f"{line}_")}
        for start in range(0, min(sources.values(), default=0) - WAIT - WINDOW + 1, WINDOW):
            inside = [value_of(name, n) for name in sources for n in range(max(1, start), start + WINDOW)]
            found[line, start] = sum(inside) / len(inside)
    return found


def settle(plant: Plant) -> None:
    """All stop, and run once more without readings until everything is delivered."""
    codes = plant.stop()
    assert not any(codes.values()), codes
    plant.idle = True
    plant.start()
    seen = -1

    def all_there() -> bool:
        nonlocal seen
        if plant.size() == seen:
            return False
        seen = plant.size()
        raw: dict[str, set[int]] = {name: set() for name in plant.acknowledged()}
        averages = set()
        for source, path, _, number in plant.rows().values():
            averages.add((path, number)) if source == _AVERAGE else raw[source].add(number)
        if any(len(raw[name]) < newest for name, newest in plant.acknowledged().items()):
            return False
        return plant.flow != "flow" or len(averages) >= len(windows({name: max(n) for name, n in raw.items()}))

    plant.until(all_there, "all is delivered")
    codes = plant.stop()
    assert not any(codes.values()), codes
