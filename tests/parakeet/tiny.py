"""The small models, NeMo's own models for comparison, and helpers of the Parakeet tests."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nemo.collections.asr.models import ASRModel

from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.streaming.policy import Options
from myna.streaming.session.jobs import InferenceJob, JobKind, Outcome, Transcript

HERE = Path(__file__).parent
TINY, TINY_STREAMING = HERE / "tiny-parakeet.nemo", HERE / "tiny-parakeet-streaming.nemo"
STEP = 12_800  # 0.8 s
MODELS = {"full": TINY, "cache-aware": TINY_STREAMING}


@dataclass(frozen=True)
class Sentence:
    text: str
    pcm: np.ndarray  # int16 at 16 kHz


class Reference:
    """NeMo's own model and `transcribe`, one utterance at a time: in batches, its word ends are wrong (issue 16097)."""

    def __init__(self, path: Path) -> None:
        self.model = ASRModel.restore_from(str(path), map_location="cpu")
        self.model.eval()

    def transcribe(self, audio: list[np.ndarray], *, timestamps: bool = False) -> list[Any]:
        floats = [samples.astype(np.float32) / 32768 for samples in audio]
        return list(self.model.transcribe(floats, batch_size=1, verbose=False, timestamps=timestamps))


def final(pcm: np.ndarray, name: str = "f", keyterms: tuple[str, ...] = ()) -> InferenceJob:
    return InferenceJob(name, name, JobKind.FINAL, pcm.tobytes(), 0.0, options=Options(keyterms=keyterms))


def decode(engine: ParakeetEngine, audio: list[np.ndarray]) -> list[Outcome]:
    """Decode as finals, in batches of 16."""
    jobs = [final(pcm, str(number)) for number, pcm in enumerate(audio)]
    return [outcome for i in range(0, len(jobs), 16) for outcome in engine.transcribe(jobs[i : i + 16])]


def text(outcome: Outcome) -> str:
    assert isinstance(outcome, Transcript), outcome
    return " ".join(word.text for word in outcome.words)


def times(outcome: Outcome) -> list[tuple[str, float, float]]:
    assert isinstance(outcome, Transcript), outcome
    return [(word.text, word.start, word.end) for word in outcome.words]


def step(source: str, pcm: np.ndarray, held: int, end: int, utterance: int = 1) -> InferenceJob:
    return InferenceJob(
        f"{source} {end}", source, JobKind.INTERIM, pcm[held:end].tobytes(), 0.0, utterance=utterance, held=held
    )


def follow(engine: ParakeetEngine, source: str, pcm: np.ndarray, size: int = STEP) -> list[Outcome]:
    """Pass the utterance in steps; return the outcome of each."""
    ends = [*range(size, len(pcm), size), len(pcm)]
    outcomes = [
        engine.transcribe([step(source, pcm, held, end)])[0] for held, end in zip([0, *ends], ends, strict=False)
    ]
    engine.release(source)
    return outcomes


def joined(sentences: list[Sentence], seconds: float) -> tuple[np.ndarray, str]:
    """Return speech of at least this length without a long pause, and its text."""
    parts, texts, length = list[np.ndarray](), list[str](), 0
    for sentence in sentences:
        parts.append(sentence.pcm)
        texts.append(sentence.text)
        length += len(sentence.pcm)
        if length >= seconds * 16_000:
            break
    return np.concatenate(parts), " ".join(texts)


def spaced(written: str) -> str:
    return " ".join(written.split())


def plain(written: str) -> str:
    return "".join(c for c in written.lower() if c.isalnum() or c == " ")


def contents(path: Path) -> dict[str, bytes]:
    """Return the files in a .nemo file."""
    with tarfile.open(path) as archive:
        return {Path(m.name).name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]


def write(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path
