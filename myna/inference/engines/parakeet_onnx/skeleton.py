"""Reads an ONNX model without its large weights, and writes it with weights that are copied as a stream.

An encoder's weights may have gigabytes. Changing a few of its nodes does not need them in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from myna.inference.engines.parakeet_onnx.graph_header import GRAPH, INITIALIZER, RAW_DATA, Span, fields, read_header

_LARGE = 1024
"""Bytes from which a tensor's values stay in their file."""
_PIECE = 16 << 20
"""Bytes copied at a time."""

Weights = dict[str, tuple[Path, Span]]
"""Tensor → the file and the span of its values."""


def read_skeleton(path: Path) -> tuple[onnx.ModelProto, Weights]:
    """Return a model whose large tensors have no values, and where the values are. Raises `NotOnnxError`, OSError."""
    weights: Weights = {}
    for tensor in read_header(path).initializers.values():
        if tensor.location or tensor.data.end - tensor.data.start >= _LARGE:
            weights[tensor.name] = (path.parent / tensor.location if tensor.location else path, tensor.data)
    model = onnx.ModelProto()
    with path.open("rb") as file:

        def read(span: Span) -> bytes:
            file.seek(span.start)
            return file.read(span.end - span.start)

        for number, value, whole in fields(file, Span(0, path.stat().st_size)):
            if number != GRAPH or isinstance(value, int):
                model.MergeFromString(read(whole))
                continue
            for part, inside, extent in fields(file, value):
                if part != INITIALIZER or isinstance(inside, int):
                    model.graph.MergeFromString(read(extent))
                    continue
                kept = [
                    span for name, _, span in fields(file, inside) if name != RAW_DATA or span.end - span.start < _LARGE
                ]
                model.graph.initializer.append(onnx.TensorProto.FromString(b"".join(map(read, kept))))
    return model, weights


def write_whole(
    model: onnx.ModelProto,
    weights: Weights,
    path: Path,
    changed: Callable[[str], Callable[[np.ndarray], np.ndarray] | None],
) -> None:
    """Write a skeleton to `path` with its weights in `path`.data.

    `changed` gives, for the name of a tensor, the function that its bytes pass through; None: they stay as they are.
    """
    beside = path.with_name(f"{path.name}.data")
    with beside.open("wb") as target:
        for tensor in model.graph.initializer:
            if tensor.name not in weights:
                continue
            file, span = weights[tensor.name]
            target.seek(-target.tell() % 64, 1)
            del tensor.external_data[:]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", beside.name), ("offset", target.tell()), ("length", span.end - span.start)):
                tensor.external_data.add(key=key, value=str(value))
            change = changed(tensor.name)
            with file.open("rb") as source:
                source.seek(span.start)
                for start in range(span.start, span.end, _PIECE):
                    piece = source.read(min(_PIECE, span.end - start))
                    target.write(piece if change is None else change(np.frombuffer(piece, np.uint8)).tobytes())
    path.write_bytes(model.SerializeToString())
