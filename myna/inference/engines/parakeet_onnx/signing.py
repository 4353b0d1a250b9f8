"""Stores the weights of a quantised graph with the sign that the processor multiplies exactly, and fastest.

W - 128 with its zero point - 128 is the same arithmetic as W. Processors with VNNI or AMX multiply signed weights up to 2.7
times faster than unsigned ones, with the same results bit for bit. Public encoders hold unsigned weights. Older processors
add pairs of products with signed weights in 16 bits, which saturates: the outputs of an encoder change by about 1 %, those of
the prediction network, whose public exports hold signed weights, by 11 %. There, unsigned weights are exact.

What the processor does is tried with one product of extreme numbers. A graph whose weights become signed must also give the
same outputs as before. The outcome is kept in the user's cache folder, with the changed graph if it is used.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import structlog
from onnx import TensorProto, helper, numpy_helper

from myna.inference.engines.parakeet_onnx.skeleton import Weights, read_skeleton, write_whole
from myna.streaming.speech.graph_cache import places

log = structlog.get_logger()

Run = Callable[[Any], list[np.ndarray]]
"""Runs a session once over fixed inputs and returns its outputs."""
_REVISION = 2
"""Increase when the changed form of a graph changes."""
_AS_SHIPPED = "as-shipped"
_OPERANDS = {"MatMulInteger": ((1, 3),), "DynamicQuantizeLSTM": ((1, 9), (2, 11))}
"""Operator → the places of its weights and their zero points among its inputs."""
_SAFE = 64
"""Sums of two products of numbers up to 255 with weights up to this fit into 16 bits."""


def opened(graph: Path, open_graph: Callable[[Path], Any], run: Run) -> Any:
    """Return a session of the graph, with its weights signed or unsigned. The session comes from `open_graph`."""
    signed = multiplies_signed_exactly()
    for place in places():
        try:
            return _cached(place / "parakeet_onnx", graph, open_graph, run, signed=signed)
        except OSError as error:
            log.warning("graph cannot be kept here", folder=str(place), reason=error.strerror or str(error))
    return open_graph(graph)


def _cached(folder: Path, graph: Path, open_graph: Callable[[Path], Any], run: Run, *, signed: bool) -> Any:
    state = graph.stat()
    place = hashlib.sha256(str(graph.resolve()).encode()).hexdigest()[:16]
    key = f"{state.st_size} {state.st_mtime_ns} {_REVISION} {onnxruntime.__version__} {signed} {_processor()}"
    kept = folder / place / hashlib.sha256(key.encode()).hexdigest()[:16]
    if (kept / _AS_SHIPPED).is_file():
        return open_graph(graph)
    if (kept / graph.name).is_file():
        return open_graph(kept / graph.name)
    kept.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=kept.parent, suffix=".part"))
    try:
        session = _made(graph, part, open_graph, run, signed=signed)
        for other in kept.parent.iterdir():  # of an older file, processor or version
            if other != part:
                shutil.rmtree(other, ignore_errors=True)
        part.rename(kept)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return session


def _made(graph: Path, folder: Path, open_graph: Callable[[Path], Any], run: Run, *, signed: bool) -> Any:
    """Write the changed graph to `folder`, or the mark that the shipped one is used; return a session of the one to use."""
    changed = folder / graph.name
    if not write_changed(graph, changed, signed=signed):
        (folder / _AS_SHIPPED).touch()
        return open_graph(graph)
    if not signed:  # the shipped graph saturates: its outputs are no reference
        return open_graph(changed)
    shipped = open_graph(graph)
    expected = run(shipped)
    del shipped  # two sessions would hold the weights twice
    session = open_graph(changed)
    if all(np.array_equal(ours, theirs) for ours, theirs in zip(run(session), expected, strict=True)):
        return session
    for file in folder.iterdir():
        file.unlink()
    (folder / _AS_SHIPPED).touch()
    return open_graph(graph)


def write_changed(graph: Path, target: Path, *, signed: bool) -> bool:
    """Write a graph with its weights signed or unsigned. Returns False, and writes nothing, if there is nothing to change."""
    model, weights = read_skeleton(graph)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    shipped = TensorProto.UINT8 if signed else TensorProto.INT8
    pairs = [pair for pair in _pairs(model.graph) if all(n in stored and stored[n].data_type == shipped for n in pair)]
    uses = Counter(name for node in model.graph.node for name in node.input)
    here = Counter(name for pair in pairs for name in pair)
    names = {name for pair in pairs if all(uses[each] == here[each] for each in pair) for name in pair}
    if not names or (not signed and all(_is_safe(name, stored, weights) for name in names)):
        return False
    for name in names:
        tensor = stored[name]
        if name not in weights:
            flipped = _flipped(numpy_helper.to_array(tensor).view(np.uint8))
            tensor.CopyFrom(numpy_helper.from_array(flipped.view(np.int8 if signed else np.uint8), name))
        tensor.data_type = TensorProto.INT8 if signed else TensorProto.UINT8
    declared = [value for value in model.graph.value_info if value.name not in names]
    del model.graph.value_info[:]
    model.graph.value_info.extend(declared)
    write_whole(model, weights, target, lambda name: _flipped if name in names else None)
    return True


def _pairs(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    """Yield the names of weights and their zero points."""
    for node in graph.node:
        for weight, zero in _OPERANDS.get(node.op_type, ()):
            if len(node.input) > zero:
                yield node.input[weight], node.input[zero]


def _is_safe(name: str, stored: dict[str, onnx.TensorProto], weights: Weights) -> bool:
    """Return whether products with these signed weights cannot saturate."""
    values: np.ndarray
    if name in weights:
        path, span = weights[name]
        values = np.memmap(path, np.int8, "r", span.start, (span.end - span.start,))
    else:
        values = numpy_helper.to_array(stored[name])
    return bool(values.size == 0 or (values.min() >= -_SAFE and values.max() <= _SAFE))


def _flipped(values: np.ndarray) -> np.ndarray:
    """Invert the highest bit of each byte: in two's complement, this subtracts 128 from unsigned numbers and adds it back."""
    return values ^ np.uint8(0x80)


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
