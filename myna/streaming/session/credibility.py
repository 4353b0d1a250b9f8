"""Whether the words of a decode are credible, and which of two attempts at a segment is used. Pure.

An engine may lose sure speech in three ways. It hallucinates over a context that begins inside a word, until the mean
probability falls below the gate. It repeats the same words. Or all of its words are matched to those of the segment before.
A segment of sure speech whose decode is not credible is decoded once more, in another window.
"""

from __future__ import annotations

from collections.abc import Sequence

from myna.streaming.events import Word, samples, seconds
from myna.streaming.policy import PlausibilityGate
from myna.streaming.session.hypothesis import bare, final_words
from myna.streaming.session.jobs import Transcript
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
_SPARSE_FROM_S = 3.0
"""In shorter speech the letters are not counted: it may be one slow word."""


def is_sure(closed: ClosedSegment, gate: PlausibilityGate) -> bool:
    """Return whether a segment is certainly speech and long enough to hold a word."""
    return closed.speech is not None and closed.voice >= gate.sure_voice and _voiced(closed) >= _SURE


def needs_repeat(closed: ClosedSegment, decode: Decode, words: Sequence[Word], gate: PlausibilityGate) -> bool:
    """Return whether to repeat a decode: its segment is sure speech, and its `words` are not credible."""
    repeatable = decode.other_window is not None and isinstance(decode.outcome, Transcript)
    return repeatable and is_sure(closed, gate) and not is_credible(closed, words)


def words_of(
    closed: ClosedSegment, decode: Decode, gate: PlausibilityGate, settled: Sequence[Word]
) -> tuple[Word, ...]:
    """Return the final words of a segment; `settled` are the final words before it.

    The first credible attempt is used. If no attempt is credible, the first one that has words and passes the gate is used.
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
    """Return whether a segment of sure speech can consist of these words."""
    voiced_s = seconds(_voiced(closed))
    letters = sum(len(bare(word.text)) for word in words)
    sparse = voiced_s >= _SPARSE_FROM_S and letters < _CHARACTERS_PER_S * voiced_s
    return bool(words) and not sparse and not _loops([bare(word.text) for word in words])


def _voiced(closed: ClosedSegment) -> int:
    """Return the samples of a segment that are speech, without its announced pauses."""
    speech = closed.speech
    if speech is None:
        return 0
    inside = (max(0, min(pause.end, speech.end) - max(pause.start, speech.start)) for pause in closed.pauses)
    return len(speech) - sum(inside)


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
