"""Joins words into text with what their script writes between them: a space, or nothing. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from myna.streaming.events import Word

_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f"  # Burmese
    "\u1780-\u17ff"  # Khmer
    "\u3000-\u303f\u3040-\u312f\u31f0-\u31ff"  # CJK punctuation, kana, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"  # Han
    "\uff00-\uff9f"  # full-width marks, half-width kana
)
"""The scripts that write no space between words."""
_ENDS_UNSPACED, _BEGINS_UNSPACED = re.compile(f"[{_UNSPACED}]$"), re.compile(f"^[{_UNSPACED}]")


def separator(before: str, after: str) -> str:
    """Return what stands between two words: nothing if both are written in a script without spaces, otherwise a space."""
    if not before or before.isascii() or after.isascii():
        return " " if before else ""
    return "" if _ENDS_UNSPACED.search(before) and _BEGINS_UNSPACED.search(after) else " "


def joined(texts: Iterable[str]) -> str:
    """Return the texts of words, or of phrases, as one text."""
    texts = [*texts]
    text = " ".join(texts)
    if text.isascii():
        return text
    pieces = texts[:1]
    for before, after in pairwise(texts):
        pieces += [separator(before, after), after]
    return "".join(pieces)


def written_text(words: Sequence[Word]) -> str:
    """Return the words as written, as one text."""
    return joined(word.text for word in words)
