"""Opens a graph in onnxruntime on one core, as the lanes of the engines on a CPU use it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime


def cpu_session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Return a session of a graph, given as a file or as its bytes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    graph = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
