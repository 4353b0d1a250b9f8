"""Rebuilds Moonshine's decoder without the overhead of batching, for one utterance at a time.

The wheel ships one merged decoder: an `If` whose branches are the first step and the cached step, with padding masks and
alignment padding for batches that this engine never forms. Two plain graphs are built from it:

- `first`: encoder states → first token, self-attention cache, cross-attention keys (transposed) and values;
- `step`: a token and the caches → next token and the grown cache.

Both also output the token's probability, the cross-attention of the layers that give the word times, so that times need
no second pass, and the logits, which only a decode with keyterms reads. The graphs are built once and kept in a cache folder.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from myna.streaming.speech.graph_cache import cached

LAYERS = 6
ATTENTION_LAYERS = (3, 4, 5)
"""Decoder layers whose cross-attention is output; see `ALIGNMENT_HEADS` of the engine."""
LOGITS = "logits"
"""The output [1, 1, tokens] of which `token` is the greatest. The graphs compute it in any case."""
_REVISION = 4
"""Increase when the code below changes the graphs: it is part of the cache key."""


def decoder_graphs(merged: Path) -> tuple[Path, Path]:
    """Return the `first` and `step` graphs built from the merged decoder, from the cache if present."""

    def make() -> dict[str, bytes]:
        model = _as_onnx(merged)
        first = _branch(model, "else_branch", caches=("decoder", "encoder"))
        step = _branch(model, "then_branch", caches=("decoder",))
        return {"first": first.SerializeToString(), "step": step.SerializeToString()}

    graphs = cached(merged, "moonshine", _REVISION, make)
    return graphs["first"], graphs["step"]


def _as_onnx(merged: Path) -> onnx.ModelProto:
    """Convert the model to ONNX: onnxruntime, the only reader of its .ort format, loads and saves it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "merged.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(path)
        options.add_session_config_entry("session.save_model_format", "ONNX")
        onnxruntime.InferenceSession(str(merged), options, providers=["CPUExecutionProvider"])
        return onnx.load(str(path))


def _branch(model: onnx.ModelProto, branch: str, caches: tuple[str, ...]) -> onnx.ModelProto:
    """Return one branch of the merged decoder as a separate model."""
    outer = model.graph
    choice = next(node for node in outer.node if node.op_type == "If")
    graph = next(attribute.g for attribute in choice.attribute if attribute.name == branch)
    inner_name = dict(zip(choice.output, (output.name for output in graph.output), strict=True))

    nodes = [_copied(node) for node in [*outer.node, *graph.node] if node.op_type != "If"]
    outputs = [_float_output(o.name) for o in outer.output if any(f".{c}." in o.name for c in caches)]
    nodes += [
        helper.make_node("Identity", [inner_name[output.name]], [output.name])
        for output in outputs
        if inner_name[output.name] != output.name
    ]
    constants = [numpy_helper.from_array(np.array([-1], np.int64), "last_axis")]

    cross_attention = _without_batch_padding(nodes)
    for layer in ATTENTION_LAYERS:
        nodes.append(helper.make_node("Identity", [cross_attention[layer]], [f"attention.{layer}"]))
        outputs.append(_float_output(f"attention.{layer}"))
    branches = {a.name: a.g for a in choice.attribute}
    scales = _cross_scales(list(branches["then_branch"].node))
    transposed = _prepare_cross_keys(nodes, scales, inputs="encoder" not in caches)

    if inner_name["logits"] != LOGITS:
        nodes.append(helper.make_node("Identity", [inner_name["logits"]], [LOGITS]))
    nodes += [
        helper.make_node("ArgMax", [LOGITS], ["token"], axis=-1, keepdims=0),
        helper.make_node("Softmax", [LOGITS], ["probabilities"], axis=-1),
        helper.make_node("ReduceMax", ["probabilities", "last_axis"], ["probability"], keepdims=0),
    ]
    outputs.append(helper.make_tensor_value_info("token", TensorProto.INT64, None))
    outputs += [_float_output("probability"), _float_output(LOGITS)]

    nodes, needed = _needed(nodes, (output.name for output in outputs))
    inputs = [i for i in outer.input if i.name in needed]
    for value in inputs:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in ("batch_size", "decoder_sequence_length"):
                dimension.dim_value = 1  # one utterance, one token: most shape arithmetic folds away
        if value.name in transposed:
            _swap_last_two(value)
    initializers = [i for i in [*outer.initializer, *graph.initializer, *constants] if i.name in needed]
    rebuilt = helper.make_graph(nodes, f"moonshine decoder, {branch}", inputs, outputs, initializers)
    return helper.make_model(rebuilt, opset_imports=model.opset_import, ir_version=model.ir_version)


