"""The numbered gateway for both ways of starting it; ``NUMBERED`` holds its options as JSON.

python tests/flows/numbered_flow.py
python -m bytewax.run tests/flows/numbered_flow:flow -r DIR -s 1 -b 0
python -m bytewax.run tests/flows/numbered_flow:example -r DIR -s 1 -b 0
python -m bytewax.run tests/flows/numbered_flow:held -r DIR -s 1 -b 0
"""

import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path

if __name__ == "__main__":
    from flows import leave_on_signals

    leave_on_signals()  # as the command line does before it imports anything else

import bytewax.operators as op
import pyarrow as pa
from bytewax.dataflow import Dataflow
from numbered import configuration

from config.models import Configuration
from flows import gateway
from flows.examples import averages
from flows.inputs import GatewaySource, ModbusSource, MqttSource, OpcUaSource
from flows.operators import normalize, route, step_name
from flows.outputs import DeadLetterSink, SpoolSink
from flows.process import under_bytewax

WINDOW = timedelta(microseconds=1000)  # of event time, which is the number of a reading in microseconds
WAIT = timedelta(microseconds=100)


def numbered() -> Configuration:
    options = json.loads(os.environ["NUMBERED"])
    return configuration(Path(options.pop("directory")), **options)


def flow() -> Dataflow:
    return gateway.flow(numbered())


def example() -> Dataflow:
    return averages.gateway(under_bytewax(numbered()), WINDOW, WAIT)


def held() -> Dataflow:
    """The gateway's flow with a step that stands still while a file is there."""
    process = under_bytewax(numbered())
    file = process.config.directory.parent / "hang_flow"

    def hold(batch: pa.RecordBatch) -> pa.RecordBatch:
        while file.exists():
            time.sleep(0.01)
        return batch

    flow = Dataflow("gateway")
    sources = {"opcua": OpcUaSource, "mqtt": MqttSource, "modbus": ModbusSource, "own": GatewaySource}
    readings = op.merge("readings", *(op.input(name, flow, made(process)) for name, made in sources.items()))
    normalized = normalize("normalize", op.map("hold", readings, hold), process)
    routes = route("route", normalized, process)
    for target, readings_for_target in routes.targets.items():
        op.output(f"to_{step_name(target)}", readings_for_target, SpoolSink(process, target))
    op.output("dead_letters", routes.dead_letters, DeadLetterSink(process))
    return flow


if __name__ == "__main__":
    from bifrost.run import run

    sys.exit(run(numbered()))
