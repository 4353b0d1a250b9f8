"""An engine for tests: its words depend on the audio only, its costs and faults on its settings.

It decodes amplitude: samples at the level of a word's code (see `spoken`) are decoded as that word, wherever the audio is
cut, so that tests can tell lost words from repeated ones. It can fail, hang or crash at chosen jobs or words.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from myna.inference.engines.port import ModelOptions
from myna.streaming.events import SAMPLE_RATE, Word, seconds
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Missing, Outcome, Transcript

WORD = 4800
"""Samples of a fake word (300 ms)."""
_LOUDEST_CODE = 16_000
_BASE = 1_000
_STEP = 10
SAYS_END = 1496
"""The word after which the engine reports the end of the utterance."""
CHUNK = 8960
"""Samples of a chunk of an engine that flushes finals (560 ms)."""
CRASH, HANG, EXIT = 1499, 1498, 1497
"""Words at which the engine ends its process, hangs, or ends its thread. With them, a test makes an engine in another process
fail."""


def spoken(code: int) -> np.ndarray:
    """Return the int16 audio of word number `code` (0 to 1499): a constant level."""
    level = _BASE + _STEP * code
    if not _BASE <= level <= _LOUDEST_CODE:
        raise ValueError(f"word codes run from 0 to {(_LOUDEST_CODE - _BASE) // _STEP}, not to {code}")
    return np.full(WORD, level, np.int16)


def silence(lasting_s: float) -> np.ndarray:
    """Return int16 silence."""
    return np.zeros(round(lasting_s * SAMPLE_RATE), np.int16)


@dataclass(frozen=True, slots=True)
class FakeSettings:
    """Costs and faults. Counts refer to jobs since the engine was built, starting from 1; 0 means never."""

    seconds_per_audio_second: float = 0.0
    fail_every: int = 0
    crash_at: int = 0
    hang_at: int = 0
    largest_batch: int = 1
    longest_segment_s: float = 15.0
    incremental: bool = False
    flushed_finals: bool = False
    """Whether finals are steps, too. Interim steps are then decoded in complete chunks only."""
    forget_every: int = 0
    """Every this many steps of followed utterances, the engine drops their state first."""
    keyterms: bool = False
    detects_language: bool = False
    """Whether the engine reports languages: of each hundred words in turn, another of its languages."""


class FakeEngine:
    """Deterministic words from coded audio. A word is decoded if at least half of it is in the audio."""

    def __init__(self, options: ModelOptions | None = None, settings: FakeSettings | None = None) -> None:
        self._name = (options and options.name) or "fake"
        self._languages = (options and options.languages) or ("en",)
        self._settings = settings or FakeSettings()
        self._jobs = 0
        self._steps = 0
        self._followed: dict[str, tuple[int, bytes]] = {}
        self.encoded = 0
        """Samples encoded so far."""

    @property
    def info(self) -> EngineInfo:
        """Return the engine's capabilities."""
        return EngineInfo(
            name=self._name,
            languages=self._languages,
            longest_segment_s=self._settings.longest_segment_s,
            smallest_endpoint_ms=100,
            largest_batch=self._settings.largest_batch,
            incremental=self._settings.incremental or self._settings.flushed_finals,
            flushed_finals=self._settings.flushed_finals,
            keyterms=self._settings.keyterms,
            detects_language=self._settings.detects_language,
        )

    @property
    def followed(self) -> set[str]:
        """The channels whose utterances are followed."""
        return set(self._followed)

    def warm_up(self) -> None:
        """Do nothing: the engine has no model."""

    def release(self, source: str) -> None:
        """Drop the state of the utterance followed for this channel."""
        self._followed.pop(source, None)

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Decode each job by itself."""
        if cost := self._settings.seconds_per_audio_second * sum(job.length for job in jobs) / SAMPLE_RATE:
            time.sleep(cost)
        return [self._transcribe(job) for job in jobs]

    def _transcribe(self, job: InferenceJob) -> Outcome:
        self._jobs += 1
        said = {word.text for word in heard(np.frombuffer(job.pcm, np.int16))}
        if self._jobs == self._settings.crash_at or f"w{CRASH}" in said:
            os._exit(70)
        if f"w{EXIT}" in said:
            raise SystemExit
        if self._jobs == self._settings.hang_at or f"w{HANG}" in said:
            threading.Event().wait()
        if self._settings.fail_every and self._jobs % self._settings.fail_every == 0:
            return JobError("the fake engine is set to fail")
        if not job.utterance:
            self.encoded += job.length
            return self._transcript(heard(np.frombuffer(job.pcm, np.int16)))
        self._steps += 1
        if self._settings.forget_every and self._steps % self._settings.forget_every == 0:
            self._followed.clear()
        number, pcm = self._followed.get(job.source, (0, b""))
        if number != job.utterance:
            pcm = b""
        if job.held > len(pcm) // 2:
            return Missing(len(pcm) // 2)
        fresh = job.pcm[len(pcm) - 2 * job.held :]
        self._followed[job.source] = (job.utterance, pcm + fresh)
        return self._step(job, np.frombuffer(pcm + fresh, np.int16), len(fresh) // 2)

    def _step(self, job: InferenceJob, pcm: np.ndarray, fresh: int) -> Transcript:
        """Decode an utterance up to the end of the job; its last `fresh` samples are new."""
        end = job.length
        if not self._settings.flushed_finals:
            self.encoded += end
        else:
            complete = end // CHUNK * CHUNK
            self.encoded += complete - (len(pcm) - fresh) // CHUNK * CHUNK
            if job.kind is JobKind.FINAL:
                self.encoded += end - complete
            else:
                end = complete
        words = [word for word in heard(pcm[:end]) if word.start >= seconds(job.since)]
        return self._transcript([word.shifted(-seconds(job.since)) for word in words])

    def _transcript(self, words: Sequence[Word]) -> Transcript:
        language, probability = "", 0.0
        if words and self._settings.detects_language:
            codes = Counter(self._languages[int(word.text[1:]) // 100 % len(self._languages)] for word in words)
            language, probability = codes.most_common(1)[0][0], 0.9
        ended_s = words[-1].end if words and words[-1].text == f"w{SAYS_END}" else None
        return Transcript(tuple(words), -0.1, language, probability, ended_s)


def heard(pcm: np.ndarray) -> list[Word]:
    """Return the words coded in int16 audio."""
    level = np.where(np.abs(pcm) >= _BASE - _STEP // 2, np.rint((pcm.astype(np.int64) - _BASE) / _STEP), -1)
    edges = np.flatnonzero(np.diff(level)) + 1
    words = []
    for start, end in zip([0, *edges], [*edges, len(level)], strict=True):
        if start < end and level[start] >= 0 and end - start >= WORD // 2:
            words.append(Word(f"w{int(level[start])}", start / SAMPLE_RATE, end / SAMPLE_RATE, 0.9))
    return words
