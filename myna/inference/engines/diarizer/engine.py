"""The diarizer: hears which voices speak in a window of audio, and embeds each run of a voice."""

from __future__ import annotations

import numpy as np
import onnxruntime

from myna.inference.engines.diarizer.fbank import CENTRES_HZ, HOP, LENGTH, fbank
from myna.inference.engines.diarizer.parts import EMBEDDING, SEGMENTATION, embedded
from myna.streaming.events import Span
from myna.streaming.speakers.clustering import unit
from myna.streaming.speakers.runs import FIELD, FRAME, LEAST_HEARD, WINDOW, LocalRun, Run, Track, local_runs

_ACTIVE = 0.5
"""Activity from which a voice speaks: pyannote's own default."""
_LEAST_FRAMES = LEAST_HEARD // HOP
_HIGH = (CENTRES_HZ > 4300) & (CENTRES_HZ < 7600)
_MIDDLE = (CENTRES_HZ > 500) & (CENTRES_HZ < 3000)


class Diarizer:
    """Both models on one thread."""

    def __init__(self) -> None:
        found = embedded({"segmentation": SEGMENTATION, "embedding": EMBEDDING})
        self._segmentation = _session(found["segmentation"])
        self._embedding = _session(found["embedding"])

    def runs(self, audio: np.ndarray, wanted: Span, window: int, start: int) -> list[Run]:
        """Return the runs of a window: int16 audio of at most `WINDOW` samples that begins at sample `start` of its channel.

        Frames outside the window's samples `wanted` do not count. `window` numbers the windows of a channel.
        """
        sound = audio.astype(np.float32) / 32768
        runs = []
        for local in local_runs(self._active(sound), wanted):
            embedding, heard, tilt = self._voice(sound[local.span.start : local.span.end + LENGTH - HOP], local)
            span = Span(start + local.span.start, start + max(local.span.start, min(local.span.end, len(sound))))
            runs.append(Run(span, local.own, Track(window, local.voice), embedding, heard, tilt))
        return runs

    def _active(self, sound: np.ndarray) -> np.ndarray:
        """Return which voices speak, bool [frames, 3], in a window of float audio."""
        padded = np.pad(sound, (0, WINDOW - len(sound)))
        frames = max(1, (len(sound) - FIELD) // FRAME + 1)
        activity = self._segmentation.run(None, {"waveforms": padded[None, None]})[0][0]
        return np.asarray(activity[:frames] > _ACTIVE)

    def _voice(self, sound: np.ndarray, local: LocalRun) -> tuple[np.ndarray | None, int, float]:
        """Return a run's embedding, the samples that it was made of, and its tilt."""
        features = fbank(sound)
        middles = np.arange(len(features)) * HOP + LENGTH // 2
        features = features[local.frames[np.minimum(middles // FRAME, len(local.frames) - 1)]]
        heard = len(features) * HOP
        if len(features) < _LEAST_FRAMES:
            return None, heard, 0.0
        tilt = float(features[:, _HIGH].mean() - features[:, _MIDDLE].mean())
        told = {"fbank": (features - features.mean(axis=0))[None], "weights": np.ones((1, len(features)), np.float32)}
        return unit(self._embedding.run(None, told)[0][0].astype(np.float32)), heard, tilt


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
