"""A front's link to the engine process: connects, connects again, and keeps what must be sent once more then."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import structlog

from myna.inference.port import OnResult
from myna.inference.workers.ipc import MessageSplitter, Result, encode
from myna.runtime.deadlines import Clock
from myna.runtime.supervisor import Supervisor
from myna.runtime.tasks import cancel_and_wait
from myna.server.fronts.link import (
    TO_FRONT_DECODER,
    VERSION,
    Attach,
    Attached,
    AudioHeard,
    EngineState,
    JobsReplaced,
    ModelOpened,
    ModelRefused,
    PlaceLost,
    StreamJoined,
    StreamRefused,
    SubmitJob,
    ToFront,
)
from myna.server.fronts.linked import LinkedPool, LinkedStream
from myna.streaming.session.jobs import InferenceJob

log = structlog.get_logger()

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
"""Opens a connection to the engine process. Raises `OSError`."""
RESTARTING = "the engine process is being restarted"
_AGAIN_S = 0.1
"""Pause before another attempt to connect."""
_WATCH_S = 0.25
"""Interval of checks for silence."""
_HEARD_EVERY_S = 0.25
"""Interval at which received audio is reported: the resolution at which the engine process records it."""


@dataclass(frozen=True, slots=True)
class _Open:
    """A job without an answer."""

    job: InferenceJob
    pool: LinkedPool
    on_result: OnResult


class EngineLink:
    """The link of the front called `front`. It counts as broken after `silent_s` without a message."""

    def __init__(
        self, connect: Connect, front: str, token: str, silent_s: float, supervisor: Supervisor, clock: Clock
    ) -> None:
        self._connect = connect
        self._attach = Attach(VERSION, token, front)
        self._silent_s = silent_s
        self.clock = clock
        self._writer: asyncio.StreamWriter | None = None
        self._heard_at = 0.0
        self._state: EngineState | None = None
        self._numbers = itertools.count(1)
        self._pools: dict[int, LinkedPool] = {}
        self._streams: dict[str, LinkedStream] = {}
        self._jobs: dict[str, _Open] = {}
        self._audio: dict[str, float] = {}
        self._attached = asyncio.Event()
        self._closing = False
        supervisor.watch("engine", self._why_not)
        self._tasks = [supervisor.run("engine link", self._run), supervisor.run("audio heard", self._report_audio)]

    @property
    def up(self) -> bool:
        """Whether the engine process is connected."""
        return self._writer is not None

    @property
    def state(self) -> EngineState | None:
        """What the engine process said last; None while it is not connected."""
        return self._state if self.up else None

    async def attached(self) -> None:
        """Wait until the engine process is connected for the first time."""
        await self._attached.wait()

    async def close(self) -> None:
        """End the link."""
        self._closing = True
        await cancel_and_wait(*self._tasks)

    def send(self, message: msgspec.Struct) -> None:
        """Send a message without waiting. It is lost while there is no connection."""
        if self._writer is not None:
            self._writer.write(encode(message))

    # Models

    def add_pool(self, pool: LinkedPool) -> int:
        """Keep a model open from now on; return its lease."""
        lease = next(self._numbers)
        self._pools[lease] = pool
        return lease

    def remove_pool(self, lease: int) -> None:
        """Keep a model open no longer."""
        self._pools.pop(lease, None)

    # Streams

    def add_stream(self, stream: LinkedStream) -> None:
        """Keep a stream's place from now on."""
        self._streams[stream.name] = stream

    def remove_stream(self, stream: LinkedStream) -> None:
        """Keep the place no longer."""
        self._streams.pop(stream.name, None)
        self._audio.pop(stream.name, None)

    def heard(self, stream: str, audio_s: float) -> None:
        """Report audio received, with the next report."""
        self._audio[stream] = self._audio.get(stream, 0.0) + audio_s

    # Jobs

    def submit(self, job: InferenceJob, pool: LinkedPool, on_result: OnResult) -> None:
        """Have a job decoded; it is submitted again whenever the engine process is lost before the answer."""
        self._jobs[job.id] = _Open(job, pool, on_result)
        self._send_job(job, pool)

    def withdraw(self, job_id: str) -> bool:
        """Forget a job; return whether it had no answer."""
        return self._jobs.pop(job_id, None) is not None

    def _send_job(self, job: InferenceJob, pool: LinkedPool) -> None:
        if pool.is_open:
            self.send(SubmitJob(pool.lease, job, job.due - time.monotonic()))

    # The connection

    def _why_not(self) -> str | None:
        if (state := self.state) is None:
            return RESTARTING
        return "; ".join(f"{part}: {why}" for part, why in state.failing.items()) or None

    async def _run(self) -> None:
        while True:
            try:
                reader, writer = await self._connect()
            except OSError:
                await asyncio.sleep(_AGAIN_S)
                continue
            self._heard_at = self.clock()
            watch = asyncio.create_task(self._watch(writer), name="watch of the engine link")
            try:
                await self._receive(reader, writer)
            except OSError:
                pass  # the connection broke: as if it had been closed
            except ValueError as error:
                log.error("bad message from the engine process", reason=str(error))
            finally:
                writer.transport.abort()
                await cancel_and_wait(watch)
                if not self._closing:
                    self._on_lost()
            await asyncio.sleep(_AGAIN_S)

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            if self.clock() - self._heard_at > self._silent_s:
                break
        log.error("the engine process is silent; connecting again", silent_s=self._silent_s)
        writer.transport.abort()

    async def _receive(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode(self._attach))
        unpacker = MessageSplitter(TO_FRONT_DECODER)
        while data := await reader.read(1 << 20):
            self._heard_at = self.clock()
            for message in unpacker.feed(data):
                if isinstance(message, Attached):
                    self._on_attached(message, writer)
                elif self._writer is None:
                    raise ValueError(f"{type(message).__name__} before the front was attached")
                else:
                    self._take(message)

    def _on_attached(self, message: Attached, writer: asyncio.StreamWriter) -> None:
        if message.refused is not None:
            raise ValueError(message.refused)
        self._writer = writer
        self._attached.set()
        log.info("attached to the engine process", jobs=len(self._jobs))
        for pool in self._pools.values():
            pool.open()

    def _on_lost(self) -> None:
        if self._writer is None:
            return
        self._writer, self._state = None, None
        log.error("the engine process is lost; its jobs are submitted to its successor", jobs=len(self._jobs))
        for pool in self._pools.values():
            pool.on_lost()
        for stream in list(self._streams.values()):
            stream.on_lost()

    def _take(self, message: ToFront) -> None:
        if isinstance(message, Result):
            self._on_result(message)
            return
        match message:
            case EngineState():
                self._state = message
            case JobsReplaced(job_ids):
                for job_id in job_ids:
                    self.withdraw(job_id)
            case ModelOpened(lease):
                if (pool := self._pools.get(lease)) is not None:
                    pool.on_opened(message.info, message.lanes)
                    self._resume(pool)
            case ModelRefused(lease):
                if (pool := self._pools.get(lease)) is not None:
                    pool.on_refused(message.reason, message.retry_s)
            case StreamJoined(name) | StreamRefused(name) | PlaceLost(name):
                if (stream := self._streams.get(name)) is not None:
                    stream.take(message)
            case Attached():
                raise ValueError("the engine process attached twice")

    def _resume(self, pool: LinkedPool) -> None:
        """Join the streams of a model that was opened, and submit its jobs, in the order in which they came."""
        for stream in self._streams.values():
            stream.join_again()
        for one in self._jobs.values():
            if one.pool is pool:
                self._send_job(one.job, pool)

    def _on_result(self, message: Result) -> None:
        if (wanted := self._jobs.pop(message.job_id, None)) is None:
            return
        try:
            wanted.on_result(message.job_id, message.outcome)
        except Exception:  # the other jobs are not at fault
            log.exception("a stream's handler of a result failed", job=message.job_id)

    async def _report_audio(self) -> None:
        while True:
            await asyncio.sleep(_HEARD_EVERY_S)
            if self._audio:
                audio, self._audio = self._audio, {}
                self.send(AudioHeard(audio))
