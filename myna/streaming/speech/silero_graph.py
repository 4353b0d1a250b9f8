"""Rebuilds Silero's graph from matrix products, so that one call processes many windows of many channels.

The shipped graph processes one window. Only its recurrent cell needs windows in order, and onnxruntime's LSTM operator does
that for sequences of any lengths. The layers before and after it process each window alone, so all windows form one batch.
A convolution over so few frames costs less as a product of a matrix: the four frames of a window are its rows. The Fourier
transform of a windowed frame takes half the multiplications if samples at equal distances from the frame's middle are added
(for the cosines) and subtracted (for the sines) before; `myna.streaming.speech.silero` does that.

The probabilities differ from the shipped graph's by less than 1e-5, and not at all with the windows of a call.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FRAMES = 4
"""Frames of a window's Fourier transform."""
FRAME = 256
"""Samples of a frame; it begins half a frame after the one before."""
FOLDED = FRAME // 2 + 1
"""Sums, or differences, of a frame's samples. Also the number of its frequencies."""
WIDTH = 128
"""Width of the layers and of the recurrent state."""
_NARROW = 64
"""Width of the two layers in the middle."""
_FULL_SCALE = 32768.0


def build(model: Path) -> bytes:
    """Return the graph.

    `sums` and `differences` [windows * FRAMES, FOLDED] are those of the int16 samples n and 256 - n of each frame (sample
    256 is 0). `order` [steps, channels] holds the index of each channel's windows, `lengths` [channels] their number, and
    `state` [2, channels, 128] is the recurrent cell's. Returns `output` [steps, channels] and `stateN`, shaped like `state`.
    The outputs behind a channel's length have no meaning.
    """
    shipped = onnx.load(str(model))
    weights = {weight.name: numpy_helper.to_array(weight) for weight in shipped.graph.initializer}
    graph = _Graph()
    spectrum = _spectrum(graph, weights["model.stft.forward_basis_buffer"][:, 0])
    heard = _recurrent(graph, _convolved(graph, spectrum, weights), weights)
    bias = graph.constant(weights["model.decoder.decoder.2.bias"])
    out = graph.constant(weights["model.decoder.decoder.2.weight"][:, :, 0].T)
    probability = graph.add("Sigmoid", graph.add("Gemm", graph.add("Relu", heard), out, bias))
    graph.add("Reshape", probability, graph.add("Shape", "order"), output="output")
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "voice activity",
            [
                _tensor("sums", ["frames", FOLDED]),
                _tensor("differences", ["frames", FOLDED]),
                _tensor("order", ["steps", "channels"], TensorProto.INT64),
                _tensor("lengths", ["channels"], TensorProto.INT32),
                _tensor("state", [2, "channels", WIDTH]),
            ],
            [_tensor("output", ["steps", "channels"]), _tensor("stateN", [2, "channels", WIDTH])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", 15)],
        ir_version=shipped.ir_version,
    )
    onnx.checker.check_model(made)
    serialized: bytes = made.SerializeToString()
    return serialized


