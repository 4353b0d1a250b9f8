"""Whether what a decode heard can be what was said, and which of two attempts of a segment is believed. Pure.

An engine may lose sure speech: it babbles over a context that begins inside a word, until the mean probability falls under
the gate; it says the same words over and over; its words are all taken for those of the segment before. A segment of sure
speech whose decode is not credible is decoded once more, in another window.
"""

from __future__ import annotations

from collections.abc import Sequence

from myna.streaming.session.jobs import Transcript
from myna.streaming.events import Word, samples, seconds
from myna.streaming.session.hypothesis import bare, final_words
from myna.streaming.session.pending import Decode
from myna.streaming.policy import PlausibilityGate
from myna.streaming.speech.segmenter import ClosedSegment

_SURE = samples(0.2)
"""Less speech than this is a click or a breath; the shortest words ("yes") have more, and cost little to repeat."""
_LONGEST_PHRASE = 6
"""Words of the longest phrase whose repetition is looked for."""
_REPETITIONS = 4
"""A phrase said so many times in a row is the engine's; a single word, which people repeat ("no, no, no"), twice as many."""
_CHARACTERS_PER_S = 1.0
"""Fewer letters than this in a second of speech are too few: speech has 12 in English and 4 in Chinese."""
_SPARSE_FROM_S = 3.0
"""Of shorter speech the letters are not counted: one slow word is enough."""


def is_sure(closed: ClosedSegment, gate: PlausibilityGate) -> bool:
    """Return whether a segment is speech for certain, and long enough to hold a word."""
    return closed.speech is not None and closed.voice >= gate.sure_voice and _voiced(closed) >= _SURE


def needs_repeat(closed: ClosedSegment, decode: Decode, words: Sequence[Word], gate: PlausibilityGate) -> bool:
    """Return whether a decode is to be repeated: it is of sure speech, and its `words` are not credible."""
    repeatable = decode.other_window is not None and isinstance(decode.outcome, Transcript)
    return repeatable and is_sure(closed, gate) and not is_credible(closed, words)


def words_of(closed: ClosedSegment, decode: Decode, gate: PlausibilityGate, settled: Sequence[Word]) -> tuple[Word, ...]:
    """Return the words of a segment for good; `settled` are the final ones before.

    The first credible hearing is taken; without any the first that has words and that the gate lets pass.
    """
    passed: tuple[Word, ...] = ()
    for audio, outcome in decode.attempts:
        if isinstance(outcome, Transcript) and gate.passes(outcome.log_probability, closed.voice):
            words = final_words(closed, audio, outcome.words, settled)
            if is_credible(closed, words):
                return words
            passed = passed or words
    return passed


def is_credible(closed: ClosedSegment, words: Sequence[Word]) -> bool:
    """Return whether these can be the words of a segment of sure speech."""
    voiced_s = seconds(_voiced(closed))
    letters = sum(len(bare(word.text)) for word in words)
    sparse = voiced_s >= _SPARSE_FROM_S and letters < _CHARACTERS_PER_S * voiced_s
    return bool(words) and not sparse and not _loops([bare(word.text) for word in words])


def _voiced(closed: ClosedSegment) -> int:
    """Return how many samples of a segment are speech, its longer pauses left out."""
    speech = closed.speech
    if speech is None:
        return 0
    inside = (max(0, min(pause.end, speech.end) - max(pause.start, speech.start)) for pause in closed.pauses)
    return len(speech) - sum(inside)


def _loops(said: Sequence[str]) -> bool:
    """Return whether a phrase is repeated more often than people do."""
    for length in range(1, _LONGEST_PHRASE + 1):
        run = 0  # words in a row that are the same as so many before
        enough = length * ((2 if length == 1 else 1) * _REPETITIONS - 1)
        for index in range(length, len(said)):
            run = run + 1 if said[index] == said[index - length] else 0
            if run >= enough:
                return True
    return False
