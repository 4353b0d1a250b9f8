"""Builds ONNX graphs node by node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_OPSET, _IR = 17, 8
"""Read by every onnxruntime since 1.13."""

Shape = Sequence[int | str]


class GraphBuilder:
    """A graph that grows: each method adds something and returns the name of its value."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        """Add an array, stored as `dtype`."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def integers(self, *values: int) -> str:
        """Add a vector of integers, as shapes, axes and pads are."""
        return self.constant(values, np.int64)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its first output."""
        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def named(self, value: str, name: str) -> None:
        """Give a value the name under which it leaves the graph."""
        self._nodes.append(helper.make_node("Identity", [value], [name]))

    def serialized(self, name: str, inputs: dict[str, Shape], outputs: dict[str, Shape]) -> bytes:
        """Return the model. Inputs and outputs are float32; a name in a shape stands for any length."""
        values = [
            [helper.make_tensor_value_info(key, TensorProto.FLOAT, list(shape)) for key, shape in each.items()]
            for each in (inputs, outputs)
        ]
        graph = helper.make_graph(self._nodes, name, values[0], values[1], self._constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR).SerializeToString())
