"""What one front has at the engine process: its leases of models, its streams, its jobs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import structlog

from myna.inference.models import ModelBusyError, Models
from myna.inference.workers.ipc import encode, result
from myna.inference.workers.pool import EnginePool
from myna.runtime.errors import DialectError, Refusal
from myna.server.fronts.link import (
    Attach,
    AudioHeard,
    CancelJob,
    CloseModel,
    JobsReplaced,
    JoinStream,
    LeaveStream,
    ModelOpened,
    ModelRefused,
    OpenModel,
    PlaceLost,
    ReleaseSource,
    ResizeStream,
    StreamAway,
    StreamJoined,
    StreamRefused,
    SubmitJob,
    ToEngine,
)
from myna.server.keys import ANYBODY, Identity
from myna.server.operations.admission import Admission, Place
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.session.jobs import Outcome

log = structlog.get_logger()

_NUMBERS = itertools.count()


@dataclass(slots=True)
class _Lease:
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    pool: EnginePool | None = None


@dataclass(slots=True)
class _Joined:
    left: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    place: Place | None = None
    is_away: bool = False
    away: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)

    def note_away(self, *, away: bool) -> None:
        """Count the stream as away, or as present, from now on or from when it has its place."""
        self.is_away = away
        self.away.close()
        if away and self.place is not None:
            self.away.enter_context(self.place.away())


class FrontSession:
    """One connection of a front. `take` receives its messages; `close` frees everything it holds."""

    def __init__(self, front: str, models: Models, admission: Admission, writer: asyncio.StreamWriter) -> None:
        self.front = front
        self._models = models
        self._admission = admission
        self._writer = writer
        self._prefix = f"{next(_NUMBERS)}:"  # jobs of a front's earlier connection may still be there
        self._leases: dict[int, _Lease] = {}
        self._streams: dict[str, _Joined] = {}
        self._jobs: dict[str, EnginePool] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message without waiting. A front that is gone loses it."""
        self._writer.write(encode(message))

    def take(self, message: ToEngine) -> None:
        """Carry out a message of the front. Raises `ValueError` for one that does not fit what it sent before."""
        match message:
            case SubmitJob():
                self._submit(message)
            case CancelJob(job_id):
                if (pool := self._jobs.pop(self._prefix + job_id, None)) is not None:
                    pool.cancel(self._prefix + job_id)
            case ReleaseSource(lease, source):
                self._pool(lease).release(source)
            case AudioHeard(seconds):
                for stream, heard_s in seconds.items():
                    if (place := self._place(stream)) is not None:
                        place.heard(heard_s)
            case OpenModel(lease):
                held = self._leases[lease] = _Lease()
                self._run(f"lease {lease}", self._hold(message, held))
            case CloseModel(lease):
                if (closing := self._leases.pop(lease, None)) is not None:
                    closing.closed.set()
            case JoinStream(stream):
                if stream in self._streams:
                    raise ValueError(f"stream {stream!r} joined twice")
                joined = self._streams[stream] = _Joined()
                self._run(f"place of {stream}", self._join(message, joined))
            case LeaveStream(stream):
                if (leaving := self._streams.pop(stream, None)) is not None:
                    leaving.left.set()
            case ResizeStream(stream, channels):
                if (resized := self._streams.get(stream)) is not None:
                    self._run(f"channels of {stream}", self._resize(stream, resized, channels))
            case StreamAway(stream, away):
                if (moved := self._streams.get(stream)) is not None:
                    moved.note_away(away=away)
            case Attach():
                raise ValueError("the front attached twice")

    def prune(self) -> None:
        """Tell the front which of its jobs get no result: newer interims of their channels replaced them."""
        if replaced := tuple(job_id for job_id, pool in self._jobs.items() if not pool.awaits(job_id)):
            for job_id in replaced:
                del self._jobs[job_id]
            self.send(JobsReplaced(tuple(job_id.removeprefix(self._prefix) for job_id in replaced)))

    async def close(self) -> None:
        """Discard the jobs, leave the places, give the models back."""
        for job_id, pool in self._jobs.items():
            pool.cancel(job_id)
        self._jobs.clear()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work), name=f"{name} of {self.front}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # an error of our own: the front connects again and repeats what it wants
            log.exception("the link to a front failed", front=self.front)
            self._writer.transport.abort()

    def _pool(self, lease: int) -> EnginePool:
        held = self._leases.get(lease)
        if held is None or held.pool is None:
            raise ValueError(f"lease {lease} is not open")
        return held.pool

    def _place(self, stream: str) -> Place | None:
        joined = self._streams.get(stream)
        return None if joined is None else joined.place

    def _submit(self, message: SubmitJob) -> None:
        pool, job_id = self._pool(message.lease), self._prefix + message.job.id
        self._jobs[job_id] = pool
        pool.submit(replace(message.job, id=job_id, due=time.monotonic() + message.lead_s), self._on_result)

    def _on_result(self, job_id: str, outcome: Outcome) -> None:
        if self._jobs.pop(job_id, None) is not None:
            self.send(result(job_id.removeprefix(self._prefix), outcome, 0.0))

    async def _hold(self, asked: OpenModel, held: _Lease) -> None:
        """Keep the model loaded until the lease is closed."""
        try:
            async with self._models.serving(asked.model) as loaded:
                held.pool = loaded.pool
                self.send(ModelOpened(asked.lease, loaded.pool.info, loaded.pool.lanes))
                await held.closed.wait()
        except ModelBusyError as error:
            self._refuse(asked, str(error), error.retry_s)
        except EngineUnavailableError as error:
            self._refuse(asked, str(error), None)

    def _refuse(self, asked: OpenModel, reason: str, retry_s: int | None) -> None:
        self._leases.pop(asked.lease, None)
        self.send(ModelRefused(asked.lease, reason, retry_s))

    async def _join(self, asked: JoinStream, joined: _Joined) -> None:
        """Keep a stream's place until the stream leaves."""
        pool = self._pool(asked.lease)
        speakers = None if asked.speakers is None else self._pool(asked.speakers)
        key = ANYBODY if asked.key is None else Identity(asked.key, frozenset(), asked.key_streams)
        async with contextlib.AsyncExitStack() as stack:
            try:
                if asked.again:
                    place = stack.enter_context(
                        self._admission.present(asked.stream, key, asked.peer, pool, asked.channels, speakers)
                    )
                else:
                    place = await stack.enter_async_context(
                        self._admission.stream(asked.stream, key, asked.peer, pool, asked.channels, speakers)
                    )
            except Refusal as refusal:
                self._streams.pop(asked.stream, None)
                self.send(
                    StreamRefused(asked.stream, refusal.status, refusal.code, refusal.message, refusal.retry_after_s)
                )
                return
            joined.place = place
            joined.entered.set()
            joined.note_away(away=joined.is_away)
            stack.callback(joined.away.close)
            place.given_up.add_done_callback(lambda _: self.send(PlaceLost(asked.stream)))
            self.send(StreamJoined(asked.stream))
            await joined.left.wait()

    async def _resize(self, stream: str, joined: _Joined, channels: int) -> None:
        await joined.entered.wait()
        assert joined.place is not None
        try:
            await joined.place.resize(channels)
        except DialectError as error:
            self.send(StreamRefused(stream, 503, error.code, error.message, None))
        else:
            self.send(StreamJoined(stream))
