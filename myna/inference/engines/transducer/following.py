"""Follows utterances while they are spoken: each step encodes the new audio and as little of the old as the encoder needs.

There are two ways, depending on the encoder: `WindowFollower` for an encoder that attends to whole utterances, and
`CacheFollower` for a cache-aware one.

State is replaced only after a whole step has succeeded, so that a step that ran out of memory can be repeated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from myna.inference.engines.transducer.followed import Utterance, followed_with
from myna.inference.engines.transducer.model import Transducer
from myna.inference.engines.transducer.words import Tokens
from myna.streaming.events import seconds
from myna.streaming.session.jobs import InferenceJob, Missing, Outcome, Transcript

ModelT = TypeVar("ModelT", bound=Transducer)
UtteranceT = TypeVar("UtteranceT", bound=Utterance)


class Follower(ABC, Generic[ModelT, UtteranceT]):
    """Follows utterances, by channel, together with the other lanes of the process that have the same weights."""

    window_s: float
    """Longest audio that one step of an utterance encodes, in seconds; 0: each step encodes the same amount."""

    def __init__(self, model: ModelT) -> None:
        self._model = model
        self._followed = followed_with(model.weights)

    def __len__(self) -> int:
        return len(self._followed)

    @property
    def audio_held(self) -> int:
        """Samples of audio in memory."""
        return self._followed.audio_held

    def release(self, source: str) -> None:
        """Drop the state of a channel's utterance."""
        self._followed.release(source)

    def step(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Append each job's audio to its utterance; return the transcript of each utterance so far.

        Several jobs of one channel are separate steps, in their order.
        """
        outcomes: dict[str, Outcome] = {}
        waiting = list(jobs)
        while waiting:
            together: dict[str, InferenceJob] = {}
            for job in waiting:
                together.setdefault(job.source, job)
            with self._followed.borrowed(together) as followed:
                outcomes.update(self._step(list(together.values()), followed))
            waiting = [job for job in waiting if job.id not in outcomes]
        return [outcomes[job.id] for job in jobs]

    def _step(self, jobs: Sequence[InferenceJob], followed: dict[str, UtteranceT]) -> dict[str, Outcome]:
        """Return the outcomes of jobs of different channels, by job id."""
        outcomes: dict[str, Outcome] = {}
        ready: list[tuple[InferenceJob, UtteranceT]] = []
        for job in jobs:
            state = self._take(job, followed)
            if isinstance(state, Missing):
                outcomes[job.id] = state
            else:
                ready.append((job, state))
        if ready:
            found = self._hear([job for job, _ in ready], [state for _, state in ready])
            for (job, _), tokens in zip(ready, found, strict=True):
                outcomes[job.id] = self._transcript(job, tokens)
        return outcomes

    def _transcript(self, job: InferenceJob, tokens: Tokens) -> Transcript:
        """Return the words that begin between the job's `since` and its end, whatever more the utterance has.

        The last encoder frame may begin after the end, by less than a frame, because the convolutions before it pad.
        """
        model = self._model
        asked = model.vocabulary.between(tokens, job.since / model.frame, job.length / model.frame + 1)
        return model.vocabulary.transcript(asked, model.frame_s, seconds(job.since))

    def _take(self, job: InferenceJob, followed: dict[str, UtteranceT]) -> UtteranceT | Missing:
        state = followed.get(job.source)
        if state is None or state.number != job.utterance:
            state = followed[job.source] = self._new(job.utterance)
        if job.held > state.end:
            return Missing(state.end)
        state.pcm += job.pcm[2 * (state.end - job.held) :]
        return state

    @abstractmethod
    def _new(self, number: int) -> UtteranceT: ...

    @abstractmethod
    def _hear(self, jobs: Sequence[InferenceJob], states: Sequence[UtteranceT]) -> list[Tokens]: ...
