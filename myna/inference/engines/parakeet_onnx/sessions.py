"""Loads the graphs of an export into onnxruntime, once for all lanes of a process.

A session may run on several threads at once. Each lane calls the same sessions from its own thread, with one thread per
call, so that the weights are in memory once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import onnxruntime

from myna.inference.engines.parakeet_onnx.inspection import Export
from myna.streaming.errors import EngineUnavailableError

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Graphs:
    """The sessions of an export. `decoder` is None for a CTC model; `joiner` is None if the decoder includes it."""

    encoder: Any
    decoder: Any
    joiner: Any


_loaded: WeakValueDictionary[tuple[str, str, str, int], Graphs] = WeakValueDictionary()
_loading = threading.Lock()


def graphs(export: Export, device: str, threads: int) -> Graphs:
    """Return the sessions of an export, loaded at the first call. Raises `EngineUnavailableError`."""
    key = (str(export.encoder), export.uuid, device, threads)
    with _loading:
        known = _loaded.get(key)
        if known is None:
            known = _loaded[key] = _load(export, providers(device), threads)
        return known


def providers(device: str) -> list[Any]:
    """Return onnxruntime's providers for a device: `auto` and `cpu`, `cuda`, `cuda:1`, `tensorrt`, `tensorrt:1` …"""
    name, _, number = device.partition(":")
    if name == "auto":
        name = "cpu"
    if name not in _PROVIDERS or (number and (name == "cpu" or not number.isdecimal())):
        raise EngineUnavailableError(f"unknown device {device!r}; use auto, cpu, cuda, cuda:0, tensorrt …")
    there = onnxruntime.get_available_providers()
    if _PROVIDERS[name] not in there:
        raise EngineUnavailableError(
            f"device {device!r} is not available: this onnxruntime offers {', '.join(there)};"
            " to use a GPU: pip install onnxruntime-gpu"
        )
    chosen = {"cpu": [], "cuda": ["cuda"], "tensorrt": ["tensorrt", "cuda"]}[name]
    placed: list[Any] = [(_PROVIDERS[each], {"device_id": int(number or 0)}) for each in chosen]
    return [*placed, _PROVIDERS["cpu"]]


def open_session(model: Path | bytes, name: str, providers: list[Any], threads: int = 1) -> Any:
    """Return a session. `name` names the model in the message of the `EngineUnavailableError` if it cannot be loaded."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=providers
        )
    except Exception as error:  # onnxruntime's exceptions have no common base
        reason = " ".join(str(error).split())[:300]
        raise EngineUnavailableError(
            f"{name} cannot be loaded by onnxruntime {onnxruntime.__version__}: {reason}"
        ) from error


def _load(export: Export, chosen: list[Any], threads: int) -> Graphs:
    def opened(path: Path, inputs: Callable[[Any], dict[str, np.ndarray]], *, batch: bool = False) -> Any:
        def open_graph(form: Path) -> Any:
            model = batched(form) if batch else form
            return open_session(model, f"{path.name} in {path.parent.name}", chosen, threads)

        if not path.name.endswith(".int8.onnx") or len(chosen) > 1:
            return open_graph(path)
        from myna.inference.engines.parakeet_onnx import signing

        return signing.opened(path, open_graph, lambda session: session.run(None, inputs(session)))

    encoder = opened(export.encoder, lambda _: encoder_noise(export))
    decoder = opened(export.decoder, noise, batch=export.joiner is not None) if export.decoder else None
    return Graphs(encoder, decoder, opened(export.joiner, noise) if export.joiner else None)


def noise(session: Any) -> dict[str, np.ndarray]:
    """Return inputs of a session for one run over one frame of noise and the token 1."""
    generator = np.random.default_rng(1)
    told = {}
    for value in session.get_inputs():
        shape = [size if isinstance(size, int) else 1 for size in value.shape]
        if value.type == "tensor(float)":
            told[value.name] = generator.standard_normal(shape).astype(np.float32)
        else:
            told[value.name] = np.ones(shape, np.int64 if value.type == "tensor(int64)" else np.int32)
    return told


def encoder_noise(export: Export) -> dict[str, np.ndarray]:
    """Return inputs of the encoder for one run over noise."""
    chunks = export.chunks
    frames = 300 if chunks is None else chunks.sizes[1] + chunks.before[1]
    told: dict[str, np.ndarray] = {
        "audio_signal": np.random.default_rng(1).standard_normal((1, export.mels, frames)).astype(np.float32),
        "length": np.array([frames], np.int64),
    }
    if chunks is not None:
        layers, kept, width, kept_of_convolutions = chunks.caches
        told["cache_last_channel"] = np.zeros((1, layers, kept, width), np.float32)
        told["cache_last_time"] = np.zeros((1, layers, width, kept_of_convolutions), np.float32)
        told["cache_last_channel_len"] = np.zeros(1, np.int64)
        if chunks.exact:
            told["drop"] = np.array([chunks.dropped], np.int64)
    return told


def batched(decoder: Path) -> bytes:
    """Return sherpa-onnx's prediction network with a free batch dimension: its export declares one row for a state."""
    import onnx

    model = onnx.load(str(decoder))
    values = [*model.graph.input, *model.graph.output]
    for value in values:
        shape = value.type.tensor_type.shape
        if len(shape.dim) == 3 and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            for place in (1,) if shape.dim[0].HasField("dim_value") else (0,):
                shape.dim[place].ClearField("dim_value")
    return bytes(model.SerializeToString())
