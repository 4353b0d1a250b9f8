"""OpenAI's Realtime API for transcription as OpenAI's own SDK, pipecat and LiveKit use it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import aiohttp
import numpy as np
import pytest
import soxr
from livekit import rtc
from livekit.agents.stt import SpeechEventType
from livekit.plugins import openai as livekit_openai
from openai import AsyncOpenAI, OpenAI
from peer import eventually
from pipecat.frames.frames import (
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    STTUpdateSettingsFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
)
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipeline import Agent
from sounds import BECKETT, RATE, bare
from test_livekit import Listener

from myna.server.app import Server

T = "conversation.item.input_audio_transcription."
TURN = [
    "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped", "input_audio_buffer.committed",
    "conversation.item.added", "conversation.item.done", f"{T}delta", f"{T}completed",
]  # fmt: skip
PAUSE = np.zeros(2 * RATE, np.int16)


def appends(audio: np.ndarray) -> list[str]:
    """Return int16 audio at 16 kHz as a client sends it: at 24 kHz, in base64."""
    pcm = soxr.resample(audio, RATE, 24_000).astype("<i2").tobytes()
    return [base64.b64encode(pcm[start : start + 9600]).decode() for start in range(0, len(pcm), 9600)]


def session(**parts: Any) -> Any:
    return {"type": "transcription", "audio": {"input": parts}}


async def test_the_async_client_gets_every_turn_in_order(server: Server, key: str, beckett: np.ndarray) -> None:
    client = AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1")
    found: list[Any] = []
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert (await connection.recv()).type == "session.created"
        await connection.session.update(
            session=session(turn_detection={"type": "server_vad", "silence_duration_ms": 400})
        )
        assert (await connection.recv()).type == "session.updated"
        for piece in appends(np.concatenate([beckett, PAUSE])):
            await connection.input_audio_buffer.append(audio=piece)
        async for event in connection:
            found.append(event)
            if event.type == f"{T}completed" and "better" in event.transcript.lower():
                break
    items: dict[str, list[Any]] = {}
    for event in found:
        items.setdefault(getattr(event, "item_id", None) or event.item.id, []).append(event)
    assert all([event.type for event in item] == TURN for item in items.values())
    finished = [item[-1] for item in items.values()]
    assert all(item[-2].delta == item[-1].transcript for item in items.values())
    assert bare(" ".join(event.transcript for event in finished)) == BECKETT
    assert [item[2].previous_item_id for item in items.values()] == [None, *list(items)[:-1]]


async def test_the_sync_client_commits_by_hand_and_an_error_does_not_end_the_session(
    server: Server, key: str, beckett: np.ndarray
) -> None:
    await asyncio.to_thread(by_hand, server, key, beckett)


def by_hand(server: Server, key: str, beckett: np.ndarray) -> None:
    client = OpenAI(api_key=key, base_url=f"{server.url}/v1")
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        wanted = session(turn_detection=None, transcription={"model": "gpt-4o-transcribe", "language": "en"})
        connection.session.update(session={**wanted, "include": ["item.input_audio_transcription.logprobs"]})
        connection.input_audio_buffer.commit()
        kinds = []
        for event in connection:
            kinds.append(event.type)
            if event.type == "error":
                assert event.error.code == "input_audio_buffer_commit_empty"
                break
        for piece in appends(beckett):
            connection.input_audio_buffer.append(audio=piece)
        connection.input_audio_buffer.commit()
        said = ""
        for event in connection:
            kinds.append(event.type)
            if event.type == f"{T}delta":
                said += event.delta
            if event.type == f"{T}completed":
                assert said == event.transcript
                assert bare(said) == BECKETT
                assert "".join(token.token for token in event.logprobs or []) == said
                break
    assert kinds.count(f"{T}completed") == kinds.count("input_audio_buffer.committed") == 1


async def test_the_first_version_of_the_api(server: Server, key: str, beckett: np.ndarray) -> None:
    sockets = server.url.replace("http", "ws") + "/v1"
    client = AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1", websocket_base_url=sockets)
    async with client.beta.realtime.connect(
        model="gpt-4o-transcribe", extra_query={"intent": "transcription"}
    ) as connection:
        assert (await connection.recv()).type == "transcription_session.created"
        await connection.transcription_session.update(
            session={
                "input_audio_format": "pcm16",
                "turn_detection": {"type": "server_vad", "silence_duration_ms": 1500},
            }
        )
        for piece in appends(np.concatenate([beckett, PAUSE])):
            await connection.input_audio_buffer.append(audio=piece)
        kinds = []
        async for event in connection:
            kinds.append(event.type)
            if event.type == f"{T}completed":
                assert bare(event.transcript) == BECKETT
                break
    assert "conversation.item.created" in kinds


async def test_a_secret_made_for_a_browser_opens_its_session(server: Server, key: str, beckett: np.ndarray) -> None:
    backend = AsyncOpenAI(api_key=key, base_url=f"{server.url}/v1")
    secret = await backend.realtime.client_secrets.create(session=session(turn_detection=None))  # type: ignore[arg-type]
    browser = AsyncOpenAI(api_key=secret.value, base_url=f"{server.url}/v1")
    async with browser.realtime.connect() as connection:
        created: Any = await connection.recv()
        assert created.session.audio.input.turn_detection is None
        for piece in appends(beckett[: round(1.3 * RATE)]):
            await connection.input_audio_buffer.append(audio=piece)
        await connection.input_audio_buffer.commit()
        async for event in connection:
            if event.type == f"{T}completed":
                assert bare(event.transcript) == "ever tried"
                break


def service(server: Server, key: str, **how: Any) -> OpenAIRealtimeSTTService:
    return OpenAIRealtimeSTTService(api_key=key, base_url=server.url.replace("http", "ws") + "/v1/realtime", **how)


async def test_pipecat_commits_by_its_own_voice_activity(server: Server, key: str, beckett: np.ndarray) -> None:
    stt = service(server, key, settings=OpenAIRealtimeSTTService.Settings(noise_reduction="near_field"))
    async with Agent(stt) as talker:
        await eventually(lambda: stt._session_ready)
        await talker.push(beckett)
        await talker.stop_speaking()
        await eventually(lambda: bool(talker.sink.of(TranscriptionFrame)))
        await talker.task.queue_frame(
            STTUpdateSettingsFrame(delta=OpenAIRealtimeSTTService.Settings(model="gpt-4o-transcribe"))
        )
        await talker.push(beckett)
        await talker.stop_speaking()
        await eventually(lambda: len(talker.sink.of(TranscriptionFrame)) == 2)
        assert [bare(frame.text) for frame in talker.sink.of(TranscriptionFrame)] == [BECKETT] * 2
        assert talker.sink.of(InterimTranscriptionFrame)
    assert talker.errors == []


@pytest.mark.parametrize("detection", [{"type": "server_vad"}, {"type": "semantic_vad", "eagerness": "high"}])
async def test_pipecat_takes_turns_from_the_server(
    server: Server, key: str, beckett: np.ndarray, detection: dict[str, str]
) -> None:
    stt = service(server, key, turn_detection=detection)
    async with Agent(stt) as talker:
        await eventually(lambda: stt._session_ready)
        await talker.push(np.concatenate([beckett, PAUSE]))
        await eventually(lambda: "better" in talker.sink.said.lower())
        stops = talker.sink.of(ProposedUserStoppedSpeakingFrame)
        assert len(talker.sink.of(ProposedUserStartedSpeakingFrame)) == len(stops) >= 1
    heard = bare(talker.sink.said).split()
    assert sum(word in heard for word in set(BECKETT.split())) >= 7, heard
    assert talker.errors == []


class Realtime(Listener):
    def make(self, server: Server, key: str, http: aiohttp.ClientSession, **how: Any) -> Any:
        stt = livekit_openai.STT(api_key=key, base_url=f"{server.url}/v1", use_realtime=True, **how)
        stt._session = http
        return stt

    def push(self, audio: np.ndarray, rate: int = 24_000) -> None:
        at_24 = soxr.resample(audio, RATE, rate).astype(np.int16)
        for start in range(0, len(at_24), rate // 10):
            piece = at_24[start : start + rate // 10]
            self.stream.push_frame(rtc.AudioFrame(piece.tobytes(), rate, 1, len(piece)))


async def test_livekit_two_sessions_at_once(
    server: Server, key: str, http: aiohttp.ClientSession, beckett: np.ndarray
) -> None:
    async with Realtime(server, key, http) as one, Realtime(server, key, http) as other:
        one.push(np.concatenate([beckett, PAUSE]))
        other.push(np.concatenate([beckett[: round(1.3 * RATE)], PAUSE]))
        await eventually(lambda: "better" in one.said and "tried" in other.said)
        assert len(one.of(SpeechEventType.START_OF_SPEECH)) >= 2
        assert bare(other.said) == "ever tried"
        other.stt.update_options(language="en", prompt="A play.")
        other.push(np.concatenate([beckett[: round(1.3 * RATE)], PAUSE]))
        await eventually(lambda: other.said.count("tried") == 2)
        assert len(other.of(SpeechEventType.END_OF_SPEECH)) >= 1
    heard = bare(one.said).split()
    assert sum(word in heard for word in set(BECKETT.split())) >= 7, heard


async def test_pipecat_sends_segments_to_the_rest_api(server: Server, key: str, beckett: np.ndarray) -> None:
    stt = OpenAISTTService(api_key=key, base_url=f"{server.url}/v1")
    async with Agent(stt) as talker:
        await talker.task.queue_frame(VADUserStartedSpeakingFrame())
        await talker.push(beckett)
        await talker.stop_speaking()
        await eventually(lambda: bool(talker.sink.of(TranscriptionFrame)))
    assert bare(talker.sink.said) == BECKETT
    assert talker.errors == []


async def test_livekit_recognizes_a_whole_recording(server: Server, key: str, beckett: np.ndarray) -> None:
    stt = livekit_openai.STT(api_key=key, base_url=f"{server.url}/v1", model="whisper-1")
    heard = await stt.recognize([rtc.AudioFrame(beckett.tobytes(), RATE, 1, len(beckett))])
    assert bare(heard.alternatives[0].text) == BECKETT
