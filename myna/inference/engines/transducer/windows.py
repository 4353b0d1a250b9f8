"""Follows utterances with an encoder that attends to whole utterances.

A step encodes a short utterance entirely, which is exact. Of a long utterance it encodes a window, commits the frames that
have enough audio to their right, and keeps the decoder's state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from myna.inference.engines.transducer.followed import Utterance
from myna.inference.engines.transducer.following import Follower
from myna.inference.engines.transducer.model import Transducer
from myna.inference.engines.transducer.words import Tokens
from myna.streaming.events import samples, seconds
from myna.streaming.session.jobs import InferenceJob

WHOLE = samples(12.0)
"""Utterances up to this length are encoded entirely: this is exact, and up to 10-14 s it costs no more than a window."""
LEFT, RIGHT = samples(10.0), samples(2.0)
"""Context of a window before and after the frames that it commits. Measured on a small model (WER %): 10 s / 2 s 3.2, as
good as whole utterances; 4 s / 1 s 8.1. The right context matters most."""


@dataclass(slots=True)
class _Windowed(Utterance):
    done: int = 0
    """Number of committed encoder frames."""


class WindowFollower(Follower[Transducer, _Windowed]):
    """For encoders that attend to whole utterances."""

    window_s = seconds(max(WHOLE, LEFT + RIGHT))

    def _new(self, number: int) -> _Windowed:
        return _Windowed(number)

    def _hear(self, jobs: Sequence[InferenceJob], states: Sequence[_Windowed]) -> list[Tokens]:
        model, frame = self._model, self._model.frame
        starts = [max(state.start, state.done * frame - LEFT // frame * frame) for state in states]
        encoded = model.encode([state.audio(start) for state, start in zip(states, starts, strict=True)])
        totals = encoded.counts()
        before = [state.done - start // frame for state, start in zip(states, starts, strict=True)]
        commits = [
            max(0, total - skipped - RIGHT // frame) if state.end > WHOLE else 0
            for state, total, skipped in zip(states, totals, before, strict=True)
        ]
        keyterms = [job.options.keyterms for job in jobs]
        carried: list[Any] = [state.state for state in states]
        fresh = [Tokens() for _ in states]
        if any(commits):
            fresh, after = model.decode(model.cut(encoded, before, commits), carried, keyterms, goes_on=True)
            carried = [new if n else old for new, old, n in zip(after, carried, commits, strict=True)]
        rest = [t - b - n for t, b, n in zip(totals, before, commits, strict=True)]
        heads = [b + n for b, n in zip(before, commits, strict=True)]
        open_tokens, _ = model.decode(model.cut(encoded, heads, rest), carried, keyterms)
        found = []
        for state, new, open_end, n, now in zip(states, fresh, open_tokens, commits, carried, strict=True):
            state.committed += new
            state.state = now
            state.done += n
            state.drop_before(state.done * frame - LEFT // frame * frame)
            found.append(state.committed + open_end)
        return found
