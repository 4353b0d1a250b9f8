"""The port behind which recognisers live: jobs in, transcripts out. Stateless; what an engine can do is data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from myna.streaming.session.jobs import EngineInfo, InferenceJob, Outcome


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How a model is to be loaded. An engine takes what concerns it."""

    source: str = ""
    """A .nemo file or a hub name, for an engine that has no model of its own."""
    name: str = ""
    """What the model is called in the catalogue."""
    languages: tuple[str, ...] = ()
    """What the configuration says that the model knows; empty: what the model itself says."""
    device: str = "auto"
    precision: str = "auto"
    cuda_graphs: bool = True
    compile: bool = False
    largest_batch: int = 0
    """Jobs in one step; 0: the engine's default."""
    threads: int = 0
    """Cores one lane may use; 0: all."""
    worker: int = 0
    """Which of the model's workers this is, from 0: where there are several GPUs, each worker takes another."""


class Engine(Protocol):
    """A loaded model on one lane. Built and called on one thread."""

    @property
    def info(self) -> EngineInfo:
        """Say what this engine can do."""
        ...

    def warm_up(self) -> None:
        """Take what the largest work takes of memory and time before the first client comes."""
        ...

    def transcribe(self, jobs: Sequence[InferenceJob]) -> list[Outcome]:
        """Decode a batch; the answers are in the order of the jobs."""
        ...

    def release(self, source: str) -> None:
        """Forget the utterance followed for this channel, if any."""
        ...
