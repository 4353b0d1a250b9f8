"""A pipecat pipeline around a speech service."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.stt_service import STTService
from sounds import RATE


class Sink(FrameProcessor):
    """A sink that records the frames of the service."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[Frame] = []

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        self.frames.append(frame)
        await self.push_frame(frame, direction)

    def of(self, kind: type) -> list[Any]:
        return [frame for frame in self.frames if isinstance(frame, kind)]

    @property
    def said(self) -> str:
        return " ".join(frame.text for frame in self.of(TranscriptionFrame))


class Agent:
    """Run a pipeline of the service and a sink until the block ends."""

    def __init__(self, service: STTService, rate: int = RATE) -> None:
        self.errors: list[ErrorFrame] = []
        self.service = service
        self.sink = Sink()
        params = PipelineParams(audio_in_sample_rate=rate)
        self.task = PipelineTask(Pipeline([self.service, self.sink]), params=params, idle_timeout_secs=None)
        self.rate = rate

        @self.service.event_handler("on_error")
        async def note(_service: object, error: ErrorFrame) -> None:
            self.errors.append(error)

    async def __aenter__(self) -> Agent:
        self._running = asyncio.create_task(PipelineRunner(handle_sigint=False).run(self.task))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.task.queue_frame(EndFrame())
        await asyncio.wait_for(self._running, 60)

    async def push(self, audio: np.ndarray) -> None:
        for start in range(0, len(audio), self.rate // 50):
            piece = audio[start : start + self.rate // 50]
            await self.task.queue_frame(InputAudioRawFrame(piece.tobytes(), self.rate, 1))

    async def stop_speaking(self) -> None:
        await self.task.queue_frame(VADUserStoppedSpeakingFrame())
