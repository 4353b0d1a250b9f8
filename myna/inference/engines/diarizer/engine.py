"""The diarizer: hears which voices speak in a window of audio, and embeds each run of a voice."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from myna.inference.engines.diarizer.embedded import EmbeddedParts
from myna.inference.engines.diarizer.fbank import CENTRES_HZ, HOP, LENGTH
from myna.inference.engines.diarizer.fetched import FetchedParts
from myna.inference.engines.diarizer.kind import EMBEDDED
from myna.inference.engines.diarizer.parts import RunSound, SpeakerParts
from myna.inference.engines.port import ModelOptions
from myna.streaming.events import Span, samples, seconds
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Outcome
from myna.streaming.speakers.clustering import unit
from myna.streaming.speakers.runs import (
    FRAME,
    LEAST_HEARD,
    WINDOW,
    LocalRun,
    Run,
    Track,
    Voices,
    WindowPart,
    local_runs,
)

_LEAST_FRAMES = LEAST_HEARD // HOP
_MOST_FRAMES = samples(3.0) // HOP
"""Of a longer run the middle is embedded: the labels of composed conversations stayed the same."""
_HIGH = (CENTRES_HZ > 4300) & (CENTRES_HZ < 7600)
_MIDDLE = (CENTRES_HZ > 500) & (CENTRES_HZ < 3000)


class DiarizerEngine:
    """The models of one lane; the lanes of a process share their weights."""

    def __init__(self, options: ModelOptions, parts: SpeakerParts | None = None) -> None:
        self._parts = parts = parts or _shared_parts(options.source)
        self.info = EngineInfo(
            name=options.name or EMBEDDED.name,
            languages=(),
            longest_segment_s=seconds(WINDOW),
            smallest_endpoint_ms=100,
            voice_distances=parts.distances,
            version=parts.version,
            uuid=parts.uuid,
        )

    def warm_up(self) -> None:
        """Hear a window of silence."""
        self.transcribe([InferenceJob("warm-up", "warm-up", JobKind.FILE, bytes(2 * WINDOW), 0.0)])

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Return the voices of each job's window."""
        return [self._voices(job) for job in jobs]

    def release(self, source: str) -> None:
        """Do nothing: no state is kept between windows."""

    def _voices(self, job: InferenceJob) -> Outcome:
        if job.length > WINDOW:
            return JobError(f"{seconds(job.length):.1f} s of audio exceed the {seconds(WINDOW):g} s of a window")
        part = job.window or WindowPart(0, 0, Span(0, job.length))
        sound = np.frombuffer(job.pcm, np.int16).astype(np.float32) / 32768
        return Voices(
            tuple(self._run(sound, part, local) for local in local_runs(self._parts.active(sound), part.wanted))
        )

    def _run(self, sound: np.ndarray, part: WindowPart, local: LocalRun) -> Run:
        embedding, heard, tilt = self._voice(sound[local.span.start : local.span.end + LENGTH - HOP], local)
        begin = min(local.span.start, len(sound))
        span = Span(part.start + begin, part.start + max(begin, min(local.span.end, len(sound))))
        return Run(span, local.own, Track(part.number, local.voice), embedding, heard, tilt)

    def _voice(self, sound: np.ndarray, local: LocalRun) -> tuple[bytes | None, int, float]:
        """Return a run's embedding, the samples that it was made of, and its tilt."""
        features = self._parts.features(sound)
        middles = np.arange(len(features)) * HOP + LENGTH // 2
        kept = _middle(local.frames[np.minimum(middles // FRAME, len(local.frames) - 1)])
        features = features[kept]
        heard = len(features) * HOP
        if len(features) < _LEAST_FRAMES or (found := self._parts.embedding(RunSound(sound, kept, features))) is None:
            return None, heard, 0.0
        tilt = float(features[:, _HIGH].mean() - features[:, _MIDDLE].mean())
        return unit(found.astype(np.float32)).tobytes(), heard, tilt


def _middle(kept: np.ndarray) -> np.ndarray:
    """Return the frames to hear without the first and the last ones of too many."""
    chosen = np.flatnonzero(kept)
    surplus = max(0, len(chosen) - _MOST_FRAMES)
    middle = np.zeros_like(kept)
    middle[chosen[surplus // 2 : len(chosen) - (surplus - surplus // 2)]] = True
    return middle


_loading = threading.Lock()


def _shared_parts(source: str) -> SpeakerParts:
    """Return the models of the process; the first lane that asks loads them. Raises `EngineUnavailableError`."""
    with _loading:
        return _loaded(source)


@functools.cache
def _loaded(source: str) -> SpeakerParts:
    return FetchedParts(Path(source)) if source else EmbeddedParts()
