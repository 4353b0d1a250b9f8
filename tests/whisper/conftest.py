from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from fetched import fetched

from myna.inference.engines.port import ModelOptions
from myna.inference.engines.whisper.engine import WhisperEngine

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_en_folder() -> Path:
    return fetched("whisper-tiny.en")


@pytest.fixture(scope="session")
def base_folder() -> Path:
    return fetched("whisper-base")


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
