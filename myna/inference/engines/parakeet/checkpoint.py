"""What a .nemo file says of itself, read without loading NeMo: a tar with the model's configuration and its weights."""

from __future__ import annotations

import hashlib
import tarfile
import uuid
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from myna.streaming.errors import EngineUnavailableError

SUPPORTED = ("EncDecRNNTBPEModel", "EncDecHybridRNNTCTCBPEModel")
"""NeMo's classes of the transducers with word pieces, alone and with a CTC head beside them."""
_CONFIGURATION, _WEIGHTS = "model_config.yaml", "model_weights.ckpt"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A usable .nemo file. `languages` is empty where the file does not say."""

    path: Path
    class_name: str
    streaming: bool
    """Whether the encoder is cache-aware: trained to see only so much of the future."""
    languages: tuple[str, ...]
    version: str
    """NeMo's version that wrote the file; empty if it does not say."""
    uuid: str
    """Follows from the file's size, configuration and the first of its weights: the same file, the same uuid."""
    size: int


def inspect(path: Path) -> Checkpoint:
    """Read a .nemo file's description. Raises `EngineUnavailableError` if no engine here can use the file."""
    configuration, digest = _read(path)
    class_name = str(configuration.get("target", "")).rsplit(".", 1)[-1] or _guessed(configuration)
    if class_name not in SUPPORTED:
        is_a = class_name or "model of unknown class"
        raise EngineUnavailableError(f"{path.name} is a {is_a}; Myna serves the transducers {' and '.join(SUPPORTED)}")
    encoder = configuration.get("encoder") or {}
    size = path.stat().st_size
    return Checkpoint(
        path=path,
        class_name=class_name,
        streaming=encoder.get("att_context_style") == "chunked_limited",
        languages=_languages(configuration),
        version=str(configuration.get("nemo_version", "")),
        uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{size} {digest}")),
        size=size,
    )


def _read(path: Path) -> tuple[dict[str, Any], str]:
    configuration, weights = b"", b""
    try:
        with tarfile.open(path) as archive:
            for member in archive:  # to its end: a truncated file shows itself there
                name = Path(member.name).name
                if name == _CONFIGURATION and (content := archive.extractfile(member)):
                    configuration = content.read(16 << 20)
                elif name == _WEIGHTS and (content := archive.extractfile(member)):
                    weights = content.read(1 << 20)
    except FileNotFoundError as error:
        raise EngineUnavailableError(f"there is no file {path}") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise EngineUnavailableError(f"{path.name} is no whole .nemo file (a tar archive): {error}") from error
    if not configuration or not weights:
        missing = _WEIGHTS if configuration else _CONFIGURATION
        raise EngineUnavailableError(f"{path.name} is no .nemo file: it holds no {missing}")
    yaml = import_module("yaml")  # comes with NeMo; without it no .nemo file can be used anyway
    try:
        parsed = yaml.safe_load(configuration)
    except yaml.YAMLError as error:
        raise EngineUnavailableError(f"{path.name} holds a {_CONFIGURATION} that is no YAML: {error}") from error
    if not isinstance(parsed, dict):
        raise EngineUnavailableError(f"{path.name} holds a {_CONFIGURATION} that describes no model")
    return parsed, hashlib.sha256(configuration + weights).hexdigest()


def _guessed(configuration: dict[str, Any]) -> str:
    """Name the class of a file that does not: very old ones leave it out."""
    if "joint" not in configuration or "tokenizer" not in configuration:
        return ""
    return SUPPORTED[1] if "aux_ctc" in configuration else SUPPORTED[0]


def _languages(configuration: dict[str, Any]) -> tuple[str, ...]:
    tokenizer = configuration.get("tokenizer") or {}
    if isinstance(tokenizer.get("langs"), dict):  # an aggregate of one tokenizer a language
        return tuple(tokenizer["langs"])
    declared = configuration.get("languages") or configuration.get("language") or ()
    return (declared,) if isinstance(declared, str) else tuple(str(language) for language in declared)
