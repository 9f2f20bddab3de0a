"""The gateway's flow with two steps of a user's own: °F beside every °C, and each tag's average over a minute.

python -m bytewax.run flows.examples.averages -r data/recovery -s 1 -b 0

What the steps make goes through the routing rules like any other reading. Its source is `<source>/fahrenheit` or
`<source>/average`, so that a rule (`source LIKE '%/average'`) and the account can tell it apart.
"""

from datetime import UTC, datetime, timedelta

import bytewax.operators as op
import bytewax.operators.windowing as win
import pyarrow as pa
import pyarrow.compute as pc
from bytewax.dataflow import Dataflow
from bytewax.operators import KeyedStream

from config.models import Configuration
from flows.by_exception import report_by_exception
from flows.inputs import GatewaySource, ModbusSource, MqttSource, OpcUaSource
from flows.operators import Row, collect, event_clock, explode_by_tag, normalize, route, step_name, summarize
from flows.outputs import DeadLetterSink, SpoolSink
from flows.process import Process, under_bytewax
from normalization.reading import Quality, Tag

MINUTE = timedelta(minutes=1)
ALIGNED = datetime(2000, 1, 1, tzinfo=UTC)
Sum = tuple[Tag | None, float, int]


def gateway(process: Process, window: timedelta = MINUTE, wait: timedelta = timedelta(seconds=5)) -> Dataflow:
    """The dataflow of one gateway that also derives readings.

    Args:
        process: What the flow lives on.
        window: Length of the averages' windows.
        wait: How much later than a newer one a reading of the same tag may come.
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
    rows = explode_by_tag("rows", temperatures, process)
    fahrenheit = op.map_value("fahrenheit", rows, to_fahrenheit)
    averages = average("averages", rows, window, wait, process)
    made = collect("made", op.merge("made_rows", fahrenheit, averages), process)
    # … to here is the user's own.

    reported = report_by_exception("report", normalized, process)
    routes = route("route", op.merge("all", reported, made), process)
    for target, readings_for_target in routes.targets.items():
        op.output(f"to_{step_name(target)}", readings_for_target, SpoolSink(process, target))
    op.output("dead_letters", routes.dead_letters, DeadLetterSink(process))
    return flow


def only_celsius(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The good readings in °C that have a number; whole columns at once, before the work on single readings."""
    good = pc.equal(batch.column("quality"), Quality.GOOD)
    return batch.filter(pc.and_(pc.and_(good, pc.equal(batch.column("unit"), "°C")), batch.column("value").is_valid()))


def to_fahrenheit(row: Row) -> Row:
    """One reading made of one reading."""
    return row.derive("fahrenheit", row.value * 1.8 + 32, unit="°F", tag_name=f"{row.tag.tag_name}_fahrenheit")


def average(
    step_id: str, rows: KeyedStream[Row], window: timedelta, wait: timedelta, process: Process
) -> KeyedStream[Row]:
    """One reading made of many: the average of a tag over a window of its own time."""
    windows = win.fold_window(
        step_id,
        rows,
        event_clock(wait),
        win.TumblingWindower(length=window, align_to=ALIGNED),
        builder=lambda: (None, 0.0, 0),
        folder=lambda so_far, row: (row.tag, so_far[1] + row.value, so_far[2] + 1),
        merger=lambda one, other: (one[0] or other[0], one[1] + other[1], one[2] + other[2]),
    )

    def close(closed: tuple[int, Sum]) -> Row | None:
        number, (tag, total, count) = closed
        if tag is None:
            return None
        start = ALIGNED + number * window
        return summarize(
            "average", process.config.gateway, tag, start, total / count, tag_name=f"{tag.tag_name}_average"
        )

    return op.filter_map_value(f"{step_id}_rows", windows.down, close)


def flow(config: Configuration | None = None) -> Dataflow:
    """What `python -m bytewax.run flows.examples.averages` runs."""
    return gateway(under_bytewax(config))
