"""The decoder with the shipped weights: `step` takes one token, `steps` takes several whose results are equal to the bit.

Several tokens cost little more than one, because the processor waits for the weights most of the time. Their results must
not depend on how many there are:

- Products quantise each row by itself. onnxruntime's operator has one scale for all rows; `_rowwise` writes the same
  arithmetic in single operators, with a scale for each row.
- onnxruntime multiplies a matrix of one row by another path, whose sums differ in the last bit. `step` attends with its row
  twice where `steps` attends with several rows. Cross-attention multiplies single rows in both graphs.
- Attention to earlier tokens computes each row over the tokens up to its own only (`GroupQueryAttention`).

Keys and values of earlier tokens lie in buffers that both graphs fill in place, so that going back costs nothing.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from onnx import TensorProto

from myna.inference.engines.graph_builder import CONTRIB, GraphBuilder
from myna.inference.engines.moonshine.encoder_graph import (
    CROSS_CACHE,
    EPSILON,
    HEAD,
    HEADS,
    LAYERS,
    SCALE,
    WIDTH,
    quantised,
)
from myna.inference.engines.moonshine.shipped import Linear, Shipped, side_by_side

ATTENTION_LAYERS = (3, 4, 5)
"""Layers whose cross-attention [heads, rows, 1, frames] is output as `attention.LAYER`."""
LOGITS = "logits"
"""The output [1, rows, tokens] of which `token` is the greatest."""
SELF_CACHE = tuple(f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value"))
"""The buffers [1, heads, places, `PADDED_HEAD`]: inputs `past.NAME`, outputs `present.NAME` in the same memory."""
PADDED_HEAD = 48
"""`GroupQueryAttention` takes heads of a multiple of 16 values only; the others are zeros."""
MOST_PLACES = 1024
"""The most places that the rotary embedding has angles for: 157 s of audio."""
_PREFIX = "/model/decoder"


class _Product(Protocol):
    """Adds a product with a quantised operand [1, rows, inputs]."""

    def __call__(self, graph: GraphBuilder, value: str, layer: Linear) -> str: ...


def step_graph(decoder: Shipped) -> bytes:
    """Return the graph of one token; see `_decoder`. Its `last_place` and `places` count the second row of attention."""
    return _decoder(decoder, "step", quantised, one=True)


def steps_graph(decoder: Shipped) -> bytes:
    """Return the graph of two tokens or more; see `_decoder`."""
    return _decoder(decoder, "steps", _rowwise, one=False)


def _decoder(decoder: Shipped, name: str, product: _Product, *, one: bool) -> bytes:
    """Return a graph: `tokens` [1, rows] with the places before them and the cross-attention cache → what follows each.

    `last_place` [1] is the place of the last row, `places` the number of places up to it. Outputs: `token` [1, rows],
    `probability` [1, rows], `LOGITS`, the attention of `ATTENTION_LAYERS`, and the filled buffers.
    """
    graph = GraphBuilder()
    head = decoder.linear("logits")
    embedding = graph.node("Gather", graph.constant(np.ascontiguousarray(head.weights.T), np.uint8), "tokens")
    value = graph.node("DequantizeLinear", embedding, graph.constant(head.scale), graph.constant(head.zero, np.uint8))
    normal = graph.node("LayerNormalization", value, *_norm(graph, decoder, 0, "input"), epsilon=EPSILON)
    turning = _rotary(graph, decoder)
    outputs: dict[str, tuple[int | str, ...]] = {}
    for layer in range(LAYERS):
        attended = _self_attention(graph, decoder, layer, normal, product, turning, one=one)
        value, normal = _added(graph, value, attended, _norm(graph, decoder, layer, "post_attention"))
        attended, weights = _cross_attention(graph, decoder, layer, normal, product, one=one)
        value, normal = _added(graph, value, attended, _norm(graph, decoder, layer, "final"))
        if layer in ATTENTION_LAYERS:
            graph.named(weights, f"attention.{layer}")
            outputs[f"attention.{layer}"] = (HEADS, "rows", 1, "frames")
        fed = _gated(graph, decoder, layer, normal, product)
        value, normal = _added(graph, value, fed, _norm(graph, decoder, layer + 1, "input"))
    logits = product(graph, normal, head)
    graph.named(graph.node("ArgMax", logits, axis=-1, keepdims=0), "token")
    probabilities = graph.node("Softmax", logits, axis=-1)
    graph.named(graph.node("ReduceMax", probabilities, axes=[-1], keepdims=0), "probability")
    graph.named(logits, LOGITS)
    rows: int | str = 1 if one else "rows"
    buffer = (1, HEADS, "buffer", PADDED_HEAD)
    inputs = {"tokens": (1, rows), "last_place": (1,), "places": (), **{f"past.{name}": buffer for name in SELF_CACHE}}
    inputs |= {
        name: (HEADS, 1, HEAD, "frames") if name.endswith("key") else (HEADS, 1, "frames", HEAD) for name in CROSS_CACHE
    }
    outputs |= {LOGITS: (1, rows, "tokens"), "token": (1, rows), "probability": (1, rows)}
    outputs |= {f"present.{name}": buffer for name in SELF_CACHE}
    integers = {
        "tokens": TensorProto.INT64,
        "token": TensorProto.INT64,
        "last_place": TensorProto.INT32,
        "places": TensorProto.INT32,
    }
    return graph.serialized(f"moonshine decoder, {name}", inputs, outputs, integers)


def _rotary(graph: GraphBuilder, decoder: Shipped) -> tuple[str, str]:
    """Add the cosines and sines of the rotary embedding, [places, turned / 2]; onnxruntime computes them once."""
    angles = decoder.operand(f"{_PREFIX}/rotary_emb/Expand_output_0", 0).reshape(1, -1)
    turned = graph.node("Mul", graph.constant(np.arange(MOST_PLACES)[:, None]), graph.constant(angles))
    return graph.node("Cos", turned), graph.node("Sin", turned)


def _self_attention(
    graph: GraphBuilder,
    decoder: Shipped,
    layer: int,
    normal: str,
    product: _Product,
    turning: tuple[str, str],
    *,
    one: bool,
) -> str:
    prefix = f"{_PREFIX}/layers.{layer}/self_attn"
    query, key, value, out = (decoder.linear(f"{prefix}/{name}_proj/MatMul_output_0") for name in "qkvo")
    packed = product(graph, normal, side_by_side(*map(_padded_outputs, (query, key, value))))
    if one:
        packed = graph.node("Concat", packed, packed, axis=1)
    past = f"past.{layer}.key", f"past.{layer}.value"
    attended, *present = graph.nodes(
        "GroupQueryAttention",
        3,
        *(packed, "", "", *past, "last_place", "places", *turning),
        domain=CONTRIB,
        num_heads=HEADS,
        kv_num_heads=HEADS,
        scale=SCALE,
        do_rotary=1,
        rotary_interleaved=1,
    )
    for filled, name in zip(present, ("key", "value"), strict=True):
        graph.named(filled, f"present.{layer}.{name}")
    if one:
        attended = graph.node("Slice", attended, graph.integers(0), graph.integers(1), graph.integers(1))
    return product(graph, attended, _padded_inputs(out))


def _cross_attention(
    graph: GraphBuilder, decoder: Shipped, layer: int, normal: str, product: _Product, *, one: bool
) -> tuple[str, str]:
    """Add attention to the audio; return what is attended and the weights [heads, rows, 1, frames]."""
    prefix = f"{_PREFIX}/layers.{layer}/encoder_attn"
    query, out = (decoder.linear(f"{prefix}/{name}_proj/MatMul_output_0") for name in "qo")
    queries = product(graph, normal, query)
    if one:
        queries = graph.node("Reshape", queries, graph.integers(HEADS, 1, 1, HEAD))
    else:
        queries = graph.node("Reshape", queries, graph.integers(-1, HEADS, 1, HEAD))
        queries = graph.node("Transpose", queries, perm=[1, 0, 2, 3])
    weights = graph.node("Softmax", graph.node("MatMul", queries, f"cross.{layer}.key"), axis=-1)
    heard = graph.node("MatMul", weights, f"cross.{layer}.value")
    if not one:
        heard = graph.node("Transpose", heard, perm=[1, 0, 2, 3])
    return product(graph, graph.node("Reshape", heard, graph.integers(1, -1, WIDTH)), out), weights


def _gated(graph: GraphBuilder, decoder: Shipped, layer: int, normal: str, product: _Product) -> str:
    """Add the feed-forward part: half of the inner values, each times the SiLU of one of the other half."""
    inner, outer = (decoder.linear(f"{_PREFIX}/layers.{layer}/mlp/{name}/Add_output_0") for name in ("fc1", "fc2"))
    plain, gate = graph.nodes("Split", 2, product(graph, normal, inner), axis=2)
    gate = graph.node("QuickGelu", gate, domain=CONTRIB, alpha=1.0)
    return product(graph, graph.node("Mul", gate, plain), outer)


def _added(graph: GraphBuilder, value: str, other: str, norm: tuple[str, str]) -> tuple[str, str]:
    """Add a residual connection; return the sum, and the sum normalised."""
    normal, _, _, total = graph.nodes("SkipLayerNormalization", 4, value, other, *norm, domain=CONTRIB, epsilon=EPSILON)
    return total, normal


def _norm(graph: GraphBuilder, decoder: Shipped, layer: int, place: str) -> tuple[str, str]:
    """Return the weights and the bias of a normalisation; the one at the input of no layer is the decoder's last."""
    name = f"{_PREFIX}/layers.{layer}/{place}_layernorm" if layer < LAYERS else f"{_PREFIX}/norm"
    weights = decoder.operand(f"{name}/LayerNormalization_output_0", 1)
    return graph.constant(weights), graph.constant(np.zeros(WIDTH))


