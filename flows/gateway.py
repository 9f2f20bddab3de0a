"""The gateway's dataflow: every step, in order. Edit it, or copy it and start the copy the same way.

bifrost run -c config/gateway.yaml
python -m bytewax.run flows.gateway -r data/recovery -s 1 -b 0
"""

import bytewax.operators as op
from bytewax.dataflow import Dataflow

from config.models import Configuration
from flows.by_exception import report_by_exception
from flows.inputs import GatewaySource, ModbusSource, MqttSource, OpcUaSource
from flows.operators import normalize, route, step_name
from flows.outputs import DeadLetterSink, SpoolSink
from flows.process import Process, under_bytewax


def gateway(process: Process) -> Dataflow:
    """The dataflow of one gateway; building it opens nothing."""
    flow = Dataflow("gateway")
    opcua = op.input("opcua", flow, OpcUaSource(process))
    mqtt = op.input("mqtt", flow, MqttSource(process))
    modbus = op.input("modbus", flow, ModbusSource(process))
    own = op.input("own", flow, GatewaySource(process))
    readings = op.merge("readings", opcua, mqtt, modbus, own)
    normalized = normalize("normalize", readings, process)
    reported = report_by_exception("report", normalized, process)
    routes = route("route", reported, process)
    for target, readings_for_target in routes.targets.items():
        op.output(f"to_{step_name(target)}", readings_for_target, SpoolSink(process, target))
    op.output("dead_letters", routes.dead_letters, DeadLetterSink(process))
    return flow


def flow(config: Configuration | None = None) -> Dataflow:
    """What `python -m bytewax.run flows.gateway` runs: the flow of ``BIFROST_CONFIG`` or config/gateway.yaml."""
    return gateway(under_bytewax(config))
