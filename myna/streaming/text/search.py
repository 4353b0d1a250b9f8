"""Finds the places where a phrase, or a similar one, was said. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz import fuzz, process

from myna.streaming.events import Word, bare_words

LEAST = 0.6
"""The likeness from which a place is a hit; 1 is the same text."""
MOST_HITS = 10


@dataclass(frozen=True, slots=True)
class Hit:
    """A place where the query was said: its likeness (0 to 1), its times in seconds, and its words."""

    confidence: float
    start: float
    end: float
    snippet: str


def hits(words: Sequence[Word], queries: Sequence[str]) -> list[list[Hit]]:
    """Return for each query its best hits, which do not overlap, best first.

    Queries of the same number of words are compared with all windows of one size in a single call of compiled code.
    """
    bares = [word.bare for word in words]
    sizes: dict[int, list[int]] = {}  # number of words → indices of the queries
    wanted = [bare_words(query) for query in queries]
    for number, query in enumerate(wanted):
        sizes.setdefault(len(query), []).append(number)
    found: list[list[Hit]] = [[] for _ in queries]
    windows: dict[int, list[str]] = {}
    for size, numbers in sorted(sizes.items()):
        for count in [count for count in windows if count < size - 1]:
            del windows[count]
        texts = [" ".join(wanted[number]) for number in numbers]
        parts = []
        for count in sorted({max(1, size - 1), size, size + 1}) if size else ():
            if count not in windows:
                starts = range(len(bares) - count + 1)
                windows[count] = [" ".join(bares[start : start + count]) for start in starts]
            if windows[count]:
                parts.append((count, _likeness(texts, windows[count])))
        for row, number in enumerate(numbers):
            found[number] = _best(words, bares, size, [(count, likeness[row]) for count, likeness in parts])
    return found


_Numbers = npt.NDArray[np.float64]


def _likeness(texts: Sequence[str], windows: Sequence[str]) -> _Numbers:
    """Return the likeness of each text to each window, from `LEAST` to 1; 0 if it is lower."""
    return process.cdist(texts, windows, scorer=fuzz.ratio, score_cutoff=100 * LEAST, dtype=np.float64) / 100


def _best(words: Sequence[Word], bares: Sequence[str], size: int, parts: Sequence[tuple[int, _Numbers]]) -> list[Hit]:
    """Return the best windows, ordered by likeness, then by nearness to the query's size, then by time."""
    starts = [np.flatnonzero(likeness >= LEAST) for _, likeness in parts]
    if not any(map(len, starts)):
        return []
    counts = np.concatenate([np.full(len(at), count) for (count, _), at in zip(parts, starts, strict=True)])
    likeness = np.concatenate([likeness[at] for (_, likeness), at in zip(parts, starts, strict=True)])
    start = np.concatenate(starts)
    taken: set[int] = set()
    found: list[Hit] = []
    for place in np.lexsort((-counts, start, np.abs(counts - size), -likeness)).tolist():
        span = range(int(start[place]), int(start[place] + counts[place]))
        if taken.isdisjoint(span):
            taken.update(span)
            snippet = " ".join(bares[span[0] : span[-1] + 1])
            found.append(Hit(float(likeness[place]), words[span[0]].start, words[span[-1]].end, snippet))
            if len(found) == MOST_HITS:
                break
    return found
