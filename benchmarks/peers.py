"""Telegraf on the same work as `benchmarks.wire_*`: what it takes in from the wire per CPU-second of its process.

* ``discard``: its memory buffer and nothing behind it, which is less than our ``journal`` does;
* ``file``: into a file of line protocol.

Each of its inputs is set for speed: its faster JSON parser, one Modbus request per block of 125 registers, large batches.
``python -m benchmarks.peers PROTOCOL [SECONDS] [RUNS]`` builds it first (`benchmarks/telegraf.sh`) and prints one JSON line a run.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import wire, wire_modbus, wire_mqtt, wire_opcua
from benchmarks.evidence import ROOT

WORKS: Final = ("discard", "file")
VERSION: Final = "1.40.1"  # that benchmarks/telegraf.sh builds
_BLOCK: Final = 125
_AGENT: Final = """[agent]
  interval = "10ms"
  round_interval = false
  metric_batch_size = 5000
  metric_buffer_limit = 1000000
  flush_interval = "1s"
  omit_hostname = true
  quiet = true
"""


def mqtt(port: int, qos: int) -> str:
    """Its input for `wire_mqtt`; one metric a message."""
    return f"""[[inputs.mqtt_consumer]]
  servers = ["tcp://127.0.0.1:{port}"]
  topics = ["plant/#"]
  qos = {qos}
  max_undelivered_messages = 100000
  data_format = "json_v2"
  [[inputs.mqtt_consumer.json_v2]]
    measurement_name = "readings"
    timestamp_path = "ts"
    timestamp_format = "unix_ms"
    [[inputs.mqtt_consumer.json_v2.field]]
      path = "value"
      type = "float"
    [[inputs.mqtt_consumer.json_v2.field]]
      path = "quality"
      type = "string"
    [[inputs.mqtt_consumer.json_v2.tag]]
      path = "unit"
"""


def opcua(port: int, hertz: float) -> str:
    """Its input for `wire_opcua`; one metric a value."""
    nodes = "".join(
        f"""  [[inputs.opcua_listener.nodes]]
    name = "v{at}"
    namespace = "1"
    identifier_type = "s"
    identifier = "v{at}"
    [inputs.opcua_listener.nodes.monitoring_params]
      sampling_interval = "0s"
      queue_size = 100
"""
        for at in range(wire_opcua.DOUBLES)
    )
    return f"""[[inputs.opcua_listener]]
  name = "readings"
  endpoint = "opc.tcp://127.0.0.1:{port}"
  security_policy = "None"
  security_mode = "None"
  auth_method = "Anonymous"
  connect_timeout = "20s"
  request_timeout = "20s"
  subscription_interval = "{round(1000 / hertz)}ms"
  timestamp = "source"
{nodes}"""


def modbus(port: int) -> str:
    """Its input for `wire_modbus`; one metric a block of 125 registers."""
    requests = "".join(
        f"""  [[inputs.modbus.request]]
    slave_id = 1
    byte_order = "ABCD"
    register = "holding"
    measurement = "readings"
    fields = [{", ".join(f'{{address={at}, name="register_{at}", type="INT16"}}' for at in range(first, first + _BLOCK))}]
    [inputs.modbus.request.tags]
      block = "{first}"
"""
        for first in range(0, wire_modbus.REGISTERS, _BLOCK)
    )
    return f"""[[inputs.modbus]]
  name = "device"
  controller = "tcp://127.0.0.1:{port}"
  timeout = "1s"
  configuration_type = "request"
{requests}"""


def _outputs(work: str, directory: Path) -> str:
    lines = f'[[outputs.file]]\n  files = ["{directory / "lines" / "metrics"}"]\n  data_format = "influx"\n'
    if work == "file":
        return lines
    return f"""[[inputs.internal]]
  interval = "100ms"
  collect_memstats = false
[[outputs.discard]]
  namedrop = ["internal_*"]
[[outputs.file]]
  files = ["{directory / "own"}"]
  data_format = "influx"
  namepass = ["internal_write"]
"""


class _Discarded:
    """Reads from Telegraf's metrics of itself how many metrics the output took."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def look(self) -> int:
        if not self._path.exists():
            return 0
        own = [line for line in self._path.read_text().splitlines() if "output=discard" in line]
        return int(own[-1].partition("metrics_written=")[2].partition("i")[0]) if own else 0


