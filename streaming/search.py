"""Where a phrase was said, or something much like it. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz import fuzz

from myna.streaming.events import Word

LEAST = 0.6
"""Likeness from which something is a hit; 1 is the same text."""
MOST_HITS = 10


@dataclass(frozen=True, slots=True)
class Hit:
    """Words that sound like the query: how much so (0 to 1), from when to when in seconds, and what they are."""

    confidence: float
    start: float
    end: float
    snippet: str


def hits(words: Sequence[Word], query: str) -> list[Hit]:
    """Return the best places for the query, none overlapping, best first."""
    wanted = " ".join(Word(part, 0.0, 0.0, 0.0).bare for part in query.split())
    size = len(wanted.split())
    places = []
    for count in {max(1, size - 1), size, size + 1}:
        for start in range(len(words) - count + 1):
            snippet = " ".join(word.bare for word in words[start : start + count])
            likeness = fuzz.ratio(wanted, snippet) / 100
            if likeness >= LEAST:
                places.append((likeness, -abs(count - size), -start, count, snippet))
    taken: set[int] = set()
    found: list[Hit] = []
    for likeness, _, minus_start, count, snippet in sorted(places, reverse=True):
        span = range(-minus_start, -minus_start + count)
        if taken.isdisjoint(span) and len(found) < MOST_HITS:
            taken.update(span)
            found.append(Hit(likeness, words[span[0]].start, words[span[-1]].end, snippet))
    return found
