"""The engine kind of pyannote.audio: folders of a speaker diarization pipeline, such as community-1."""

from __future__ import annotations

from pathlib import Path

from myna.inference.engines.kind import EngineKind, Model
from myna.inference.engines.pyannote.folder import CONFIGURATION, inspect


def _claims(path: Path) -> bool:
    return (path / CONFIGURATION).is_file()


def _describe(path: Path) -> Model:
    found = inspect(path)
    created = int((path / CONFIGURATION).stat().st_mtime)
    return Model(
        path.name, KIND.name, str(path), version=found.version, uuid=found.uuid, size=found.size, created=created
    )


KIND = EngineKind(
    name="pyannote",
    engine="myna.inference.engines.pyannote.engine:PyannoteEngine",
    summary="tells speakers apart with pipelines of pyannote.audio",
    needs=("torch", "torchaudio", "pyannote.audio"),
    install="pip install 'myna[pyannote]'",
    answers="voices",
    lanes="one",
    process_bytes=600 << 20,
    lane_bytes=100 << 20,
    form=f"a folder of a pipeline of pyannote.audio, with its {CONFIGURATION}",
    claims=_claims,
    describe=_describe,
)
