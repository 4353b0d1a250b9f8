"""Weights of quantised graphs signed or unsigned, as the processor multiplies them exactly: once, and in the cache folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from myna.inference.engines.parakeet_onnx import signing
from myna.streaming.speech import graph_cache

EXACT = signing.multiplies_signed_exactly()
"""Whether this processor's products with signed weights are exact."""
INPUT = np.random.default_rng(1).standard_normal((1, 20, 256)).astype(np.float32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder for caches."""
    place = tmp_path / "cache"
    monkeypatch.setattr(signing, "places", lambda: iter([place]))
    return place


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that passes the first trial: the comparison of the graphs decides."""
    monkeypatch.setattr(signing, "multiplies_signed_exactly", lambda: True)


def graph(path: Path, largest: float, *, external: bool = False) -> Path:
    """Write two products with weights from -largest to largest, quantised to unsigned numbers from -1 to 1.

    If all weights are small, sums of two products stay within 16 bits: no kernel saturates.
    """
    generator = np.random.default_rng(2)
    weights = [generator.uniform(-largest, largest, (256, 256)).astype(np.float32) for _ in range(2)]
    for matrix in weights:
        matrix[0, 0], matrix[1, 0] = 1.0, -1.0  # the range of the quantisation
    nodes = [helper.make_node("MatMul", ["in", "w0"], ["h"]), helper.make_node("MatMul", ["h", "w1"], ["out"])]
    made = helper.make_graph(
        nodes, "products", [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, "n", 256])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, "n", 256])],
        [numpy_helper.from_array(matrix, f"w{n}") for n, matrix in enumerate(weights)],
    )  # fmt: skip
    plain = path.with_name("plain.onnx")
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), plain)
    quantize_dynamic(plain, path, weight_type=QuantType.QUInt8)
    if external:
        onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights", size_threshold=100)
    return path


class Opened:
    """Opens graphs and records which."""

    def __init__(self) -> None:
        self.paths: list[Path] = []

    def __call__(self, path: Path) -> Any:
        self.paths.append(path)
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def run(session: Any) -> list[np.ndarray]:
    return list(session.run(None, {"in": INPUT}))


@pytest.mark.parametrize("external", [False, True])
def test_a_signed_graph_with_the_same_results_is_used_and_kept(
    tmp_path: Path, cache: Path, exact: None, external: bool
) -> None:
    path = graph(tmp_path / "small.int8.onnx", 0.4, external=external)
    first, again = Opened(), Opened()
    expected = run(Opened()(path))
    assert np.array_equal(run(signing.opened(path, first, run)), expected)
    assert first.paths[0] == path
    assert cache in first.paths[1].parents
    session = signing.opened(path, again, run)
    assert len(again.paths) == 1
    assert cache in again.paths[0].parents
    assert np.array_equal(run(session), expected)
    types = {tensor.name: tensor.data_type for tensor in onnx.load(again.paths[0]).graph.initializer}
    assert types["w0_quantized"] == types["w1_zero_point"] == TensorProto.INT8


def test_a_signed_graph_with_other_results_is_dropped_once_and_for_all(
    tmp_path: Path, cache: Path, exact: None
) -> None:
    path = graph(tmp_path / "large.int8.onnx", 1.0)
    trials: list[Any] = []

    def saturating(session: Any) -> list[np.ndarray]:
        """Return other outputs for the second session, as a processor without VNNI does."""
        trials.append(session)
        return [output + len(trials) for output in run(session)]

    first, again = Opened(), Opened()
    signing.opened(path, first, saturating)
    assert [each == path for each in first.paths] == [True, False, True]
    assert not list(cache.rglob("*.onnx*"))
    signing.opened(path, again, saturating)
    assert again.paths == [path]
    assert len(trials) == 2


def test_the_signed_graph_of_a_replaced_file_replaces_the_old_one(tmp_path: Path, cache: Path, exact: None) -> None:
    for largest in (0.4, 0.3):
        path = graph(tmp_path / "small.int8.onnx", largest)
        expected = run(Opened()(path))
        assert np.array_equal(run(signing.opened(path, Opened(), run)), expected)
    assert len(list(cache.rglob("small.int8.onnx"))) == 1


