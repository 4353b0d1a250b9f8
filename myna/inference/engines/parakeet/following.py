"""Follows utterances while they are spoken: each step encodes the new audio and as little of the old as the encoder needs.

There are two ways, depending on the encoder. For an encoder that attends to whole utterances, a step encodes a short
utterance entirely, which is exact. Of a long utterance it encodes a window, commits the frames that have enough audio to
their right, and keeps the decoder's state. A cache-aware encoder keeps caches and encodes every frame once.

State is replaced only after a whole step has succeeded, so that a step that ran out of memory can be repeated.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from myna.inference.engines.parakeet.model import Encoded, ParakeetModel
from myna.inference.engines.parakeet.words import Tokens
from myna.streaming.events import samples, seconds
from myna.streaming.session.jobs import InferenceJob, Missing, Outcome, Transcript

WHOLE = samples(12.0)
"""Utterances up to this length are encoded entirely: this is exact, and up to 10-14 s it costs no more than a window."""
LEFT, RIGHT = samples(10.0), samples(2.0)
"""Context of a window before and after the frames that it commits. Measured on a small model (WER %): 10 s / 2 s 3.2, as
good as whole utterances; 4 s / 1 s 8.1. The right context matters most."""
_EARLY = 3
"""Audio kept before the first feature frame that is computed again, in frames: its window and pre-emphasis reach back."""
MOST_FOLLOWED = 4096
"""Limit on utterances followed at once. The state of the least recently used is dropped; if that utterance goes on, the
engine asks for its audio again."""


@dataclass(slots=True)
class _Utterance:
    """`pcm` is int16 audio from sample `start` on; `committed` tokens never change."""

    number: int
    pcm: bytearray = field(default_factory=bytearray)
    start: int = 0
    committed: Tokens = field(default_factory=Tokens)
    state: Any = None

    @property
    def end(self) -> int:
        return self.start + len(self.pcm) // 2

    def audio(self, start: int, end: int | None = None) -> np.ndarray:
        return np.frombuffer(self.pcm, np.int16)[start - self.start : None if end is None else end - self.start].copy()

    def drop_before(self, start: int) -> None:
        del self.pcm[: 2 * max(0, start - self.start)]
        self.start = max(start, self.start)


@dataclass(slots=True)
class _Windowed(_Utterance):
    done: int = 0
    """Number of committed encoder frames."""


@dataclass(slots=True)
class _Cached(_Utterance):
    fed: int = 0
    """Number of feature frames encoded."""
    caches: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None


_State = TypeVar("_State", bound=_Utterance)


class Follower(ABC, Generic[_State]):
    """The utterances that an engine follows, by channel."""

    window_s: float
    """Longest audio that one step of an utterance encodes, in seconds; 0: each step encodes the same amount."""

    def __init__(self, model: ParakeetModel) -> None:
        self._model = model
        self._followed: OrderedDict[str, _State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._followed)

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

    def _take(self, job: InferenceJob) -> _State | Missing:
        state = self._followed.pop(job.source, None)
        if state is None or state.number != job.utterance:
            state = self._new(job.utterance)
        self._followed[job.source] = state  # last in the order: most recently used
        if job.held > state.end:
            return Missing(state.end)
        state.pcm += job.pcm[2 * (state.end - job.held) :]
        return state

    @abstractmethod
    def _new(self, number: int) -> _State: ...

    @abstractmethod
    def _hear(self, jobs: Sequence[InferenceJob], states: Sequence[_State]) -> list[Tokens]: ...


class WindowFollower(Follower[_Windowed]):
    """For encoders that attend to whole utterances."""

    window_s = seconds(max(WHOLE, LEFT + RIGHT))

    def _new(self, number: int) -> _Windowed:
        return _Windowed(number)

    def _hear(self, jobs: Sequence[InferenceJob], states: Sequence[_Windowed]) -> list[Tokens]:
        model, frame = self._model, self._model.frame
        starts = [max(state.start, state.done * frame - LEFT // frame * frame) for state in states]
        encoded = model.encode([state.audio(start) for state, start in zip(states, starts, strict=True)])
        totals = encoded.lengths.tolist()
        before = [state.done - start // frame for state, start in zip(states, starts, strict=True)]
        commits = [
            max(0, total - skipped - RIGHT // frame) if state.end > WHOLE else 0
            for state, total, skipped in zip(states, totals, before, strict=True)
        ]
        keyterms = [job.options.keyterms for job in jobs]
        carried: list[Any] = [state.state for state in states]
        fresh = [Tokens() for _ in states]
        if any(commits):
            fresh, after = model.decode(_cut(encoded, before, commits), carried, keyterms, goes_on=True)
            carried = [new if n else old for new, old, n in zip(after, carried, commits, strict=True)]
        rest = [t - b - n for t, b, n in zip(totals, before, commits, strict=True)]
        heads = [b + n for b, n in zip(before, commits, strict=True)]
        open_tokens, _ = model.decode(_cut(encoded, heads, rest), carried, keyterms)
        found = []
        for state, new, open_end, n, now in zip(states, fresh, open_tokens, commits, carried, strict=True):
            state.committed += new
            state.state = now
            state.done += n
            state.drop_before(state.done * frame - LEFT // frame * frame)
            found.append(state.committed + open_end)
        return found


class CacheFollower(Follower[_Cached]):
    """For cache-aware encoders: encodes each chunk once, in the size used in training."""

    window_s = 0.0

    def __init__(self, model: ParakeetModel) -> None:
        super().__init__(model)
        configuration = model.encoder.streaming_cfg
        self._chunks: tuple[int, int] = _pair(configuration.chunk_size)
        """Feature frames of an utterance's first chunk and of the later ones."""
        self._shifts: tuple[int, int] = _pair(configuration.shift_size)
        self._before: tuple[int, int] = _pair(configuration.pre_encode_cache_size)
        self._dropped = int(configuration.drop_extra_pre_encoded)
        self._reach = model.window // 2

    def _new(self, number: int) -> _Cached:
        return _Cached(number)

    def _hear(self, jobs: Sequence[InferenceJob], states: Sequence[_Cached]) -> list[Tokens]:
        features, firsts = self._features(states)
        later = [_Step(state) for state in states]
        while ready := [i for i, step in enumerate(later) if self._has_chunk(step, states[i])]:
            first = later[ready[0]].fed == 0  # first chunks differ in size, so they form a batch of their own
            together = [i for i in ready if (later[i].fed == 0) == first]
            self._advance([later[i] for i in together], [features[i] for i in together], [firsts[i] for i in together],
                          [jobs[i].options.keyterms for i in together], first=first)  # fmt: skip
        for state, step in zip(states, later, strict=True):
            state.fed, state.caches, state.state = step.fed, step.caches, step.state
            state.committed += step.found
            state.drop_before((state.fed - self._before[1] - _EARLY) * self._model.hop)
        return [state.committed for state in states]

    def _whole_frames(self, state: _Cached) -> int:
        """Return the number of feature frames that later audio cannot change."""
        return max(0, int((state.end - self._reach) // self._model.hop) + 1)

    def _has_chunk(self, step: _Step, state: _Cached) -> bool:
        return step.fed + self._chunks[step.fed > 0] <= self._whole_frames(state)

    def _features(self, states: Sequence[_Cached]) -> tuple[list[torch.Tensor], list[int]]:
        """Return the features of each utterance's kept audio, and the index of their first frame."""
        hop = self._model.hop
        starts = [state.start // hop for state in states]  # audio is dropped in whole frames
        features, _ = self._model.features([s.audio(start * hop) for s, start in zip(states, starts, strict=True)])
        return list(features), starts

    def _advance(
        self,
        steps: Sequence[_Step],
        features: Sequence[torch.Tensor],
        starts: Sequence[int],
        keyterms: Sequence[tuple[str, ...]],
        *,
        first: bool,
    ) -> None:
        model, encoder = self._model, self._model.encoder
        size, before = (self._chunks[0], self._before[0]) if first else (self._chunks[1], self._before[1])
        chunks = []
        for step, frames, start in zip(steps, features, starts, strict=True):
            head = step.fed - before - start
            chunk = frames[:, max(0, head) : step.fed + size - start]
            chunks.append(torch.nn.functional.pad(chunk, (max(0, -head), 0)))
        signal = torch.stack(chunks)
        blank = encoder.get_initial_cache_state(batch_size=1, dtype=model.dtype, device=model.device)
        caches = [step.caches or blank for step in steps]
        frames, lengths, channel, time, channel_lengths = encoder.cache_aware_stream_step(
            processed_signal=signal.to(model.dtype),
            processed_signal_length=torch.full((len(steps),), signal.shape[-1], device=model.device),
            cache_last_channel=torch.cat([c[0] for c in caches], dim=1),
            cache_last_time=torch.cat([c[1] for c in caches], dim=1),
            cache_last_channel_len=torch.cat([c[2] for c in caches]),
            keep_all_outputs=False,
            drop_extra_pre_encoded=0 if first else self._dropped,
        )
        found, after = model.decode(
            model.encoded(frames, lengths), [step.state for step in steps], keyterms, goes_on=True
        )
        for i, step in enumerate(steps):
            # copies: views would keep the caches of the whole batch in memory as long as the stream lasts
            step.caches = (
                channel[:, i : i + 1].clone(),
                time[:, i : i + 1].clone(),
                channel_lengths[i : i + 1].clone(),
            )
            step.state = after[i]
            step.found += found[i]
            step.fed += self._shifts[0] if first else self._shifts[1]


class _Step:
    """The changes that a step makes to an utterance, kept apart until the step has succeeded."""

    def __init__(self, state: _Cached) -> None:
        self.fed, self.caches, self.state = state.fed, state.caches, state.state
        self.found = Tokens()


def _cut(encoded: Encoded, starts: Sequence[int], counts: Sequence[int]) -> Encoded:
    """Return `counts` frames of each row, from `starts` on."""
    rows = torch.zeros(len(starts), max(1, *counts), encoded.frames.shape[2], device=encoded.frames.device)
    for row, source, start, count in zip(rows, encoded.frames, starts, counts, strict=True):
        row[:count] = source[start : start + count]
    return Encoded(rows, torch.tensor(list(counts), device=encoded.lengths.device))


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    first, later = itertools.repeat(value, 2) if isinstance(value, int) else value
    return int(first), int(later)
