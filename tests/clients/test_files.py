"""Unmodified official clients of the REST APIs, with files and URLs of files."""

from __future__ import annotations

import asyncio
import re
from io import BytesIO
from typing import Any

import numpy as np
import openai
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.environment import DeepgramClientEnvironment
from deepgram.errors import BadRequestError
from sounds import BECKETT, contained, recording

from myna.server.app import Server


@pytest.fixture(scope="session")
def speech(beckett: np.ndarray) -> bytes:
    return contained([beckett], "wav", "pcm_s16le")


def bare(text: str) -> str:
    return " ".join(re.sub(r"[^a-z ]", "", text.lower()).split())


def named(data: bytes) -> tuple[str, BytesIO]:
    return ("speech.wav", BytesIO(data))


def openai_client(server: Server, key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1", max_retries=0)


def at(server: Server) -> DeepgramClientEnvironment:
    sockets = server.url.replace("http", "ws")
    return DeepgramClientEnvironment(base=server.url, production=sockets, agent=sockets, agent_rest=server.url)


async def test_openai_every_format(server: Server, key: str, speech: bytes) -> None:
    create = openai_client(server, key).audio.transcriptions.create
    plain = await create(model="whisper-1", file=named(speech))
    assert bare(plain.text) == BECKETT
    assert plain.usage is not None
    assert plain.usage.type == "duration"
    text: Any = await create(model="gpt-4o-transcribe", file=named(speech), response_format="text")
    assert bare(text) == BECKETT
    srt: Any = await create(model="whisper-1", file=named(speech), response_format="srt")
    assert srt.startswith("1\n00:00:0")
    vtt: Any = await create(model="whisper-1", file=named(speech), response_format="vtt")
    assert vtt.startswith("WEBVTT")
    verbose = await create(
        model="whisper-1",
        file=named(speech),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
        language="en",
        temperature=0,
    )
    assert verbose.language == "english"
    assert verbose.words is not None
    assert [bare(word.word) for word in verbose.words] == BECKETT.split()
    assert verbose.segments is not None
    assert bare("".join(segment.text for segment in verbose.segments)) == BECKETT
    logged = await create(
        model="gpt-4o-mini-transcribe", file=named(speech), include=["logprobs"], response_format="json"
    )
    assert logged.logprobs is not None
    assert "".join(token.token or "" for token in logged.logprobs) == logged.text


async def test_openai_streaming(server: Server, key: str) -> None:
    long = contained([recording("two_cities")], "flac", "flac")
    client = openai_client(server, key)
    stream = await client.audio.transcriptions.create(
        model="gpt-4o-transcribe", file=("x.flac", BytesIO(long)), stream=True, chunking_strategy="auto"
    )
    deltas, final = [], ""
    async for event in stream:
        if event.type == "transcript.text.delta":
            deltas.append(event.delta)
        elif event.type == "transcript.text.done":
            final = event.text
    assert len(deltas) >= 3
    assert "".join(deltas) == final


async def test_openai_sync_and_models(server: Server, key: str, speech: bytes) -> None:
    def ask() -> tuple[str, list[str], str]:
        client = openai.OpenAI(api_key=key, base_url=f"{server.url}/v1", max_retries=0)
        text = client.audio.transcriptions.create(model="whisper-1", file=named(speech)).text
        names = [model.id for model in client.models.list()]
        return text, names, client.models.retrieve("moonshine-tiny-en").id

    text, names, one = await asyncio.to_thread(ask)
    assert bare(text) == BECKETT
    assert "moonshine-tiny-en" in names
    assert one == "moonshine-tiny-en"


async def test_openai_raises_the_class_of_each_error(server: Server, key: str, speech: bytes) -> None:
    client = openai_client(server, key)
    with pytest.raises(openai.BadRequestError, match="none of"):
        await client.audio.transcriptions.create(model="whisper-1", file=("x.wav", BytesIO(b"no sound")))
    with pytest.raises(openai.BadRequestError, match="does not support the language") as refused:
        await client.audio.transcriptions.create(model="whisper-1", file=named(speech), language="fi")
    assert refused.value.param == "language"
    with pytest.raises(openai.BadRequestError, match="translate"):
        await client.audio.translations.create(model="whisper-1", file=named(speech))
    with pytest.raises(openai.AuthenticationError):
        await openai_client(server, "wrong").audio.transcriptions.create(model="whisper-1", file=named(speech))
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("parrot")


async def test_deepgram_files(server: Server, key: str, speech: bytes) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    response: Any = await client.listen.v1.media.transcribe_file(
        request=speech,
        model="nova-3",
        smart_format=True,
        utterances=True,
        paragraphs=True,
        search=["no matter"],
        tag=["t"],
    )
    best = response.results.channels[0].alternatives[0]
    assert bare(best.transcript) == BECKETT
    assert [word.word for word in best.words] == BECKETT.split()
    assert best.paragraphs.paragraphs[0].sentences
    assert response.results.utterances
    assert response.metadata.model_info
    assert response.metadata.channels == 1

    def sync() -> Any:
        return DeepgramClient(api_key=key, environment=at(server)).listen.v1.media.transcribe_file(request=speech)

    assert (await asyncio.to_thread(sync)).results.channels[0].alternatives[0].transcript == BECKETT


async def test_deepgram_errors(server: Server, key: str, speech: bytes) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    with pytest.raises(BadRequestError):
        await client.listen.v1.media.transcribe_file(request=b"no sound at all")
    with pytest.raises(BadRequestError):
        await client.listen.v1.media.transcribe_url(url="http://169.254.169.254/latest")
    with pytest.raises(BadRequestError):
        await client.listen.v1.media.transcribe_file(request=speech, summarize="v2")
    wrong = AsyncDeepgramClient(api_key="wrong", environment=at(server))
    with pytest.raises(ApiError) as refused:
        await wrong.listen.v1.media.transcribe_file(request=speech)
    assert refused.value.status_code == 401
