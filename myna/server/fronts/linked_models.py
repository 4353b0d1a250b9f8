"""The models and the admission of a front whose models run in the engine process."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

from myna.inference.engines.catalogue import Catalogue
from myna.inference.engines.kind import Model
from myna.inference.models import RETRY_AFTER_S, ModelBusyError
from myna.inference.port import ModelPool
from myna.server.fronts.engine_link import RESTARTING, EngineLink
from myna.server.fronts.linked import LinkedPool, LinkedStream
from myna.server.keys import Identity
from myna.server.operations.front_admission import FrontAdmission
from myna.server.operations.loop_monitor import LoopMonitor
from myna.server.operations.metrics import Metrics
from myna.server.settings import Settings


@dataclass(frozen=True, slots=True)
class ServingLinked:
    """A model in the engine process's memory, and its pool."""

    model: Model
    pool: LinkedPool


class LinkedModels:
    """The models that the engine process offers; see `ModelSource`. The front finds them in a catalogue of its own."""

    def __init__(self, catalogue: Catalogue, link: EngineLink) -> None:
        self.catalogue = catalogue
        self._link = link
        self._pools: dict[tuple[str, str], LinkedPool] = {}
        self._served: dict[str, Model] = {}  # by name: the last one that served

    def loaded(self, model: Model) -> bool:
        """Return whether the model is in the engine process's memory."""
        return self._link.state is not None and (model.name, model.uuid) in self._link.state.models

    def in_memory(self, name: str) -> Model | None:
        """Return the model of this name that served last, if it is in the engine process's memory."""
        model = self._served.get(name)
        return model if model and self.loaded(model) else None

    def why_not(self) -> str | None:
        """Return which models in memory cannot decode now, and why; None if all can."""
        return RESTARTING if self._link.state is None else self._link.state.models_failing

    @contextlib.asynccontextmanager
    async def serving(self, model: Model) -> AsyncIterator[ServingLinked]:
        """Yield the model, loading it if needed. It stays in memory meanwhile.

        Raises `ModelBusyError`, or `EngineUnavailableError` if the model cannot be loaded.
        """
        key = (model.name, model.uuid)
        pool = self._pools.get(key)
        if pool is None:
            if not self._link.up:
                raise ModelBusyError(f"{RESTARTING}; retry in a moment", RETRY_AFTER_S)
            pool = self._pools[key] = LinkedPool(model, self._link)
        pool.users += 1
        try:
            await pool.ready()
            self._served[model.name] = model
            yield ServingLinked(replace(model, uuid=pool.info.uuid or model.uuid), pool)
        finally:
            pool.users -= 1
            if not pool.users:
                del self._pools[key]
                pool.close()


class LinkedAdmission(FrontAdmission):
    """Admits the streams of one front: its own event loop must have room, and the engine process a place."""

    def __init__(self, settings: Settings, metrics: Metrics, loop_monitor: LoopMonitor, link: EngineLink) -> None:
        super().__init__(settings, metrics, loop_monitor)
        self._link = link
        self._streams: list[LinkedStream] = []

    @property
    def away(self) -> int:
        """How many streams wait for their client to come back."""
        return sum(stream.is_away for stream in self._streams)

    @contextlib.asynccontextmanager
    async def stream(
        self, name: str, key: Identity, peer: str, pool: ModelPool, channels: int, speakers: ModelPool | None = None
    ) -> AsyncIterator[LinkedStream]:
        """Admit a live stream while the context lasts; `peer` is the client's address. Raises `Refusal`.

        `pool` decodes its words; `speakers` tells its speakers apart, if it asks for them.
        """
        self._check_open()
        self._check_front([stream.claim for stream in self._streams], channels)
        assert isinstance(pool, LinkedPool)
        assert speakers is None or isinstance(speakers, LinkedPool)
        stream = LinkedStream(name, key, peer, pool, channels, speakers, self._link)
        try:
            await stream.join()
            self._streams.append(stream)
            yield stream
        finally:
            if stream in self._streams:
                self._streams.remove(stream)
            stream.leave()
