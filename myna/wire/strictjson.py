"""JSON as RFC 8259 and I-JSON (RFC 7493) have it, in both directions: Python's own module lets more through.

`json` reads and writes NaN and infinities, which other parsers refuse, and keeps halves of surrogate pairs, which no UTF-8
frame can carry.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MOST_DIGITS = 30
"""Of a whole number; I-JSON promises 16. Longer ones overflow where they become a float."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""Begins what may be a half of a surrogate pair."""


def loads(text: str | bytes) -> Any:
    """Return what a JSON text says. A half of a surrogate pair becomes U+FFFD, as in browsers.

    Raises `ValueError` for what is no JSON, or has a number nothing here can hold, and `RecursionError` for one too deep.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    parsed = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    return json.loads(well_formed(json.dumps(parsed, ensure_ascii=False))) if _HALF.search(text) else parsed


def dumps(message: object, *, ascii_only: bool = True) -> str:
    """Return a message in JSON, which UTF-8 can carry. Raises `ValueError` for a number that JSON has no words for."""
    if ascii_only:
        return well_formed(json.dumps(message, allow_nan=False, ensure_ascii=True))
    return well_formed(json.dumps(message, allow_nan=False, ensure_ascii=False, separators=(",", ":")))


def well_formed(text: str) -> str:
    """Return the text with U+FFFD for every half of a surrogate pair, so that it can be encoded."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a whole number has more than {MOST_DIGITS} digits")
    return int(digits)
