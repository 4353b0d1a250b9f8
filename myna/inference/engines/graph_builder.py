"""Builds ONNX graphs node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

CONTRIB = "com.microsoft"
"""The domain of onnxruntime's own operators."""
_OPSET, _IR = 17, 8
"""Read by every onnxruntime since 1.13."""

Shape = Sequence[int | str]


class GraphBuilder:
    """A graph that grows: each method adds something and returns the name of its value."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add an array, stored as `dtype`."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def integers(self, *values: int) -> str:
        """Add a vector of integers, as shapes, axes and pads are."""
        return self.constant(values, np.int64)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its first output. An empty input is an optional one that is absent."""
        return self.nodes(operator, 1, *inputs, **attributes)[0]

    def nodes(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node; return the names of its first outputs, as many as `outputs`."""
        names = [f"{operator}_{len(self._nodes)}" + (f"_{number}" if number else "") for number in range(outputs)]
        self._nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names

    def named(self, value: str, name: str) -> None:
        """Give a value the name under which it leaves the graph, after the last node that uses it was added."""
        for node in self._nodes:
            node.input[:] = [name if used == value else used for used in node.input]
            node.output[:] = [name if made == value else made for made in node.output]

    def serialized(
        self,
        name: str,
        inputs: Mapping[str, Shape],
        outputs: Mapping[str, Shape],
        types: Mapping[str, int] | None = None,
    ) -> bytes:
        """Return the model. A name in a shape stands for any length.

        Inputs and outputs are float32, unless `types` has another `TensorProto` type for their name.
        """
        types = types or {}
        values = [
            [
                helper.make_tensor_value_info(key, types.get(key, TensorProto.FLOAT), [*shape])
                for key, shape in each.items()
            ]
            for each in (inputs, outputs)
        ]
        graph = helper.make_graph(self._nodes, name, values[0], values[1], self._constants)
        opsets = [helper.make_opsetid("", _OPSET)]
        if any(node.domain == CONTRIB for node in self._nodes):
            opsets.append(helper.make_opsetid(CONTRIB, 1))
        return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=_IR).SerializeToString())
