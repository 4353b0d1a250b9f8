"""The diarizer: hears which voices speak in a window of audio, and embeds each run of a voice."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence

import numpy as np
import onnxruntime

from myna.inference.engines.cpu_session import cpu_session
from myna.inference.engines.diarizer.fbank import CENTRES_HZ, HOP, LENGTH, fbank
from myna.inference.engines.diarizer.kind import MODEL
from myna.inference.engines.diarizer.parts import EMBEDDING, SEGMENTATION, embedded
from myna.inference.engines.port import ModelOptions
from myna.streaming.events import Span, seconds
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Outcome
from myna.streaming.speakers.clustering import unit
from myna.streaming.speakers.runs import (
    FIELD,
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

_ACTIVE = 0.5
"""Activity from which a voice speaks: pyannote's own default."""
DISTANCES = (0.65, 0.65)
"""Cosine distances that part speakers, in wideband and narrowband speech. On composed conversations all between 0.60 and 0.68
told the number of speakers right."""
_LEAST_FRAMES = LEAST_HEARD // HOP
_HIGH = (CENTRES_HZ > 4300) & (CENTRES_HZ < 7600)
_MIDDLE = (CENTRES_HZ > 500) & (CENTRES_HZ < 3000)


class DiarizerEngine:
    """The models of one lane; the lanes of a process share their weights."""

    def __init__(self, options: ModelOptions) -> None:
        self._segmentation, self._embedding = _sessions()
        self.info = EngineInfo(
            name=options.name or MODEL.name,
            languages=(),
            longest_segment_s=seconds(WINDOW),
            smallest_endpoint_ms=100,
            voice_distances=DISTANCES,
            version=MODEL.version,
            uuid=MODEL.uuid,
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
        return Voices(tuple(self._run(sound, part, local) for local in local_runs(self._active(sound), part.wanted)))

    def _run(self, sound: np.ndarray, part: WindowPart, local: LocalRun) -> Run:
        embedding, heard, tilt = self._voice(sound[local.span.start : local.span.end + LENGTH - HOP], local)
        begin = min(local.span.start, len(sound))
        span = Span(part.start + begin, part.start + max(begin, min(local.span.end, len(sound))))
        return Run(span, local.own, Track(part.number, local.voice), embedding, heard, tilt)

    def _active(self, sound: np.ndarray) -> np.ndarray:
        """Return which voices speak, bool [frames, 3], in a window of float audio."""
        padded = np.pad(sound, (0, WINDOW - len(sound)))
        frames = max(1, (len(sound) - FIELD) // FRAME + 1)
        activity = self._segmentation.run(None, {"waveforms": padded[None, None]})[0][0]
        return np.asarray(activity[:frames] > _ACTIVE)

    def _voice(self, sound: np.ndarray, local: LocalRun) -> tuple[bytes | None, int, float]:
        """Return a run's embedding, the samples that it was made of, and its tilt."""
        features = fbank(sound)
        middles = np.arange(len(features)) * HOP + LENGTH // 2
        features = features[local.frames[np.minimum(middles // FRAME, len(local.frames) - 1)]]
        heard = len(features) * HOP
        if len(features) < _LEAST_FRAMES:
            return None, heard, 0.0
        tilt = float(features[:, _HIGH].mean() - features[:, _MIDDLE].mean())
        told = {"fbank": (features - features.mean(axis=0))[None], "weights": np.ones((1, len(features)), np.float32)}
        return unit(self._embedding.run(None, told)[0][0].astype(np.float32)).tobytes(), heard, tilt


_loading = threading.Lock()


def _sessions() -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """Return the sessions of the process; the first lane that asks loads them."""
    with _loading:
        return _loaded()


@functools.cache
def _loaded() -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    found = embedded({"segmentation": SEGMENTATION, "embedding": EMBEDDING})
    return cpu_session(found["segmentation"]), cpu_session(found["embedding"])
