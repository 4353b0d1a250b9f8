"""Words of overlapping decodes: what is settled, what is new, and where one hypothesis takes over from another. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rapidfuzz.distance import Levenshtein

from myna.streaming.events import Span, Word, seconds
from myna.streaming.speech.segmenter import ClosedSegment

_SECONDS_WEIGH = 2.0
"""What a second on the wrong side of the seam costs, in words: times from attention are off by 50 ms in the median, and a
word wrongly kept or lost costs one."""
_TWICE_WITHIN_S = 0.12
"""Two equal words next to a seam whose middles are closer than this are one word heard twice."""


def bare(text: str) -> str:
    """Return a word as it is compared: lower-case letters and digits only."""
    return "".join(c for c in text.lower() if c.isalnum())


QUIET_ONSET_S = 0.3
"""A first word may begin so long before speech was noticed, no longer: attention is drawn into the silence before it."""


def final_words(closed: ClosedSegment, audio: Span, heard: Sequence[Word], settled: Sequence[Word]) -> tuple[Word, ...]:
    """Return the words of a segment for good.

    `heard` are those of the decode that covers `audio`, with times from its start; `settled` the final ones before.
    """
    start, end = seconds(closed.span.start), seconds(closed.span.end)
    new = new_words(audio, heard, settled, start)
    if audio.end > closed.span.end:
        new = [w for w in new if w.middle < end]
    floor = max(start, settled[-1].start if settled else 0.0)
    onset = 0.0 if closed.speech is None else seconds(closed.speech.start) - QUIET_ONSET_S
    if sum(word.start < onset for word in new) == 1:  # several: voice activity was late, not the words early
        floor = max(floor, onset)
    return without_pauses(in_order(new, floor, end), closed.pauses)


def new_words(audio: Span, heard: Sequence[Word], settled: Sequence[Word], seam_s: float) -> list[Word]:
    """Return the words of a decode that `settled` does not hold already, with times from the start of the stream."""
    offset = seconds(audio.start)
    shifted = [word.shifted(offset) for word in heard]
    audible = [word for word in settled if word.end > offset]
    return shifted[seam_index(audible, shifted, seam_s, offset) :]


def seam_index(settled: Sequence[Word], heard: Sequence[Word], seam_s: float, from_s: float = float("-inf")) -> int:
    """Return the index in `heard` of its first word that `settled` does not hold already.

    `settled` are the words already out that lie in the audio `heard` was decoded from; `seam_s` is where, by time, the
    new part begins, and `from_s` where the audio does: of a word that begins before that only a part can be heard. Every
    possible index is weighed: how badly the words before it match `settled` (edit distance with similar spellings half
    forgiven) and how far words would lie on the wrong side of the seam.
    """
    if not settled:
        return sum(word.middle < seam_s for word in heard)
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
    """Return how many words from the start two hypotheses have in common."""
    count = 0
    for one, other in zip(previous, current, strict=False):
        if bare(one.text) != bare(other.text):
            break
        count += 1
    return count


def in_order(words: Sequence[Word], earliest_s: float, latest_s: float) -> tuple[Word, ...]:
    """Return the words with times clipped to the given bounds, starts never decreasing and no end before its start."""
    ordered = []
    floor = earliest_s
    for word in words:
        start = min(max(word.start, floor), latest_s)
        ordered.append(Word(word.text, start, min(max(word.end, start), latest_s), word.confidence))
        floor = start
    return tuple(ordered)


def without_pauses(words: Sequence[Word], pauses: Sequence[Span]) -> tuple[Word, ...]:
    """Return the words, none reaching into a silence that begins within it.

    Attention trails off into the silence behind a word, up to the next one; voice activity knows where that begins.
    """
    ended = []
    for word in words:
        silent_from = [seconds(pause.start) for pause in pauses if word.start < seconds(pause.start) < word.end]
        ended.append(replace(word, end=silent_from[0]) if silent_from else word)
    return tuple(ended)


def _share_from(word: Word, from_s: float) -> float:
    """Return the share of a word that lies behind `from_s`."""
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
