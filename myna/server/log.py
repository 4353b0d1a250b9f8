"""Structured logs: one line an event, with the stream's id wherever there is one. No line is long, none repeats for ever."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable
from typing import TextIO, cast

import structlog
from structlog.types import EventDict, WrappedLogger

from myna.wire.quoting import shortened

LONGEST_VALUE = 1000
"""Characters of a value: what a client sends may stand in a line, but does not fill the disk."""
LONGEST_TRACE = 20_000
"""Characters of an exception's trace, of which the beginning and the end are kept: the end says what went wrong."""
REPEATED_S = 10.0
"""A line is written once in so long; the next one says how many like it were not."""
_MOST_LINES = 1000
"""Lines that are remembered, lest they be repeated."""


class _Lossy:
    """A text stream that loses what it cannot write: a full disk or a closed pipe must not fail what is being logged."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure(level: str, form: str) -> None:
    """Write log lines of at least `level` to standard error, for a console or as JSON."""
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            bounded,
            Repeats(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _Lossy(sys.stderr))),
        cache_logger_on_first_use=True,
    )


def bounded(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Cut every value that is long (a processor of structlog's)."""
    for name, value in line.items():
        if name == "exception" and isinstance(value, str):
            line[name] = _both_ends(value)
        elif isinstance(value, str):
            line[name] = shortened(value, LONGEST_VALUE)
        elif not isinstance(value, int | float | None) and len(written := repr(value)) > LONGEST_VALUE:
            line[name] = shortened(written, LONGEST_VALUE)
    return line


class Repeats:
    """Drops lines that were written a moment ago (a processor of structlog's); any value makes a line another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[str, tuple[float, int]] = {}  # line → when it was written, and how many were dropped since

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        """Return the line, or drop it."""
        now, key = self._clock(), repr(sorted(line.items()))
        written_at, dropped = self._lines.get(key, (now - REPEATED_S, 0))
        if now - written_at < REPEATED_S:
            self._lines[key] = (written_at, dropped + 1)
            raise structlog.DropEvent
        self._lines.pop(key, None)
        self._lines[key] = (now, 0)
        if len(self._lines) > _MOST_LINES:
            del self._lines[next(iter(self._lines))]
        return {**line, "repeated": dropped} if dropped else line


def _both_ends(trace: str) -> str:
    cut = len(trace) - LONGEST_TRACE
    half = LONGEST_TRACE // 2
    return trace if cut <= 0 else f"{trace[:half]}\n… ({cut} characters left out)\n{trace[-half:]}"
