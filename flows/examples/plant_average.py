"""The gateway's flow with an average over the plant: of each line, whichever member of a cluster reads its sources.

On each of two boxes, with the same configuration but for `gateway.member` (0 and 1; `gateway.members: 2`):

python -m bytewax.run flows.examples.plant_average -r data/recovery -s 1 -b 0 -i 0 -a "box0:2101;box1:2101"
python -m bytewax.run flows.examples.plant_average -r data/recovery -s 1 -b 0 -i 1 -a "box0:2101;box1:2101"

Readings stay with the member that read them. What crosses is one `Share` for each batch, source and window. It runs without
a cluster too, as any flow.
"""

import time
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import bytewax.operators as op
import bytewax.operators.windowing as win
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream

from config.models import Configuration
from flows.by_exception import report_by_exception
from flows.examples.averages import ALIGNED, MINUTE, only_celsius
from flows.inputs import GatewaySource, ModbusSource, MqttSource, OpcUaSource
from flows.operators import Row, collect, normalize, route, step_name, summarize
from flows.outputs import DeadLetterSink, SpoolSink
from flows.process import Process, under_bytewax
from flows.sources_clock import SourcesClock
from normalization.reading import Tag

log = structlog.get_logger()

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PATIENCE = timedelta(minutes=10)
_SAY = 10.0  # seconds


class Line(NamedTuple):
    """A line of the plant."""

    site: str
    area: str
    line: str

    @property
    def path(self) -> str:
        """Its ISA-95 path, which is the key of its windows."""
        return "/".join(part for part in self if part)


class Share(NamedTuple):
    """What the readings of one source in one batch add to one window of a line."""

    line: Line
    source: str
    time: datetime
    received: datetime
    total: float
    readings: int


def gateway(
    process: Process,
    window: timedelta = MINUTE,
    wait: timedelta = timedelta(seconds=5),
    patience: timedelta = PATIENCE,
) -> Dataflow:
    """The dataflow of one member.

    Args:
        process: What the flow lives on.
        window: Length of the averages' windows.
        wait: How much later than a newer one a reading of the same source may come.
        patience: For how long a window waits for a source of the line that gives nothing.
    """
    flow = Dataflow("gateway")
    opcua = op.input("opcua", flow, OpcUaSource(process))
    mqtt = op.input("mqtt", flow, MqttSource(process))
    modbus = op.input("modbus", flow, ModbusSource(process))
    own = op.input("own", flow, GatewaySource(process))
    readings = op.merge("readings", opcua, mqtt, modbus, own)
    normalized = normalize("normalize", readings, process)

    # From here …
    temperatures = op.map("temperatures", normalized, only_celsius)
    shares = op.flat_map("shares", temperatures, lambda batch: shares_of(batch, window))
    averages = average("averages", shares, window, wait, patience, process)
    made = collect("made", averages, process)
    # … to here is the user's own.

    reported = report_by_exception("report", normalized, process)
    routes = route("route", op.merge("all", reported, made), process)
    for target, readings_for_target in routes.targets.items():
        op.output(f"to_{step_name(target)}", readings_for_target, SpoolSink(process, target))
    op.output("dead_letters", routes.dead_letters, DeadLetterSink(process))
    return flow


def shares_of(batch: pa.RecordBatch, window: timedelta) -> list[tuple[str, Share]]:
    """What a batch adds to the lines' windows, the oldest window first."""
    received = batch.column("received_time").cast(pa.int64())
    time = pc.coalesce(batch.column("source_time").cast(pa.int64()), received)
    length, aligned = window // MICROSECOND, (ALIGNED - EPOCH) // MICROSECOND
    columns = {name: batch.column(name).cast(pa.string()) for name in ("site", "area", "line", "source")}
    number = pa.array((time.to_numpy() - aligned) // length)
    table = pa.table({**columns, "window": number, "time": time, "received": received, "value": batch.column("value")})
    sums = (
        table.filter(pc.not_equal(table["line"], ""))
        .group_by(["window", *columns], use_threads=False)
        .aggregate([("time", "max"), ("received", "max"), ("value", "sum"), ("value", "count")])
        .sort_by("window")
    )
    found = []
    for row in sums.to_pylist():
        line = Line(row["site"], row["area"], row["line"])
        measured, came = EPOCH + row["time_max"] * MICROSECOND, EPOCH + row["received_max"] * MICROSECOND
        found.append((line.path, Share(line, row["source"], measured, came, row["value_sum"], row["value_count"])))
    return found


def average(
    step_id: str,
    shares: KeyedStream[Share],
    window: timedelta,
    wait: timedelta,
    patience: timedelta,
    process: Process,
) -> KeyedStream[Row]:
    """The average of each line over a window of its sources' own time."""
    config, cluster = process.config, process.cluster
    plant = config.gateway if cluster is None else cluster.members.name

    def sources(share: Share) -> Collection[str]:
        known = process.config.sources if cluster is None else process.config.plant
        return [s.name for s in known if (s.site or "", s.area or "", s.line or "") == share.line]

    windows = win.fold_window(
        step_id,
        shares,
        SourcesClock(wait, sources, patience),
        win.TumblingWindower(length=window, align_to=ALIGNED),
        builder=lambda: (None, 0.0, 0),
        folder=lambda so_far, share: (share.line, so_far[1] + share.total, so_far[2] + share.readings),
        merger=lambda one, other: (one[0] or other[0], one[1] + other[1], one[2] + other[2]),
        ordered=False,
    )

    def close(closed: tuple[str, tuple[int, tuple[Line | None, float, int]]]) -> tuple[str, Row] | None:
        key, (number, (line, total, count)) = closed
        if line is None or not count:
            return None
        name = "temperature_average"
        tag = Tag(
            plant, "gateway", key, name, name, "°C", path=f"{key}/{name}", site=line.site, area=line.area, line=line.line,
            signal_type="temperature",
        )  # fmt: skip
        return key, summarize("average", plant, tag, ALIGNED + number * window, total / count)

    op.inspect(f"{step_id}_late", windows.late, TooLate())
    return op.filter_map(f"{step_id}_rows", windows.down, close)


class TooLate:
    """Says which readings no window took, because their source had been silent for longer than the patience."""

    def __init__(self) -> None:
        self._readings: Counter[tuple[str, str]] = Counter()
        self._said = float("-inf")

    def __call__(self, _: str, late: tuple[str, tuple[int, Share]]) -> None:
        """Count them, and say so at most every ten seconds."""
        line, (_number, share) = late
        self._readings[line, share.source] += share.readings
        if time.monotonic() - self._said >= _SAY:
            for (line, source), readings in self._readings.items():
                log.warning("readings came too late for a window", line=line, source=source, readings=readings)
            self._readings.clear()
            self._said = time.monotonic()


def flow(config: Configuration | None = None) -> Dataflow:
    """What `python -m bytewax.run flows.examples.plant_average` runs."""
    return gateway(under_bytewax(config))
