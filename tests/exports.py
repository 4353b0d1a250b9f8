"""Builds the exported models of the tests without torch: graphs from `tests/models/exports`, weights from .nemo files.

An archive there holds what `myna export` wrote for one of the small models of `tests/parakeet`, but for the large weights.
For each of those it names the checkpoint's tensor and how the exporter arranged it. `tests/parakeet/skeletons.py` makes the
archives.
"""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import soundfile
from onnx import numpy_helper

TESTS = Path(__file__).parent
CHECKPOINTS = {
    "full": TESTS / "parakeet" / "tiny-parakeet.nemo",
    "cache-aware": TESTS / "parakeet" / "tiny-parakeet-streaming.nemo",
}
ARCHIVES = TESTS / "models" / "exports"
LAYOUTS = {
    "onnx-asr": ("encoder-model.onnx", "decoder_joint-model.onnx", "vocab.txt", "config.json"),
    "sherpa-onnx": ("encoder.onnx", "decoder.onnx", "joiner.onnx", "tokens.txt"),
}
_STORAGES = {"HalfStorage": np.float16, "FloatStorage": np.float32, "LongStorage": np.int64}
_ONNX_GATES = (0, 3, 1, 2)
"""The gates of an LSTM in the order of ONNX (input, output, forget, cell), by their places in torch's (i, f, g, o)."""
ARRANGEMENTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "as it is": lambda tensor: tensor,
    "transposed": lambda tensor: tensor.T,
    "gates": lambda tensor: np.concatenate([np.split(tensor, 4)[gate] for gate in _ONNX_GATES])[None],
}


def build(model: str, layout: str, folder: Path) -> Path:
    """Write the export of a model, `full` or `cache-aware`, in a layout; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights(CHECKPOINTS[model])
    with zipfile.ZipFile(ARCHIVES / f"{model}.zip") as archive:
        sources = json.loads(archive.read("weights.json"))
        for name in LAYOUTS[layout]:
            content = archive.read(f"{layout}/{name}")
            if name.endswith(".onnx"):
                graph = onnx.ModelProto.FromString(content)
                for tensor in graph.graph.initializer:
                    if source := sources[f"{layout}/{name}"].get(tensor.name):
                        values = (
                            positions(source["positions"], tensor.dims[2])
                            if "positions" in source
                            else arranged(tensors, source)
                        )
                        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
                content = graph.SerializeToString()
            (folder / name).write_bytes(content)
    return folder


def expected(model: str) -> list[dict[str, Any]]:
    """Return what NeMo decodes from the held-out sentences: ids, frames, durations, probabilities."""
    with zipfile.ZipFile(ARCHIVES / f"{model}.zip") as archive:
        found: list[dict[str, Any]] = json.loads(archive.read("expected.json"))
        return found


def held_out() -> list[tuple[str, np.ndarray]]:
    """Return the text and the int16 audio of the held-out sentences."""
    folder = TESTS / "parakeet" / "held_out"
    entries = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    return [(e["text"], soundfile.read(folder / e["audio"], dtype="int16")[0]) for e in entries]


def arranged(tensors: dict[str, np.ndarray], source: dict[str, str]) -> np.ndarray:
    """Return a tensor of the checkpoint as the exporter arranged it."""
    return ARRANGEMENTS[source["how"]](tensors[source["tensor"]])


def positions(frames: int, width: int) -> np.ndarray:
    """Return NeMo's table of relative positions [1, 2 * frames - 1, width]."""
    at = np.arange(frames - 1, -frames, -1, dtype=np.float32)[:, None]
    rates = np.exp(np.arange(0, width, 2, dtype=np.float32) * np.float32(-(np.log(10000.0) / width)))
    table = np.zeros((1, len(at), width), np.float32)
    table[0, :, 0::2], table[0, :, 1::2] = np.sin(at * rates), np.cos(at * rates)
    return table


def weights(checkpoint: Path) -> dict[str, np.ndarray]:
    """Read the tensors of a .nemo file in single precision. torch stores them in a zip: a pickle, and a file for each."""
    with tarfile.open(checkpoint) as archive:
        member = next(m for m in archive if m.name.endswith("model_weights.ckpt"))
        stored = archive.extractfile(member)
        assert stored is not None
        content = io.BytesIO(stored.read())
    with zipfile.ZipFile(content) as parts:
        names = {name.partition("/")[2]: name for name in parts.namelist()}
        unpickler = _Tensors(io.BytesIO(parts.read(names["data.pkl"])), lambda key: parts.read(names[f"data/{key}"]))
        found = unpickler.load()
    return {name: np.asarray(tensor, np.float32) for name, tensor in found.items() if isinstance(tensor, np.ndarray)}


class _Tensors(pickle.Unpickler):
    """Builds numpy arrays where torch's pickle builds tensors."""

    def __init__(self, file: io.BytesIO, read: Callable[[str], bytes]) -> None:
        super().__init__(file)
        self._read = read

    def find_class(self, module: str, name: str) -> Any:
        if name == "_rebuild_tensor_v2":
            return _rebuilt
        if name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"{module}.{name} is not expected in a checkpoint")

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, kind, key, _, _ = pid
        return np.frombuffer(self._read(key), kind)


def _rebuilt(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> np.ndarray:
    strides = [each * storage.itemsize for each in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides)
