"""The models in memory: each has its own workers, is loaded at start or on first use, and unloaded to make room."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass, replace

import structlog

from myna.inference.engines import registry
from myna.inference.engines.catalogue import Catalogue, UnknownModelError
from myna.inference.engines.kind import EngineKind, Model
from myna.inference.engines.port import ModelOptions
from myna.inference.workers.batches import Step
from myna.inference.workers.cores import Cores
from myna.inference.workers.pool import EnginePool
from myna.inference.workers.port import Worker
from myna.inference.workers.process import WorkerProcess
from myna.runtime.deadlines import Clock
from myna.runtime.errors import ConfigurationError
from myna.runtime.supervisor import Supervisor
from myna.runtime.tasks import cancel_and_wait
from myna.streaming.errors import EngineUnavailableError

log = structlog.get_logger()

PATIENCE_S = 8.0
"""Longest wait of a client for its model to be loaded, within its handshake (WebSocket libraries give up after 10 s). After
that the client is asked to retry, and the loading continues."""
RETRY_AFTER_S = 5
FAILED_FOR_S = 60.0
"""A model that could not be loaded is not tried again for this long, unless its file changes: clients that retry must not
keep the machine busy."""
_COMPILING_S = 600.0
"""Shortest time before a worker counts as stuck with `torch_compile`: a step of a new shape may compile for minutes."""
_FRONT_CORES = 1
"""Cores left to the front by an engine whose threads would use all cores. Measured with 64 real-time streams on two cores:
finals came 0.13 s after the endpoint (median) with one thread, and 5.9 s with two."""


OnStep = Callable[[str], Callable[[Step], None]]
"""Given a model's name, returns the callback for its steps."""


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """How models are loaded. Each field is the setting of the same name; see docs/configuration.md."""

    preload: list[str]
    models_memory_mb: int
    device: str
    precision: str
    cuda_graphs: bool
    torch_compile: bool
    largest_batch: int
    look_ahead_ms: int | None
    lanes: int
    workers: int
    stuck_after_s: float


