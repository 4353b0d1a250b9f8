"""A front's models and streams as the link keeps them: opened and joined again when the engine process is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from typing import Protocol

import msgspec

from myna.inference.engines.kind import Model
from myna.inference.models import RETRY_AFTER_S, ModelBusyError
from myna.inference.port import OnResult
from myna.inference.scheduling.claims import Claim, Claims
from myna.runtime.deadlines import Clock, timeout
from myna.runtime.errors import DialectError, Refusal
from myna.server.fronts.link import (
    CancelJob,
    CloseModel,
    JoinStream,
    LeaveStream,
    OpenModel,
    PlaceLost,
    ReleaseSource,
    ResizeStream,
    StreamAway,
    StreamJoined,
    StreamRefused,
)
from myna.server.keys import ANYBODY, Identity
from myna.server.operations.front_admission import RETRY_S
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.session.jobs import EngineInfo, InferenceJob

_ANSWER_WITHIN_S = 9.0
"""Longest wait for the engine process's answer, a second more than it waits for a model, within the client's handshake."""
_REOPEN_S = 1.0
"""Pause before a model that streams still use is opened again, if a new engine process could not load it."""


class Link(Protocol):
    """The link, as a model or a stream sees it. `clock` stands still while this process gets no time."""

    clock: Clock

    @property
    def up(self) -> bool:
        """Whether the engine process is connected."""
        ...

    def send(self, message: msgspec.Struct) -> None:
        """Send a message without waiting."""
        ...

    def add_pool(self, pool: LinkedPool) -> int:
        """Keep a model open from now on; return its lease."""
        ...

    def remove_pool(self, lease: int) -> None:
        """Keep a model open no longer."""
        ...

    def add_stream(self, stream: LinkedStream) -> None:
        """Keep a stream's place from now on."""
        ...

    def remove_stream(self, stream: LinkedStream) -> None:
        """Keep the place no longer."""
        ...

    def heard(self, stream: str, audio_s: float) -> None:
        """Report audio received."""
        ...

    def submit(self, job: InferenceJob, pool: LinkedPool, on_result: OnResult) -> None:
        """Have a job decoded."""
        ...

    def withdraw(self, job_id: str) -> bool:
        """Forget a job; return whether it had no answer."""
        ...


class LinkedPool:
    """A model that the engine process keeps open for this front; see `ModelPool`. `users` counts what uses it."""

    def __init__(self, model: Model, link: Link) -> None:
        self._model = model
        self._link = link
        self._info: EngineInfo | None = None
        self._lanes = 0
        self._first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._timer: asyncio.TimerHandle | None = None
        self.claims = Claims()
        """The front's own streams, by which it knows how many of them speak."""
        self.users = 0
        self.is_open = False
        self.lease = link.add_pool(self)
        self.open()

    @property
    def info(self) -> EngineInfo:
        """The engine's capabilities; known once the model was open."""
        assert self._info is not None
        return self._info

    @property
    def lanes(self) -> int:
        """Number of batches that are decoded at a time while all workers are up."""
        return self._lanes

    async def ready(self) -> None:
        """Wait until the model is open for the first time. Raises `ModelBusyError` and `EngineUnavailableError`."""
        try:
            async with timeout(_ANSWER_WITHIN_S, self._link.clock):
                await asyncio.shield(self._first)
        except TimeoutError:
            raise ModelBusyError("the engine process does not answer; retry in a moment", RETRY_AFTER_S) from None

    def submit(self, job: InferenceJob, on_result: OnResult) -> None:
        """Decode the job as soon as a lane is free; call `on_result` once, unless the job is cancelled or replaced."""
        self.claims.asked(job.source, time.monotonic())
        self._link.submit(job, self, on_result)

    def cancel(self, job_id: str) -> None:
        """Discard a job, or its result if the job is already running."""
        if self._link.withdraw(job_id) and self.is_open:
            self._link.send(CancelJob(job_id))

    def release(self, source: str) -> None:
        """End this channel's utterance: the worker that follows it drops its state."""
        if self.is_open:
            self._link.send(ReleaseSource(self.lease, source))

    def open(self) -> None:
        """Ask for the model."""
        self._timer = None
        self._link.send(OpenModel(self.lease, self._model))

    def close(self) -> None:
        """Give the model back."""
        if self._timer is not None:
            self._timer.cancel()
        self._link.remove_pool(self.lease)
        self._link.send(CloseModel(self.lease))

    def on_opened(self, info: EngineInfo, lanes: int) -> None:
        """Take note that the model is loaded."""
        self._info, self._lanes, self.is_open = info, lanes, True
        if not self._first.done():
            self._first.set_result(None)

    def on_refused(self, reason: str, retry_s: int | None) -> None:
        """Take note that the model cannot be loaded. If streams use it already, ask again later."""
        if not self._first.done():
            unusable = EngineUnavailableError(reason) if retry_s is None else ModelBusyError(reason, retry_s)
            self._first.set_exception(unusable)
            self._first.exception()  # marks it as retrieved: the client may be gone
        elif self._first.exception() is None:
            self._timer = asyncio.get_running_loop().call_later(_REOPEN_S, self.open)

    def on_lost(self) -> None:
        """Take note that the engine process is gone."""
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
        if not self._first.done():
            self.on_refused("the engine process is being restarted; retry in a moment", RETRY_AFTER_S)


