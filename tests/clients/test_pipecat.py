from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from peer import eventually
from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    InterimTranscriptionFrame,
    TranscriptionFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.runner import PipelineRunner
from pipecat.pipeline.task import PipelineParams, PipelineTask
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.deepgram.stt import DeepgramSTTService
from sounds import BECKETT, RATE

from myna.server.app import Server


class Sink(FrameProcessor):
    """Takes whatever the service says."""

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
    """A pipeline of the service and a sink, run until it is left."""

    def __init__(self, server: Server, key: str, rate: int = RATE, **how: Any) -> None:
        self.errors: list[ErrorFrame] = []
        self.service = DeepgramSTTService(api_key=key, base_url=server.url.replace("http", "ws"), **how)
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


def bare(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum() or c == " ")


async def test_interims_and_a_finalized_transcript_when_the_user_stops(
    server: Server, key: str, beckett: np.ndarray
) -> None:
    settings = DeepgramSTTService.Settings(endpointing=500)
    async with Agent(server, key, settings=settings) as agent:
        await agent.push(beckett[: round(1.25 * RATE)])
        await eventually(lambda: bool(agent.sink.of(InterimTranscriptionFrame)))
        assert not agent.sink.of(TranscriptionFrame)
        await agent.stop_speaking()
        await eventually(lambda: bool(agent.sink.of(TranscriptionFrame)))
        (frame,) = agent.sink.of(TranscriptionFrame)
        assert bare(frame.text) == "ever tried"
        assert frame.finalized
        await agent.push(beckett[round(1.25 * RATE) :])
        await eventually(lambda: "better" in agent.sink.said)
    assert bare(agent.sink.said) == BECKETT
    assert agent.errors == []
    await eventually(lambda: not server.services.streams)


async def test_stopping_after_everything_was_final_is_answered_too(
    server: Server, key: str, beckett: np.ndarray
) -> None:
    async with Agent(server, key, settings=DeepgramSTTService.Settings(endpointing=300)) as agent:
        await agent.push(beckett)
        await eventually(lambda: "better" in agent.sink.said)
        await agent.stop_speaking()
        await eventually(lambda: not agent.service._finalize_pending)
    assert agent.errors == []


async def test_its_keepalives_carry_it_over_a_long_pause(server: Server, key: str, beckett: np.ndarray) -> None:
    async with Agent(server, key, settings=DeepgramSTTService.Settings(endpointing=500)) as agent:
        await agent.push(beckett)
        await eventually(lambda: "better" in agent.sink.said)
        await asyncio.wait([agent._running], timeout=11)  # Deepgram's patience is 10 s
        await agent.push(beckett)
        await eventually(lambda: agent.sink.said.count("better") == 2)
    assert bare(agent.sink.said) == f"{BECKETT} {BECKETT}"
    assert agent.errors == []


async def test_eight_kilohertz(server: Server, key: str, beckett: np.ndarray) -> None:
    async with Agent(server, key, 8000, settings=DeepgramSTTService.Settings(endpointing=500)) as agent:
        await agent.push(beckett[::2])
        await eventually(lambda: "fail" in agent.sink.said)
    assert agent.errors == []


@pytest.mark.parametrize(
    ("wrong_key", "how", "status"),
    [(True, {}, 401), (False, {"diarize": True}, 400), (False, {"model": "parrot"}, 400)],
)
async def test_a_refusal_is_permanent_and_not_tried_again(
    server: Server, key: str, wrong_key: bool, how: dict[str, Any], status: int
) -> None:
    async with Agent(server, "wrong" if wrong_key else key, settings=DeepgramSTTService.Settings(**how)) as agent:
        await eventually(lambda: bool(agent.errors))
    assert len(agent.errors) == 1
    assert f"status {status}" in agent.errors[0].error


async def test_twenty_agents_in_a_row(server: Server, key: str) -> None:
    for _ in range(20):
        async with Agent(server, key) as agent:
            await agent.push(np.zeros(1600, np.int16))
        assert agent.errors == []
    await eventually(lambda: not server.services.streams)
