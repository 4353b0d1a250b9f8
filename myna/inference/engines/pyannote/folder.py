"""Reads what the folder of a pipeline declares, without loading it: loading runs code that the folder names."""

from __future__ import annotations

import uuid
import zipfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from myna.streaming.errors import EngineUnavailableError

CONFIGURATION = "config.yaml"
_PIPELINE = "SpeakerDiarization"
_MODELS = ("segmentation", "embedding")
_WEIGHTS = "pytorch_model.bin"
_HERE = "$model/"
"""What the configuration writes for the folder itself."""


@dataclass(frozen=True, slots=True)
class PipelineFolder:
    """What a folder declares. `size` is in bytes; `uuid` is the same for the same files."""

    version: str
    size: int
    uuid: str


def inspect(path: Path) -> PipelineFolder:
    """Return what the folder declares. Raises `EngineUnavailableError` if it is no complete diarization pipeline."""
    configuration = _configuration(path / CONFIGURATION)
    pipeline = configuration.get("pipeline")
    name = str(pipeline.get("name", "")) if isinstance(pipeline, dict) else ""
    if name.rpartition(".")[2] != _PIPELINE:
        raise EngineUnavailableError(
            f"{path / CONFIGURATION} describes the pipeline {name or 'of no name'!r}; expected pipeline.name to be"
            f" pyannote.audio.pipelines.{_PIPELINE}"
        )
    parameters = pipeline.get("params") if isinstance(pipeline, dict) else None
    for model in _MODELS:
        _check_model(path, model, parameters.get(model) if isinstance(parameters, dict) else None)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    required = configuration.get("dependencies")
    version = configuration.get("version") or (required or {}).get("pyannote.audio") or ""
    return PipelineFolder(
        str(version),
        sum(file.stat().st_size for file in files),
        str(uuid.uuid5(uuid.NAMESPACE_OID, " ".join(_fingerprint(file, path) for file in files))),
    )


def _configuration(file: Path) -> dict[str, Any]:
    yaml = import_module("yaml")  # installed with pyannote.audio, without which no pipeline can be used
    try:
        parsed = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise EngineUnavailableError(f"{file} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise EngineUnavailableError(f"{file} is not YAML: {reason}") from error
    if not isinstance(parsed, dict):
        raise EngineUnavailableError(f"{file} must hold a mapping with `pipeline`, not {type(parsed).__name__}")
    return parsed


def _check_model(path: Path, model: str, given: Any) -> None:
    """Check that a model's weights lie in the folder, whole: nothing is downloaded."""
    if isinstance(given, dict):
        given = f"{given.get('checkpoint', '')}/{given.get('subfolder', '')}".rstrip("/")
    if not isinstance(given, str) or not given:
        raise EngineUnavailableError(f"{path / CONFIGURATION} names no model in pipeline.params.{model}")
    weights = path / given.removeprefix(_HERE) if given.startswith(_HERE) else Path(given)
    if not weights.exists() and not given.startswith((_HERE, "/")):
        raise EngineUnavailableError(
            f"{path / CONFIGURATION} names the {model} model {given!r} of a model hub; Myna downloads none:"
            f" put the model into {path / model} and write {_HERE}{model}"
        )
    if weights.is_dir() or given.startswith(_HERE):
        weights /= "" if weights.is_file() else _WEIGHTS
    if not weights.is_file():
        raise EngineUnavailableError(f"{path} lacks the weights of its {model} model: {weights} does not exist")
    if weights.name == _WEIGHTS and not zipfile.is_zipfile(weights):
        size = weights.stat().st_size
        raise EngineUnavailableError(
            f"{weights} ({size} bytes) is cut short or is no torch checkpoint, which is a zip archive"
        )


def _fingerprint(file: Path, folder: Path) -> str:
    with file.open("rb") as content:
        return f"{file.relative_to(folder)} {file.stat().st_size} {content.read(1 << 16).hex()}"
