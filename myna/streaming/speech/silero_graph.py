"""Rebuilds Silero's graph so that one call processes many windows of a channel; the shipped graph processes one.

Only the recurrent cell processes windows in order, and onnxruntime's LSTM operator does that for a sequence. The layers
before and after it process each window alone, so all windows form one batch. The probabilities differ from the shipped
graph's by less than 1e-6. They do not depend on how windows are grouped into calls.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_FEATURES = "/model/encoder/3/activation/Relu_output_0"
"""The input of the shipped graph's recurrent cell: [windows, 128, 1]."""
_WIDTH = 128


def build(model: Path) -> bytes:
    """Return the graph: `input` [steps, channels, samples], `state` [2, channels, 128] → `output` [steps, channels]."""
    shipped = onnx.load(str(model))
    weights = {weight.name: numpy_helper.to_array(weight) for weight in shipped.graph.initializer}
    nodes = _leading_to(_FEATURES, shipped.graph)
    needed = {name for node in nodes for name in node.input}
    for node in nodes:
        node.input[:] = ["windows" if name == "input" else name for name in node.input]

    def constant(name: str, value: np.ndarray) -> str:
        constants.append(numpy_helper.from_array(value, name))
        return name

    constants = [weight for weight in shipped.graph.initializer if weight.name in needed]
    rnn = "model.decoder.rnn."
    constant("W", _gates(weights[rnn + "weight_ih"])[None])
    constant("R", _gates(weights[rnn + "weight_hh"])[None])
    constant("B", np.concatenate([_gates(weights[rnn + "bias_ih"]), _gates(weights[rnn + "bias_hh"])])[None])
    constant("out.weight", weights["model.decoder.decoder.2.weight"][:, :, 0].T.copy())
    constant("out.bias", weights["model.decoder.decoder.2.bias"])
    constant("each", np.array([-1], np.int64))
    constant("width", np.array([_WIDTH], np.int64))
    constant("first", np.array([0], np.int64))
    constant("second", np.array([1], np.int64))
    constant("third", np.array([2], np.int64))
    before = [
        helper.make_node("Shape", ["input"], ["shape"]),
        helper.make_node("Slice", ["shape", "third", constant("four", np.array([4], np.int64))], ["samples"]),
        helper.make_node("Concat", ["each", "samples"], ["flat"], axis=0),
        helper.make_node("Reshape", ["input", "flat"], ["windows"]),
    ]
    behind = [
        helper.make_node("Slice", ["shape", "first", "third"], ["steps"]),
        helper.make_node("Concat", ["steps", "width"], ["sequence"], axis=0),
        helper.make_node("Reshape", [_FEATURES, "sequence"], ["X"]),
        helper.make_node("Slice", ["state", "first", "second", "first"], ["h"]),
        helper.make_node("Slice", ["state", "second", "third", "first"], ["c"]),
        helper.make_node("LSTM", ["X", "W", "R", "B", "", "h", "c"], ["Y", "Y_h", "Y_c"], hidden_size=_WIDTH),
        helper.make_node("Concat", ["Y_h", "Y_c"], ["stateN"], axis=0),
        helper.make_node("Squeeze", ["Y", "second"], ["heard"]),
        helper.make_node("Relu", ["heard"], ["positive"]),
        helper.make_node("MatMul", ["positive", "out.weight"], ["weighed"]),
        helper.make_node("Add", ["weighed", "out.bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
        helper.make_node("Reshape", ["probability", "steps"], ["output"]),
    ]
    graph = helper.make_graph(
        [*before, *nodes, *behind],
        "voice activity",
        [
            helper.make_tensor_value_info("input", TensorProto.FLOAT, ["steps", "channels", "samples"]),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [2, "channels", _WIDTH]),
        ],
        [
            helper.make_tensor_value_info("output", TensorProto.FLOAT, ["steps", "channels"]),
            helper.make_tensor_value_info("stateN", TensorProto.FLOAT, [2, "channels", _WIDTH]),
        ],
        constants,
    )
    made = helper.make_model(graph, opset_imports=shipped.opset_import, ir_version=shipped.ir_version)
    onnx.checker.check_model(made)
    serialized: bytes = made.SerializeToString()
    return serialized


def _leading_to(output: str, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes on which an output depends, in order."""
    wanted, nodes = {output}, []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            nodes.append(node)
            wanted |= set(node.input)
    return nodes[::-1]


def _gates(weight: np.ndarray) -> np.ndarray:
    """Return weights in ONNX's order of gates (input, output, forget, cell) from PyTorch's (input, forget, cell, output)."""
    i, f, c, o = np.split(weight, 4)
    return np.concatenate([i, o, f, c])
