"""Follows utterances with a cache-aware encoder: each chunk is encoded once, in the size used in training.

An interim is the tokens of the complete chunks. A final also holds those of the incomplete chunk at the end: it is encoded as
it is, as in an offline pass, and the utterance's state stays as it was before, so that the utterance can go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from myna.inference.engines.transducer.followed import Utterance
from myna.inference.engines.transducer.following import Follower
from myna.inference.engines.transducer.model import CacheAware, Encoded
from myna.inference.engines.transducer.words import Tokens
from myna.streaming.session.jobs import InferenceJob, JobKind

_EARLY = 3
"""Audio kept before the first feature frame that is computed again, in frames: its window and pre-emphasis reach back."""


@dataclass(slots=True)
class _Cached(Utterance):
    fed: int = 0
    """Number of feature frames encoded."""
    caches: Any = None


class CacheFollower(Follower[CacheAware, _Cached]):
    """For cache-aware encoders."""

    window_s = 0.0

    def __init__(self, model: CacheAware) -> None:
        super().__init__(model)
        self._chunking = model.chunking

    def _new(self, number: int) -> _Cached:
        return _Cached(number)

    def _hear(self, jobs: Sequence[InferenceJob], states: Sequence[_Cached]) -> list[Tokens]:
        hop = self._chunking.hop
        origins = [state.start // hop for state in states]  # audio is dropped in whole frames
        features = self._model.features([state.audio(at * hop) for state, at in zip(states, origins, strict=True)])
        steps = [
            _Step(state, frames, origin, job.options.keyterms)
            for state, frames, origin, job in zip(states, features, origins, jobs, strict=True)
        ]
        ready = steps
        while ready := [step for step in ready if step.fed + self._chunking.chunks[step.fed > 0] <= self._whole(step)]:
            # first chunks differ in size, so they form a batch of their own
            first = ready[0].fed == 0
            self._advance([step for step in ready if (step.fed == 0) == first], first=first)
        flushed = self._flush([step for step, job in zip(steps, jobs, strict=True) if job.kind is JobKind.FINAL])
        for state, step in zip(states, steps, strict=True):
            state.fed, state.caches, state.state = step.fed, step.caches, step.decoder
            state.committed += step.found
            state.drop_before((state.fed - self._chunking.before[1] - _EARLY) * hop)
        return [
            state.committed + flushed[step] if step in flushed else state.committed
            for state, step in zip(states, steps, strict=True)
        ]

    def _whole(self, step: _Step) -> int:
        """Return the number of feature frames that later audio cannot change."""
        return max(0, (step.state.end - self._chunking.reach) // self._chunking.hop + 1)

    def _advance(self, steps: Sequence[_Step], *, first: bool) -> None:
        """Encode and decode the next chunk of each utterance."""
        chunks, shifts = self._chunking.chunks, self._chunking.shifts
        encoded, caches = self._encode(steps, [step.fed + chunks[not first] for step in steps], first=first)
        found, after = self._decode(steps, encoded, goes_on=True)
        for step, new, cache, decoder in zip(steps, found, caches, after, strict=True):
            step.caches, step.decoder = cache, decoder
            step.found += new
            step.fed += shifts[not first]

    def _flush(self, steps: Sequence[_Step]) -> dict[_Step, Tokens]:
        """Return the tokens of the audio after each utterance's complete chunks, if there is any."""
        flushed: dict[_Step, Tokens] = {}
        for first in (True, False):
            ends = {step: step.state.end // self._chunking.hop for step in steps if (step.fed == 0) == first}
            rest = [step for step, end in ends.items() if end > step.fed]
            if rest:
                encoded, _ = self._encode(rest, [ends[step] for step in rest], first=first, last=True)
                found, _ = self._decode(rest, encoded, goes_on=False)
                flushed.update(zip(rest, found, strict=True))
        return flushed

    def _encode(
        self, steps: Sequence[_Step], ends: Sequence[int], *, first: bool, last: bool = False
    ) -> tuple[Encoded, list[Any]]:
        """Encode each utterance's feature frames up to its end."""
        before = self._chunking.before[not first]
        spans = [(step.fed - before - step.origin, end - step.origin) for step, end in zip(steps, ends, strict=True)]
        features, caches = [step.features for step in steps], [step.caches for step in steps]
        return self._model.advance(features, spans, caches, first=first, last=last)

    def _decode(self, steps: Sequence[_Step], encoded: Encoded, *, goes_on: bool) -> tuple[list[Tokens], list[Any]]:
        states, keyterms = [step.decoder for step in steps], [step.keyterms for step in steps]
        return self._model.decode(encoded, states, keyterms, goes_on=goes_on)


class _Step:
    """The changes that a step makes to an utterance, kept apart until the step has succeeded.

    `features` are those of the utterance's kept audio; the first of them is frame `origin` of the utterance.
    """

    def __init__(self, state: _Cached, features: Any, origin: int, keyterms: tuple[str, ...]) -> None:
        self.state, self.features, self.origin, self.keyterms = state, features, origin, keyterms
        self.fed, self.caches, self.decoder = state.fed, state.caches, state.state
        self.found = Tokens()
