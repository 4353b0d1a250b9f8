"""Reads the weights out of a shipped Moonshine model, a file in onnxruntime's .ort format."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import AttributeProto, numpy_helper

_OPERANDS = {"MatMulIntegerToFloat": (1, 3, 5, 6), "DynamicQuantizeMatMul": (1, 2, 3, 4)}
"""Operator of a quantised product → the places of its weights, their scale, their zero point and the bias."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A quantised linear layer: `weights` uint8 [inputs, outputs], of which `(weights - zero) * scale` are the real ones."""

    weights: np.ndarray
    scale: np.ndarray  # float32, [] or [outputs]
    zero: np.ndarray  # uint8, [] or [outputs]
    bias: np.ndarray | None = None  # float32 [outputs]

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the scale and the zero point of each output, both [outputs]."""
        outputs = self.weights.shape[1]
        return np.broadcast_to(self.scale, outputs), np.broadcast_to(self.zero, outputs)


def side_by_side(*layers: Linear) -> Linear:
    """Return one layer that computes the outputs of several without bias, one after the other."""
    scales, zeros = zip(*(layer.columns() for layer in layers), strict=True)
    weights = np.concatenate([layer.weights for layer in layers], axis=1)
    return Linear(weights, np.concatenate(scales), np.concatenate(zeros))


class Shipped:
    """The weights of a model, found by the names of the values that its graph computes."""

    def __init__(self, path: Path) -> None:
        self._tensors: dict[str, np.ndarray] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        for graph in _graphs(_as_onnx(path).graph):
            self._tensors.update((tensor.name, numpy_helper.to_array(tensor)) for tensor in graph.initializer)
            for node in graph.node:
                self._producers.update((output, node) for output in node.output)
                if node.op_type == "Constant":
                    self._tensors[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)

    def operand(self, value: str, place: int) -> np.ndarray:
        """Return the weights that the node of this value has as its input at `place`."""
        return self._tensors[self._producers[value].input[place]]

    def linear(self, value: str) -> Linear:
        """Return the layer that computes this value."""
        node = self._producers[value]
        weights, scale, zero, bias = _OPERANDS[node.op_type]
        has_bias = len(node.input) > bias and node.input[bias]
        return Linear(
            self.operand(value, weights),
            self.operand(value, scale),
            self.operand(value, zero),
            self.operand(value, bias) if has_bias else None,
        )


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _as_onnx(path: Path) -> onnx.ModelProto:
    """Convert a model to ONNX: onnxruntime, the only reader of its .ort format, loads and saves it."""
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(converted)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(converted))
