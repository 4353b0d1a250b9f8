"""The graph of pyannote's segmentation-3.0 (PyanNet: sinc filters, a bidirectional LSTM, a powerset of voices)."""

from __future__ import annotations

import numpy as np

from myna.inference.engines.diarizer.torch_zip import Tensors
from myna.inference.engines.graph_builder import GraphBuilder

POWERSET = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], bool)
"""Class → which of three voices speak."""
INPUT, OUTPUT = "waveform", "classes"
_STRIDE = 10
"""Samples from one of the sinc filters' places to the next."""
_LEAST_HZ, _NYQUIST_HZ = 50.0, 8000.0
"""Of a sinc filter: its lowest edge and narrowest band, and its highest edge (asteroid_filterbanks' `ParamSincFB`)."""
_LAYERS, _HIDDEN = 4, 128
_LEAK = 0.01
"""Slope of the rectifiers below zero."""


def segmentation_graph(weights: Tensors) -> bytes:
    """Return the ONNX model: waveform float32 [1, 1, samples] → scores of the classes [1, frames, 7].

    `weights` is the checkpoint's `state_dict`. The model's log-softmax is left out: it keeps the order of
    the scores.
    """
    graph = GraphBuilder()

    def normalised(value: str, name: str) -> str:
        scale, bias = (graph.constant(weights[f"{name}.{kind}"]) for kind in ("weight", "bias"))
        return graph.node("InstanceNormalization", value, scale, bias, epsilon=1e-5)

    value = normalised(INPUT, "sincnet.wav_norm1d")
    value = graph.node("Abs", graph.node("Conv", value, graph.constant(_sinc_filters(weights)), strides=[_STRIDE]))
    for index in range(3):
        if index:
            layer = f"sincnet.conv1d.{index}"
            kernel, bias = (graph.constant(weights[f"{layer}.{kind}"]) for kind in ("weight", "bias"))
            value = graph.node("Conv", value, kernel, bias)
        value = graph.node("MaxPool", value, kernel_shape=[3], strides=[3])
        value = graph.node("LeakyRelu", normalised(value, f"sincnet.norm1d.{index}"), alpha=_LEAK)
    value = graph.node("Transpose", value, perm=[2, 0, 1])  # [frames, 1, 60]
    for index in range(_LAYERS):
        value = _lstm(graph, value, weights, index)
    value = graph.node("Transpose", value, perm=[1, 0, 2])
    for layer in ("linear.0", "linear.1", "classifier"):
        product = graph.node("MatMul", value, graph.constant(weights[f"{layer}.weight"].T))
        value = graph.node("Add", product, graph.constant(weights[f"{layer}.bias"]))
        if layer != "classifier":
            value = graph.node("LeakyRelu", value, alpha=_LEAK)
    graph.named(value, OUTPUT)
    return graph.serialized("segmentation", {INPUT: (1, 1, "samples")}, {OUTPUT: (1, "frames", len(POWERSET))})


def _sinc_filters(weights: Tensors) -> np.ndarray:
    """Return the band-pass filters [80, 1, 251]: for each band a cosine and a sine one."""
    prefix = "sincnet.conv1d.0.filterbank."
    low, band, window, times = (
        weights[prefix + name].astype(np.float64) for name in ("low_hz_", "band_hz_", "window_", "n_")
    )
    low = _LEAST_HZ + np.abs(low)
    high = np.clip(low + _LEAST_HZ + np.abs(band), _LEAST_HZ, _NYQUIST_HZ)
    width = high - low
    below, above = low @ times, high @ times
    even = (np.sin(above) - np.sin(below)) / (times / 2) * window
    odd = (np.cos(below) - np.cos(above)) / (times / 2) * window
    cosine = np.concatenate([even, 2 * width, even[:, ::-1]], axis=1)
    sine = np.concatenate([odd, np.zeros_like(width), -odd[:, ::-1]], axis=1)
    return np.asarray((np.concatenate([cosine, sine]) / np.tile(2 * width, (2, 1)))[:, None])


def _lstm(graph: GraphBuilder, value: str, weights: Tensors, layer: int) -> str:
    """Add a bidirectional layer: [frames, 1, features] → [frames, 1, 256]."""

    def of_both(form: str) -> list[np.ndarray]:
        return [_gates(weights[f"lstm.{form}_l{layer}{direction}"]) for direction in ("", "_reverse")]

    biases = np.concatenate([np.stack(of_both("bias_ih")), np.stack(of_both("bias_hh"))], axis=1)
    matrices = [graph.constant(np.stack(of_both(form))) for form in ("weight_ih", "weight_hh")]
    value = graph.node("LSTM", value, *matrices, graph.constant(biases), direction="bidirectional", hidden_size=_HIDDEN)
    return graph.node("Reshape", graph.node("Transpose", value, perm=[0, 2, 1, 3]), graph.integers(0, 0, -1))


def _gates(weight: np.ndarray) -> np.ndarray:
    """Return the gates in ONNX's order (input, output, forget, cell) from torch's (input, forget, cell, output)."""
    into, forget, cell, out = np.split(weight, 4)
    return np.concatenate([into, out, forget, cell])
