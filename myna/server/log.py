"""Structured logs: one bounded line per event, with the stream's id where there is one. Repeated lines are dropped."""

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
"""Characters of a value. A value may come from a client, and must not fill the disk."""
LONGEST_TRACE = 20_000
"""Characters of an exception's trace. Its beginning and its end are kept, since the end names the error."""
REPEATED_S = 10.0
"""Seconds in which the same line is written once. The next one says how many were dropped."""
_MOST_LINES = 1000
"""Lines that are remembered to detect repeats."""


class _LossyStream:
    """A text stream that drops what it cannot write: a full disk or a closed pipe must not fail the code that logs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # ValueError: the stream is closed
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure(level: str, form: str, process: str | None = None) -> None:
    """Write log lines of at least `level` to standard error, for a console or as JSON.

    Each line names the `process`, if there is a name.
    """

    def named(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        return {**line, "process": process}

    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            *([named] if process else []),
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            bounded,
            Repeats(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(cast("TextIO", _LossyStream(sys.stderr))),
        cache_logger_on_first_use=True,
    )


def bounded(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """Shorten long values (a structlog processor)."""
    for name, value in line.items():
        if name == "exception" and isinstance(value, str):
            line[name] = _both_ends(value)
        elif isinstance(value, str):
            line[name] = shortened(value, LONGEST_VALUE)
        elif not isinstance(value, int | float | None) and len(written := repr(value)) > LONGEST_VALUE:
            line[name] = shortened(written, LONGEST_VALUE)
    return line


class Repeats:
    """Drops lines that were written less than `REPEATED_S` ago (a structlog processor). Lines are equal if all values are."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lines: dict[str, tuple[float, int]] = {}  # line → when it was last written, how many were dropped since

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        """Return the line, or drop it if it is a repeat."""
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