def _rowwise(graph: GraphBuilder, value: str, layer: Linear) -> str:
    """Add a product that gives for each row what `quantised` gives for that row alone.

    The scale and the zero point of a row are those of `DynamicQuantizeLinear`. A row's zero point is subtracted behind the
    product, times the sum of each column of weights: `MatMulInteger` takes one for all rows.
    """
    zero, span = graph.constant(0.0), graph.constant(255.0)
    last, flat = graph.integers(-1), graph.integers(-1)
    greatest = graph.node("Max", graph.node("ReduceMax", value, axes=[-1], keepdims=0), zero)
    least = graph.node("Min", graph.node("ReduceMin", value, axes=[-1], keepdims=0), zero)
    scale = graph.node("Div", graph.node("Sub", greatest, least), span)
    middle = graph.node("Round", graph.node("Sub", zero, graph.node("Div", least, scale)))
    scales = graph.node("Reshape", scale, flat)
    middles = graph.node("Cast", graph.node("Reshape", middle, flat), to=TensorProto.UINT8)
    rows = graph.node("QuantizeLinear", value, scales, middles, axis=1)
    weights, weight_zero = graph.constant(layer.weights, np.uint8), graph.constant(layer.zero, np.uint8)
    product = graph.node("MatMulInteger", rows, weights, "", weight_zero)
    sums = (layer.weights.astype(np.int32) - layer.zero.astype(np.int32)).sum(axis=0)
    excess = graph.node("Unsqueeze", graph.node("Cast", middle, to=TensorProto.INT32), last)
    product = graph.node("Sub", product, graph.node("Mul", excess, graph.constant(sums, np.int32)))
    factor = graph.node("Mul", graph.node("Unsqueeze", scale, last), graph.constant(layer.scale))
    result = graph.node("Mul", graph.node("Cast", product, to=TensorProto.FLOAT), factor)
    return result if layer.bias is None else graph.node("Add", result, graph.constant(layer.bias))


def _padded_outputs(layer: Linear) -> Linear:
    """Return a layer whose outputs are heads of `PADDED_HEAD` values; those added are 0."""
    heads = layer.weights.reshape(-1, HEADS, HEAD)
    padded = np.pad(heads, ((0, 0), (0, 0), (0, PADDED_HEAD - HEAD)), constant_values=layer.zero)
    return Linear(padded.reshape(len(heads), -1), layer.scale, layer.zero)


def _padded_inputs(layer: Linear) -> Linear:
    """Return a layer that takes heads of `PADDED_HEAD` values."""
    heads = layer.weights.reshape(HEADS, HEAD, -1)
    padded = np.pad(heads, ((0, 0), (0, PADDED_HEAD - HEAD), (0, 0)), constant_values=layer.zero)
    return Linear(padded.reshape(HEADS * PADDED_HEAD, -1), layer.scale, layer.zero)
