"""Connects a stream to the VAD worker and the engine pool, on the event loop: sends its requests, returns the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVarTuple, Unpack

from myna.inference.port import ModelPool
from myna.inference.workers.vad_worker import VadWorker
from myna.streaming.events import Event
from myna.streaming.session.jobs import Outcome
from myna.streaming.session.requests import (
    Cancel,
    CancelVoices,
    Detect,
    ReleaseUtterance,
    Remind,
    Request,
    Revise,
    Submit,
    SubmitVoices,
)
from myna.streaming.session.stream import Stream
from myna.streaming.speakers.history import SpeakersRevised
from myna.streaming.speech.silero import VadMemory

_Given = TypeVarTuple("_Given")


class StreamDriver:
    """Drives one stream. `on_event` receives its events, `on_error` the error of a step; `changed` is set after each step."""

    def __init__(
        self,
        stream: Stream,
        engine: ModelPool,
        vad: VadWorker,
        on_event: Callable[[Event], None],
        on_error: Callable[[Exception], None],
        diarizer: ModelPool | None = None,
    ) -> None:
        self.stream = stream
        self.engine = engine
        self._diarizer = diarizer
        self._reminders: set[asyncio.TimerHandle] = set()
        self.changed = asyncio.Event()
        self._vad = vad
        self._on_event = on_event
        self._on_error = on_error
        self._memories: dict[int, VadMemory] = {}
        self._closed = False

    def run(self) -> None:
        """Carry out the core's pending requests and pass on its events."""
        requests, events = self.stream.take()
        self._carry_out(requests)
        for event in events:
            self._on_event(event)
        self.changed.set()

    def close(self) -> None:
        """Free the stream's audio and cancel its jobs."""
        if not self._closed:
            self._closed = True
            self._carry_out(self.stream.abandon())
            for reminder in self._reminders:
                reminder.cancel()
            self._reminders.clear()
            self._memories.clear()

    def _carry_out(self, requests: list[Request]) -> None:
        for request in requests:
            match request:
                case Detect(channel, start, pcm):
                    if (memory := self._memories.get(channel)) is None:
                        memory = self._memories[channel] = VadMemory()
                    self._vad.detect(memory, pcm, self._vad_answer(channel, start), self._on_failure)
                case Submit(job):
                    self.engine.submit(job, self._on_result)
                case Cancel(job_id):
                    self.engine.cancel(job_id)
                case ReleaseUtterance(source):
                    self.engine.release(source)
                case SubmitVoices(job):
                    assert self._diarizer is not None
                    self._diarizer.submit(job, self._on_result)
                case CancelVoices(job_id):
                    assert self._diarizer is not None
                    self._diarizer.cancel(job_id)
                case Remind(channel, number, after_s):
                    self._remind(channel, number, after_s)
                case Revise(past):
                    revising = asyncio.get_running_loop().run_in_executor(None, past.revised)
                    revising.add_done_callback(self._on_revised)

    def _remind(self, channel: int, number: int, after_s: float) -> None:
        def remind() -> None:
            self._reminders.discard(reminder)
            self._step(self.stream.on_reminder, channel, number)

        reminder = asyncio.get_running_loop().call_later(after_s, remind)
        self._reminders.add(reminder)

    def _vad_answer(self, channel: int, start: int) -> Callable[[list[float]], None]:
        def answer(probabilities: list[float]) -> None:
            self._step(self.stream.on_vad, channel, start, probabilities)

        return answer

    def _on_failure(self, error: Exception) -> None:
        if not self._closed:
            self._on_error(error)

    def _on_result(self, job_id: str, outcome: Outcome) -> None:
        self._step(self.stream.on_result, job_id, outcome)

    def _on_revised(self, revising: asyncio.Future[SpeakersRevised]) -> None:
        if revising.cancelled():
            return
        if error := revising.exception():
            self._on_failure(error if isinstance(error, Exception) else RuntimeError(str(error)))
            return
        self._step(self.stream.on_revised, revising.result())

    def _step(self, step: Callable[[Unpack[_Given]], None], *given: *_Given) -> None:
        """Run a step of the core from a callback. An error ends this stream only."""
        if self._closed:
            return
        try:
            step(*given)
            self.run()
        except Exception as error:
            self._on_error(error)
