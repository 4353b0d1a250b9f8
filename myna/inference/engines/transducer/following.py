"""Follows utterances while they are spoken: each step encodes the new audio and as little of the old as the encoder needs.

There are two ways, depending on the encoder: `WindowFollower` for an encoder that attends to whole utterances, and
`CacheFollower` for a cache-aware one.

State is replaced only after a whole step has succeeded, so that a step that ran out of memory can be repeated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np

from myna.inference.engines.transducer.model import Transducer
from myna.inference.engines.transducer.words import Tokens
from myna.streaming.session.jobs import InferenceJob, Missing, Outcome, Transcript

MOST_FOLLOWED = 4096
"""Limit on utterances followed at once. The state of the least recently used is dropped; if that utterance goes on, the
engine asks for its audio again."""


@dataclass(slots=True)
class Utterance:
    """`pcm` is int16 audio from sample `start` on; `committed` tokens never change. `state` is the decoder's."""

    number: int
    pcm: bytearray = field(default_factory=bytearray)
    start: int = 0
    committed: Tokens = field(default_factory=Tokens)
    state: Any = None

    @property
    def end(self) -> int:
        """Samples received."""
        return self.start + len(self.pcm) // 2

    def audio(self, start: int) -> np.ndarray:
        """Return a copy of the audio from sample `start` on."""
        return np.frombuffer(self.pcm, np.int16)[start - self.start :].copy()

    def drop_before(self, start: int) -> None:
        """Drop the audio before sample `start`."""
        del self.pcm[: 2 * max(0, start - self.start)]
        self.start = max(start, self.start)


ModelT = TypeVar("ModelT", bound=Transducer)
UtteranceT = TypeVar("UtteranceT", bound=Utterance)


class Follower(ABC, Generic[ModelT, UtteranceT]):
    """The utterances that an engine follows, by channel."""

    window_s: float
    """Longest audio that one step of an utterance encodes, in seconds; 0: each step encodes the same amount."""

    def __init__(self, model: ModelT) -> None:
        self._model = model
        self._followed: OrderedDict[str, UtteranceT] = OrderedDict()

    def __len__(self) -> int:
        return len(self._followed)

    @property
    def audio_held(self) -> int:
        """Samples of audio in memory."""
        return sum(state.end - state.start for state in self._followed.values())

    def release(self, source: str) -> None:
        """Drop the state of a channel's utterance."""
        self._followed.pop(source, None)

    def step(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Append each job's audio to its utterance; return the transcript of each utterance so far."""
        taken = [self._take(job) for job in jobs]
        ready = [(job, state) for job, state in zip(jobs, taken, strict=True) if not isinstance(state, Missing)]
        heard: Iterable[Tokens] = self._hear([job for job, _ in ready], [state for _, state in ready]) if ready else ()
        transcripts = iter(heard)
        outcomes: list[Outcome] = []
        for state in taken:
            if isinstance(state, Missing):
                outcomes.append(state)
                continue
            tokens = next(transcripts)
            words = self._model.vocabulary.words(tokens, self._model.frame_s)
            outcomes.append(Transcript(words, tokens.mean_log_probability()))
        while len(self._followed) > MOST_FOLLOWED:
            self._followed.popitem(last=False)
        return outcomes

    def _take(self, job: InferenceJob) -> UtteranceT | Missing:
        state = self._followed.pop(job.source, None)
        if state is None or state.number != job.utterance:
            state = self._new(job.utterance)
        self._followed[job.source] = state  # last in the order: most recently used
        if job.held > state.end:
            return Missing(state.end)
        state.pcm += job.pcm[2 * (state.end - job.held) :]
        return state

    @abstractmethod
    def _new(self, number: int) -> UtteranceT: ...

    @abstractmethod
    def _hear(self, jobs: Sequence[InferenceJob], states: Sequence[UtteranceT]) -> list[Tokens]: ...
