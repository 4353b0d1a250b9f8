"""The models of a diarizer as `DiarizerEngine` uses them, and the ones that a model's source stands for.

Models differ in the audio that their segmentation takes, in the form of its answer, in their features and in how an embedding
leaves frames out. All that follows from these is the engine's and the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from myna.streaming.events import SAMPLE_RATE
from myna.streaming.speakers.runs import FIELD, FRAME, WINDOW


@dataclass(frozen=True, slots=True)
class RunSound:
    """The sound of a run: float samples, which of their frames of 10 ms to hear, and the features of those frames."""

    samples: np.ndarray
    kept: np.ndarray
    features: np.ndarray


class SpeakerParts(Protocol):
    """A segmentation and an embedding model. The lanes of a process share them."""

    distances: tuple[float, float]
    """Cosine distances that part speakers, in wideband and narrowband speech."""
    version: str
    uuid: str

    def active(self, sound: np.ndarray) -> np.ndarray:
        """Return which voices speak, bool [frames, voices], in a window of at most ten seconds of float audio.

        Frame i is centred at sample `FIELD` / 2 + i · `FRAME`.
        """
        ...

    def features(self, sound: np.ndarray) -> np.ndarray:
        """Return the log mel features float32 [frames, 80] of float audio, every 10 ms."""
        ...

    def embedding(self, run: RunSound) -> np.ndarray | None:
        """Return the embedding of a run, of any length; None if the model hears too little."""
        ...


def padded(sound: np.ndarray) -> np.ndarray:
    """Return the sound, with silence behind it if it is shorter than a second, which segmentations do not hear well."""
    missing = WINDOW - len(sound) if len(sound) < 4 * SAMPLE_RATE else 0  # in 3 s of a tone alone it hears a voice
    return np.pad(sound, (0, missing))


def frames_of(length: int) -> int:
    """Return the number of a segmentation's frames that lie inside so many samples, at least one."""
    return max(1, (length - FIELD) // FRAME + 1)
