"""Whether the words of a decode are credible, and which of several attempts at a segment is used. Pure.

An engine may lose sure speech in four ways. It hallucinates over a context that begins inside a word, until the mean
probability falls below the gate. It repeats the same words. All of its words are matched to those of the segment before. Or
it has no words for a part of the speech. A segment of sure speech whose decode is not credible is decoded again, in other
windows and then in two parts (`DecodeWindow.of_retries`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from myna.streaming.events import Span, Word, samples, seconds
from myna.streaming.policy import PlausibilityGate
from myna.streaming.session.hypothesis import bare, final_words
from myna.streaming.session.jobs import Outcome, Transcript
from myna.streaming.session.pending import Decode
from myna.streaming.speech.segmenter import ClosedSegment

_SURE = samples(0.2)
"""Less speech than this is a click or a breath. The shortest words ("yes") have more, and are cheap to decode again."""
_LONGEST_PHRASE = 6
"""The longest phrase, in words, whose repetition is detected."""
_REPETITIONS = 4
"""A phrase this often in a row is an engine's loop. A single word may occur twice as often: people say "no, no, no"."""
_CHARACTERS_PER_S = 1.0
"""Fewer letters per second of speech are not credible: English has 12, Chinese 4."""
_STRETCH = samples(1.0)
"""More speech than this without a word is not credible. Of 315 reference segments, one has more than 0.5 s."""
MOST_RETRIES = 4
"""The most repeated decodes of a segment: two of the whole, and one of each half."""
_SPARSE_FROM_S = 3.0
"""In shorter speech the letters are not counted: it may be one slow word."""


def is_sure(closed: ClosedSegment, gate: PlausibilityGate) -> bool:
    """Return whether a segment is certainly speech and long enough to hold a word."""
    return closed.speech is not None and closed.voice >= gate.sure_voice and _voiced(closed) >= _SURE


def needs_repeat(
    closed: ClosedSegment, decode: Decode, words: Sequence[Word], gate: PlausibilityGate, most: int = MOST_RETRIES
) -> bool:
    """Return whether to repeat a decode: its segment is sure speech, and its `words` are not credible.

    A decode is repeated at most `most` times.
    """
    repeatable = decode.next_window is not None and isinstance(decode.outcome, Transcript)
    return repeatable and len(decode.before) < most and is_sure(closed, gate) and not is_credible(closed, words)


def words_of(
    closed: ClosedSegment, decode: Decode, gate: PlausibilityGate, settled: Sequence[Word]
) -> tuple[Word, ...]:
    """Return the final words of a segment; `settled` are the final words before it.

    The first credible attempt is used. If no attempt is credible, the one of those that pass the gate is used that leaves the
    least speech without words.
    """
    best: tuple[Word, ...] = ()
    least = len(closed.span) + 1
    for words in _attempted(closed, decode, gate, settled):
        if is_credible(closed, words):
            return words
        if words and (left := unheard(closed, words)) < least:
            best, least = words, left
    return best


def is_credible(closed: ClosedSegment, words: Sequence[Word]) -> bool:
    """Return whether a segment of sure speech can consist of these words."""
    voiced_s = seconds(_voiced(closed))
    letters = sum(len(bare(word.text)) for word in words)
    sparse = voiced_s >= _SPARSE_FROM_S and letters < _CHARACTERS_PER_S * voiced_s
    return bool(words) and not sparse and not unheard(closed, words) and not _loops([bare(word.text) for word in words])


def unheard(closed: ClosedSegment, words: Sequence[Word]) -> int:
    """Return the samples of a segment's speech that have no words: all of it, or the stretches of more than a second."""
    if not words:
        return _voiced(closed)
    stretches = (len(stretch) for part in _voiced_parts(closed) for stretch in _between(part, words))
    return sum(length for length in stretches if length > _STRETCH)


def _attempted(
    closed: ClosedSegment, decode: Decode, gate: PlausibilityGate, settled: Sequence[Word]
) -> Iterator[tuple[Word, ...]]:
    """Yield the words of each attempt at a segment. Attempts whose decode fails the gate have none."""

    def heard(part: ClosedSegment, attempt: tuple[Span, Outcome | None], known: Sequence[Word]) -> tuple[Word, ...]:
        audio, outcome = attempt
        if not isinstance(outcome, Transcript) or not gate.passes(outcome.log_probability, closed.voice):
            return ()
        return final_words(part, audio, outcome.words, known)

    for attempt in decode.whole:
        yield heard(closed, attempt, settled)
    split = decode.retries.split
    if split is not None and decode.halves:
        first, second = decode.halves
        before = heard(replace(closed, span=Span(closed.span.start, split)), first, settled)
        rest = replace(closed, span=Span(split, closed.span.end), speech=None)
        yield (*before, *heard(rest, second, [*settled, *before]))


def _between(part: Span, words: Sequence[Word]) -> Iterator[Span]:
    """Yield what the words, in order, leave of a part."""
    at = part.start
    for word in words:
        if samples(word.start) > at:
            yield Span(at, min(samples(word.start), part.end))
        at = max(at, samples(word.end))
        if at >= part.end:
            return
    yield Span(at, part.end)


def _voiced(closed: ClosedSegment) -> int:
    """Return the samples of a segment that are speech, without its announced pauses."""
    return sum(map(len, _voiced_parts(closed)))


def _voiced_parts(closed: ClosedSegment) -> Iterator[Span]:
    """Yield the parts of a segment's speech between its announced pauses."""
    if closed.speech is None:
        return
    at, end = closed.speech.start, closed.speech.end
    for pause in closed.pauses:
        if at < min(pause.start, end):
            yield Span(at, min(pause.start, end))
        at = max(at, pause.end)
    if at < end:
        yield Span(at, end)


def _loops(said: Sequence[str]) -> bool:
    """Return whether a phrase is repeated more often than people repeat one."""
    for length in range(1, _LONGEST_PHRASE + 1):
        run = 0  # consecutive words equal to the word `length` places before
        enough = length * ((2 if length == 1 else 1) * _REPETITIONS - 1)
        for index in range(length, len(said)):
            run = run + 1 if said[index] == said[index - length] else 0
            if run >= enough:
                return True
    return False
