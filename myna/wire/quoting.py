"""What others sent, quoted in a message or a log line: a little of it, however much there is."""

from __future__ import annotations

MOST_QUOTED = 100
"""Characters of one value in a message: enough to recognise it, too few to flood a log or a socket."""


def quoted(value: object) -> str:
    """Return a value as it may stand in a message: texts in quotes and cut, lists and objects by their size."""
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
    """Return a text, or, in at most `longest` characters, its beginning and how long it is."""
    told = f"… ({len(text)} characters)"
    return text if len(text) <= longest else text[: longest - len(told)] + told
