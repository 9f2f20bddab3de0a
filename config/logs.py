"""Logging: structured, on stderr, readable on a terminal and JSON elsewhere.

What a plant says reaches the log in errors and names, so every control character is escaped: no device writes a line of
its own, colors the screen or turns the direction of writing.
"""

import logging
import re
import sys
import threading
from collections import deque
from typing import Any, Final

import structlog
from structlog.typing import EventDict, Processor
from typing_extensions import override

from config.events import CODES

_HANDLER: Final = "bifrost"
OWN: Final = ("bifrost", "config", "connectors", "delivery", "flows", "normalization", "web")
# C0 and C1 controls, line and paragraph separators, and what turns the direction of writing
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


class Recent:
    """The newest events, for those who look at the gateway from elsewhere.

    Args:
        most: How many are kept.
    """

    def __init__(self, most: int = 2_000) -> None:
        self._events: deque[tuple[int, EventDict]] = deque(maxlen=most)
        self._lock = threading.Lock()
        self._number = 0

    def keep(self, _logger: Any, _method: str, event: EventDict) -> EventDict:
        """Keep an event; a processor of structlog."""
        kept = {key: value for key, value in event.items() if not key.startswith("_")}
        with self._lock:
            self._number += 1
            self._events.append((self._number, kept))
        return event

    def after(self, number: int) -> list[tuple[int, EventDict]]:
        """The events that came after one, each with its number, which counts from 1."""
        with self._lock:
            return [(at, event) for at, event in self._events if at > number]


RECENT: Final = Recent()


def configure(level: str, form: str = "auto") -> None:
    """Set up logging. Can be called again.

    Args:
        level: From which level on is logged: debug, info, warning or error; libraries from warning on.
        form: ``console`` for people, ``json`` for a line of JSON per event, ``auto`` for what standard error is.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        add_code,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stderr.isatty()
    console = structlog.dev.ConsoleRenderer(colors=terminal)
    render: Processor = (
        console if form == "console" or (form == "auto" and terminal) else structlog.processors.JSONRenderer()
    )
    tail: list[Processor] = [structlog.processors.format_exc_info, escape, RECENT.keep, render]
    structlog.configure(
        processors=[*shared, *tail],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = _Stderr()
    handler.set_name(_HANDLER)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *tail],
        )
    )
    root = logging.getLogger()
    root.handlers = [*(other for other in root.handlers if other.get_name() != _HANDLER), handler]
    root.setLevel(max(threshold, logging.WARNING))
    for name in OWN:
        logging.getLogger(name).setLevel(threshold)


class _Stderr(logging.Handler):
    """Writes to what standard error is at the moment."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
        except (OSError, ValueError):  # standard error is closed
            self.handleError(record)


def add_code(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Give an event of ours its code, see `config.events`."""
    record = event.get("_record")  # of the standard library, whose words have their values in them already
    said = event["event"] if record is None else record.msg
    code = CODES.get(said) if isinstance(said, str) else None
    if code is not None:
        event["code"] = code
    return event


def escape(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Escape what could forge a line; the lines of a traceback stay lines, indented."""
    for key, value in event.items():
        if not isinstance(value, str):
            continue
        if key == "exception":
            event[key] = "\n".join(f"    {escaped(line)}" for line in value.split("\n"))
        elif _UNSAFE.search(value):
            event[key] = escaped(value)
    return event


def escaped(text: str) -> str:
    """`text` with what could forge a line, color the screen or turn the direction of writing made visible."""
    return _UNSAFE.sub(lambda match: ascii(match[0])[1:-1], text)