class ModelBusyError(Exception):
    """The model cannot serve now: it is being loaded, or memory is short. The client may retry after `retry_s`."""

    def __init__(self, message: str, retry_s: int) -> None:
        super().__init__(message)
        self.retry_s = retry_s


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a model is distributed: number of processes, lanes per process, cores per lane."""

    workers: int
    lanes: int
    threads: int


def _shape(settings: ModelSettings, kind: EngineKind) -> _Shape:
    cores = os.cpu_count() or 1
    if kind.lanes == "one":
        workers = settings.workers or 1
        return _Shape(workers, 1, max(1, (settings.lanes or cores - _FRONT_CORES) // workers))
    lanes = settings.lanes or cores
    if kind.lanes == "threads":
        workers = min(settings.workers or 1, lanes)
        return _Shape(workers, -(-lanes // workers), 1)
    # One process per lane: threads of one process wait for each other at every token (0.0108 s per second of audio on two
    # cores, instead of 0.0095), and a process that dies does not affect the others.
    workers = min(settings.workers or lanes, lanes)
    return _Shape(workers, -(-lanes // workers), 1)


@dataclass(slots=True)
class LoadedModel:
    """A model in memory, and its workers."""

    model: Model
    pool: EnginePool
    streams: int = 0
    last_used: float = 0.0


class Models:
    """Loads models and hands out their pools. A model's streams keep it in memory; an idle model may be unloaded."""

    def __init__(
        self, catalogue: Catalogue, settings: ModelSettings, on_step: OnStep, supervisor: Supervisor, clock: Clock
    ) -> None:
        self._supervisor = supervisor
        self._clock = clock
        supervisor.watch("models", self.why_not)
        self.catalogue = catalogue
        self._settings = settings
        self._on_step = on_step
        self._loaded: dict[tuple[str, str], LoadedModel] = {}
        self._loading: dict[tuple[str, str], asyncio.Task[LoadedModel]] = {}
        self._failed: dict[tuple[str, str], tuple[str, float]] = {}
        self._gone: set[str] = set()
        self._room = asyncio.Lock()
        self._cores = Cores(os.cpu_count() or 1)

    @property
    def pools(self) -> list[EnginePool]:
        """The pool of each model in memory."""
        return [loaded.pool for loaded in self._loaded.values()]

    @property
    def pools_by_name(self) -> dict[str, EnginePool]:
        """The pools by model name; for a model whose file was replaced, the newer one."""
        return {name: loaded.pool for name, loaded in self._newest().items()}

    @property
    def names_loaded(self) -> list[tuple[str, str]]:
        """Name and uuid of each model in memory."""
        return list(self._loaded)

    def why_not(self) -> str | None:
        """Return which models in memory cannot decode now, and why; None if all can."""
        return "; ".join(reason for pool in self.pools if (reason := pool.why_not())) or None

    def in_memory(self, name: str) -> Model | None:
        """Return the model of this name in memory, whatever its file is now, or None."""
        loaded = self._newest().get(name)
        return loaded.model if loaded else None

    def loaded(self, model: Model) -> bool:
        """Return whether the model is in memory."""
        return (model.name, model.uuid) in self._loaded

    async def start(self) -> None:
        """Load the default model, those of `preload`, and the model that tells speakers apart if it is configured.

        Raises `EngineUnavailableError` and `ConfigurationError`.
        """
        for name in [None, *self._settings.preload]:
            try:
                model = await asyncio.to_thread(self.catalogue.find, name)
            except UnknownModelError as error:
                if name is None:
                    raise EngineUnavailableError(str(error)) from error
                raise ConfigurationError(f"setting preload: {error}") from error
            if not self.loaded(model):
                try:
                    await self._load(model)
                except ModelBusyError as error:
                    raise ConfigurationError(f"setting models_memory_mb: {error}") from error

        await self._start_diarizer()

    async def _start_diarizer(self) -> None:
        try:
            model = await asyncio.to_thread(self.catalogue.diarizer)
            if self.catalogue.names_diarizer and not self.loaded(model):
                await self._load(model)
        except UnknownModelError:
            return  # none is installed: clients that ask for speakers are told
        except (EngineUnavailableError, ModelBusyError) as error:
            setting = "setting diarization_model: " if self.catalogue.names_diarizer else ""
            raise ConfigurationError(f"{setting}{error}") from error

    async def close(self) -> None:
        """End every worker."""
        for task in list(self._loading.values()):
            await cancel_and_wait(task)
        for loaded in list(self._loaded.values()):
            await loaded.pool.close()
        self._loaded.clear()

    @contextlib.asynccontextmanager
    async def serving(self, model: Model) -> AsyncIterator[LoadedModel]:
        """Yield the model, loading it if needed. It stays in memory meanwhile.

        If an older file of the model is in memory, that is yielded until the newer one is loaded. Raises `ModelBusyError`, or
        `EngineUnavailableError` if the model cannot be loaded.
        """
        loaded = await self._get(model)
        loaded.streams += 1
        try:
            yield loaded
        finally:
            loaded.streams -= 1
            loaded.last_used = asyncio.get_running_loop().time()
            if not loaded.streams:
                await self._retire_replaced()

    async def _get(self, model: Model) -> LoadedModel:
        key = (model.name, model.uuid)
        while (loaded := self._loaded.get(key)) is None:  # once more if it is unloaded before its first stream
            older = self._newest().get(model.name)
            if reason := self._failure(key):
                if older is not None:
                    return older
                raise EngineUnavailableError(reason)
            task = self._loading_task(model)
            if older is not None:
                return older
            done, _ = await asyncio.wait([task], timeout=PATIENCE_S)
            if not done:
                raise ModelBusyError(f"model {model.name!r} is being loaded; retry in a moment", RETRY_AFTER_S)
            try:
                task.result()
            except (EngineUnavailableError, ModelBusyError):
                raise
            except Exception as error:
                raise EngineUnavailableError(self._failed[key][0]) from error
        return loaded

    def _loading_task(self, model: Model) -> asyncio.Task[LoadedModel]:
        """Return the task that loads the model, started if there is none."""
        key = (model.name, model.uuid)
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = asyncio.create_task(self._load(model), name=f"loading {model.name}")
            task.add_done_callback(lambda task: self._on_loaded(key, task))
        return task

    def _failure(self, key: tuple[str, str]) -> str:
        """Return why the model could not be loaded, for `FAILED_FOR_S`; then, or if it was not tried, an empty text."""
        reason, failed_at = self._failed.get(key, ("", 0.0))
        return reason if asyncio.get_running_loop().time() - failed_at < FAILED_FOR_S else ""

    def _newest(self) -> dict[str, LoadedModel]:
        """Return the models in memory by name; of a model whose file was replaced, the one loaded last."""
        return {loaded.model.name: loaded for loaded in self._loaded.values()}

    async def follow(self, usable: Mapping[str, Model], gone: Collection[str]) -> None:
        """Load the newer files of models in memory, and unload the models that are gone once they have no streams."""
        self._gone = set(gone)
        for name, loaded in self._newest().items():
            newer = usable.get(name)
            if newer is None or newer.uuid == loaded.model.uuid:
                continue
            if not self._failure((newer.name, newer.uuid)):
                self._loading_task(newer)
        await self._retire_replaced()

    def _on_loaded(self, key: tuple[str, str], task: asyncio.Task[LoadedModel]) -> None:
        del self._loading[key]
        error = None if task.cancelled() else task.exception()
        older = self._newest().get(key[0])
        if error is None or (isinstance(error, ModelBusyError) and older is None):
            return
        expected = isinstance(error, EngineUnavailableError | ModelBusyError)
        log.error(
            "model cannot be loaded" if older is None else "model cannot be loaded; its older file stays in use",
            model=key[0], reason=str(error), exc_info=None if expected else error,
        )  # fmt: skip
        reason = str(error) if expected else f"The model {key[0]!r} cannot be used: the server failed to load it"
        self._failed[key] = (reason, asyncio.get_running_loop().time())

    async def _load(self, model: Model) -> LoadedModel:
        settings, kind = self._settings, registry.kinds()[model.engine]
        shape = _shape(settings, kind)
        options = ModelOptions(
            source=model.source, name=model.name, languages=model.languages, device=settings.device,
            precision=settings.precision, cuda_graphs=settings.cuda_graphs, compile=settings.torch_compile,
            largest_batch=settings.largest_batch, look_ahead_ms=settings.look_ahead_ms, threads=shape.threads,
        )  # fmt: skip
        async with self._room:  # one at a time: each load must see the memory that the others take
            await self._make_room(model, kind, shape)
            patience_s = max(settings.stuck_after_s, _COMPILING_S if settings.torch_compile else 0.0)

            def worker(number: int) -> Worker:
                return WorkerProcess(model.engine, replace(options, worker=number), shape.lanes, self._clock)

            pool = EnginePool(
                model.name, worker, shape.workers, shape.lanes, patience_s, self._supervisor, self._clock, self._cores
            )
            pool.on_step = self._on_step(model.name)
            await pool.start()
        info = pool.info
        log.info(
            "model loaded", model=model.name, engine=model.engine, version=info.version or None,
            languages=",".join(info.languages) or "not known", mode=info.mode, uuid=info.uuid or None,
            memory_mb=pool.memory >> 20, workers=pool.pids, lanes=pool.lanes,
        )  # fmt: skip
        now = asyncio.get_running_loop().time()
        loaded = self._loaded[(model.name, model.uuid)] = LoadedModel(model, pool, last_used=now)
        await self._retire_replaced()
        await self._unload_down_to(self._limit(), sparing=loaded)
        return loaded

    def _limit(self) -> float:
        return (self._settings.models_memory_mb << 20) or float("inf")

    def _used(self) -> int:
        return sum(loaded.pool.memory for loaded in self._loaded.values())

    async def _make_room(self, model: Model, kind: EngineKind, shape: _Shape) -> None:
        expected = kind.memory(model.size, shape.workers, shape.lanes)
        older = self._newest().get(model.name)
        await self._unload_down_to(self._limit() - expected, sparing=older)
        if self._used() + expected > self._limit():
            in_use = ", ".join(loaded.model.name for loaded in self._loaded.values()) or "none"
            raise ModelBusyError(
                f"no room for model {model.name!r}: it needs about {expected >> 20} MB of the"
                f" {self._settings.models_memory_mb} MB allowed for models; in use: {in_use}",
                RETRY_AFTER_S,
            )

    async def _unload_down_to(self, limit: float, sparing: LoadedModel | None = None) -> None:
        while self._used() > limit:
            idle = [one for one in self._loaded.values() if not one.streams and one is not sparing]
            if not idle:
                return
            await self._unload(min(idle, key=lambda one: one.last_used))

    async def _retire_replaced(self) -> None:
        """Unload idle models whose file is gone, or was replaced and the newer file is loaded."""
        newest = self._newest()
        for loaded in list(self._loaded.values()):
            replaced = loaded is not newest[loaded.model.name]
            if (replaced or loaded.model.name in self._gone) and not loaded.streams:
                await self._unload(loaded)

    async def _unload(self, loaded: LoadedModel) -> None:
        del self._loaded[(loaded.model.name, loaded.model.uuid)]
        await loaded.pool.close()
        log.info("model unloaded", model=loaded.model.name, memory_mb=loaded.pool.memory >> 20)
