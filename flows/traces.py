"""Sends spans to a collector by OTLP over HTTP. Imported only when `gateway.traces` names one."""

import logging
import random
import threading
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from typing_extensions import override

from delivery.spans import Span

if TYPE_CHECKING:
    from config.models import TracesSection

log = structlog.get_logger()

logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what fails is told here, once

_PATH: Final = "/v1/traces"
_TIMEOUT: Final = 5.0
_EVERY_MS: Final = 2000.0
_LAST_WORDS: Final = 1.0  # seconds that the end of the process waits for what was not sent yet


class _Told(SpanExporter):
    """Sends spans, and says once when that does not work, and once when it does again."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter, self._endpoint = exporter, endpoint
        self._works = True

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        works = self._exporter.export(spans) is SpanExportResult.SUCCESS
        if works and not self._works:
            log.info("traces are sent again", endpoint=self._endpoint)
        elif self._works and not works:
            log.warning("traces cannot be sent", endpoint=self._endpoint)
        self._works = works
        return SpanExportResult.SUCCESS if works else SpanExportResult.FAILURE

    @override
    def shutdown(self) -> None:
        self._exporter.shutdown()


class Traces:
    """Sends spans of one gateway.

    Args:
        settings: Where to, and how many.
        gateway: The gateway's name.
    """

    def __init__(self, settings: "TracesSection", gateway: str) -> None:
        assert settings.endpoint is not None  # noqa: S101 - who asks looks first
        address = settings.endpoint.rstrip("/")
        address = address if address.endswith(_PATH) else address + _PATH
        self._share = settings.share
        resource = Resource(
            {
                "service.name": "bifrost",
                "service.instance.id": gateway,
                "service.version": version("bifrost-gateway"),
            }
        )
        exporter = OTLPSpanExporter(
            address,
            certificate_file=str(settings.ca_file) if settings.ca_file is not None else None,
            headers={name: value.get_secret_value() for name, value in settings.headers.items()},
            timeout=_TIMEOUT,
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Told(exporter, address), schedule_delay_millis=_EVERY_MS))
        self._tracer = self._provider.get_tracer("bifrost")

    def tell(self, span: Span) -> None:
        """Take a span; it is sent in another thread. Of those that went well only a share is."""
        if not span.error and random.random() >= self._share:  # noqa: S311 - a sample
            return
        kind = SpanKind.CLIENT if "target" in span.attributes else SpanKind.INTERNAL
        made = self._tracer.start_span(span.name, kind=kind, attributes=span.attributes, start_time=span.began)
        if span.error:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(span.ended)

    def close(self) -> None:
        """Send what was not sent yet, within a second."""
        ending = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(_LAST_WORDS)
