"""Detects the end of a turn: an end-of-turn confidence, and the states of a turn that follow from it. Pure.

A *turn* is what one speaker says before another may speak: a chain of segments. It ends when the confidence reaches the
policy's threshold, when the silence reaches the time-out, when the turn is too long, or when the client ends it.
docs/turns.md describes how the weights were fitted; `myna bench turns` measures their effect.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from myna.streaming.events import Span, Trigger, Word, samples, seconds
from myna.streaming.policy import TurnPolicy
from myna.streaming.text.marks import ends_sentence, may_end

_PER_LOG_SECOND = 2.3
"""The weight of the logarithm of the silence in seconds: 2.1 to 2.3 in every fit to the reference recordings."""
_BASE = -7.1
"""The constant term."""
_SURE = 5.1
"""The weight of the engine's confidence in the last word: it is higher for a finished word than for one that was cut off."""
_SENTENCE = 2.8
"""The weight of the number of words since the last end of a sentence, up to `_WORDS`."""
_MARK = 1.7
"""The weight of a final sentence mark. It is low, since models write a mark at most pauses."""
_HABIT = -0.75
"""With this term the default threshold is reached at twice the longest pause from which the speaker has resumed."""
_LEAST = 0.735
"""The least evidence from words that may end a sentence: the default threshold is then reached after 1.05 s of silence. Only
one in twenty reference recordings contains a longer pause."""
_LEAST_UNFINISHED = -0.97
"""The least evidence from words that do not end a sentence: the default threshold is then reached after 2.2 s of silence."""

_FINISHED = 3.62
"""The least evidence from words after which the engine heard the end of the utterance. The default threshold is then reached
after 0.3 s of silence. NVIDIA's parakeet_realtime_eou tells nine of ten ends within 0.28 s; the weight is not fitted."""

_SUREST = 2.3
"""The value of -log(1 - confidence) from which a word counts as sure: a confidence of 0.9."""
_WORDS = 4
WORDLESS_S = 0.5
"""Speech without a recognised word ends after this much silence, in seconds. It is no turn."""
SHORTEST_REST = samples(0.44)
"""The shortest pause that counts as a rest. Shorter ones are part of fluent speech, whatever the speaker's habits."""
_LONGEST_REST = samples(0.54)
"""A longer rest counts as one of this length, so that a rest extends the wait to 1.08 s at most. One in six recordings has
a rest of 0.8 s; twice that would delay too many ends."""
_LONGEST_FALSE_END = samples(1.0)
"""The pause at a false end counts up to this length, so that the wait after one is two seconds at most."""
GOES_ON_S = 1.5
"""Speech within this many seconds of a turn's last word marks the end of that turn as false: a reply takes longer."""


@dataclass(frozen=True, slots=True)
class Eager:
    """The turn may be over."""

    confidence: float


@dataclass(frozen=True, slots=True)
class Over:
    """The turn is over; `trigger` None: there was no word, and so no turn."""

    trigger: Trigger | None
    confidence: float


Verdict = Eager | Over


def confidence(silence: int, words: Sequence[Word], rest: int = 0, *, finished: bool = False) -> float:
    """Return the probability that a turn is over after these `words` and `silence` samples of silence.

    `rest` is the pause, in samples, from which the speaker has resumed, limited as `TurnDetector` does; 0: there was none.
    `finished` says whether the engine itself heard the end of the utterance.
    """
    if silence <= 0 or not words:
        return 0.0
    last = words[-1]
    ends = may_end(last)
    said = 1
    for word in reversed(words[:-1]):
        if said == _WORDS or ends_sentence(word.text):
            break
        said += 1
    sure = min(-math.log(max(1e-9, 1 - last.confidence)), _SUREST) / _SUREST
    known = _BASE + _SURE * sure + _SENTENCE * said / _WORDS * ends + _MARK * ends_sentence(last.text) * ends
    known = max(known, _FINISHED if finished else _LEAST if ends else _LEAST_UNFINISHED)
    if rest >= SHORTEST_REST:
        known = min(known, _HABIT - _PER_LOG_SECOND * math.log(seconds(rest)))
    return 1 / (1 + math.exp(-known - _PER_LOG_SECOND * math.log(seconds(silence))))


class TurnDetector:
    """Tracks one channel's turns. Call `assess` after every window and every new result."""

    def __init__(self, policy: TurnPolicy) -> None:
        self.policy = policy
        self.end()

    def end(self) -> None:
        """Begin the next turn."""
        self._began: int | None = None  # the start of speech in the turn's first closed segment
        self._words = 0  # the turn's final words
        self.eager = False
        """Whether `Eager` has been returned for the current silence."""
        self.confidence = 0.0
        """The end-of-turn confidence at the last call of `assess`."""
        self._silence = 0  # at the last call of `assess`
        self._last_end = 0.0  # the end of the last word known then, in seconds
        self._left: tuple[int, float] | None = None  # a pause that sound ended, and `_last_end` before it
        self._rest = 0  # the longest pause that words have followed, limited
        self._ended: float | None = None  # the end of the turn before's last word, if confidence ended that turn

    def assess(self, silence: int, words: Sequence[Word] | None, *, finished: bool = False) -> Verdict | None:
        """Return whether the turn is over, or may be, after these words and `silence` samples of silence.

        `words` None: the last speech is not decoded yet. `finished`: the engine heard the end of the utterance.
        """
        if words:
            self._note_rest(words[0], words[-1])
        self._silence = silence
        self.confidence = confidence(silence, words or (), self._rest, finished=finished)
        late = 1000 * seconds(silence) >= self.policy.timeout_ms
        if words is None:
            return self._over(Trigger.TIMEOUT) if late else None
        if not words:
            return self._over(None) if seconds(silence) >= WORDLESS_S else None
        if self.policy.end < 1 and self.confidence >= self.policy.end:
            return self._over(Trigger.CONFIDENCE)
        if late:
            return self._over(Trigger.TIMEOUT)
        if self.policy.eager is not None and not self.eager and self.confidence >= self.policy.eager:
            self.eager = True
            return Eager(self.confidence)
        return None

    def count_words(self, words: int) -> None:
        """Add final words to the turn's length."""
        self._words += words

    def is_too_long(self, speech: Span, at: int) -> bool:
        """Return whether the turn must end at `at`, where a segment with this speech was cut by length."""
        self._began = speech.start if self._began is None else self._began
        return at - self._began >= samples(self.policy.longest_s) or self._words >= self.policy.most_words

    def resume(self) -> bool:
        """Take note that speech has resumed; return whether `Eager` was returned for the silence before."""
        if self._silence:
            pause, last_end = self._left or (0, self._last_end)
            self._left = max(pause, self._silence), last_end
        was, self.eager, self.confidence, self._silence = self.eager, False, 0.0, 0
        return was

    def _note_rest(self, first: Word, last: Word) -> None:
        """Count the last pause as a rest once words follow it: the sound that ended it may have been a cough.

        The pause before the turn counts as a rest, too, if the words after it show that the turn before had a false end.
        """
        if self._ended is not None:
            gap = first.start - self._ended
            self._rest, self._ended = min(samples(gap), _LONGEST_FALSE_END) if gap <= GOES_ON_S else 0, None
        if self._left is not None and last.start >= self._left[1]:
            self._rest = max(self._rest, min(self._left[0], _LONGEST_REST))
            self._left = None
        self._last_end = last.end

    def _over(self, trigger: Trigger | None) -> Over:
        over = Over(trigger, self.confidence)
        ended = {Trigger.CONFIDENCE: self._last_end, None: self._ended}.get(trigger)
        self.end()
        self._ended = ended
        return over
