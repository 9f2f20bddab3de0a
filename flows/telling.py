"""Whether metrics, events and spans are sent: what sends them is imported only then."""

from typing import TYPE_CHECKING

import structlog

from config.models import Configuration
from delivery.spans import SPANS

if TYPE_CHECKING:
    from flows.process import Process
    from flows.telemetry.teller import Teller

log = structlog.get_logger()


def trace(config: Configuration) -> None:
    """Have spans sent to where the configuration says."""
    otlp = config.telemetry.otlp
    if otlp is None:
        return
    try:
        from flows.telemetry.traces import Traces
    except ImportError as error:
        log.error("nothing is sent by OTLP, a library is missing", error=str(error), install="bifrost-gateway[otel]")
        return
    if otlp.traces:
        traces = Traces(otlp, config.telemetry.labels, config.gateway)
        SPANS.send_to(traces.tell, traces.close)


def teller(process: "Process") -> "Teller | None":
    """What sends the metrics and events of a gateway whose stores are open; None when nobody wants them."""
    telemetry = process.config.telemetry
    if telemetry.remote_write is None and telemetry.otlp is None:
        return None
    from flows.telemetry.teller import Teller

    return Teller(process)
