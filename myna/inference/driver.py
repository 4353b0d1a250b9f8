"""Carries what the sans-I/O core asks for to voice activity and engine, on the event loop, and their answers back to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from myna.inference.engines.port import Outcome
from myna.inference.workers.pool import EnginePool
from myna.inference.workers.vad_worker import VoiceActivity
from myna.media.pool import DecoderPool
from myna.runtime.deadlines import Clock
from myna.server.dialects.base import DialectError
from myna.server.keys import Identity
from myna.server.operations.metrics import Metrics
from myna.streaming.session.events import Event, Repeated
from myna.streaming.session.requests import Cancel, Detect, Release, Request, Submit
from myna.streaming.session.stream import Stream
from myna.streaming.speech.silero import VoiceMemory


class Ending(Protocol):
    """A live stream, as the server knows it."""

    path: str
    """The address it was asked for at."""
    identity: Identity
    """Who asked for it."""

    def retire(self, error: DialectError) -> None:
        """End it for this reason, its finals first."""
        ...

    def break_off(self, error: Exception) -> None:
        """End it for this reason, at once."""
        ...


class Resumable(Protocol):
    """A live stream whose client may come back after it has lost its connection."""

    identity: Identity
    """Who asked for it, and may come back."""

    def can_resume(self, after: int) -> bool:
        """Return whether nothing is lost to a client that has got the frames up to this number."""
        ...

    async def resume(self, request: web.Request, after: int) -> web.WebSocketResponse:
        """Go on over another socket."""
        ...


@dataclass(slots=True)
class Services:
    """What every stream shares. `streams` are the live ones, by name; `resumable` are some of them, by their tokens.

    `clock` measures how long a peer is silent (`Pulse.awake`).
    """

    voice: VoiceActivity
    metrics: Metrics
    decoders: DecoderPool
    max_backlog_s: float
    spool_bytes: int
    clock: Clock
    streams: dict[str, Ending] = field(default_factory=dict)
    resumable: dict[str, Resumable] = field(default_factory=dict)


class Pump:
    """One stream's. `tell` takes its events, `fail` what went wrong in a step; `changed` is set after each step."""

    def __init__(
        self,
        stream: Stream,
        engine: EnginePool,
        services: Services,
        tell: Callable[[Event], None],
        fail: Callable[[Exception], None],
    ) -> None:
        self.stream = stream
        self.engine = engine
        self.changed = asyncio.Event()
        self._services = services
        self._tell = tell
        self._fail = fail
        self._memories: dict[int, VoiceMemory] = {}
        self._closed = False

    def run(self) -> None:
        """Carry out what the core asks for, and tell what it has to tell."""
        requests, events = self.stream.take()
        self._carry_out(requests)
        for event in events:
            if isinstance(event, Repeated):
                self._services.metrics.speech_repeated(heard=event.heard)
            else:
                self._tell(event)
        self.changed.set()

    def close(self) -> None:
        """Free everything: audio, jobs that wait."""
        if not self._closed:
            self._closed = True
            self._carry_out(self.stream.abandon())
            self._memories.clear()

    def _carry_out(self, requests: list[Request]) -> None:
        for request in requests:
            match request:
                case Detect(channel, start, pcm):
                    memory = self._memories.setdefault(channel, VoiceMemory())
                    self._services.voice.detect(memory, pcm, self._voice_answer(channel, start), self._on_failure)
                case Submit(job):
                    self.engine.submit(job, self._on_result)
                case Cancel(job_id):
                    self.engine.cancel(job_id)
                case Release(source):
                    self.engine.release(source)

    def _voice_answer(self, channel: int, start: int) -> Callable[[list[float]], None]:
        def answer(probabilities: list[float]) -> None:
            self._step(lambda stream: stream.on_vad(channel, start, probabilities))

        return answer

    def _on_failure(self, error: Exception) -> None:
        if not self._closed:
            self._fail(error)

    def _on_result(self, job_id: str, outcome: Outcome) -> None:
        self._step(lambda stream: stream.on_result(job_id, outcome))

    def _step(self, step: Callable[[Stream], None]) -> None:
        """Run a step of the core from a callback; whatever goes wrong ends this stream and no other."""
        if self._closed:
            return
        try:
            step(self.stream)
            self.run()
        except Exception as error:
            self._fail(error)
