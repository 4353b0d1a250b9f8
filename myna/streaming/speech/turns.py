"""Whether a speaker has finished: an end-of-turn confidence, and the states of a turn that follow from it. Pure.

A *turn* is what one speaker says until somebody else may: a chain of segments, over when the confidence reaches the
policy's threshold, when the silence has lasted too long, or when the client says so. Where the weights come from is written
in docs/turns.md; `myna bench turns` measures what they do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from myna.streaming.events import Span, Trigger, Word, samples, seconds
from myna.streaming.policy import TurnPolicy

_PER_LOG_SECOND = 2.3
"""Of the logarithm of the silence: 2.1 to 2.3 in every fit to the reference recordings."""
_BASE = -6.73
_SURE = 5.1
"""The engine is sure of the last word: a word that is heard whole, with what follows it, is surer than one cut off."""
_SENTENCE = 2.8
"""Enough words since the last end of a sentence to be one."""
_MARK = 1.7
"""The text ends with the mark of a sentence's end. Models write one at most pauses, so it says little."""
_HABIT = -0.75
"""At the default threshold, silence twice as long as the longest pause from which the speaker has gone on is the end."""

_SUREST = 2.3
"""-log(1 - confidence) at which a word counts as sure: a confidence of 0.9."""
_WORDS = 4
_MARKS = ".?!…。？！"
_DANGLING = {
    "a", "an", "the", "and", "or", "but", "nor", "because", "although", "if", "than", "of", "from", "with", "into", "my",
    "your", "our", "their",
}  # fmt: skip
"""English words that end no sentence, whatever mark a model puts behind them: somebody is looking for the next word."""
WORDLESS_S = 0.5
"""Sound like speech in which no word was heard ends after so much silence: it begins no turn."""
SHORTEST_REST = samples(0.44)
"""A pause so long is a rest. Shorter ones are part of fluent speech and say nothing of how long the speaker pauses."""
_LONGEST_REST = samples(1.0)
"""A longer rest counts as one of this length: by habit nobody is waited for longer than two seconds."""
GOES_ON_S = 1.5
"""Who speaks again within so much of a turn's last word had not finished: nobody has answered yet."""


@dataclass(frozen=True, slots=True)
class Eager:
    """The turn may be over."""

    confidence: float


@dataclass(frozen=True, slots=True)
class Over:
    """The speaker has finished; `trigger` None: there was no word, and no turn."""

    trigger: Trigger | None
    confidence: float


Verdict = Eager | Over


def confidence(silence: int, words: Sequence[Word], rest: int = 0) -> float:
    """Return how probably a turn is over, between 0 and 1, whose last `words` were followed by so many samples of silence.

    `rest` is the longest pause in samples from which the speaker has gone on in this turn; 0: there was none.
    """
    if silence <= 0 or not words:
        return 0.0
    last = words[-1]
    ends = last.bare not in _DANGLING
    said = 1
    for word in reversed(words[:-1]):
        if said == _WORDS or word.text[-1:] in _MARKS:
            break
        said += 1
    sure = min(-math.log(max(1e-9, 1 - last.confidence)), _SUREST) / _SUREST
    known = _BASE + _SURE * sure + _SENTENCE * said / _WORDS * ends + _MARK * (last.text[-1:] in _MARKS) * ends
    if rest >= SHORTEST_REST:
        known = min(known, _HABIT - _PER_LOG_SECOND * math.log(seconds(min(rest, _LONGEST_REST))))
    return 1 / (1 + math.exp(-known - _PER_LOG_SECOND * math.log(seconds(silence))))


class TurnDetector:
    """One channel's turns. Ask it at every window, and whenever more is known."""

    def __init__(self, policy: TurnPolicy) -> None:
        self.policy = policy
        self.end()

    def end(self) -> None:
        """Forget the turn: it is over."""
        self._began: int | None = None  # where the first segment cut of it begins to be speech
        self._words = 0  # that are final
        self.eager = False
        """Whether it has been said that the open turn may be over."""
        self.confidence = 0.0
        """That the speaker has finished, as of the last look."""
        self._silence = 0  # at the last look
        self._last_end = 0.0  # of the last word known then, in seconds
        self._left: tuple[int, float] | None = None  # a pause that sound has ended, and its `_last_end`
        self._rest = 0  # the longest pause from which words have gone on
        self._ended: float | None = None  # last word's end of the turn before, if that was over by confidence

    def assess(self, silence: int, words: Sequence[Word] | None) -> Verdict | None:
        """Return what follows from so many samples of silence after these words of the turn.

        `words` None: what was said last is not decoded yet.
        """
        if words:
            self._note_rest(words[0], words[-1])
        self._silence = silence
        self.confidence = confidence(silence, words or (), self._rest)
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
        """Take note that so many more words of it are final."""
        self._words += words

    def is_too_long(self, speech: Span, at: int) -> bool:
        """Return whether the turn, a segment of which was cut at `at` inside it, has to end there."""
        self._began = speech.start if self._began is None else self._began
        return at - self._began >= samples(self.policy.longest_s) or self._words >= self.policy.most_words

    def resume(self) -> bool:
        """Take note that speech goes on; return whether it had been said that the turn may be over."""
        if self._silence:
            pause, last_end = self._left or (0, self._last_end)
            self._left = max(pause, self._silence), last_end
        was, self.eager, self.confidence, self._silence = self.eager, False, 0.0, 0
        return was

    def _note_rest(self, first: Word, last: Word) -> None:
        """Count the pause before as a rest if there are words behind it: what ended it may have been a cough.

        The pause before the turn is one, too, if it was no end.
        """
        if self._ended is not None:
            gap = first.start - self._ended
            self._rest, self._ended = samples(gap) if gap <= GOES_ON_S else 0, None
        if self._left is not None and last.start >= self._left[1]:
            self._rest = max(self._rest, self._left[0])
            self._left = None
        self._last_end = last.end

    def _over(self, trigger: Trigger | None) -> Over:
        over = Over(trigger, self.confidence)
        ended = {Trigger.CONFIDENCE: self._last_end, None: self._ended}.get(trigger)
        self.end()
        self._ended = ended
        return over
