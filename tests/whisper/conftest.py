from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import soundfile

from myna.inference.engines.offers import add, offered
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.whisper.engine import WhisperEngine

HERE = Path(__file__).parent


def model(name: str) -> Path:
    """Return the folder of a model that an engine offers; it is fetched once on a machine."""
    folder = Path(os.environ.get("MYNA_TEST_MODELS") or platformdirs.user_cache_path("myna") / "test-models")
    return folder / name if (folder / name).is_dir() else add(offered(name), folder)


@pytest.fixture(scope="session")
def tiny_en_folder() -> Path:
    return model("whisper-tiny.en")


@pytest.fixture(scope="session")
def base_folder() -> Path:
    return model("whisper-base")


@pytest.fixture(scope="session")
def tiny_en(tiny_en_folder: Path) -> WhisperEngine:
    return WhisperEngine(ModelOptions(source=str(tiny_en_folder), name="whisper-tiny.en", threads=1))


@pytest.fixture(scope="session")
def base(base_folder: Path) -> WhisperEngine:
    return WhisperEngine(ModelOptions(source=str(base_folder), name="whisper-base", threads=1))


@pytest.fixture(scope="session")
def speech() -> dict[str, np.ndarray]:
    """A sentence in each of several languages, spoken by espeak-ng, by ISO 639-1 code; int16 at 16 kHz."""
    return {file.stem: soundfile.read(file, dtype="int16")[0] for file in sorted((HERE / "speech").glob("*.flac"))}
