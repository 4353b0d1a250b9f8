from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
from tiny import HERE, MODELS, TINY, Reference, Sentence

from myna.streaming.engines.base import ModelOptions
from myna.streaming.engines.parakeet import ParakeetEngine


@pytest.fixture(scope="session")
def sentences() -> list[Sentence]:
    return read("held_out")


@pytest.fixture(scope="session")
def unseen() -> list[Sentence]:
    return read("unseen")


def read(folder: str) -> list[Sentence]:
    lines = (HERE / folder / "manifest.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [Sentence(e["text"], soundfile.read(HERE / folder / e["audio"], dtype="int16")[0]) for e in entries]


@pytest.fixture(scope="session", params=list(MODELS))
def path(request: pytest.FixtureRequest) -> Path:
    return MODELS[request.param]


@pytest.fixture(scope="session")
def engine(path: Path) -> ParakeetEngine:
    return ParakeetEngine(ModelOptions(source=str(path)))


@pytest.fixture
def tiny() -> ParakeetEngine:
    """One of the test's own, to be broken at will."""
    return ParakeetEngine(ModelOptions(source=str(TINY)))


@pytest.fixture(scope="session")
def reference(path: Path) -> Reference:
    return Reference(path)
