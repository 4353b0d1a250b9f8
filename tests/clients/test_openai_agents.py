"""The speech-to-text model of OpenAI's Agents SDK: files, and streams over the Realtime API."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import openai
import pytest
from agents.voice import AudioInput, StreamedAudioInput, STTModelSettings
from agents.voice.models.openai_stt import OpenAISTTModel
from sounds import BECKETT, bare

from myna.server.app import Server

RATE = 24_000
UNTRACED = {"trace_include_sensitive_data": False, "trace_include_sensitive_audio_data": False}


@pytest.fixture(scope="session")
def speech(beckett: np.ndarray) -> np.ndarray:
    """The recording at the rate of the SDK."""
    at = np.arange(len(beckett) * 3 // 2) * 2 / 3
    return np.interp(at, np.arange(len(beckett)), beckett).astype(np.int16)


def model(server: Server, key: str, name: str = "gpt-4o-transcribe") -> OpenAISTTModel:
    return OpenAISTTModel(name, openai.AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1", max_retries=0))


@pytest.mark.parametrize("name", ["gpt-4o-transcribe", "gpt-transcribe", "whisper-1"])
async def test_a_recording(server: Server, key: str, speech: np.ndarray, name: str) -> None:
    stt = model(server, key, name)
    for settings in (STTModelSettings(), STTModelSettings(language="en", temperature=0.0, prompt="Beckett")):
        assert bare(await stt.transcribe(AudioInput(speech), settings, **UNTRACED)) == BECKETT


@pytest.mark.parametrize("detection", [None, {"type": "server_vad", "silence_duration_ms": 400}])
@pytest.mark.parametrize("name", ["gpt-4o-transcribe", "gpt-live-transcribe"])
async def test_a_stream_up_to_its_last_word(
    server: Server, key: str, speech: np.ndarray, name: str, detection: dict[str, Any] | None
) -> None:
    given = StreamedAudioInput()
    settings = STTModelSettings(language="en", turn_detection=detection)
    session = await model(server, key, name).create_session(given, settings, **UNTRACED)

    async def speak() -> None:
        loud = np.flatnonzero(np.abs(speech) > 500)
        for start in range(0, int(loud[-1]), RATE // 10):  # it ends with the last word, and no silence behind it
            await given.add_audio(speech[start : min(start + RATE // 10, int(loud[-1]))])
        await given.add_audio(None)

    speaking = asyncio.create_task(speak())
    async with asyncio.timeout(90):
        turns = [turn async for turn in session.transcribe_turns()]
    await speaking
    await session.close()
    assert bare(" ".join(turns)) == BECKETT


async def test_a_wrong_key_is_reported(server: Server, speech: np.ndarray) -> None:
    with pytest.raises(openai.AuthenticationError):
        await model(server, "wrong").transcribe(AudioInput(speech), STTModelSettings(), **UNTRACED)
