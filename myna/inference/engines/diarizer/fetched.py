"""The models that `myna models add diarization` fetches: checks their files, and runs them as graphs built at load.

The graphs are built in memory from the checkpoints, in half a second, so that the folder holds only files of known sums.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from myna.inference.engines.cpu_session import cpu_session
from myna.inference.engines.diarizer import campplus, pyannet
from myna.inference.engines.diarizer.fbank import POVEY, fbank
from myna.inference.engines.diarizer.offer import CAMPPLUS, SEGMENTATION, VERSION, checked
from myna.inference.engines.diarizer.parts import RunSound, frames_of, padded
from myna.inference.engines.diarizer.torch_zip import read_checkpoint
from myna.streaming.events import SAMPLE_RATE


class FetchedParts:
    """pyannote's segmentation-3.0 at any length, and CAM++, an embedding of 192 numbers."""

    distances = (0.64, 0.52)
    """Of 54 composed conversations of hidden speakers, 54 had the right number of speakers: see docs/speakers.md."""

    def __init__(self, folder: Path) -> None:
        self.version, self.uuid = VERSION, checked(folder)
        segmentation = read_checkpoint(folder / SEGMENTATION)["state_dict"]
        self._segmentation = cpu_session(pyannet.segmentation_graph(segmentation))
        self._embedding = cpu_session(campplus.embedding_graph(read_checkpoint(folder / CAMPPLUS)))

    def active(self, sound: np.ndarray) -> np.ndarray:
        """Return which voices speak: those of the class with the highest score. Less than a second is padded to one."""
        scores = self._segmentation.run(None, {pyannet.INPUT: padded(sound, SAMPLE_RATE, SAMPLE_RATE)[None, None]})[0][
            0
        ]
        return np.asarray(pyannet.POWERSET[scores[: frames_of(len(sound))].argmax(axis=-1)])

    def features(self, sound: np.ndarray) -> np.ndarray:
        """Return log mel features with Povey's window."""
        return fbank(sound, POVEY)

    def embedding(self, run: RunSound) -> np.ndarray:
        """Return the embedding of the frames to hear; the mean of those frames is subtracted."""
        return np.asarray(self._embedding.run(None, {campplus.INPUT: run.centred})[0][0])
