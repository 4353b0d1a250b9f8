"""The port between what asks for decodes and where models run: in this process's workers, or in another process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from myna.inference.engines.catalogue import Catalogue
from myna.inference.engines.kind import Model
from myna.streaming.session.jobs import EngineInfo, InferenceJob, Outcome

OnResult = Callable[[str, Outcome], None]


class ModelPool(Protocol):
    """One model that decodes jobs. Each job's result is called back once, on the event loop."""

    @property
    def info(self) -> EngineInfo:
        """The engine's capabilities."""
        ...

    @property
    def lanes(self) -> int:
        """Number of batches that are decoded at a time while all workers are up."""
        ...

    def submit(self, job: InferenceJob, on_result: OnResult) -> None:
        """Decode the job as soon as a lane is free; call `on_result` once, unless the job is cancelled or replaced."""
        ...

    def cancel(self, job_id: str) -> None:
        """Discard a job, or its result if the job is already running."""
        ...

    def release(self, source: str) -> None:
        """End this channel's utterance: the worker that follows it drops its state."""
        ...


class ServingModel(Protocol):
    """A model in memory, and its pool."""

    @property
    def model(self) -> Model:
        """The model."""
        ...

    @property
    def pool(self) -> ModelPool:
        """What decodes its jobs."""
        ...


class ModelSource(Protocol):
    """The models that a server can use."""

    catalogue: Catalogue

    def loaded(self, model: Model) -> bool:
        """Return whether the model is in memory."""
        ...

    def why_not(self) -> str | None:
        """Return which models in memory cannot decode now, and why; None if all can."""
        ...

    def in_memory(self, name: str) -> Model | None:
        """Return the model of this name in memory, whatever its file is now, or None."""
        ...

    def serving(self, model: Model) -> AbstractAsyncContextManager[ServingModel]:
        """Return a context that yields what serves, loading the model if needed. It stays in memory meanwhile.

        If an older file of the model is in memory, that serves until the newer one is loaded. Entering raises
        `ModelBusyError`, or `EngineUnavailableError` if the model cannot be loaded.
        """
        ...
