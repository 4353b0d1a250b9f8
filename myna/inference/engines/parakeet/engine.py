"""NVIDIA Parakeet through NeMo, in batches: FastConformer transducers (TDT, RNN-T, hybrids with CTC, cache-aware models).

Interims follow the utterance (see `transducer.following`), and so do the finals of a cache-aware model; other finals are one
offline pass over their audio. A batch that does not fit into the device's memory is split in two and run again, and later
batches are limited to the smaller size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from myna.inference.engines.hub import downloaded
from myna.inference.engines.parakeet.checkpoint import Checkpoint, inspect
from myna.inference.engines.parakeet.model import ParakeetModel
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
from myna.streaming.events import SAMPLE_RATE, samples, seconds
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Outcome

_CPU_BATCH, _GPU_BATCH = 16, 64


class ParakeetEngine:
    """The engine for one checkpoint on one device. One thread builds and calls it."""

    def __init__(self, options: ModelOptions) -> None:
        checkpoint = inspect(fetched(options.source))
        self._model = ParakeetModel(checkpoint, options)
        self.path, self.device, self.dtype = checkpoint.path, self._model.device, self._model.dtype
        on_gpu = self.device.type == "cuda"
        self._longest = min(samples(LONGEST_S), self._model.longest)
        self._follower = CacheFollower(self._model) if self._model.cached else WindowFollower(self._model)
        self._batch = options.largest_batch or (_GPU_BATCH if on_gpu else _CPU_BATCH)
        self._affordable = (
            self._batch * self._longest
        )  # samples of padded audio in one step; reduced when memory runs out
        self.info = self._describe(checkpoint, options)

    def warm_up(self) -> None:
        """Run the largest batch, so that memory is reserved and graphs are captured before the first client.

        On a GPU, every job has the greatest length. On a CPU, only one job does and the batch holds short ones: nothing is
        captured there, and a batch of long jobs would delay the server's start by minutes.
        """
        longest, short = bytes(2 * self._longest), bytes(2 * SAMPLE_RATE)
        on_gpu = self._model.device.type == "cuda"
        for kind in (JobKind.FINAL, JobKind.INTERIM):
            self.transcribe([_silent(longest, kind, n) for n in range(self._batch if on_gpu else 1)])
            self.transcribe([_silent(short, kind, n) for n in range(self._batch)])
        for n in range(self._batch):
            self.release(_silent(b"", JobKind.INTERIM, n).source)

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Decode a batch; return the outcomes in the order of the jobs."""
        outcomes, whole, steps = sorted_out(jobs, self._longest, self.info.name)
        with torch.inference_mode():
            for some, run in ((whole, partial(decoded, self._model)), (steps, self._follower.step)):
                if some:
                    outcomes.update(zip((job.id for job in some), self._afforded(some, run), strict=True))
        return [outcomes[job.id] for job in jobs]

    def release(self, source: str) -> None:
        """Drop the state of the utterance followed for this channel."""
        self._follower.release(source)

    def _afforded(
        self, jobs: Sequence[InferenceJob], run: Callable[[Sequence[InferenceJob]], list[Outcome]]
    ) -> list[Outcome]:
        """Run the jobs, in as many parts as the device's memory requires."""
        if len(jobs) > 1 and self._padded(jobs) > self._affordable:
            return self._halves(jobs, run)
        try:
            return run(jobs)
        except torch.OutOfMemoryError:
            pass  # handled below: the exception references the stack frames, which hold the memory
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(jobs) == 1:
            return [JobError(f"{self._model.device} is out of memory for {seconds(jobs[0].length):.1f} s of audio")]
        self._affordable = min(self._affordable, max(1, self._padded(jobs) // 2))
        return self._halves(jobs, run)

    def _halves(
        self, jobs: Sequence[InferenceJob], run: Callable[[Sequence[InferenceJob]], list[Outcome]]
    ) -> list[Outcome]:
        half = len(jobs) // 2
        return self._afforded(jobs[:half], run) + self._afforded(jobs[half:], run)

    def _padded(self, jobs: Sequence[InferenceJob]) -> int:
        """Return the samples of a batch as it is encoded. A step encodes at most the follower's window or its new audio."""
        longest = max(job.length for job in jobs)
        if jobs[0].utterance:
            fresh = max(len(job.pcm) // 2 for job in jobs)
            longest = min(longest, max(samples(self._follower.window_s), fresh))
        return len(jobs) * longest

    def _describe(self, checkpoint: Checkpoint, options: ModelOptions) -> EngineInfo:
        return EngineInfo(
            name=options.name or checkpoint.path.stem,
            languages=options.languages or checkpoint.languages,
            longest_segment_s=seconds(self._longest),
            smallest_endpoint_ms=SMALLEST_ENDPOINT_MS,
            largest_batch=self._batch,
            most_padding=MOST_PADDING,
            best_segment_s=min(BEST_SEGMENT_S, seconds(self._longest) / 2),
            context_s=CONTEXT_S,
            interim_window_s=self._follower.window_s,
            incremental=True,
            flushed_finals=self._model.cached,
            keyterms=True,
            gpu=self._model.device.type == "cuda",
            version=checkpoint.version,
            mode="streaming" if checkpoint.streaming else "offline",
            uuid=checkpoint.uuid,
        )


def fetched(source: str) -> Path:
    """Return the .nemo file of a path or a hub name (owner/name); download it if needed."""
    path = Path(source)
    if source.endswith(".nemo") or path.exists():
        return path
    if source.count("/") != 1 or source.startswith((".", "/")):
        raise EngineUnavailableError(
            f"{source!r} is neither a .nemo file nor a hub name such as nvidia/parakeet-tdt-0.6b-v3"
        )
    file = f"{source.split('/')[1]}.nemo"

    def download() -> str:
        from huggingface_hub import hf_hub_download

        return str(hf_hub_download(source, file))

    return downloaded(source, file, download)


def _silent(pcm: bytes, kind: JobKind, number: int) -> InferenceJob:
    return InferenceJob(
        f"warm-up {number}", f"warm-up {number}", kind, pcm, 0.0, utterance=len(pcm) if kind is JobKind.INTERIM else 0
    )
