"""Clients that speak to a server with the fake engine, whose words tell exactly what was lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
from drive import amplitude_voice
from peer import settings

from myna.clients.live import LiveClient
from myna.inference.engines.fake.engine import silence, spoken
from myna.server.app import Server, running
from myna.streaming.speech.silero import VadMemory
from myna.wire import messages as wire


class AmplitudeVad:
    """Voice activity for the fake engine's sounds, which Silero does not take for speech: loud is speech."""

    def probabilities(self, parts: Sequence[tuple[VadMemory, bytes]]) -> list[list[float]]:
        return [amplitude_voice(0, pcm) for _, pcm in parts]


@contextlib.asynccontextmanager
async def running_fake(vad: Callable[[], Any] = AmplitudeVad, **changes: Any) -> AsyncIterator[Server]:
    """Run a server with the fake engine, and ears for it."""
    async with contextlib.AsyncExitStack() as stack:
        with mock.patch("myna.server.app.SileroVad", vad):  # no longer: other servers start meanwhile
            server = await stack.enter_async_context(running(settings(**{"model": "fake", **changes})))
        yield server


START = wire.StartMessage(encoding="linear16", sample_rate=16_000, interim=False)
FRAME = 6400


def phrases(codes: Sequence[int], length: int = 4, pause_s: float = 0.8) -> bytes:
    """Return the audio of these words, in phrases with pauses between them."""
    parts = [silence(0.3)]
    for start in range(0, len(codes), length):
        parts += [*map(spoken, codes[start : start + length]), silence(pause_s)]
    return np.concatenate(parts).astype(np.int16).tobytes()


def names(codes: Sequence[int]) -> list[str]:
    return [f"w{code}" for code in codes]


class Speaker:
    """A live client that can be given audio bit by bit, and keeps what it is told."""

    def __init__(self, server: Server | str, start: wire.StartMessage = START, **how: object) -> None:
        self.client = LiveClient(start, server if isinstance(server, str) else server.url, **how)  # type: ignore[arg-type]
        self.messages: list[wire.AnyServerMessage] = []
        self._listening: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Speaker:
        await self.client.__aenter__()
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *how: object) -> None:
        assert self._listening is not None
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        await self.client.__aexit__(None, None, None)

    async def say(self, audio: bytes) -> None:
        for start in range(0, len(audio), FRAME):
            await self.client.send(audio[start : start + FRAME])

    async def done(self) -> Speaker:
        """Say that nothing follows; wait for the last message."""
        await self.client.close()
        assert self._listening is not None
        await self._listening
        return self

    async def over(self) -> None:
        """Wait for the last message."""
        assert self._listening is not None
        await self._listening

    @property
    def finals(self) -> list[wire.FinalMessage]:
        return [message for message in self.messages if isinstance(message, wire.FinalMessage)]

    @property
    def words(self) -> list[str]:
        return [word.word for final in self.finals for word in final.words]

    async def _listen(self) -> None:
        async for message in self.client:
            self.messages.append(message)
