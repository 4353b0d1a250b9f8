"""The streams of the load bench: recordings of a manifest, sent in real time over a WebSocket."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from myna.bench.accuracy import TAIL_S, Recording
from myna.clients import files
from myna.clients.live import stream_url, websocket_url
from myna.clients.speakers import SpeakersWanted
from myna.streaming.events import SAMPLE_RATE
from myna.wire import messages as wire

PAUSE_S = 0.6
"""Silence between two recordings of a stream."""
FRAME_S = 0.05
"""Audio in a message, as browsers and voice agents send it."""
_CONNECT_WITHIN_S = 30.0
_ANSWERED_WITHIN_S = 60.0
"""Time for the last answer after a stream's last audio; without it the stream counts as broken."""


@dataclass(frozen=True, slots=True)
class Speech:
    """A stream's audio and its reference text."""

    pcm: bytes
    text: str


@dataclass(slots=True)
class HeardStream:
    """The result of a stream. Delays are in seconds; `refused` and `broken` are the reasons of missing words."""

    text: str = ""
    finals_s: list[float] = field(default_factory=list)
    """Delay of each final at an endpoint after the endpoint's audio was spoken."""
    interims_s: list[float] = field(default_factory=list)
    """Delay of each interim after the last of its audio was spoken."""
    words: int = 0
    labelled: int = 0
    """Final words, and those of them that have a speaker."""
    refused: str | None = None
    broken: str | None = None

    def final(self, words: Sequence[dict[str, Any]]) -> None:
        """Count the words of a final."""
        self.words += len(words)
        self.labelled += sum("speaker" in word for word in words)


def speeches(recordings: Sequence[Recording], count: int, seconds: float) -> list[Speech]:
    """Return `count` streams of about `seconds`, each with the recordings in an order of its own."""
    clips = [
        (np.frombuffer(b"".join(files.chunks(recording.audio)), np.int16), recording.text) for recording in recordings
    ]
    clips = [(pcm, text) for pcm, text in clips if len(pcm) <= seconds * SAMPLE_RATE]
    pause, tail = (np.zeros(round(length * SAMPLE_RATE), np.int16) for length in (PAUSE_S, TAIL_S))
    made = []
    for number in range(count):
        order = random.Random(number).sample(clips, len(clips))
        parts: list[np.ndarray] = []
        texts: list[str] = []
        length = 0
        for pcm, text in order * (1 + int(seconds * SAMPLE_RATE / sum(len(pcm) for pcm, _ in clips))):
            if length + len(pcm) > seconds * SAMPLE_RATE:
                continue
            parts += [pcm, pause]
            texts.append(text)
            length += len(pcm) + len(pause)
        made.append(Speech(np.concatenate([*parts, tail]).tobytes(), " ".join(texts)))
    return made


class NativeWords:
    """The messages of the native protocol that a load stream uses."""

    def __init__(self, url: str, *, speakers: bool = False) -> None:
        self.url = stream_url(url, wire.Format.JSON, speakers=SpeakersWanted() if speakers else None)
        start = wire.StartMessage(encoding="linear16", sample_rate=SAMPLE_RATE)
        self.opening: str | bytes | None = wire.encode(start, wire.Format.JSON)
        self.closing = json.dumps({"type": "close"})

    def take(self, message: dict[str, Any], now_s: float, heard: HeardStream, texts: list[str]) -> bool:
        """Process a message received at second `now_s` of the stream; return whether it was the last."""
        match message:
            case {"type": "partial", "end": end}:
                heard.interims_s.append(now_s - end)
            case {"type": "final", "end": end, "text": text, "cause": cause, "words": words}:
                texts.append(text)
                heard.final(words)
                if cause == "endpoint":
                    heard.finals_s.append(now_s - end)
            case {"type": "error", "code": code, "message": said}:
                heard.broken = f"{code}: {said}"
            case {"type": "closed"}:
                return True
        return False


class DeepgramWords:
    """The messages of Deepgram's live API that a load stream uses."""

    def __init__(self, url: str, *, speakers: bool = False) -> None:
        query = {
            "model": "nova-3", "encoding": "linear16", "sample_rate": str(SAMPLE_RATE), "interim_results": "true",
            "endpointing": "500", "diarize": str(speakers).lower(),
        }  # fmt: skip
        self.url = websocket_url(url, "/v1/listen", query)
        self.opening: str | bytes | None = None
        self.closing = json.dumps({"type": "CloseStream"})

    def take(self, message: dict[str, Any], now_s: float, heard: HeardStream, texts: list[str]) -> bool:
        """Process a message received at second `now_s` of the stream; return whether it was the last."""
        match message:
            case {"type": "Results", "is_final": False, "start": start, "duration": duration}:
                heard.interims_s.append(now_s - start - duration)
            case {"type": "Results", "start": start, "duration": duration, "channel": {"alternatives": [best, *_]}}:
                texts.append(best["transcript"])
                heard.final(best["words"])
                if message["speech_final"]:
                    heard.finals_s.append(now_s - start - duration)
            case {"type": "Metadata"}:
                return True
        return False


Words = NativeWords | DeepgramWords


async def speak(speech: Speech, words: Words, api_key: str | None, *, real_time: bool = True) -> HeardStream:
    """Stream the speech and read the answers; errors become part of the result."""
    heard = HeardStream()
    # Deepgram's scheme, which the native protocol accepts, too.
    headers = {"Authorization": f"Token {api_key}"} if api_key else {}
    try:
        socket = await connect(
            words.url, additional_headers=headers, compression=None, max_size=None,
            open_timeout=_CONNECT_WITHIN_S, ping_timeout=None,
        )  # fmt: skip
    except InvalidStatus as error:
        heard.refused = f"HTTP {error.response.status_code}"
        return heard
    except (OSError, InvalidHandshake, TimeoutError) as error:
        heard.broken = f"no connection: {error}"
        return heard
    async with socket:
        if words.opening is not None:
            await socket.send(words.opening)
        await _converse(socket, speech, words, heard, real_time=real_time)
    return heard


async def _converse(
    socket: ClientConnection, speech: Speech, words: Words, heard: HeardStream, *, real_time: bool
) -> None:
    began = time.monotonic()
    texts: list[str] = []
    sending = asyncio.create_task(_send(socket, speech.pcm, words.closing, began if real_time else None))
    patience_s = len(speech.pcm) / 2 / SAMPLE_RATE + _ANSWERED_WITHIN_S
    try:
        async with asyncio.timeout(patience_s):
            async for message in socket:
                if words.take(json.loads(message), time.monotonic() - began, heard, texts):
                    break
            else:
                heard.broken = heard.broken or f"closed with {socket.close_code}"
    except TimeoutError:
        heard.broken = f"no last message within {patience_s:.0f} s"
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    heard.text = " ".join(text for text in texts if text)


async def _send(socket: ClientConnection, pcm: bytes, closing: str, began: float | None) -> None:
    size = 2 * round(FRAME_S * SAMPLE_RATE)
    try:
        for number, start in enumerate(range(0, len(pcm), size), start=1):
            if began is not None:  # a frame exists once its last sample is spoken
                await asyncio.sleep(max(0.0, began + number * FRAME_S - time.monotonic()))
            await socket.send(pcm[start : start + size])
        await socket.send(closing)
    except ConnectionClosed:
        return
