"""Stores the unsigned weights of a quantised graph signed, where the processor multiplies those exactly, and faster.

Public int8 exports hold unsigned weights, for which onnxruntime has a slow kernel on x86. W - 128 with its zero point - 128
is the same arithmetic. Processors with VNNI or AMX multiply signed weights up to 2.7 times faster, with the same results bit
for bit. Older ones add pairs of products in 16 bits, which saturates: there, results would differ by about 1 %, and the
graph stays as it is.

Whether the results are the same is tried, not assumed: first with one product of extreme numbers, then with the graph itself.
The outcome is kept in the user's cache folder, with the signed graph if it is used.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import structlog
from onnx import TensorProto, helper, numpy_helper

from myna.inference.engines.parakeet_onnx.skeleton import read_skeleton, write_whole
from myna.streaming.speech.graph_cache import places

log = structlog.get_logger()

Run = Callable[[Any], list[np.ndarray]]
"""Runs a session once over fixed inputs and returns its outputs."""
_REVISION = 1
"""Increase when the signed form of a graph changes."""
_DIFFERS = "differs"


def opened(graph: Path, open_graph: Callable[[Path], Any], run: Run) -> Any:
    """Return a session of the graph, in signed form if that gives the same outputs. The session comes from `open_graph`."""
    if not multiplies_signed_exactly():
        return open_graph(graph)
    for place in places():
        try:
            return _cached(place / "parakeet_onnx", graph, open_graph, run)
        except OSError as error:
            log.warning("no signed graph here", folder=str(place), reason=error.strerror or str(error))
    return open_graph(graph)


def _cached(folder: Path, graph: Path, open_graph: Callable[[Path], Any], run: Run) -> Any:
    state = graph.stat()
    place = hashlib.sha256(str(graph.resolve()).encode()).hexdigest()[:16]
    key = f"{state.st_size} {state.st_mtime_ns} {_REVISION} {onnxruntime.__version__} {_processor()}"
    kept = folder / place / hashlib.sha256(key.encode()).hexdigest()[:16]
    if (kept / _DIFFERS).is_file():
        return open_graph(graph)
    if (kept / graph.name).is_file():
        return open_graph(kept / graph.name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=kept.parent, suffix=".part"))
    try:
        session = _compared(graph, part, open_graph, run)
        for other in kept.parent.iterdir():  # of an older file, processor or version
            if other != part:
                shutil.rmtree(other, ignore_errors=True)
        part.rename(kept)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return session


def _compared(graph: Path, folder: Path, open_graph: Callable[[Path], Any], run: Run) -> Any:
    """Write the signed graph or the mark that it differs to `folder`; return a session of the graph to use."""
    shipped = open_graph(graph)
    if not write_signed(graph, folder / graph.name):
        (folder / _DIFFERS).touch()
        return shipped
    expected = run(shipped)
    del shipped  # two sessions would hold the weights twice
    signed = open_graph(folder / graph.name)
    if all(np.array_equal(ours, theirs) for ours, theirs in zip(run(signed), expected, strict=True)):
        return signed
    for file in folder.iterdir():
        file.unlink()
    (folder / _DIFFERS).touch()
    return open_graph(graph)


def write_signed(graph: Path, target: Path) -> bool:
    """Write a graph with its unsigned weights signed. Returns False, and writes nothing, if it has none."""
    model, weights = read_skeleton(graph)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    uses = Counter(name for node in model.graph.node for name in node.input)
    products = [node for node in model.graph.node if node.op_type == "MatMulInteger" and len(node.input) == 4]
    used_here = Counter(name for node in products for name in (node.input[1], node.input[3]))
    names = {
        name for node in products for name in (node.input[1], node.input[3])
        if all(
            each in stored and stored[each].data_type == TensorProto.UINT8 and uses[each] == used_here[each]
            for each in (node.input[1], node.input[3])
        )
    }  # fmt: skip
    if not names:
        return False
    for name in names:
        tensor = stored[name]
        if name not in weights:
            tensor.CopyFrom(numpy_helper.from_array(_signed(numpy_helper.to_array(tensor)), name))
        tensor.data_type = TensorProto.INT8
    kept = [value for value in model.graph.value_info if value.name not in names]
    del model.graph.value_info[:]
    model.graph.value_info.extend(kept)
    write_whole(model, weights, target, lambda name: _signed if name in names else None)
    return True


def _signed(values: np.ndarray) -> np.ndarray:
    """Subtract 128: in two's complement, this inverts the highest bit."""
    return (values ^ np.uint8(0x80)).view(np.int8)


def multiplies_signed_exactly() -> bool:
    """Return whether this processor's product of unsigned activations and signed weights is exact for extreme numbers."""
    activations = np.full((16, 64), 255, np.uint8)
    weights = np.full((64, 16), 127, np.int8)
    weights[:, 8:] = -128
    node = helper.make_node("MatMulInteger", ["a", "w"], ["product"])
    graph = helper.make_graph(
        [node], "product", [helper.make_tensor_value_info("a", TensorProto.UINT8, [16, 64])],
        [helper.make_tensor_value_info("product", TensorProto.INT32, [16, 16])], [numpy_helper.from_array(weights, "w")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"a": activations})
    return bool(np.array_equal(product, activations.astype(np.int32) @ weights.astype(np.int32)))


def _processor() -> str:
    """Return what selects onnxruntime's kernels: the architecture, and the instruction sets where the system lists them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return f"{platform.machine()} {platform.processor()}"
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()} {flags}"