class _Graph:
    """Nodes and constants, named by number."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add an operator with one output; return the output's name."""
        output = output or f"value {len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: np.ndarray) -> str:
        """Add a constant; return its name."""
        name = f"constant {len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def reshaped(self, value: str, *shape: int) -> str:
        """Return the name of a value with this shape."""
        return self.add("Reshape", value, self.constant(np.array(shape, np.int64)))

    def columns(self, value: str, first: int, last: int) -> str:
        """Return the name of the columns of a matrix from `first` up to `last`."""
        bounds = [self.constant(np.array([bound], np.int64)) for bound in (first, last, 1)]
        return self.add("Slice", value, *bounds)

    def layer(self, value: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """Return the name of the output of a layer with ReLU. `weight` [inputs, outputs]."""
        return self.add("Relu", self.add("Gemm", value, self.constant(weight), self.constant(bias)))


def _spectrum(graph: _Graph, basis: np.ndarray) -> str:
    """Return the magnitudes [windows * FRAMES, FOLDED]. `basis` [2 * FOLDED, FRAME]: windowed cosines, then sines."""
    half = basis[:, :FOLDED].T / _FULL_SCALE
    half[FRAME // 2] /= 2  # the middle sample is added to itself
    half = half.astype(np.float32)
    parts = zip(("sums", "differences"), (half[:, :FOLDED], half[:, FOLDED:]), strict=True)
    real, imaginary = (graph.add("MatMul", name, graph.constant(part)) for name, part in parts)
    power = graph.add("Add", graph.add("Mul", real, real), graph.add("Mul", imaginary, imaginary))
    return graph.add("Sqrt", power)


def _convolved(graph: _Graph, spectrum: str, weights: dict[str, np.ndarray]) -> str:
    """Return the features [windows, 128]: four convolutions over time, the second and third with stride 2.

    Taps that lie outside the window, which the shipped graph multiplies by zero, are left out of all but the first.
    """
    kernels = [weights[f"model.encoder.{number}.reparam_conv.weight"].transpose(2, 1, 0) for number in range(4)]
    biases = [weights[f"model.encoder.{number}.reparam_conv.bias"] for number in range(4)]
    padding = graph.constant(np.array([0, 1, 0, 0, 1, 0], np.int64))
    padded = graph.add("Pad", graph.reshaped(spectrum, -1, FRAMES, FOLDED), padding)
    padded = graph.reshaped(padded, -1, (FRAMES + 2) * FOLDED)
    around = [graph.columns(padded, FOLDED * frame, FOLDED * (frame + 3)) for frame in range(FRAMES)]
    frames = graph.reshaped(graph.add("Concat", *around, axis=1), -1, 3 * FOLDED)
    first = graph.layer(frames, kernels[0].reshape(-1, WIDTH), biases[0])
    first = graph.reshaped(first, -1, FRAMES * WIDTH)
    kernel = kernels[1].reshape(-1, _NARROW)
    second = [
        graph.layer(graph.columns(first, 0, 2 * WIDTH), kernel[WIDTH:], biases[1]),
        graph.layer(graph.columns(first, WIDTH, 4 * WIDTH), kernel, biases[1]),
    ]
    third = graph.layer(graph.add("Concat", *second, axis=1), kernels[2][1:].reshape(-1, _NARROW), biases[2])
    return graph.layer(third, kernels[3][1], biases[3])


def _recurrent(graph: _Graph, features: str, weights: dict[str, np.ndarray]) -> str:
    """Return the recurrent cell's outputs [steps * channels, 128], after each step."""
    rnn = "model.decoder.rnn."
    steps = graph.add("Gather", features, "order", axis=0)
    matrices = [graph.constant(_gates(weights[rnn + name])[None]) for name in ("weight_ih", "weight_hh")]
    biases = np.concatenate([_gates(weights[rnn + name]) for name in ("bias_ih", "bias_hh")])
    bounds = [graph.constant(np.array([bound], np.int64)) for bound in range(3)]
    hidden = graph.add("Slice", "state", bounds[0], bounds[1], bounds[0])
    cell = graph.add("Slice", "state", bounds[1], bounds[2], bounds[0])
    inputs = [steps, *matrices, graph.constant(biases[None]), "lengths", hidden, cell]
    outputs = ["heard", "hidden", "cell"]
    graph.nodes.append(helper.make_node("LSTM", inputs, outputs, hidden_size=WIDTH))
    graph.add("Concat", "hidden", "cell", output="stateN", axis=0)
    return graph.reshaped("heard", -1, WIDTH)


def _gates(weight: np.ndarray) -> np.ndarray:
    """Return weights in ONNX's order of gates (input, output, forget, cell) from PyTorch's (input, forget, cell, output)."""
    i, f, c, o = np.split(weight, 4)
    return np.concatenate([i, o, f, c])


def _tensor(name: str, shape: list[int | str], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
