from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from peer import eventually
from pipecat.frames.frames import InterimTranscriptionFrame, TranscriptionFrame
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipeline import Agent
from sounds import BECKETT, RATE, bare

from myna.server.app import Server


def agent(server: Server, key: str, rate: int = RATE, **how: Any) -> Agent:
    return Agent(DeepgramSTTService(api_key=key, base_url=server.url.replace("http", "ws"), **how), rate)


async def test_interims_and_a_finalized_transcript_when_the_user_stops(
    server: Server, key: str, beckett: np.ndarray
) -> None:
    settings = DeepgramSTTService.Settings(endpointing=500)
    async with agent(server, key, settings=settings) as talker:
        await talker.push(beckett[: round(1.25 * RATE)])
        await eventually(lambda: bool(talker.sink.of(InterimTranscriptionFrame)))
        assert not talker.sink.of(TranscriptionFrame)
        await talker.stop_speaking()
        await eventually(lambda: bool(talker.sink.of(TranscriptionFrame)))
        (frame,) = talker.sink.of(TranscriptionFrame)
        assert bare(frame.text) == "ever tried"
        assert frame.finalized
        await talker.push(beckett[round(1.25 * RATE) :])
        await eventually(lambda: "better" in talker.sink.said)
    assert bare(talker.sink.said) == BECKETT
    assert talker.errors == []
    await eventually(lambda: not server.services.streams)


async def test_a_stop_after_the_last_final_is_answered_too(server: Server, key: str, beckett: np.ndarray) -> None:
    async with agent(server, key, settings=DeepgramSTTService.Settings(endpointing=300)) as talker:
        await talker.push(beckett)
        await eventually(lambda: "better" in talker.sink.said)
        await talker.stop_speaking()
        await eventually(lambda: not talker.service._finalize_pending)
    assert talker.errors == []


async def test_keepalives_keep_the_stream_open_over_a_long_pause(server: Server, key: str, beckett: np.ndarray) -> None:
    async with agent(server, key, settings=DeepgramSTTService.Settings(endpointing=500)) as talker:
        await talker.push(beckett)
        await eventually(lambda: "better" in talker.sink.said)
        await asyncio.wait([talker._running], timeout=11)  # Deepgram's patience is 10 s
        await talker.push(beckett)
        await eventually(lambda: talker.sink.said.count("better") == 2)
    assert bare(talker.sink.said) == f"{BECKETT} {BECKETT}"
    assert talker.errors == []


async def test_eight_kilohertz(server: Server, key: str, beckett: np.ndarray) -> None:
    async with agent(server, key, 8000, settings=DeepgramSTTService.Settings(endpointing=500)) as talker:
        await talker.push(beckett[::2])
        await eventually(lambda: "fail" in talker.sink.said)
    assert talker.errors == []


@pytest.mark.parametrize(
    ("wrong_key", "how", "status"),
    [(True, {}, 401), (False, {"detect_entities": True}, 400), (False, {"model": "parrot"}, 400)],
)
async def test_a_refusal_is_permanent_and_not_retried(
    server: Server, key: str, wrong_key: bool, how: dict[str, Any], status: int
) -> None:
    async with agent(server, "wrong" if wrong_key else key, settings=DeepgramSTTService.Settings(**how)) as talker:
        await eventually(lambda: bool(talker.errors))
    assert len(talker.errors) == 1
    assert f"status {status}" in talker.errors[0].error


async def test_twenty_agents_in_a_row(server: Server, key: str) -> None:
    for _ in range(20):
        async with agent(server, key) as talker:
            await talker.push(np.zeros(1600, np.int16))
        assert talker.errors == []
    await eventually(lambda: not server.services.streams)
