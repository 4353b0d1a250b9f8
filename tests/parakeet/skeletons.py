"""Writes the archives of `tests/models/exports` from the small models: ``skeletons.py``. See `tests/exports.py`.

Run it again when a model is trained anew or `myna export` changes its graphs.
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from exports import ARCHIVES, ARRANGEMENTS, CHECKPOINTS, LAYOUTS, arranged, held_out, positions, weights
from onnx import numpy_helper

from myna.inference.engines.parakeet.checkpoint import inspect
from myna.inference.engines.parakeet.export import export
from myna.inference.engines.parakeet.model import ParakeetModel
from myna.inference.engines.port import ModelOptions

LARGE = 1024
"""Bytes from which a tensor is taken from the checkpoint."""


def main() -> None:
    ARCHIVES.mkdir(exist_ok=True)
    for name, checkpoint in CHECKPOINTS.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            zipfile.ZipFile(ARCHIVES / f"{name}.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        ):
            tensors = weights(checkpoint)
            sources: dict[str, dict[str, dict[str, Any]]] = {}
            for layout, files in LAYOUTS.items():
                exported = Path(folder, layout)
                export(checkpoint, exported, layout=layout, int8=False, look_ahead=None)
                for file in files:
                    content = (exported / file).read_bytes()
                    if file.endswith(".onnx"):
                        content, sources[f"{layout}/{file}"] = without_weights(exported / file, tensors)
                    store(archive, f"{layout}/{file}", content)
            store(archive, "weights.json", json.dumps(sources).encode())
            store(archive, "expected.json", json.dumps(decoded_by_nemo(checkpoint)).encode())


def without_weights(path: Path, tensors: dict[str, np.ndarray]) -> tuple[bytes, dict[str, dict[str, Any]]]:
    """Return a graph without the large weights that the checkpoint holds, and the source of each of those."""
    model = onnx.load(path)
    sources: dict[str, dict[str, Any]] = {}
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        if len(node.attribute[0].t.raw_data) >= LARGE:  # the table of positions
            node.attribute[0].t.name = node.output[0]
            model.graph.initializer.append(node.attribute[0].t)
            model.graph.node.remove(node)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) >= LARGE and (source := source_of(numpy_helper.to_array(tensor), tensors)):
            sources[tensor.name] = source
            tensor.ClearField("raw_data")
    return model.SerializeToString(), sources


def source_of(values: np.ndarray, tensors: dict[str, np.ndarray]) -> dict[str, Any] | None:
    """Return which tensor of the checkpoint the values are, and how they are arranged."""
    for name, tensor in tensors.items():
        if tensor.size != values.size:
            continue
        for how in ARRANGEMENTS:
            if (how != "gates" or "lstm.weight" in name) and (how != "transposed" or tensor.ndim == 2):
                source = {"tensor": name, "how": how}
                if np.array_equal(arranged(tensors, source), values):
                    return source
    if values.ndim == 3 and len(values) == 1 and values.shape[1] > 1000:
        frames = (values.shape[1] + 1) // 2
        assert np.abs(positions(frames, values.shape[2]) - values).max() < 1e-2
        return {"positions": frames}
    return None


def decoded_by_nemo(checkpoint: Path) -> list[dict[str, Any]]:
    options = ModelOptions(source=str(checkpoint), device="cpu", precision="fp32", threads=1)
    model = ParakeetModel(inspect(checkpoint), options)
    found = []
    with torch.inference_mode():
        for _, pcm in held_out():
            (tokens,), _ = model.decode(model.encode([pcm]))
            probabilities = [round(p, 5) for p in tokens.probabilities]
            found.append(
                {
                    "ids": tokens.ids,
                    "frames": tokens.frames,
                    "durations": tokens.durations,
                    "probabilities": probabilities,
                }
            )
    return found


def store(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Add a file without the time, so that the same models give the same archive."""
    archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)


if __name__ == "__main__":
    main()
