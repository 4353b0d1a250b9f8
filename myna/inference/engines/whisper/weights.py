"""Loads a CTranslate2 Whisper folder or hub name; all lanes of a process share one copy of the weights."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import ctranslate2
from faster_whisper import WhisperModel

from myna.inference.engines.hub import downloaded
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.whisper.folder import WhisperFolder, inspect
from myna.streaming.errors import EngineUnavailableError

_COMPUTE = {
    "cpu": {"auto": "int8", "fp32": "float32"},
    "cuda": {"auto": "float16", "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"},
}
"""Device → `precision` → CTranslate2's compute type."""
_HUB_FILES = ["config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*"]

_shared: dict[tuple[str, str, int, str, int], SharedWeights] = {}
_loading = threading.Lock()


@dataclass(frozen=True, slots=True)
class SharedWeights:
    """A loaded model. CTranslate2 runs it in its own threads, without Python's lock."""

    whisper: WhisperModel
    folder: WhisperFolder


def shared_weights(options: ModelOptions) -> SharedWeights:
    """Return the model of these options, loading it for the first lane that asks. Raises `EngineUnavailableError`."""
    device, index = _device(options.device, options.worker)
    types = _COMPUTE[device]
    if options.precision not in types:
        raise EngineUnavailableError(
            f"Whisper on {device} takes the precision {', '.join(types)}, not {options.precision!r}"
        )
    cores = os.cpu_count() or 1
    threads = options.threads or cores
    key = (options.source, device, index, types[options.precision], threads)
    with _loading:
        if key not in _shared:
            folder = inspect(fetched(options.source))
            try:
                whisper = WhisperModel(
                    str(folder.path), device=device, device_index=index, compute_type=types[options.precision],
                    cpu_threads=threads, num_workers=max(1, cores // threads),
                )  # fmt: skip
            except (RuntimeError, ValueError, OSError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise EngineUnavailableError(f"{folder.path} cannot be loaded: {reason}") from error
            _shared[key] = SharedWeights(whisper, folder)
        return _shared[key]


def fetched(source: str) -> Path:
    """Return the folder of a path or a hub name (owner/name); download it if needed. Raises `EngineUnavailableError`."""
    path = Path(source)
    if path.exists() or source.count("/") != 1 or source.startswith((".", "/")):
        return path

    def download() -> str:
        from huggingface_hub import snapshot_download

        return str(snapshot_download(source, allow_patterns=_HUB_FILES))

    return downloaded(source, "its folder", download)


def _device(device: str, worker: int) -> tuple[str, int]:
    """Return CTranslate2's device and its index. `auto` is CUDA where there is a GPU; workers take turns at several."""
    kind, _, index = device.partition(":")
    gpus = ctranslate2.get_cuda_device_count() if kind != "cpu" else 0
    if kind == "cpu" or (kind == "auto" and not gpus):
        return "cpu", 0
    if kind not in ("auto", "cuda") or (index and not index.isdecimal()):
        raise EngineUnavailableError(f"Whisper runs on cpu, cuda or cuda:NUMBER, not on {device!r}")
    number = int(index) if index else worker % max(1, gpus)
    if number >= gpus:
        raise EngineUnavailableError(f"{device} is not there: CTranslate2 finds {gpus} CUDA devices")
    return "cuda", number
