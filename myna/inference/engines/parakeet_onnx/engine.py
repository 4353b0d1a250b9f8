"""NVIDIA Parakeet on onnxruntime: exported FastConformer transducers and CTC models, without torch and NeMo.

The lanes of a process share one copy of the weights. Finals are one offline pass over their audio, or the flushed stream of a
cache-aware encoder; interims follow the utterance (see `transducer.following`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from myna.inference.engines.parakeet_onnx.inspection import Export, find
from myna.inference.engines.parakeet_onnx.layouts import PRECISIONS
from myna.inference.engines.parakeet_onnx.model import CachedOnnxModel, loaded
from myna.inference.engines.port import ModelOptions
from myna.inference.engines.transducer.caches import CacheFollower
from myna.inference.engines.transducer.decoding import (
    BEST_SEGMENT_S,
    CONTEXT_S,
    LONGEST_S,
    MOST_PADDING,
    SMALLEST_ENDPOINT_MS,
    decoded,
    sorted_out,
)
from myna.inference.engines.transducer.windows import WindowFollower
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.events import samples
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobKind, Outcome

_BATCH = 16
"""Largest batch of an fp32 model. An int8 model takes one job at a time: its activations are scaled over the whole batch, so
that words would depend on the neighbours."""


class ParakeetOnnxEngine:
    """The engine for one exported model. One thread builds and calls it; the engines of a process share the weights."""

    def __init__(self, options: ModelOptions) -> None:
        export = _export(options)
        self._model = loaded(export, options.device, max(1, options.threads))
        self._follower: CacheFollower | WindowFollower
        cached = isinstance(self._model, CachedOnnxModel)
        if isinstance(self._model, CachedOnnxModel):
            self._follower = CacheFollower(self._model)
        else:
            self._follower = WindowFollower(self._model)
        self.info = EngineInfo(
            name=options.name or export.folder.name,
            languages=options.languages or export.languages,
            longest_segment_s=LONGEST_S,
            smallest_endpoint_ms=SMALLEST_ENDPOINT_MS,
            largest_batch=1 if export.precision == "int8" else options.largest_batch or _BATCH,
            most_padding=MOST_PADDING,
            best_segment_s=BEST_SEGMENT_S,
            context_s=CONTEXT_S,
            interim_window_s=self._follower.window_s,
            incremental=True,
            keyterms=export.kind != "ctc",
            flushed_finals=cached,
            gpu=options.device not in ("auto", "cpu"),
            version=export.version,
            mode="streaming" if cached else "offline",
            uuid=export.uuid,
        )

    def warm_up(self) -> None:
        """Decode one segment of the usual greatest length, so that onnxruntime has reserved its memory."""
        silence = bytes(2 * samples(BEST_SEGMENT_S))
        self.transcribe([InferenceJob("warm-up", "warm-up", JobKind.FILE, silence, 0.0)])

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Decode a batch; return the outcomes in the order of the jobs."""
        outcomes, whole, steps = sorted_out(jobs, samples(LONGEST_S), self.info.name)
        for some, run in ((whole, partial(decoded, self._model)), (steps, self._follower.step)):
            if some:
                outcomes.update(zip((job.id for job in some), run(some), strict=True))
        return [outcomes[job.id] for job in jobs]

    def release(self, source: str) -> None:
        """Drop the state of the utterance followed for this channel."""
        self._follower.release(source)


def _export(options: ModelOptions) -> Export:
    """Return the export to load. Raises `EngineUnavailableError`."""
    folder = Path(options.source)
    on_cpu = options.device in ("auto", "cpu")
    precision = options.precision if options.precision in PRECISIONS else "auto"  # others are for other engines
    export = find(folder, precision, prefer="int8" if on_cpu else "fp32")
    if export is None:
        raise EngineUnavailableError(f"{folder} is no folder of an exported Parakeet")
    return export
