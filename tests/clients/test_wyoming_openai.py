"""Unmodified wyoming-openai, which serves Home Assistant's protocol over OpenAI's API, in its three modes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from sounds import BECKETT, RATE, bare
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncClient
from wyoming.error import Error

from myna.server.app import Server

PYTHON = Path(__file__).parents[2] / ".venv-wyoming" / "bin" / "python"
FILE, STREAM, REALTIME = "whisper-1", "gpt-4o-mini-transcribe", "gpt-realtime-whisper"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="wyoming-openai needs Python 3.12 (make .venv-wyoming/.ready)"
)


@contextlib.asynccontextmanager
async def proxy(server: Server, key: str, folder: Path) -> AsyncIterator[str]:
    """Run wyoming-openai; yield its address."""
    uri = f"unix://{folder}/wyoming"
    process = await asyncio.create_subprocess_exec(
        PYTHON, "-m", "wyoming_openai", "--uri", uri, "--stt-openai-url", f"{server.url}/v1", "--stt-openai-key", key,
        "--stt-models", FILE, "--stt-streaming-models", STREAM, "--stt-realtime-models", REALTIME,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while not (folder / "wyoming").exists():
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield uri
    finally:
        process.terminate()
        await process.wait()


async def said(uri: str, model: str, audio: np.ndarray) -> str:
    """Return the transcript of the audio, or the error."""
    async with asyncio.timeout(60), AsyncClient.from_uri(uri) as client:
        await client.write_event(Transcribe(name=model, language="en").event())
        await client.write_event(AudioStart(rate=RATE, width=2, channels=1).event())
        for start in range(0, len(audio), 1024):
            piece = audio[start : start + 1024].tobytes()
            await client.write_event(AudioChunk(rate=RATE, width=2, channels=1, audio=piece).event())
        await client.write_event(AudioStop().event())
        while (event := await client.read_event()) is not None:
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text
            if Error.is_type(event.type):
                return f"error: {Error.from_event(event).text}"
        return "nothing"


async def test_each_mode_returns_the_words(server: Server, key: str, beckett: np.ndarray, tmp_path: Path) -> None:
    async with proxy(server, key, tmp_path) as uri:
        for model in (FILE, STREAM, REALTIME):
            assert bare(await said(uri, model, beckett)) == BECKETT, model
