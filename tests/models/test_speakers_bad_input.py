"""Recordings without speech, or with hardly any: no dialect invents a speaker, and each answers in its own way."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession, FormData, web
from peer import connected, listening, served, settings
from sounds import RATE, contained, recording

from myna.server.app import Server, running

Answer = tuple[int, set[Any]]
"""The HTTP status or close code, and the speakers."""


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running(settings(speakers_within_ms=60_000, allowed_networks=["127.0.0.0/8"])) as started:
        yield started


def flac(sound: np.ndarray) -> bytes:
    return contained([sound], "flac", "flac") if len(sound) else b""


async def deepgram_file(server: Server, sound: np.ndarray) -> Answer:
    query = "diarize=true&utterances=true&paragraphs=true"
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen?{query}", data=flac(sound)) as response,
    ):
        body = await response.json()
        if response.status != 200:
            assert body.keys() == {"err_code", "err_msg", "request_id"}
            return response.status, set()
        words = body["results"]["channels"][0]["alternatives"][0]["words"]
        return 200, {word["speaker"] for word in [*words, *body["results"]["utterances"]]}


async def deepgram_live(server: Server, sound: np.ndarray) -> Answer:
    async with listening(server, f"encoding=linear16&sample_rate={RATE}&diarize=true") as peer:
        if len(sound):
            await peer.socket.send_bytes(sound.tobytes())
        await peer.send({"type": "CloseStream"})
        await peer.rest()
    words = [word for final in peer.finals for word in final["channel"]["alternatives"][0]["words"]]
    assert peer.socket.close_code == 1000
    return 200, {word["speaker"] for word in words}


async def native(server: Server, sound: np.ndarray) -> Answer:
    async with connected(server, "?diarize=true") as peer:
        await peer.send({"type": "start", "encoding": "linear16", "sample_rate": RATE})
        if len(sound):
            await peer.socket.send_bytes(sound.tobytes())
        await peer.send({"type": "close"})
        await peer.rest()
    assert peer.socket.close_code == 1000
    told = [word["speaker"] for message in peer.messages if message["type"] == "final" for word in message["words"]]
    for message in peer.messages:
        if message["type"] == "speakers":
            told += [turn["speaker"] for turn in message["turns"]]
            assert message["count"] == len({turn["speaker"] for turn in message["turns"]})
    return 200, set(told)


async def openai(server: Server, sound: np.ndarray, stream: str = "false") -> Answer:
    form = FormData({"response_format": "diarized_json", "stream": stream})
    form.add_field("file", BytesIO(flac(sound)), filename="a.flac")
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/audio/transcriptions", data=form) as response,
    ):
        if response.status != 200:
            assert (await response.json())["error"]["param"] == "file"
            return response.status, set()
        if stream == "false":
            segments = (await response.json())["segments"]
        else:
            lines = (await response.text()).splitlines()
            events = [json.loads(line[6:]) for line in lines if line.startswith("data: ")]
            assert events[-1]["type"] == "transcript.text.done"
            segments = [event for event in events if event["type"] == "transcript.text.segment"]
        return 200, {"AB".index(segment["speaker"]) for segment in segments}


async def openai_stream(server: Server, sound: np.ndarray) -> Answer:
    return await openai(server, sound, "true")


async def reflector(server: Server, sound: np.ndarray) -> Answer:
    async def file(_request: web.Request) -> web.Response:
        return web.Response(body=flac(sound))

    app = web.Application()
    app.router.add_get("/a.flac", file)
    async with served(app) as url, ClientSession() as session:
        query = {"audio_file_url": f"{url}/a.flac"}
        async with session.post(f"{server.url}/diarize", params=query) as response:
            body = await response.json()
            if response.status != 200:
                assert body["detail"]
                return response.status, set()
            return 200, {turn["speaker"] for turn in body["diarization"]}


DIALECTS = [deepgram_file, deepgram_live, native, openai, openai_stream, reflector]
FILES = [deepgram_file, openai, openai_stream, reflector]
SILENT = {
    "digital silence": np.zeros(4 * RATE, np.int16),
    "half a second of silence": np.zeros(RATE // 2, np.int16),
    "white noise": np.random.default_rng(1).normal(0, 1500, 4 * RATE).astype(np.int16),
    "quiet noise": np.random.default_rng(2).normal(0, 30, 12 * RATE).astype(np.int16),
    "a tone": (9000 * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)).astype(np.int16),
}


@pytest.mark.parametrize("sound", SILENT.values(), ids=SILENT)
@pytest.mark.parametrize("dialect", DIALECTS)
async def test_no_speaker_is_invented_where_nobody_speaks(
    server: Server, dialect: Callable[[Server, np.ndarray], Awaitable[Answer]], sound: np.ndarray
) -> None:
    assert await dialect(server, sound) == (200, set())


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_half_a_second_of_speech_has_one_speaker_at_most(
    server: Server, dialect: Callable[[Server, np.ndarray], Awaitable[Answer]]
) -> None:
    status, speakers = await dialect(server, recording("beckett")[RATE // 2 : RATE])
    assert status == 200
    assert speakers <= {0}


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_empty_recording_is_refused_as_a_file_and_ends_a_stream(
    server: Server, dialect: Callable[[Server, np.ndarray], Awaitable[Answer]]
) -> None:
    status, speakers = await dialect(server, np.zeros(0, np.int16))
    assert status == (400 if dialect in FILES else 200)
    assert speakers == set()
