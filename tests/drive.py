"""Drives a session in tests: voice activity from amplitude or Silero, decodes from an engine, in any order."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np

from myna.inference.engines.port import Engine
from myna.streaming.events import Ended, Event, Final
from myna.streaming.session.jobs import InferenceJob
from myna.streaming.session.requests import Cancel, Detect, Request, Revise, Submit
from myna.streaming.session.session import Session
from myna.streaming.speech.segmenter import WINDOW
from myna.streaming.speech.silero import SileroVad, VadMemory

Voice = Callable[[int, bytes], list[float]]


def amplitude_voice(channel: int, pcm: bytes) -> list[float]:
    """Return speech probabilities under which loud windows are speech."""
    windows = np.abs(np.frombuffer(pcm, np.int16).astype(np.int32)).reshape(-1, WINDOW)
    return [0.99 if level >= 400 else 0.01 for level in windows.mean(axis=1)]


class SileroVoice:
    """The real model, with one memory per channel."""

    def __init__(self) -> None:
        self._vad = SileroVad()
        self._memories: dict[int, VadMemory] = {}

    def __call__(self, channel: int, pcm: bytes) -> list[float]:
        memory = self._memories.setdefault(channel, VadMemory())
        return self._vad.probabilities([(memory, pcm)])[0]


class Drive:
    """Carries out a session's requests at once, or, given a seed, after random delays and in random order."""

    def __init__(
        self, session: Session, engine: Engine, voice: Voice = amplitude_voice, seed: int | None = None
    ) -> None:
        self.session = session
        self.engine = engine
        self.events: list[Event] = []
        self.decoded: list[InferenceJob] = []
        self._voice = voice
        self._random = random.Random(seed) if seed is not None else None
        self._detects: list[Detect] = []
        self._jobs: list[InferenceJob] = []
        self.most_audio_held = 0

    @property
    def finals(self) -> list[Final]:
        return [event for event in self.events if isinstance(event, Final)]

    @property
    def text(self) -> list[str]:
        return [word.text for final in self.finals for word in final.words]

    def push(self, pcm: np.ndarray, chunk: int = 1600) -> None:
        for start in range(0, len(pcm), chunk):
            self.session.push(pcm[start : start + chunk].astype(np.int16).tobytes(), 0.0)
            self._step()

    def flush(self, token: str) -> None:
        self.session.flush(token)
        self._step()

    def end(self) -> None:
        self.session.end()
        self._step()
        self.settle()
        assert isinstance(self.events[-1], Ended)

    def settle(self) -> None:
        """Carry out all outstanding requests."""
        self._collect()
        while self._detects or self._jobs:
            self._detect_next()
            self._decode_one()

    def _step(self) -> None:
        self._collect()
        if self._random is None:
            self.settle()
            return
        for _ in range(self._random.randrange(3)):
            self._detect_next()
        for _ in range(self._random.randrange(2)):
            self._decode_one()

    def _detect_next(self) -> None:
        if self._detects:
            detect = self._detects.pop(0)
            self.session.on_vad(detect.start, self._voice(detect.channel, detect.pcm))
            self._collect()

    def _decode_one(self) -> None:
        if self._jobs:
            index = self._random.randrange(len(self._jobs)) if self._random else 0
            job = self._jobs.pop(index)
            self.decoded.append(job)
            (outcome,) = self.engine.transcribe([job])
            self.session.on_result(job.id, outcome)
            self._collect()

    def _collect(self) -> None:
        requests, events = self.session.take()
        self.events += events
        self.most_audio_held = max(self.most_audio_held, self.session.audio_held)
        for request in requests:
            self._note(request)

    def _note(self, request: Request) -> None:
        match request:
            case Detect():
                self._detects.append(request)
            case Submit(job):
                self._jobs.append(job)
            case Revise(past):
                self.session.on_revised(past.revised())
                self._collect()
            case Cancel(job_id):
                self._jobs = [job for job in self._jobs if job.id != job_id]


def assert_tiles(finals: Sequence[Final], received: int) -> None:
    """Assert that finals cover the timeline without gap or overlap, and that their words lie in them in order."""
    position, last_start = 0, 0.0
    for final in finals:
        assert final.span.start == position
        position = final.span.end
        for word in final.words:
            assert last_start <= word.start <= word.end
            assert final.span.start / 16_000 - 1e-9 <= word.start
            assert word.end <= final.span.end / 16_000 + 1e-9
            last_start = word.start
    assert position == received