def _without_batch_padding(nodes: list[onnx.NodeProto]) -> list[str]:
    """Remove masks, NaN guards and alignment padding from the attention blocks; return the cross-attention weights by layer.

    For one unpadded utterance and a single query they do nothing.
    """
    producer = {output: node for node in nodes for output in node.output}
    consumers = defaultdict(list)
    for node in nodes:
        for name in node.input:
            consumers[name].append(node)
    instead: dict[str, str] = {}
    softmaxes = [node for node in nodes if node.op_type == "Softmax"]
    for softmax in softmaxes:
        masked = producer[softmax.input[0]]
        (softmax.input[0],) = (name for name in masked.input if producer[name].op_type in ("FusedMatMul", "MatMul"))
        weights = softmax.output[0]
        guard = next((node for node in consumers[weights] if node.op_type == "Where"), None)
        if guard is not None:
            instead[guard.output[0]] = weights
            weights = guard.output[0]
        (product,) = (node for node in consumers[weights] if node.op_type == "MatMul")
        (transpose,) = consumers[product.output[0]]
        (unpad,) = consumers[transpose.output[0]]
        assert (transpose.op_type, unpad.op_type) == ("Transpose", "Slice")
        instead[unpad.output[0]] = unpad.input[0]
    for node in nodes:
        if node.op_type == "Pad" and "_attn/" in node.name:
            instead[node.output[0]] = node.input[0]
    _replace_inputs(nodes, instead)
    return [softmax.output[0] for softmax in softmaxes[1::2]]  # each layer: self-attention, then cross-attention


def _prepare_cross_keys(nodes: list[onnx.NodeProto], scales: dict[int, float], *, inputs: bool) -> set[str]:
    """Keep cross-attention keys transposed and scaled between steps, so that the scores are a plain matrix product.

    onnxruntime's fast path for a single row takes neither a transposed matrix nor a factor. The `first` graph outputs
    prepared keys; the `step` graph (`inputs`) computes the scores from them. Returns the names of the inputs whose last two
    axes are swapped.
    """
    names: set[str] = set()
    for layer, scale in scales.items():
        if inputs:
            key = f"past_key_values.{layer}.encoder.key"
            (scores,) = (node for node in nodes if node.op_type == "FusedMatMul" and key in node.input)
            scores.op_type, scores.domain = "MatMul", ""
            del scores.attribute[:]
            names.add(key)
        else:
            key = f"present.{layer}.encoder.key"
            plain, factor = f"{key}.plain", f"{key}.factor"
            _replace_inputs(nodes, {key: plain})
            for node in nodes:
                node.output[:] = [plain if name == key else name for name in node.output]
            value = numpy_helper.from_array(np.array(scale, np.float32), factor)
            nodes += [
                helper.make_node("Constant", [], [factor], value=value),
                helper.make_node("Transpose", [plain], [f"{key}.transposed"], perm=[0, 1, 3, 2]),
                helper.make_node("Mul", [f"{key}.transposed", factor], [key]),
            ]
    return names


def _cross_scales(nodes: list[onnx.NodeProto]) -> dict[int, float]:
    """Return the factor of the cross-attention scores by layer, which the `step` branch has fused into the product."""
    scales = {}
    for layer in range(LAYERS):
        key = f"past_key_values.{layer}.encoder.key"
        padded = {key, *(node.output[0] for node in nodes if node.op_type == "Pad" and node.input[0] == key)}
        (scores,) = (node for node in nodes if node.op_type == "FusedMatMul" and padded.intersection(node.input))
        attributes = {a.name: helper.get_attribute_value(a) for a in scores.attribute}
        assert attributes.get("transB") == 1
        assert not attributes.get("transA")
        scales[layer] = attributes.get("alpha", 1.0)
    return scales


def _needed(nodes: list[onnx.NodeProto], outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], set[str]]:
    """Return the nodes that the outputs depend on, in order, and all names that these use."""
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    return kept[::-1], needed


def _replace_inputs(nodes: list[onnx.NodeProto], instead: dict[str, str]) -> None:
    for node in nodes:
        for index, name in enumerate(node.input):
            while name in instead:
                name = instead[name]
            node.input[index] = name


def _swap_last_two(value: onnx.ValueInfoProto) -> None:
    dimensions = [_copied_dimension(d) for d in value.type.tensor_type.shape.dim]
    dimensions[-1], dimensions[-2] = dimensions[-2], dimensions[-1]
    del value.type.tensor_type.shape.dim[:]
    value.type.tensor_type.shape.dim.extend(dimensions)


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _copied_dimension(dimension: onnx.TensorShapeProto.Dimension) -> onnx.TensorShapeProto.Dimension:
    copy = onnx.TensorShapeProto.Dimension()
    copy.CopyFrom(dimension)
    return copy


def _float_output(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
