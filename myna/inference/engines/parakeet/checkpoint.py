"""Reads the description in a .nemo file, a tar archive of the model's configuration and weights, without loading NeMo."""

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
"""NeMo's classes of transducers with word pieces: without and with an additional CTC head."""
_CONFIGURATION, _WEIGHTS = "model_config.yaml", "model_weights.ckpt"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A usable .nemo file. `languages` is empty if the file declares none."""

    path: Path
    class_name: str
    streaming: bool
    """Whether the encoder is cache-aware: trained on a limited view of the future."""
    languages: tuple[str, ...]
    version: str
    """The NeMo version that wrote the file; empty if unknown."""
    uuid: str
    """Derived from the file's size, its configuration and the first MiB of its weights: the same file has the same uuid."""
    size: int
    contexts: tuple[tuple[int, int], ...] = ()
    """How many frames before and after a frame a cache-aware encoder attends to: one pair for each way it was trained."""
    frame_ms: int = 80
    """Milliseconds between two encoder frames."""

    @property
    def look_aheads_ms(self) -> tuple[int, ...]:
        """The look-aheads of `contexts`, in ms."""
        return tuple(after * self.frame_ms for _, after in self.contexts)


def inspect(path: Path) -> Checkpoint:
    """Read a .nemo file's description. Raises `EngineUnavailableError` if the engine cannot use the file."""
    configuration, digest = _read(path)
    class_name = str(configuration.get("target", "")).rsplit(".", 1)[-1] or _guessed(configuration)
    if class_name not in SUPPORTED:
        is_a = class_name or "model of unknown class"
        raise EngineUnavailableError(f"{path.name} is a {is_a}; Myna serves the transducers {' and '.join(SUPPORTED)}")
    encoder = configuration.get("encoder") or {}
    features = configuration.get("preprocessor") or {}
    streaming = encoder.get("att_context_style") == "chunked_limited"
    size = path.stat().st_size
    return Checkpoint(
        path=path,
        class_name=class_name,
        streaming=streaming,
        languages=_languages(configuration),
        version=str(configuration.get("nemo_version", "")),
        uuid=str(uuid.uuid5(uuid.NAMESPACE_OID, f"{size} {digest}")),
        size=size,
        contexts=_contexts(encoder.get("att_context_size")) if streaming else (),
        frame_ms=round(1000 * float(features.get("window_stride", 0.01)) * int(encoder.get("subsampling_factor", 8))),
    )


def _read(path: Path) -> tuple[dict[str, Any], str]:
    configuration, weights = b"", b""
    try:
        with tarfile.open(path) as archive:
            for member in archive:  # to the end, where a truncated file raises an error
                name = Path(member.name).name
                if name == _CONFIGURATION and (content := archive.extractfile(member)):
                    configuration = content.read(16 << 20)
                elif name == _WEIGHTS and (content := archive.extractfile(member)):
                    weights = content.read(1 << 20)
    except FileNotFoundError as error:
        raise EngineUnavailableError(f"file {path} does not exist") from error
    except (tarfile.TarError, EOFError, OSError) as error:
        raise EngineUnavailableError(f"{path.name} is not a complete .nemo file (a tar archive): {error}") from error
    if not configuration or not weights:
        missing = _WEIGHTS if configuration else _CONFIGURATION
        raise EngineUnavailableError(f"{path.name} is not a .nemo file: it lacks {missing}")
    yaml = import_module("yaml")  # installed with NeMo, without which no .nemo file can be used
    try:
        parsed = yaml.safe_load(configuration)
    except yaml.YAMLError as error:
        raise EngineUnavailableError(f"{path.name} holds a {_CONFIGURATION} that is not YAML: {error}") from error
    if not isinstance(parsed, dict):
        raise EngineUnavailableError(f"{path.name} holds a {_CONFIGURATION} that describes no model")
    return parsed, hashlib.sha256(configuration + weights).hexdigest()


def _guessed(configuration: dict[str, Any]) -> str:
    """Return the class of a file that does not name it, as very old files do not; empty if it is no transducer."""
    if "joint" not in configuration or "tokenizer" not in configuration:
        return ""
    return SUPPORTED[1] if "aux_ctc" in configuration else SUPPORTED[0]


def _contexts(sizes: Any) -> tuple[tuple[int, int], ...]:
    """Return the limited contexts: the file has one pair, or a list of pairs. A negative number is no limit."""
    if not isinstance(sizes, list) or not sizes:
        return ()
    pairs = sizes if isinstance(sizes[0], list) else [sizes]
    return tuple((int(before), int(after)) for before, after in pairs if after >= 0)


def _languages(configuration: dict[str, Any]) -> tuple[str, ...]:
    tokenizer = configuration.get("tokenizer") or {}
    if isinstance(tokenizer.get("langs"), dict):  # an aggregate of one tokenizer per language
        return tuple(tokenizer["langs"])
    declared = configuration.get("languages") or configuration.get("language") or ()
    return (declared,) if isinstance(declared, str) else tuple(str(language) for language in declared)
