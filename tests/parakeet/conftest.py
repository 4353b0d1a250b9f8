from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tiny import HERE, MODELS, TINY, TINY_STREAMING, Reference, Sentence

from myna.inference.engines.parakeet.engine import ParakeetEngine
from myna.inference.engines.port import ModelOptions


@pytest.fixture(scope="session")
def sentences() -> list[Sentence]:
    return list(read("held_out").values())


@pytest.fixture(scope="session")
def unseen() -> dict[str, np.ndarray]:
    """Speech with a word that no training sentence contains, by that word."""
    return {word: sentence.pcm for word, sentence in read("unseen").items()}


@pytest.fixture(scope="session")
def boosted_word(path: Path) -> str:
    """One of these words that this model recognises only if it is boosted."""
    return {TINY: "Davidson", TINY_STREAMING: "Annabel"}[path]


def read(folder: str) -> dict[str, Sentence]:
    """Return a folder's recordings by file name."""
    entries = [json.loads(line) for line in (HERE / folder / "manifest.jsonl").read_text().splitlines()]
    return {
        Path(e["audio"]).stem: Sentence(e["text"], soundfile.read(HERE / folder / e["audio"], dtype="int16")[0])
        for e in entries
    }


@pytest.fixture(scope="session", params=list(MODELS))
def path(request: pytest.FixtureRequest) -> Path:
    return MODELS[request.param]


@pytest.fixture(scope="session")
def engine(path: Path) -> ParakeetEngine:
    return ParakeetEngine(ModelOptions(source=str(path)))


@pytest.fixture
def tiny() -> ParakeetEngine:
    """A separate engine that the test may break."""
    return ParakeetEngine(ModelOptions(source=str(TINY)))


@pytest.fixture(scope="session")
def reference(path: Path) -> Reference:
    return Reference(path)
