"""Joins the words of overlapping decodes: which are settled already, which are new, and where the seam lies. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rapidfuzz.distance import Levenshtein

from myna.streaming.events import Span, Word, seconds
from myna.streaming.speech.segmenter import ClosedSegment

_SECONDS_WEIGH = 2.0
"""The cost, in words, of a word that lies one second on the wrong side of the seam. A word wrongly kept or lost costs 1. Word
times from attention have a median error of 50 ms."""
_TWICE_WITHIN_S = 0.12
"""Two equal words at a seam whose middles are closer than this are one word decoded twice."""


def bare(text: str) -> str:
    """Return the form in which words are compared: lower-case letters and digits only."""
    return "".join(c for c in text.lower() if c.isalnum())


QUIET_ONSET_S = 0.3
"""A first word begins at most this long before detected speech: attention may place it too early, in the silence."""


def final_words(closed: ClosedSegment, audio: Span, heard: Sequence[Word], settled: Sequence[Word]) -> tuple[Word, ...]:
    """Return the final words of a segment.

    `heard` are the words of a decode of `audio`, with times from its start; `settled` are the final words before the segment.
    """
    start, end = seconds(closed.span.start), seconds(closed.span.end)
    new = new_words(audio, heard, settled, start)
    if audio.end > closed.span.end:
        new = [w for w in new if w.middle < end]
    floor = max(start, settled[-1].start if settled else 0.0)
    onset = 0.0 if closed.speech is None else seconds(closed.speech.start) - QUIET_ONSET_S
    if sum(word.start < onset for word in new) == 1:  # with several, voice activity is late rather than the words early
        floor = max(floor, onset)
    return without_pauses(in_order(new, floor, end), closed.pauses)


def new_words(audio: Span, heard: Sequence[Word], settled: Sequence[Word], seam_s: float) -> list[Word]:
    """Return the words of a decode that `settled` does not contain, with times from the start of the stream."""
    offset = seconds(audio.start)
    shifted = [word.shifted(offset) for word in heard]
    audible = [word for word in settled if word.end > offset]
    return shifted[seam_index(audible, shifted, seam_s, offset) :]


def seam_index(settled: Sequence[Word], heard: Sequence[Word], seam_s: float, from_s: float = float("-inf")) -> int:
    """Return the index in `heard` of the first word that `settled` does not contain.

    `settled` are the words already emitted that lie in the audio from which `heard` was decoded. The new part begins at
    `seam_s`, the audio at `from_s`: the decode covers only part of a word that begins before that. Each possible index has
    a cost: how badly the words before it match `settled` (the edit distance, in which a similar spelling costs half) and how
    far words would lie on the wrong side of the seam. The index of lowest cost is returned.
    """
    if not settled:  # a first word may take in the silence before it, so that most of it lies before the seam
        return sum(word.end <= seam_s for word in heard)
    # previous[k]: cost of matching the settled words so far with heard[:k]
    previous = [float(k) for k in range(len(heard) + 1)]
    for known in settled:
        unheard = _share_from(known, from_s)
        current = [previous[0] + unheard]
        for k, word in enumerate(heard, start=1):
            substitute = previous[k - 1] + _difference(known.text, word.text)
            current.append(min(substitute, previous[k] + unheard, current[k - 1] + 1.0))
        previous = current
    late = sum(max(0.0, seam_s - w.middle) for w in heard)  # all words kept: those before the seam are wrong
    best, lowest = 0, previous[0] + _SECONDS_WEIGH * late
    misplaced = late
    for k, word in enumerate(heard, start=1):
        misplaced += max(0.0, word.middle - seam_s) - max(0.0, seam_s - word.middle)
        cost = previous[k] + _SECONDS_WEIGH * misplaced
        if cost < lowest - 1e-9:
            best, lowest = k, cost
    if settled and best < len(heard) and _same_again(settled[-1], heard[best]):
        best += 1
    return best


def agreed(previous: Sequence[Word], current: Sequence[Word]) -> int:
    """Return the number of words from the start that two hypotheses have in common."""
    count = 0
    for one, other in zip(previous, current, strict=False):
        if bare(one.text) != bare(other.text):
            break
        count += 1
    return count


def in_order(words: Sequence[Word], earliest_s: float, latest_s: float) -> tuple[Word, ...]:
    """Return the words with times clipped to the bounds, with starts that never decrease and no end before its start."""
    ordered = []
    floor = earliest_s
    for word in words:
        start = min(max(word.start, floor), latest_s)
        ordered.append(replace(word, start=start, end=min(max(word.end, start), latest_s)))
        floor = start
    return tuple(ordered)


def without_pauses(words: Sequence[Word], pauses: Sequence[Span]) -> tuple[Word, ...]:
    """Return the words, each ending no later than a pause that begins within it.

    Times from attention extend a word through the silence after it; voice activity gives the start of that silence.
    """
    ended = []
    for word in words:
        silent_from = [seconds(pause.start) for pause in pauses if word.start < seconds(pause.start) < word.end]
        ended.append(replace(word, end=silent_from[0]) if silent_from else word)
    return tuple(ended)


def _share_from(word: Word, from_s: float) -> float:
    """Return the share of a word's duration that lies after `from_s`."""
    if word.start >= from_s or word.end <= word.start:
        return 1.0
    return (word.end - from_s) / (word.end - word.start)


def _difference(one: str, other: str) -> float:
    one, other = bare(one), bare(other)
    if one == other:
        return 0.0
    return 0.5 + 0.5 * float(Levenshtein.normalized_distance(one, other))


def _same_again(last: Word, first: Word) -> bool:
    return bare(last.text) == bare(first.text) and first.middle - last.middle < _TWICE_WITHIN_S
