"""Flux as Deepgram's own SDK, pipecat and LiveKit use it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from deepgram.listen.v2.types import (
    ListenV2ConfigureFailure,
    ListenV2ConfigureSuccess,
    ListenV2Connected,
    ListenV2TurnInfo,
)
from livekit.agents.stt import SpeechEvent, SpeechEventType
from livekit.plugins import deepgram
from peer import eventually
from pipecat.frames.frames import (
    InterimTranscriptionFrame,
    ProposedUserStartedSpeakingFrame,
    ProposedUserStoppedSpeakingFrame,
    STTUpdateSettingsFrame,
    TranscriptionFrame,
)
from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
from pipeline import Agent
from sounds import BECKETT, RATE, bare
from test_deepgram_node import node
from test_deepgram_python import at, pieces
from test_livekit import Listener

from myna.server.app import Server

FLUX = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": 16000}
PAUSE = np.zeros(2 * RATE, np.int16)


def turns(messages: list[Any]) -> list[Any]:
    return [message for message in messages if isinstance(message, ListenV2TurnInfo)]


def check_turns(messages: list[Any]) -> str:
    """Check the order of all messages; return the transcripts of the ended turns."""
    assert isinstance(messages[0], ListenV2Connected)
    assert [int(message.sequence_id) for message in messages] == list(range(len(messages)))
    states, index, said = "StartOfTurn", 0, []
    for message in turns(messages):
        if message.event == "Update":
            continue
        assert message.turn_index == index
        allowed = {
            "StartOfTurn": {"StartOfTurn"}, "turn": {"EagerEndOfTurn", "EndOfTurn"}, "eager": {"TurnResumed", "EndOfTurn"},
        }  # fmt: skip
        assert message.event in allowed[states], [turn.event for turn in turns(messages)]
        states = {"StartOfTurn": "turn", "EagerEndOfTurn": "eager", "TurnResumed": "turn", "EndOfTurn": "StartOfTurn"}[
            message.event
        ]
        if message.event == "EndOfTurn":
            index += 1
            said.append(message.transcript)
            assert message.words[0].word[0].isupper()
    return bare(" ".join(said))


async def test_the_sync_client_gets_turns_and_configures_during_the_stream(
    server: Server, key: str, beckett: np.ndarray
) -> None:
    await asyncio.to_thread(converse, server, key, beckett)


def converse(server: Server, key: str, beckett: np.ndarray) -> None:
    client = DeepgramClient(api_key=key, environment=at(server))
    messages: list[Any] = []
    ended, over = threading.Event(), threading.Event()

    def note(message: Any) -> None:
        messages.append(message)
        if getattr(message, "event", "") == "EndOfTurn":
            ended.set()

    with client.listen.v2.connect(**FLUX, eager_eot_threshold="0.4", eot_threshold="0.7") as connection:
        connection.on(EventType.MESSAGE, note)
        connection.on(EventType.CLOSE, lambda _: over.set())
        threading.Thread(target=connection.start_listening, daemon=True).start()
        for piece in pieces(np.concatenate([beckett, PAUSE]).tobytes(), 2560):
            connection.send_media(piece)
        assert ended.wait(60)
        connection.send_configure(
            {"type": "Configure", "thresholds": {"eot_threshold": 0.9, "eager_eot_threshold": 0.5}}
        )
        connection.send_configure({"type": "Configure", "thresholds": {"eager_eot_threshold": 0.95}})
        for piece in pieces(np.concatenate([beckett, PAUSE]).tobytes(), 2560):
            connection.send_media(piece)
        connection.send_close_stream()
        assert over.wait(60)
    said = check_turns(messages)
    assert sum(word in said.split() for word in set(BECKETT.split())) >= 7
    (done,) = [message for message in messages if isinstance(message, ListenV2ConfigureSuccess)]
    assert done.thresholds.eot_threshold == 0.9
    (failed,) = [message for message in messages if isinstance(message, ListenV2ConfigureFailure)]
    assert failed.code.startswith("CONFIGURE_")


async def test_the_async_client_ends_a_turn_by_hand(server: Server, key: str, beckett: np.ndarray) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    messages: list[Any] = []
    async with client.listen.v2.connect(**FLUX, eot_threshold="1.0") as connection:
        connection.on(EventType.MESSAGE, messages.append)
        listening = asyncio.create_task(connection.start_listening())
        for piece in pieces(beckett[: round(1.3 * RATE)].tobytes(), 2560):
            await connection.send_media(piece)
        await connection.send_force_end_turn()
        await eventually(lambda: any(turn.event == "EndOfTurn" for turn in turns(messages)))
        await connection.send_close_stream()
        await asyncio.wait_for(listening, 30)
    assert check_turns(messages) == "ever tried"
    assert [turn.trigger for turn in turns(messages) if turn.event == "EndOfTurn"] == ["manual"]


async def test_the_javascript_client_gets_turns_configures_and_ends_one_by_hand(
    server: Server, key: str, beckett: np.ndarray, tmp_path: Path
) -> None:
    whole, begin = tmp_path / "whole.raw", tmp_path / "begin.raw"
    whole.write_bytes(np.concatenate([beckett, PAUSE]).tobytes())
    begin.write_bytes(beckett[: round(1.3 * RATE)].tobytes())
    steps = [
        {"audio": str(whole)},
        {"configure": {"thresholds": {"eot_threshold": 0.9}}},
        {"configure": {"thresholds": {"eager_eot_threshold": 0.95}}},
        {"audio": str(begin), "force": True},
    ]
    events = await node(server, "flux.mjs", credentials={"apiKey": key}, options=FLUX, steps=steps)
    assert [event["event"] for event in events if event["event"] != "message"] == ["open", "close"]
    assert events[-1]["code"] == 1000
    told = [event["message"] for event in events if event["event"] == "message"]
    assert [int(message["sequence_id"]) for message in told] == list(range(len(told)))
    assert [message["type"] for message in told if message["type"] != "TurnInfo"] == [
        "Connected", "ConfigureSuccess", "ConfigureFailure",
    ]  # fmt: skip
    ends = [message for message in told if message.get("event") == "EndOfTurn"]
    assert ends[-1]["trigger"] == "manual"
    assert bare(ends[-1]["transcript"]) == "ever tried"
    said = bare(" ".join(end["transcript"] for end in ends[:-1]))
    assert sum(word in said.split() for word in set(BECKETT.split())) >= 7


async def test_unsupported_parameters_are_refused_before_the_upgrade(server: Server, key: str) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    for wrong in (
        {"eot_threshold": "0.2"},
        {"eager_eot_threshold": "0.8", "eot_threshold": "0.6"},
        {"keyterm": "x" * 201},
    ):
        with pytest.raises(ApiError) as refused:
            async with client.listen.v2.connect(**{**FLUX, **wrong}):
                pass
        assert refused.value.status_code == 400


def flux(server: Server, key: str, **how: Any) -> DeepgramFluxSTTService:
    return DeepgramFluxSTTService(api_key=key, url=server.url.replace("http", "ws") + "/v2/listen", **how)


async def test_pipecat_proposes_turns_and_gets_their_transcripts(server: Server, key: str, beckett: np.ndarray) -> None:
    settings = DeepgramFluxSTTService.Settings(eager_eot_threshold=0.4)
    async with Agent(flux(server, key, settings=settings)) as talker:
        await talker.push(beckett[: round(1.3 * RATE)])
        await eventually(lambda: bool(talker.sink.of(InterimTranscriptionFrame)))
        await talker.push(np.concatenate([beckett[round(1.3 * RATE) :], PAUSE]))
        await eventually(lambda: "better" in talker.sink.said.lower())
        finals = talker.sink.of(TranscriptionFrame)
        assert all(frame.finalized for frame in finals)
        assert len(talker.sink.of(ProposedUserStartedSpeakingFrame)) == len(finals)
        await eventually(lambda: len(talker.sink.of(ProposedUserStoppedSpeakingFrame)) == len(finals))
    heard = bare(talker.sink.said).split()
    assert sum(word in heard for word in set(BECKETT.split())) >= 7, heard
    assert talker.errors == []


async def test_pipecat_configures_during_the_stream(server: Server, key: str, beckett: np.ndarray) -> None:
    service = flux(server, key)
    async with Agent(service) as talker:
        await talker.push(np.concatenate([beckett, PAUSE]))
        await eventually(lambda: "better" in talker.sink.said.lower())
        delta = DeepgramFluxSTTService.Settings(eot_threshold=0.9, eot_timeout_ms=3000)
        await talker.task.queue_frame(STTUpdateSettingsFrame(delta=delta))
        await talker.push(PAUSE)
        await eventually(lambda: service._settings.eot_threshold == 0.9 and not service._configure_in_flight)
        await talker.push(np.concatenate([beckett, PAUSE]))
        await eventually(lambda: talker.sink.said.lower().count("better") == 2)
    assert talker.errors == []


class Turner(Listener):
    """The same for LiveKit's second speech service."""

    def make(self, server: Server, key: str, http: aiohttp.ClientSession, **how: Any) -> Any:
        url = server.url.replace("http", "ws") + "/v2/listen"
        return deepgram.STTv2(api_key=key, base_url=url, http_session=http, **how)


