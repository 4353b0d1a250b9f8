"""Quotes values from other parties in messages and log lines, shortened to a safe length."""

from __future__ import annotations

MOST_QUOTED = 100
"""The most characters of one value in a message: enough to recognise it, too few to flood a log or a socket."""


def quoted(value: object) -> str:
    """Return a value in the form for messages: texts quoted and shortened, lists and objects as their size."""
    match value:
        case str():
            more = len(value) - MOST_QUOTED
            return repr(value) if more <= 0 else f"{value[:MOST_QUOTED]!r}… ({len(value)} characters)"
        case bytes():
            return f"{len(value)} bytes"
        case list() | tuple():
            return f"a list of {len(value)}"
        case dict():
            return f"an object of {len(value)}"
        case int() if not -(10**30) < value < 10**30:
            return "a number of more than 30 digits"
    return shortened(repr(value))


def shortened(text: str, longest: int = MOST_QUOTED) -> str:
    """Return a text of at most `longest` characters: the text itself, or its beginning and its length."""
    suffix = f"… ({len(text)} characters)"
    return text if len(text) <= longest else text[: longest - len(suffix)] + suffix
