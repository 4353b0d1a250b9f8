"""Opens a model in onnxruntime's own format as one that onnxruntime optimises.

A model in that format runs as it was written: its int8 weights become floats in every call, and its convolutions keep the
layout of their training. As an ONNX graph it is optimised when it is loaded. Speaker embeddings then take 0.75 of the time,
with the same values.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import onnxruntime

from myna.inference.engines.cpu_session import cpu_session


def optimised_session(model: bytes, *, any_length: bool = False) -> onnxruntime.InferenceSession:
    """Return a session of a model in onnxruntime's format.

    With `any_length`, the last dimension of its input, which is fixed in the model, may have any length.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(path)
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.HasField(
                "g"
            ):  # a branch of an If: onnxruntime writes it without a name, which it does not read
                attribute.g.name = attribute.name
    if any_length:
        graph.graph.input[0].type.tensor_type.shape.dim[-1].dim_param = "samples"
        graph.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "frames"
        del graph.graph.value_info[:]  # the lengths of what lies between
    return cpu_session(graph.SerializeToString())
