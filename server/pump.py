"""Carries what the sans-I/O core asks for to voice activity and engine, on the event loop, and their answers back to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from myna.server.engine import EngineWorker
from myna.server.voice import VoiceActivity
from myna.streaming.engines.base import Outcome
from myna.streaming.events import Event
from myna.streaming.requests import Cancel, Detect, Release, Request, Submit
from myna.streaming.stream import Stream
from myna.streaming.vad import VoiceMemory


class Breakable(Protocol):
    """A live stream."""

    def break_off(self, error: Exception) -> None:
        """End it for this reason."""
        ...


@dataclass(slots=True)
class Services:
    """What every stream shares. `streams` are the live ones, by name; `pumps` are of these and of files."""

    voice: VoiceActivity
    max_backlog_s: float
    streams: dict[str, Breakable] = field(default_factory=dict)
    pumps: set[Pump] = field(default_factory=set)

    def on_engine_restart(self, engine: EngineWorker) -> None:
        """Have every stream of this worker ask again."""
        for pump in list(self.pumps):
            if pump.engine is engine:
                pump.reset_engine()


class Pump:
    """One stream's. `tell` takes its events, `fail` what went wrong in a step; `changed` is set after each step."""

    def __init__(
        self,
        stream: Stream,
        engine: EngineWorker,
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
        stream.reset_engine(engine.epoch)
        services.pumps.add(self)

    def run(self) -> None:
        """Carry out what the core asks for, and tell what it has to tell."""
        requests, events = self.stream.take()
        self._carry_out(requests)
        for event in events:
            self._tell(event)
        self.changed.set()

    def reset_engine(self) -> None:
        """Ask a new engine worker again for everything open."""
        self._step(lambda stream: stream.reset_engine(self.engine.epoch))

    def close(self) -> None:
        """Free everything: audio, jobs that wait, the decoder."""
        if not self._closed:
            self._closed = True
            self._services.pumps.discard(self)
            self._carry_out(self.stream.abandon())
            self._memories.clear()

    def _carry_out(self, requests: list[Request]) -> None:
        for request in requests:
            match request:
                case Detect(channel, start, pcm):
                    memory = self._memories.setdefault(channel, VoiceMemory())
                    self._services.voice.detect(memory, pcm, self._voice_answer(channel, start))
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

    def _on_result(self, job_id: str, epoch: int, outcome: Outcome) -> None:
        self._step(lambda stream: stream.on_result(job_id, epoch, outcome))

    def _step(self, step: Callable[[Stream], None]) -> None:
        """Run a step of the core from a callback; whatever goes wrong ends this stream and no other."""
        if self._closed:
            return
        try:
            step(self.stream)
            self.run()
        except Exception as error:
            self._fail(error)
