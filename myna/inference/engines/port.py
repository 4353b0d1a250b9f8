"""The port of recognition engines: jobs in, transcripts out. Capabilities are data (`EngineInfo`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from myna.streaming.session.jobs import EngineInfo, InferenceJob, Outcome


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How to load a model. An engine ignores the options that do not apply to it."""

    source: str = ""
    """A file, a folder or a hub name, for an engine without a bundled model."""
    name: str = ""
    """The model's name in the catalogue."""
    languages: tuple[str, ...] = ()
    """The model's languages according to the configuration; empty: the model declares them."""
    device: str = "auto"
    precision: str = "auto"
    cuda_graphs: bool = True
    compile: bool = False
    largest_batch: int = 0
    """Largest number of jobs in a batch; 0: the engine's default."""
    look_ahead_ms: int | None = None
    """The wanted look-ahead of a streaming model that was trained with several; None: the model's first."""
    threads: int = 0
    """Cores that one lane may use; 0: all."""
    worker: int = 0
    """Number of this worker among the model's workers, from 0. With several GPUs, it selects the GPU."""


class Engine(Protocol):
    """A loaded model on one lane. One thread builds and calls it."""

    @property
    def info(self) -> EngineInfo:
        """Return the engine's capabilities."""
        ...

    def warm_up(self) -> None:
        """Run the largest work once, so that memory is reserved and kernels are built before the first client."""
        ...

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Decode a batch; return the outcomes in the order of the jobs."""
        ...

    def release(self, source: str) -> None:
        """Drop the state of the utterance followed for this channel, if any."""
        ...
