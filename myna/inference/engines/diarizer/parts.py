"""The models of a diarizer as `DiarizerEngine` uses them, and the ones that a model's source stands for.

Models differ in the audio that their segmentation takes, in the form of its answer, in their features and in how an embedding
leaves frames out. All that follows from these is the engine's and the same for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from myna.streaming.events import samples
from myna.streaming.speakers.runs import FIELD, FRAME, WINDOW

_SHORT = samples(4.0)
"""A window with less is padded for community-1."""


@dataclass(frozen=True, slots=True)
class RunSound:
    """The sound of a run: float samples, which of their frames of 10 ms to hear, and the features of those frames."""

    samples: np.ndarray
    kept: np.ndarray
    features: np.ndarray

    @property
    def centred(self) -> np.ndarray:
        """The features less their mean, as a batch of one [1, frames, 80]."""
        return np.asarray((self.features - self.features.mean(axis=0))[None])


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


def padded(sound: np.ndarray, shortest: int, length: int) -> np.ndarray:
    """Return the sound, with silence up to `length` samples behind it if it has less than `shortest`."""
    return np.pad(sound, (0, length - len(sound) if len(sound) < shortest else 0))


def padded_for_community(sound: np.ndarray) -> np.ndarray:
    """Return the sound as community-1's segmentation, which was trained on `WINDOW`, hears it well.

    In three seconds of a tone and nothing else it hears a voice.
    """
    return padded(sound, _SHORT, WINDOW)


def frames_of(length: int) -> int:
    """Return the number of a segmentation's frames that lie inside so many samples, at least one."""
    return max(1, (length - FIELD) // FRAME + 1)
