"""The encoder of one utterance, with the shipped weights: audio → keys and values for the decoder's cross-attention.

The shipped graph computes masks and alignment padding for batches that this engine never forms, and the rotary embedding in
twelve steps. This graph does without; its values are equal to the bit.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from myna.inference.engines.graph_builder import CONTRIB, GraphBuilder
from myna.inference.engines.moonshine.shipped import Linear, Shipped, side_by_side

WIDTH, HEADS, HEAD = 288, 8, 36
"""Values of a frame or token, attention heads, values of a head."""
LAYERS = 6
"""Of the encoder, and of the decoder."""
TURNED = 32
"""Values of a head that the rotary embedding turns, in adjacent pairs."""
EPSILON = 1e-5
SCALE = float(np.float32(HEAD**-0.5))
"""Factor of the attention scores."""
AUDIO = "audio"
CROSS_CACHE = tuple(f"cross.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value"))
"""Outputs: keys [heads, 1, head, frames], scaled, for a plain matrix product; values [heads, 1, frames, head]."""
_TO_HEADS = (0, 0, HEADS, HEAD)


def encoder_graph(encoder: Shipped, decoder: Shipped) -> bytes:
    """Return the graph: `audio` float32 [1, samples] → `CROSS_CACHE`."""
    graph = GraphBuilder()
    value = _convolved(graph, encoder)
    turning = _rotary(graph, encoder, value)
    normal = _normalised(graph, value, encoder, "/layers.0/input_layernorm/LayerNormalization_output_0")
    for layer in range(LAYERS):
        prefix = f"/layers.{layer}"
        value = graph.node("Add", value, _attended(graph, encoder, layer, normal, turning))
        normal = _normalised(graph, value, encoder, f"{prefix}/post_attention_layernorm/LayerNormalization_output_0")
        inner = quantised(graph, normal, encoder.linear(f"{prefix}/mlp/fc1/Add_output_0"))
        inner = graph.node("Gelu", inner, domain=CONTRIB)
        fed = quantised(graph, inner, encoder.linear(f"{prefix}/mlp/fc2/Add_output_0"))
        if layer < LAYERS - 1:
            value = graph.node("Add", value, fed)
            following = f"/layers.{layer + 1}/input_layernorm/LayerNormalization_output_0"
            normal = _normalised(graph, value, encoder, following)
    weights = graph.constant(encoder.operand("last_hidden_state", 2)), graph.constant(np.zeros(WIDTH))
    frames = graph.node("SkipLayerNormalization", value, fed, *weights, domain=CONTRIB, epsilon=EPSILON)
    _cross_cache(graph, decoder, frames)
    outputs = {
        name: (HEADS, 1, HEAD, "frames") if name.endswith("key") else (HEADS, 1, "frames", HEAD) for name in CROSS_CACHE
    }
    return graph.serialized("moonshine encoder", {AUDIO: (1, "samples")}, outputs)


def quantised(graph: GraphBuilder, value: str, layer: Linear) -> str:
    """Add a product whose operand is quantised with one scale over all its rows."""
    constants = [graph.constant(array, array.dtype) for array in (layer.weights, layer.scale, layer.zero)]
    bias = "" if layer.bias is None else graph.constant(layer.bias)
    return graph.node("DynamicQuantizeMatMul", value, *constants, bias, domain=CONTRIB)


def _convolved(graph: GraphBuilder, encoder: Shipped) -> str:
    """Add the convolutions: audio [1, samples] → [1, frames, width]."""
    value = graph.node("Unsqueeze", AUDIO, graph.integers(1))
    first = graph.constant(encoder.operand("/Tanh_output_0", 1))
    value = graph.node("FusedConv", value, first, domain=CONTRIB, activation="Tanh", kernel_shape=[127], strides=[64])
    flat = graph.node("Reshape", value, graph.integers(0, 1, -1))
    ones, zeros = graph.constant([1.0]), graph.constant([0.0])
    flat = graph.node("InstanceNormalization", flat, ones, zeros, epsilon=EPSILON)
    value = graph.node("Reshape", flat, graph.integers(0, WIDTH, -1))
    value = graph.node("Mul", value, graph.constant(encoder.operand("/groupnorm/Mul_output_0", 1)))
    value = graph.node("Add", value, graph.constant(encoder.operand("/groupnorm/Add_output_0", 1)))
    for name, kernel, stride in (("/conv2", 7, 3), ("/conv3", 3, 2)):
        weights, bias = (graph.constant(encoder.operand(f"{name}/Conv_output_0", place)) for place in (1, 2))
        value = graph.node("Conv", value, weights, bias, kernel_shape=[kernel], strides=[stride])
        value = graph.node("Gelu", value, domain=CONTRIB)
    return graph.node("Transpose", value, perm=[0, 2, 1])


def _rotary(graph: GraphBuilder, encoder: Shipped, value: str) -> tuple[str, str]:
    """Add the cosines and sines of the rotary embedding, [frames, 1, head]; of the values that it leaves alone, 1 and 0."""
    angles = encoder.operand("/rotary_emb/Expand_output_0", 0).reshape(-1).repeat(2)
    count = graph.node("Squeeze", graph.node("Shape", value, start=1, end=2))
    number = graph.node("Range", graph.constant(0, np.int64), count, graph.constant(1, np.int64))
    position = graph.node("Unsqueeze", graph.node("Cast", number, to=TensorProto.FLOAT), graph.integers(1, 2))
    turned = graph.node("Mul", position, graph.constant(np.pad(angles, (0, HEAD - TURNED))))
    return graph.node("Cos", turned), graph.node("Sin", turned)


def _attended(graph: GraphBuilder, encoder: Shipped, layer: int, normal: str, turning: tuple[str, str]) -> str:
    """Add self-attention.

    The rotary embedding adds to each value, times the cosine, its neighbour times the sine.
    """
    prefix = f"/layers.{layer}/self_attn"
    query, key, value, out = (encoder.linear(f"{prefix}/{name}_proj/MatMul_output_0") for name in "qkvo")
    rows = graph.nodes("DynamicQuantizeLinear", 3, normal)
    both = _integer_product(graph, rows, side_by_side(query, key))
    both = graph.node("Reshape", both, graph.integers(0, 0, 2 * HEADS, HEAD))
    neighbours = graph.node("MatMul", both, graph.constant(_neighbours()))
    cosines, sines = turning
    turned = graph.node("Add", graph.node("Mul", both, cosines), graph.node("Mul", neighbours, sines))
    queries, keys = (
        graph.node("Transpose", half, perm=[0, 2, 1, 3]) for half in graph.nodes("Split", 2, turned, axis=2)
    )
    scores = graph.node("FusedMatMul", queries, keys, domain=CONTRIB, alpha=SCALE, transB=1)
    values = graph.node("Reshape", _integer_product(graph, rows, value), graph.integers(*_TO_HEADS))
    values = graph.node("Transpose", values, perm=[0, 2, 1, 3])
    heard = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), values)
    heard = graph.node("Reshape", graph.node("Transpose", heard, perm=[0, 2, 1, 3]), graph.integers(0, 0, WIDTH))
    return quantised(graph, heard, out)


def _neighbours() -> np.ndarray:
    """Return the matrix [head, head] that makes of each turned pair (a, b) of a head (-b, a), and of the others 0."""
    matrix = np.zeros((HEAD, HEAD), np.float32)
    for first in range(0, TURNED, 2):
        matrix[first + 1, first], matrix[first, first + 1] = -1.0, 1.0
    return matrix


def _integer_product(graph: GraphBuilder, rows: list[str], layer: Linear) -> str:
    """Add a product with rows that are quantised already: the rows, their scale and their zero point."""
    weights, scale, zero = (graph.constant(a, a.dtype) for a in (layer.weights, layer.scale, layer.zero))
    return graph.node("MatMulIntegerToFloat", rows[0], weights, rows[1], scale, rows[2], zero, domain=CONTRIB)


def _normalised(graph: GraphBuilder, value: str, encoder: Shipped, name: str) -> str:
    weights = graph.constant(encoder.operand(name, 1)), graph.constant(np.zeros(WIDTH))
    return graph.node("LayerNormalization", value, *weights, epsilon=EPSILON)


def _cross_cache(graph: GraphBuilder, decoder: Shipped, frames: str) -> None:
    names = [
        f"/model/decoder/layers.{layer}/encoder_attn/{part}_proj/MatMul_output_0"
        for layer in range(LAYERS)
        for part in "kv"
    ]
    product = quantised(graph, frames, side_by_side(*map(decoder.linear, names)))
    for name, part in zip(CROSS_CACHE, graph.nodes("Split", len(names), product, axis=2), strict=True):
        heads = graph.node("Reshape", part, graph.integers(*_TO_HEADS))
        if name.endswith("key"):
            heads = graph.node("Mul", graph.node("Transpose", heads, perm=[2, 0, 3, 1]), graph.constant(SCALE))
        else:
            heads = graph.node("Transpose", heads, perm=[2, 0, 1, 3])
        graph.named(heads, name)
