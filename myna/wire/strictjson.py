"""Reads and writes JSON as RFC 8259 and I-JSON (RFC 7493) define it; Python's `json` module is less strict.

`json` reads and writes NaN and infinities, which other parsers refuse. It also keeps halves of surrogate pairs, which UTF-8
cannot encode.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MOST_DIGITS = 30
"""The most digits of an integer; I-JSON guarantees 16. Longer integers overflow when converted to a float."""
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""The beginning of an escape that may be half of a surrogate pair."""


def loads(text: str | bytes) -> Any:
    """Return the value of a JSON text. Half of a surrogate pair becomes U+FFFD, as in browsers.

    Raises `ValueError` if the text is not JSON or contains a number that is too large, and `RecursionError` if it is nested
    too deeply.
    """
    if isinstance(text, bytes):
        text = text.decode(json.detect_encoding(text))
    parsed = json.loads(text, parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
    return json.loads(well_formed(json.dumps(parsed, ensure_ascii=False))) if _HALF.search(text) else parsed


def dumps(message: object, *, ascii_only: bool = True) -> str:
    """Return a message in JSON that UTF-8 can encode. Raises `ValueError` for NaN and infinities."""
    if ascii_only:
        return well_formed(json.dumps(message, allow_nan=False, ensure_ascii=True))
    return well_formed(json.dumps(message, allow_nan=False, ensure_ascii=False, separators=(",", ":")))


def well_formed(text: str) -> str:
    """Return the text with U+FFFD for every half of a surrogate pair, so that UTF-8 can encode it."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not valid JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is too large for a float")
    return number


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"an integer has more than {MOST_DIGITS} digits")
    return int(digits)