class LinkedStream:
    """A live stream's place at the engine process; see `StreamPlace`."""

    def __init__(
        self,
        name: str,
        key: Identity,
        peer: str,
        pool: LinkedPool,
        channels: int,
        speakers: LinkedPool | None,
        link: Link,
    ) -> None:
        self.name = name
        self.pool = pool
        self.given_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_away = False
        self.claim: Claim = pool.claims.join(name, peer, channels, time.monotonic())
        self._pools = (pool,) if speakers is None else (pool, speakers)
        self._speakers = speakers
        self._key = key
        self._peer = peer
        self._link = link
        self._joined = False
        self._admitted = False
        self._answer: asyncio.Future[None] | None = None

    async def join(self) -> None:
        """Ask for a place and wait for it. Raises `Refusal`."""
        if not self._link.up:
            raise _lost()
        self._link.add_stream(self)
        self._send_join(again=False)
        await self._answered()
        self._admitted = True

    def leave(self) -> None:
        """Give the place up."""
        self.pool.claims.leave(self.claim)
        self._link.remove_stream(self)
        self._link.send(LeaveStream(self.name))

    async def resize(self, channels: int) -> None:
        """Note how many channels the stream really has. Raises `DialectError` if there is no room for the additional ones."""
        before = self.claim.channels
        if channels == before:
            return
        self.claim.resize(channels, time.monotonic())
        if not self._joined:
            return  # the engine process has been lost; the stream joins the next one with all its channels
        self._link.send(ResizeStream(self.name, channels))
        try:
            await self._answered()
        except Refusal as refusal:
            if not self._link.up:
                return
            self.claim.resize(before, time.monotonic())
            raise DialectError(refusal.code, refusal.message) from refusal

    def heard(self, audio_s: float) -> None:
        """Note the seconds of audio received, all channels together."""
        self._link.heard(self.name, audio_s)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Count the stream as a quiet one while the context lasts: its client is away and may come back."""
        self.is_away = self.claim.away = True
        self._link.send(StreamAway(self.name, away=True))
        try:
            yield
        finally:
            self.is_away = False
            self.claim.back(time.monotonic())
            self._link.send(StreamAway(self.name, away=False))

    def join_again(self) -> None:
        """Join a new engine process once all models of the stream are open there. It does not refuse the stream."""
        if self._admitted and not self._joined and all(pool.is_open for pool in self._pools):
            self._send_join(again=True)
            self._joined = True
            if self.is_away:
                self._link.send(StreamAway(self.name, away=True))

    def take(self, message: StreamJoined | StreamRefused | PlaceLost) -> None:
        """Take an answer of the engine process, or the news that another stream has the place."""
        if isinstance(message, PlaceLost):
            if not self.given_up.done():
                self.given_up.set_result(None)
            return
        if self._answer is None or self._answer.done():
            return
        if isinstance(message, StreamJoined):
            self._joined = True
            self._answer.set_result(None)
        else:
            refusal = Refusal(message.status, message.code, message.message, retry_after_s=message.retry_s)
            self._answer.set_exception(refusal)

    def on_lost(self) -> None:
        """Take note that the engine process is gone."""
        self._joined = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_lost())

    async def _answered(self) -> None:
        self._answer = asyncio.get_running_loop().create_future()
        try:
            async with timeout(_ANSWER_WITHIN_S, self._link.clock):
                await self._answer
        except TimeoutError:
            raise _lost() from None
        finally:
            self._answer = None

    def _send_join(self, *, again: bool) -> None:
        anybody = self._key is ANYBODY
        self._link.send(
            JoinStream(
                self.name, self.pool.lease, None if self._speakers is None else self._speakers.lease,
                self.claim.channels, None if anybody else self._key.name, None if anybody else self._key.streams,
                self._peer, again,
            )
        )  # fmt: skip


def _lost() -> Refusal:
    message = "The engine process is being restarted; retry in a moment."
    return Refusal(503, "model_busy", message, retry_after_s=RETRY_S)
