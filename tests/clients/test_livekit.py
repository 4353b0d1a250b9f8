from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import aiohttp
import numpy as np
import pytest
from livekit import rtc
from livekit.agents import APIConnectOptions, APIError
from livekit.agents.stt import SpeechEvent, SpeechEventType
from livekit.plugins import deepgram
from peer import eventually
from sounds import BECKETT, RATE, bare

from myna.server.app import Server

ONCE = APIConnectOptions(max_retry=0, timeout=10)


class Listener:
    """A stream of the plugin and all its events."""

    def __init__(self, server: Server, key: str, http: aiohttp.ClientSession, **how: Any) -> None:
        self.stt = self.make(server, key, http, **how)
        self.stream = self.stt.stream(conn_options=ONCE)
        self.events: list[SpeechEvent] = []

    def make(self, server: Server, key: str, http: aiohttp.ClientSession, **how: Any) -> Any:
        return deepgram.STT(api_key=key, base_url=f"{server.url}/v1/listen", http_session=http, **how)

    async def __aenter__(self) -> Listener:
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()
        self._reading.cancel()
        with contextlib.suppress(asyncio.CancelledError, APIError):
            await self._reading

    async def _read(self) -> None:
        async for event in self.stream:
            self.events.append(event)

    def push(self, audio: np.ndarray, rate: int = RATE) -> None:
        for start in range(0, len(audio), rate // 10):
            piece = audio[start : start + rate // 10]
            self.stream.push_frame(rtc.AudioFrame(piece.tobytes(), rate, 1, len(piece)))

    async def finish(self) -> None:
        self.stream.end_input()
        await asyncio.wait_for(self._reading, 60)

    def of(self, kind: SpeechEventType) -> list[SpeechEvent]:
        return [event for event in self.events if event.type is kind]

    @property
    def said(self) -> str:
        return " ".join(event.alternatives[0].text for event in self.of(SpeechEventType.FINAL_TRANSCRIPT)).lower()


async def test_interims_finals_and_the_ends_of_speech(
    server: Server, key: str, http: aiohttp.ClientSession, beckett: np.ndarray
) -> None:
    async with Listener(server, key, http) as listener:
        listener.push(beckett[: round(1.3 * RATE)])
        await eventually(lambda: bool(listener.of(SpeechEventType.INTERIM_TRANSCRIPT)))
        assert listener.of(SpeechEventType.START_OF_SPEECH)
        listener.push(beckett[round(1.3 * RATE) :])
        await listener.finish()
    # The plugin's defaults include endpointing of 25 ms, with which short words may differ.
    heard = bare(listener.said).split()
    assert sum(word in heard for word in set(BECKETT.split())) >= 6, heard
    assert len(listener.of(SpeechEventType.END_OF_SPEECH)) >= 2
    first = listener.of(SpeechEventType.FINAL_TRANSCRIPT)[0].alternatives[0]
    assert first.words
    assert first.start_time == pytest.approx(0.26, abs=0.3)
    await eventually(lambda: not server.services.streams)


async def test_flush_makes_all_words_final_at_once(
    server: Server, key: str, http: aiohttp.ClientSession, beckett: np.ndarray
) -> None:
    async with Listener(server, key, http, endpointing_ms=0) as listener:
        listener.push(beckett[: round(1.25 * RATE)])
        listener.stream.flush()
        await eventually(lambda: bool(listener.of(SpeechEventType.FINAL_TRANSCRIPT)))
        assert bare(listener.said) == "ever tried"
        listener.push(beckett[round(1.25 * RATE) :])
        await listener.finish()
    assert bare(listener.said) == BECKETT


async def test_its_formatting_options_are_honoured(
    server: Server, key: str, http: aiohttp.ClientSession, beckett: np.ndarray
) -> None:
    options = {"replace": {"tried": "attempted"}, "search": ["no matter"], "smart_format": True, "endpointing_ms": 500}
    async with Listener(server, key, http, **options) as listener:
        listener.push(beckett)
        await listener.finish()
    assert bare(listener.said) == BECKETT.replace("tried", "attempted")


async def test_eight_kilohertz(server: Server, key: str, http: aiohttp.ClientSession, beckett: np.ndarray) -> None:
    async with Listener(server, key, http, sample_rate=8000, endpointing_ms=500) as listener:
        listener.push(beckett[::2], 8000)
        await listener.finish()
    assert "fail" in listener.said


async def test_a_long_pause_does_not_end_the_stream(
    server: Server, key: str, http: aiohttp.ClientSession, beckett: np.ndarray, caplog: pytest.LogCaptureFixture
) -> None:
    """The plugin sends keepalives every 5 s; the server's idle time-out is Deepgram's, 10 s."""
    async with Listener(server, key, http, endpointing_ms=500) as listener:
        listener.push(beckett)
        await asyncio.wait([listener._reading], timeout=11)
        listener.push(beckett)
        await listener.finish()
    assert bare(listener.said) == f"{BECKETT} {BECKETT}"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and "deepgram" in record.name]


@pytest.mark.parametrize(
    ("wrong_key", "how"), [(True, {}), (False, {"model": "parrot"}), (False, {"keyterm": "x" * 201})]
)
async def test_a_refusal_is_an_error(
    server: Server, key: str, http: aiohttp.ClientSession, wrong_key: bool, how: dict[str, Any]
) -> None:
    listener = Listener(server, "wrong" if wrong_key else key, http, **how)
    with pytest.raises(APIError):
        await asyncio.wait_for(anext(listener.stream), 30)
    await listener.stream.aclose()


async def test_twenty_streams_in_a_row(server: Server, key: str, http: aiohttp.ClientSession) -> None:
    for _ in range(20):
        async with Listener(server, key, http) as listener:
            listener.push(np.zeros(1600, np.int16))
            await eventually(lambda: bool(server.services.streams))
            listener.stream.end_input()
            await eventually(lambda: not server.services.streams)