def test_a_graph_without_unsigned_products_is_used_as_it_is(tmp_path: Path, cache: Path, exact: None) -> None:
    path = graph(tmp_path / "small.int8.onnx", 0.4).with_name("plain.onnx")
    opened = Opened()
    signing.opened(path, opened, run)
    assert opened.paths == [path]


@pytest.fixture
def saturating(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that fails the first trial: its products with signed weights are not exact."""
    monkeypatch.setattr(signing, "multiplies_signed_exactly", lambda: False)


def test_a_processor_that_saturates_keeps_unsigned_weights(tmp_path: Path, cache: Path, saturating: None) -> None:
    path = graph(tmp_path / "small.int8.onnx", 0.4)
    first, again = Opened(), Opened()
    for opened in (first, again):
        signing.opened(path, opened, run)
        assert opened.paths == [path]
    assert not list(cache.rglob("*.onnx"))


def test_a_processor_that_saturates_gets_signed_weights_unsigned(tmp_path: Path, cache: Path, saturating: None) -> None:
    """A recurrent layer and a product, as in public decoders. Unsigned weights are exact on every processor."""
    path = decoder(tmp_path / "decoder.int8.onnx")
    first, again = Opened(), Opened()
    inputs = {"in": INPUT.transpose(1, 0, 2)}
    outputs = [signing.opened(path, opened, run).run(None, inputs)[0] for opened in (first, again)]
    assert np.array_equal(*outputs)
    assert [path] not in (first.paths, again.paths)
    types = {tensor.name: tensor.data_type for tensor in onnx.load(again.paths[0]).graph.initializer}
    assert [types[f"{name}_quantized"] for name in ("w", "r", "p")] == 3 * [TensorProto.UINT8]
    plain, shipped = (Opened()(each).run(None, inputs)[0] for each in (path.with_name("plain.onnx"), path))
    assert np.array_equal(shipped, outputs[0]) == EXACT
    assert EXACT or np.linalg.norm(outputs[0] - plain) < np.linalg.norm(shipped - plain)


def test_signed_weights_of_seven_bits_stay(tmp_path: Path, cache: Path, saturating: None) -> None:
    path = decoder(tmp_path / "decoder.int8.onnx", reduce_range=True)
    opened = Opened()
    signing.opened(path, opened, run)
    assert opened.paths == [path]


def decoder(path: Path, *, reduce_range: bool = False) -> Path:
    """Write a recurrent layer and a product with signed weights."""
    generator = np.random.default_rng(2)
    sizes = {"w": (1, 1024, 256), "r": (1, 1024, 256), "p": (256, 64)}
    weights = {name: generator.uniform(-0.3, 0.3, size).astype(np.float32) for name, size in sizes.items()}
    nodes = [
        helper.make_node("LSTM", ["in", "w", "r"], ["", "h"], hidden_size=256),
        helper.make_node("MatMul", ["h", "p"], ["out"]),
    ]
    made = helper.make_graph(
        nodes, "decoder", [helper.make_tensor_value_info("in", TensorProto.FLOAT, ["n", 1, 256])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 1, 64])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )  # fmt: skip
    plain = path.with_name("plain.onnx")
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), plain)
    quantize_dynamic(plain, path, weight_type=QuantType.QInt8, per_channel=reduce_range, reduce_range=reduce_range)
    return path


def test_the_first_trial_agrees_with_a_graph_of_large_weights(tmp_path: Path) -> None:
    """Whatever this processor is: a graph that saturates one that saturates differs, and on the others it is the same."""
    path, signed = graph(tmp_path / "large.int8.onnx", 1.0), tmp_path / "signed.onnx"
    assert signing.write_changed(path, signed, signed=True)
    extreme = np.where(np.arange(20 * 256).reshape(1, 20, 256) % 3 == 0, -0.01, 1.0).astype(np.float32)
    outputs = [Opened()(each).run(None, {"in": extreme})[0] for each in (path, signed)]
    assert np.array_equal(*outputs) == EXACT


def test_without_a_writable_cache_the_graph_is_used_as_it_is(
    tmp_path: Path, exact: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(signing, "places", lambda: iter([tmp_path / "file"]))
    path = graph(tmp_path / "small.int8.onnx", 0.4)
    opened = Opened()
    signing.opened(path, opened, run)
    assert opened.paths == [path]


def test_the_places_of_the_cache_begin_with_the_users_folder() -> None:
    assert next(graph_cache.places()).name == "myna"
