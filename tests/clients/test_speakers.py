"""Unmodified official clients read who speaks in a recorded dialogue."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np
import openai
import pytest
from aiohttp import web
from deepgram import AsyncDeepgramClient
from livekit.agents.stt import SpeechEventType
from openai.types.audio import TranscriptionDiarized
from peer import eventually, served, settings
from pipecat.frames.frames import TranscriptionFrame
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipeline import Agent
from sounds import contained, recording
from test_deepgram_node import finals, node
from test_deepgram_python import RAW, at, listen
from test_livekit import Listener

from myna.server.app import Server, running

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it fetches a list of prices otherwise
import litellm


@pytest.fixture(scope="module")
async def server(key_file: Path, key: str) -> AsyncIterator[Server]:
    """A server whose live finals wait for their speakers, however busy the machine is."""
    changes = {"keys": key_file, "speakers_within_ms": 60_000, "allowed_networks": ["127.0.0.0/8"]}
    async with running(settings(**changes)) as started:
        yield started


@pytest.fixture(scope="module")
def dialogue() -> np.ndarray:
    """28 s of two speakers in turns."""
    return recording("endgame_nagg_nell")


@pytest.fixture(scope="module")
def flac(tmp_path_factory: pytest.TempPathFactory, dialogue: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("speech") / "dialogue.flac"
    path.write_bytes(contained([dialogue], "flac", "flac"))
    return path


def assert_in_turns(speakers: list[Any], names: set[Any]) -> None:
    assert set(speakers) == names
    assert sum(before != after for before, after in pairwise(speakers)) >= 6


def assert_live(speakers: list[Any]) -> None:
    """Live labels are final at once, so a voice may have been split."""
    assert 2 <= len(set(speakers)) <= 3
    assert sum(before != after for before, after in pairwise(speakers)) >= 6


async def test_deepgrams_python_sdk_with_a_file(server: Server, key: str, flac: Path) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    answer: Any = await client.listen.v1.media.transcribe_file(
        request=flac.read_bytes(), model="nova-3", diarize=True, utterances=True, smart_format=True
    )
    best = answer.results.channels[0].alternatives[0]
    assert_in_turns([word.speaker for word in best.words], {0, 1})
    assert all(0.5 <= word.speaker_confidence <= 1 for word in best.words)
    assert_in_turns([utterance.speaker for utterance in answer.results.utterances], {0, 1})
    assert_in_turns([paragraph.speaker for paragraph in best.paragraphs.paragraphs], {0, 1})


async def test_deepgrams_python_sdk_live(server: Server, key: str, dialogue: np.ndarray) -> None:
    heard = await listen(server, key, dialogue.tobytes(), **RAW, diarize=True)
    words = [word for final in heard.finals for word in final.channel.alternatives[0].words]
    assert_live([word.speaker for word in words if word.speaker is not None])


async def test_deepgrams_node_sdk_with_a_file(server: Server, key: str, flac: Path) -> None:
    options = {"model": "nova-3", "diarize": True, "utterances": True}
    (answer,) = await node(server, "speakers.mjs", sdk="deepgram", key=key, audio=str(flac), options=options)
    words = answer["results"]["channels"][0]["alternatives"][0]["words"]
    assert_in_turns([word["speaker"] for word in words], {0, 1})
    assert_in_turns([utterance["speaker"] for utterance in answer["results"]["utterances"]], {0, 1})


async def test_deepgrams_node_sdk_live(server: Server, key: str, dialogue: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "dialogue.raw"
    path.write_bytes(dialogue.tobytes())
    options = {**RAW, "diarize": "true"}
    events = await node(server, credentials={"apiKey": key}, audio=[str(path)], options=options)
    words = [word for final in finals(events) for word in final["channel"]["alternatives"][0]["words"]]
    assert_live([word["speaker"] for word in words if "speaker" in word])


DIARIZED: dict[str, Any] = {
    "model": "gpt-4o-transcribe-diarize", "response_format": "diarized_json", "chunking_strategy": "auto",
}  # fmt: skip


async def test_openais_python_sdk(server: Server, key: str, flac: Path) -> None:
    client = openai.AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1", max_retries=0)
    answer = await client.audio.transcriptions.create(file=flac, **DIARIZED)
    assert isinstance(answer, TranscriptionDiarized)
    assert (answer.task, round(answer.duration)) == ("transcribe", 28)
    assert_in_turns([segment.speaker for segment in answer.segments], {"A", "B"})
    assert "".join(segment.text for segment in answer.segments).strip() == answer.text
    segments, text = [], ""
    async for event in await client.audio.transcriptions.create(file=flac, stream=True, **DIARIZED):
        if event.type == "transcript.text.segment":
            segments.append(event)
        elif event.type == "transcript.text.done":
            text = event.text
    assert [segment.speaker for segment in segments] == [segment.speaker for segment in answer.segments]
    assert text == answer.text


async def test_openais_node_sdk(server: Server, key: str, flac: Path) -> None:
    how = {"sdk": "openai", "key": key, "audio": str(flac)}
    (answer,) = await node(server, "speakers.mjs", **how, options=DIARIZED)
    assert_in_turns([segment["speaker"] for segment in answer["segments"]], {"A", "B"})
    events = await node(server, "speakers.mjs", **how, options={**DIARIZED, "stream": True})
    segments = [event for event in events if event["type"] == "transcript.text.segment"]
    assert [segment["speaker"] for segment in segments] == [segment["speaker"] for segment in answer["segments"]]
    assert events[-1] == {**events[-1], "type": "transcript.text.done", "text": answer["text"]}


async def test_pipecats_service(server: Server, key: str, dialogue: np.ndarray) -> None:
    service = DeepgramSTTService(
        api_key=key, base_url=server.url.replace("http", "ws"), settings=DeepgramSTTService.Settings(diarize=True)
    )
    async with Agent(service) as talker:
        await talker.push(dialogue)
        await eventually(lambda: "ditch" in talker.sink.said)
    words = [
        word for frame in talker.sink.of(TranscriptionFrame) for word in frame.result.channel.alternatives[0].words
    ]
    assert_live([word.speaker for word in words if word.speaker is not None])
    assert talker.errors == []


async def test_livekits_plugin(server: Server, key: str, http: aiohttp.ClientSession, dialogue: np.ndarray) -> None:
    async with Listener(server, key, http, enable_diarization=True, endpointing_ms=300) as listener:
        listener.push(dialogue)
        await listener.finish()
    told = [event.alternatives[0].speaker_id for event in listener.of(SpeechEventType.FINAL_TRANSCRIPT)]
    assert 2 <= len(set(told) - {None}) <= 3
    assert {"S0", "S1"} <= set(told)


async def test_litellms_text_names_both_speakers(server: Server, key: str, flac: Path) -> None:
    answer: Any = await litellm.atranscription(
        model="deepgram/nova-3", file=("dialogue.flac", flac.read_bytes()), api_base=f"{server.url}/v1", api_key=key,
        max_retries=0, diarize=True, punctuate=True,
    )  # fmt: skip
    assert_in_turns(re.findall(r"Speaker (\d)", answer.text), {"0", "1"})


async def diarized(server: Server, key: str, sound: bytes) -> list[dict[str, Any]]:
    """Ask for turns as Reflector's conformance test does: with httpx, a bearer token, and the address in the query."""

    async def file(_request: web.Request) -> web.Response:
        return web.Response(body=sound, content_type="audio/mpeg")

    app = web.Application()
    app.router.add_get("/recording.mp3", file)
    async with served(app) as url, httpx.AsyncClient(timeout=60) as client:
        response = await client.post(
            f"{server.url}/diarize",
            params={"audio_file_url": f"{url}/recording.mp3", "timestamp": 0.0},
            headers={"Authorization": f"Bearer {key}"},
        )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert isinstance(answer["diarization"], list)
    return list(answer["diarization"])


async def test_what_reflectors_conformance_test_checks(server: Server, key: str, dialogue: np.ndarray) -> None:
    turns = await diarized(server, key, contained([dialogue], "mp3", "libmp3lame"))
    assert turns
    for turn in turns:
        assert isinstance(turn["start"], int | float)
        assert isinstance(turn["end"], int | float)
        assert turn["start"] <= turn["end"]
        assert type(turn["speaker"]) is int
    assert_in_turns([turn["speaker"] for turn in turns], {0, 1})
