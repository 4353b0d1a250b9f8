"""Prepares a cache-aware encoder for the first chunk of an utterance.

An exported encoder always drops the same number of encoder frames after subsampling: those that come from feature frames
repeated before the chunk. Before the first chunk there are none, and NeMo drops none. Here the number becomes an input of
the graph, `drop` int64 [1], so that a first chunk is encoded as NeMo encodes it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def make_drop_an_input(graph: onnx.GraphProto, dropped: int) -> None:
    """Change an exported cache-aware encoder that drops this number of frames. Raises ValueError if it is another graph.

    The graph drops frames in two places: it slices the frames from `dropped` on, along time, and subtracts `dropped` from
    their number.
    """
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if not tensor.external_data}
    for node in graph.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value":
                constants[node.output[0]] = numpy_helper.to_array(attribute.t)

    def is_number(name: str, number: int) -> bool:
        value = constants.get(name)
        return value is not None and value.size == 1 and bool(np.all(value == number))

    slices = [
        node for node in graph.node if node.op_type == "Slice" and len(node.input) > 3
        and _outermost(node) and is_number(node.input[1], dropped) and is_number(node.input[3], 1)
    ]  # fmt: skip
    lengths = [n for n in graph.node if n.op_type == "Sub" and _outermost(n) and is_number(n.input[1], dropped)]
    if len(slices) != 1 or len(lengths) != 1:
        raise ValueError(
            f"the encoder drops {dropped} frames in {len(slices)} slices and {len(lengths)} subtractions; expected one each"
        )
    graph.input.append(helper.make_tensor_value_info("drop", TensorProto.INT64, [1]))
    slices[0].input[1] = "drop"
    lengths[0].input[1] = "drop"  # [1], which broadcasts over the batch


def _outermost(node: onnx.NodeProto) -> bool:
    """Return whether the node belongs to the encoder itself, not to one of its layers: `/Slice`, not `/layers.0/Slice`."""
    return "/" not in node.name.strip("/")