async def test_livekit_gets_the_start_the_possible_end_and_the_end_of_speech(
    server: Server, key: str, http: aiohttp.ClientSession, beckett: np.ndarray
) -> None:
    async with Turner(server, key, http, eager_eot_threshold=0.3, eot_threshold=0.9) as listener:
        listener.push(np.concatenate([beckett[: round(1.25 * RATE)], PAUSE[: RATE // 4]]))
        listener.push(PAUSE[: RATE // 2])
        await eventually(lambda: bool(listener.of(SpeechEventType.PREFLIGHT_TRANSCRIPT)))
        assert bare(listener.of(SpeechEventType.PREFLIGHT_TRANSCRIPT)[0].alternatives[0].text) == "ever tried"
        listener.push(np.concatenate([beckett[round(1.25 * RATE) :], PAUSE]))
        await eventually(lambda: "better" in listener.said)
        starts = listener.of(SpeechEventType.START_OF_SPEECH)
        finals: list[SpeechEvent] = listener.of(SpeechEventType.FINAL_TRANSCRIPT)
        assert len(starts) == len(finals) >= 1
        await eventually(lambda: len(listener.of(SpeechEventType.END_OF_SPEECH)) == len(finals))
        assert listener.of(SpeechEventType.INTERIM_TRANSCRIPT)
        assert listener.of(SpeechEventType.PREFLIGHT_TRANSCRIPT)
        assert finals[0].alternatives[0].words
        listener.stt.update_options(eot_threshold=0.8, eot_timeout_ms=4000)
        listener.push(np.concatenate([beckett, PAUSE]))
        await eventually(lambda: listener.said.count("better") == 2)
        await listener.finish()
    await eventually(lambda: not server.services.streams)
