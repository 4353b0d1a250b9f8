"""Loads a pipeline of pyannote.audio from a folder, and runs its segmentation and its embedding model.

The pipeline's own clustering is not used: it trusts the identity of a voice inside a window (docs/decisions/0140-*).
"""

from __future__ import annotations

import os
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from myna.inference.engines.diarizer.fbank import HAMMING, HOP, LENGTH, fbank
from myna.inference.engines.diarizer.parts import RunSound, frames_of, padded_for_community
from myna.inference.engines.pyannote.folder import inspect
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import SAMPLE_RATE
from myna.streaming.speakers.runs import FIELD, FRAME

_DISTANCE = 0.65
"""Cosine distance that parts speakers by community-1's embedding: between 0.60 and 0.68 composed conversations had the right
number of speakers."""
_ACTIVE = 0.5
"""Activity from which a voice speaks, for a segmentation that gives activities and a pipeline without a threshold."""


class PipelineParts:
    """The models of a pipeline: its segmentation, and its embedding."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        found = inspect(folder)
        self.version, self.uuid = found.version, found.uuid
        pipeline = _loaded(folder, device)
        self._segmentation, self._embedding = pipeline._segmentation, pipeline._embedding
        model = self._segmentation.model
        for rate in (model.audio.sample_rate, self._embedding.sample_rate):
            if rate != SAMPLE_RATE:
                raise EngineUnavailableError(f"a model of {folder} takes {rate} Hz; Myna's audio has {SAMPLE_RATE} Hz")
        self._active = float(getattr(pipeline.segmentation, "threshold", _ACTIVE))
        self._field = model.receptive_field  # a window of one frame, in seconds
        self.distances = (distance := _distance(pipeline), distance)

    def active(self, sound: np.ndarray) -> np.ndarray:
        """Return which voices speak; the model's frames are brought to ours."""
        activity = np.asarray(self._segmentation.infer(torch.from_numpy(padded_for_community(sound))[None, None])[0])
        centres = (FIELD / 2 + np.arange(frames_of(len(sound))) * FRAME) / SAMPLE_RATE
        places = np.rint((centres - self._field.start - self._field.duration / 2) / self._field.step).astype(int)
        return np.asarray(activity[np.clip(places, 0, len(activity) - 1)] > self._active)

    def features(self, sound: np.ndarray) -> np.ndarray:
        """Return log mel features. The embedding model makes its own."""
        return fbank(sound, HAMMING)

    def embedding(self, run: RunSound) -> np.ndarray | None:
        """Return the embedding of the samples of the frames to hear, joined.

        With the weight 0 for the other frames, they would still count in the mean that is subtracted and in the convolutions:
        on a telephone conversation two speakers became one.
        """
        heard = np.append(np.repeat(run.kept, HOP), np.full(LENGTH - HOP, run.kept[-1]))
        sound = run.samples[: len(heard)][heard]
        found = self._embedding(torch.from_numpy(sound)[None, None])[0]
        return np.asarray(found) if np.isfinite(found).all() else None


def _loaded(folder: Path, device: torch.device) -> Any:
    """Return the pipeline on the device. Raises `EngineUnavailableError`."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"  # read at import: by default it reports each start and each call
    os.environ["HF_HUB_OFFLINE"] = "1"
    if torch.version.cuda is None:
        without_extension()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchcodec, which decodes files, may not load: audio is passed as samples
        from pyannote.audio import Pipeline
        from pyannote.audio.pipelines import SpeakerDiarization

        try:
            pipeline = Pipeline.from_pretrained(folder)
        except Exception as error:  # whatever the code of the folder raises
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise EngineUnavailableError(f"{folder} cannot be loaded by pyannote.audio: {reason}") from error
        if not isinstance(pipeline, SpeakerDiarization) or not hasattr(pipeline, "_embedding"):
            raise EngineUnavailableError(f"{folder} is no speaker diarization pipeline with an embedding model")
        return pipeline.to(device)


def without_extension() -> None:
    """Let torchaudio be imported without its compiled part.

    The wheels on PyPI are built for CUDA; that part does not load beside a torch for CPUs.
    pyannote.audio needs the Python part only.
    """
    stub: Any = types.ModuleType("torchaudio._extension")
    stub._IS_TORCHAUDIO_EXT_AVAILABLE = stub._IS_ALIGN_AVAILABLE = False
    stub.fail_if_no_align = lambda function: function
    stub._check_cuda_version = lambda: None
    sys.modules.setdefault("torchaudio._extension", stub)


def _distance(pipeline: Any) -> float:
    """Return the distance that parts speakers: that of a pipeline which cuts the same tree, average linkage on cosines."""
    clustering = pipeline.clustering
    if getattr(clustering, "method", None) == "average" and clustering.metric == "cosine":
        return float(clustering.threshold)
    return _DISTANCE
