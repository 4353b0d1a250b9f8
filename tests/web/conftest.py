from __future__ import annotations

import wave
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from peer import settings
from playwright.async_api import Browser, async_playwright
from sounds import RATE, recording
from visitor import CHROMIUM

from myna.server.app import Server, running


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten seconds of speech, then silence, at a microphone's usual rate."""
    path = tmp_path_factory.mktemp("speech") / "beckett.wav"
    audio = np.concatenate([np.zeros(RATE, np.int16), recording("beckett"), np.zeros(20 * RATE, np.int16)])
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(audio.tobytes())
    return path


@pytest.fixture(scope="module")
async def browser(spoken: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={spoken}%noloop",
            ],
        )
        yield started
        await started.close()


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running(settings()) as started:
        yield started