def take_in(program: str, inputs: str, work: str, per_metric: int, seconds: float) -> wire.Used:
    """One run of Telegraf.

    Args:
        program: Where it is.
        inputs: Its input, as TOML.
        work: Of ``WORKS``.
        per_metric: Readings in one metric.
        seconds: Time between the two looks.
    """
    with tempfile.TemporaryDirectory(prefix="telegraf-bench-") as name:
        directory = Path(name)
        (directory / "lines").mkdir()
        (directory / "telegraf.conf").write_text(_AGENT + inputs + _outputs(work, directory))
        counted = wire.Lines(directory / "lines") if work == "file" else _Discarded(directory / "own")
        log = directory / "log"
        with log.open("wb") as output, _running([program, "--config", str(directory / "telegraf.conf")], output) as own:
            used = wire.watch(own, counted, seconds, log)
    return replace(used, count=used.count * per_metric)


@contextlib.contextmanager
def _running(command: list[str], output: Any) -> "Iterator[subprocess.Popen[bytes]]":
    with subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield process
        finally:
            process.kill()


def _mqtt_run(program: str, work: str, qos: int, pace: int, seconds: float) -> dict[str, Any]:
    with (
        tempfile.TemporaryDirectory(prefix="telegraf-bench-") as directory,
        wire_mqtt.broker(Path(directory)) as port,
        wire_mqtt.publisher(port, qos, pace),
    ):
        used = take_in(program, mqtt(port, qos), work, 1, seconds)
    return used.described("messages", program="telegraf", work=work, qos=qos, pace=pace or "fastest")


def _opcua_run(program: str, work: str, seconds: float) -> dict[str, Any]:
    with wire_opcua.device(wire_opcua.HERTZ) as port:
        used = take_in(program, opcua(port, wire_opcua.HERTZ), work, 1, seconds)
    return used.described("values", program="telegraf", work=work)


def _modbus_run(program: str, work: str, seconds: float) -> dict[str, Any]:
    with wire_modbus.device() as port:
        used = take_in(program, modbus(port), work, _BLOCK, seconds)
    return used.described("registers", program="telegraf", work=work)


Cases = Mapping[str, Callable[[], dict[str, Any]]]


UNITS: Final = {"mqtt": "messages", "opcua": "values", "modbus": "registers"}


def cases(program: str, seconds: float) -> dict[str, Cases]:
    """For each protocol Telegraf's cases beside ours of the same work."""
    own = {"discard": "journal", "file": "file"}
    mqtt_cases: dict[str, Callable[[], dict[str, Any]]] = {}
    opcua_cases: dict[str, Callable[[], dict[str, Any]]] = {}
    modbus_cases: dict[str, Callable[[], dict[str, Any]]] = {}
    for work in WORKS:
        for qos in (0, 1):
            for pace in wire_mqtt.PACES:
                about = f"QoS {qos}, {f'{pace:,} a second' if pace else 'fastest'}"
                mqtt_cases[f"mqtt {own[work]}, {about}"] = partial(wire_mqtt.run, own[work], qos, pace, seconds)
                mqtt_cases[f"telegraf mqtt {work}, {about}"] = partial(_mqtt_run, program, work, qos, pace, seconds)
        for size in wire_opcua.PER_NOTIFICATION:
            opcua_cases[f"opcua {own[work]}, {size} a notification"] = partial(
                wire_opcua.run, own[work], size, wire_opcua.HERTZ, seconds
            )
        opcua_cases[f"telegraf opcua {work}"] = partial(_opcua_run, program, work, seconds)
        for interval in wire_modbus.PACES:
            modbus_cases[f"modbus {own[work]}, {interval}"] = partial(wire_modbus.run, own[work], interval, seconds)
        modbus_cases[f"telegraf modbus {work}, every 10 ms"] = partial(_modbus_run, program, work, seconds)
    return {"mqtt": mqtt_cases, "opcua": opcua_cases, "modbus": modbus_cases}


def measure(protocol: str, seconds: float, runs: int) -> dict[str, Any]:
    """Ours and Telegraf's, interleaved, as they stand in bench.json under ``sources``."""
    script = ROOT / "benchmarks/telegraf.sh"
    built = subprocess.run(["sh", str(script)], stdout=subprocess.PIPE, text=True, check=True, timeout=3600)
    return wire.measure(cases(built.stdout.strip(), seconds)[protocol], UNITS[protocol], runs)


def main(arguments: list[str]) -> None:
    """Measure and print."""
    seconds = float(arguments[1]) if len(arguments) > 1 else 6.0
    runs = int(arguments[2]) if len(arguments) > 2 else 3
    print(json.dumps(measure(arguments[0], seconds, runs)))


if __name__ == "__main__":
    main(sys.argv[1:])
