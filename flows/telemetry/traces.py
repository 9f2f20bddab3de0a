"""Sends spans to a collector by OTLP over HTTP; they wait nowhere."""

import logging
import random
import threading
from collections.abc import Sequence
from typing import Final

import structlog
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode
from typing_extensions import override

from config.telemetry import OtlpSection
from connectors.contract import TransientError
from delivery.spans import Span
from flows.telemetry.otlp import HEADERS, compressed
from flows.telemetry.post import Post
from flows.telemetry.teller import otlp_address, resource

log = structlog.get_logger()

logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # what fails is told here, once

_EVERY_MS: Final = 2000.0
_LAST_WORDS: Final = 1.0  # seconds that the end of the process waits for what was not sent yet


class _Told(SpanExporter):
    """Sends spans, and says once when that does not work, and once when it does again."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._works = True

    @override
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        error = ""
        try:
            answer = self._post.send(compressed(encode_spans(spans)))
            error = "" if answer.code < 300 else answer.said
        except TransientError as failed:
            error = str(failed)
        if not error and not self._works:
            log.info("traces are sent again", endpoint=self._post.address)
        elif self._works and error:
            log.warning("traces cannot be sent", endpoint=self._post.address, error=error)
        self._works = not error
        return SpanExportResult.FAILURE if error else SpanExportResult.SUCCESS

    @override
    def shutdown(self) -> None:
        self._post.end()
        self._post.close()


class Traces:
    """Sends spans of one gateway.

    Args:
        section: Where to, and how many.
        labels: Labels of everything that is sent.
        gateway: The gateway's name.
    """

    def __init__(self, section: OtlpSection, labels: dict[str, str], gateway: str) -> None:
        self._share = section.share
        post = Post(section, otlp_address(section.endpoint, "traces"), HEADERS)
        self._provider = TracerProvider(resource=Resource(resource(labels, gateway)), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Told(post), schedule_delay_millis=_EVERY_MS))
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
