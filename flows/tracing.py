"""Whether spans are sent: what sends them is imported only then."""

import structlog

from config.models import Configuration
from delivery.spans import SPANS

log = structlog.get_logger()


def trace(config: Configuration) -> None:
    """Have spans sent to where the configuration says."""
    if config.traces.endpoint is None:
        return
    try:
        from flows.traces import Traces
    except ImportError as error:
        log.error("nothing is traced, a library is missing", error=str(error), install="bifrost-gateway[otel]")
        return
    traces = Traces(config.traces, config.gateway)
    SPANS.send_to(traces.tell, traces.close)
