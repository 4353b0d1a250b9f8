from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from deepgram import AsyncDeepgramClient, DeepgramClient
from deepgram.core.api_error import ApiError
from deepgram.core.events import EventType
from deepgram.environment import DeepgramClientEnvironment
from deepgram.listen.v1.types import (
    ListenV1Configure,
    ListenV1ConfigureFailure,
    ListenV1ConfigureSuccess,
    ListenV1Error,
    ListenV1Finalize,
    ListenV1Metadata,
    ListenV1Results,
    ListenV1SpeechStarted,
    ListenV1UtteranceEnd,
)
from peer import eventually
from sounds import BECKETT, RATE, contained
from websockets.exceptions import InvalidStatus

from myna.server.app import Server

RAW = {"model": "nova-3", "encoding": "linear16", "sample_rate": 16000}
KNOWN = (
    ListenV1Results, ListenV1Metadata, ListenV1SpeechStarted, ListenV1UtteranceEnd, ListenV1Error, ListenV1ConfigureSuccess,
    ListenV1ConfigureFailure,
)  # fmt: skip


def at(server: Server) -> DeepgramClientEnvironment:
    sockets = server.url.replace("http", "ws")
    return DeepgramClientEnvironment(base=server.url, production=sockets, agent=sockets, agent_rest=server.url)


def pieces(audio: bytes, size: int = 6400) -> Iterator[bytes]:
    return (audio[start : start + size] for start in range(0, len(audio), size))


class Heard:
    """All calls of a client's handlers."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.errors: list[Any] = []
        self.opened = self.closed = 0
        self.over = threading.Event()

    def attach(self, connection: Any) -> None:
        connection.on(EventType.OPEN, lambda _: self._count("opened"))
        connection.on(EventType.MESSAGE, self.messages.append)
        connection.on(EventType.ERROR, self.errors.append)
        connection.on(EventType.CLOSE, lambda _: self._count("closed"))

    def _count(self, what: str) -> None:
        setattr(self, what, getattr(self, what) + 1)
        if what == "closed":
            self.over.set()

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.messages if isinstance(message, kind)]

    @property
    def finals(self) -> list[ListenV1Results]:
        return [message for message in self.of(ListenV1Results) if message.is_final]

    @property
    def said(self) -> str:
        texts = (final.channel.alternatives[0].transcript for final in self.finals)
        return " ".join(text for text in texts if text)

    def assert_ended_well(self) -> None:
        """The client parsed every message without an error; the last ones were one Metadata and one close."""
        assert all(isinstance(message, KNOWN) for message in self.messages), self.messages
        assert self.errors == []
        assert (self.opened, self.closed) == (1, 1)
        assert len(self.of(ListenV1Metadata)) == 1
        assert isinstance(self.messages[-1], ListenV1Metadata)


async def listen(server: Server, key: str, audio: bytes, *, chunk: int = 6400, **query: Any) -> Heard:
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    heard = Heard()
    async with client.listen.v1.connect(**query) as connection:
        heard.attach(connection)
        reading = asyncio.create_task(connection.start_listening())
        for piece in pieces(audio, chunk):
            await connection.send_media(piece)
        await connection.send_close_stream()
        await asyncio.wait_for(reading, 60)
    heard.assert_ended_well()
    return heard


async def test_async_interims_finals_and_utterance_ends(server: Server, key: str, beckett: np.ndarray) -> None:
    query = {**RAW, "interim_results": True, "utterance_end_ms": 1000, "vad_events": True, "endpointing": 300}
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    heard = Heard()
    async with client.listen.v1.connect(**query) as connection:
        heard.attach(connection)
        reading = asyncio.create_task(connection.start_listening())
        for piece in pieces(beckett[: round(1.3 * RATE)].tobytes()):
            await connection.send_media(piece)
        await eventually(lambda: any(not result.is_final for result in heard.of(ListenV1Results)))
        assert heard.finals == []
        for piece in pieces(beckett[round(1.3 * RATE) :].tobytes()):
            await connection.send_media(piece)
        await connection.send_close_stream()
        await asyncio.wait_for(reading, 60)
    heard.assert_ended_well()
    assert heard.said == BECKETT
    assert heard.of(ListenV1SpeechStarted)[0].timestamp < 1
    assert any(final.speech_final for final in heard.finals)
    ends = heard.of(ListenV1UtteranceEnd)
    assert ends
    for end in ends:  # after the finals it refers to
        position = heard.messages.index(end)
        before = [m for m in heard.messages[:position] if isinstance(m, ListenV1Results) and m.is_final]
        last = [word for final in before for word in final.channel.alternatives[0].words][-1]
        assert end.last_word_end == pytest.approx(last.end, abs=0.002)


async def test_sync_finals(server: Server, key: str, beckett: np.ndarray) -> None:
    heard = await asyncio.to_thread(listen_sync, server, key, beckett.tobytes())
    assert re.match(r"Ever tried\.? ever failed\.", heard.said, re.IGNORECASE)
    word = heard.finals[0].channel.alternatives[0].words[0]
    assert (word.word, word.punctuated_word) == ("ever", "Ever")


def listen_sync(server: Server, key: str, audio: bytes) -> Heard:
    client = DeepgramClient(api_key=key, environment=at(server))
    heard = Heard()
    with client.listen.v1.connect(**RAW, punctuate=True, interim_results=True) as connection:
        heard.attach(connection)
        reading = threading.Thread(target=connection.start_listening)
        reading.start()
        for piece in pieces(audio):
            connection.send_media(piece)
        connection.send_close_stream()
        assert heard.over.wait(60)
        reading.join()
    heard.assert_ended_well()
    return heard


async def test_sync_interims_finalize_keepalive_and_utterance_ends(
    impatient_server: Server, key: str, beckett: np.ndarray
) -> None:
    heard = await asyncio.to_thread(converse_sync, impatient_server, key, beckett)
    assert heard.said == f"ever tried {BECKETT}"
    assert [bool(f.channel.alternatives[0].transcript) for f in heard.finals if f.from_finalize] == [True, False]
    assert heard.of(ListenV1SpeechStarted)
    assert heard.of(ListenV1UtteranceEnd)


def converse_sync(server: Server, key: str, beckett: np.ndarray) -> Heard:
    client = DeepgramClient(api_key=key, environment=at(server))
    heard = Heard()
    query = {**RAW, "interim_results": True, "utterance_end_ms": 1000, "vad_events": True, "endpointing": 300}
    with client.listen.v1.connect(**query) as connection:
        heard.attach(connection)
        reading = threading.Thread(target=connection.start_listening)
        reading.start()
        connection.send_media(beckett[: round(1.25 * RATE)].tobytes())
        wait(lambda: any(not result.is_final for result in heard.of(ListenV1Results)))
        for count in (1, 2):  # with speech, and with nothing
            connection.send_finalize()
            wait(lambda count=count: sum(bool(f.from_finalize) for f in heard.finals) == count)
        for _ in range(6):  # 2.4 s; the server waits for one
            connection.send_keep_alive()
            assert not heard.over.wait(0.4)
        for piece in pieces(beckett.tobytes()):
            connection.send_media(piece)
        connection.send_close_stream()
        assert heard.over.wait(60)
        reading.join()
    heard.assert_ended_well()
    return heard


def wait(condition: Callable[[], bool]) -> None:
    """Wait in another thread than the event loop's."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


async def test_finalize_is_answered_with_and_without_speech(server: Server, key: str, beckett: np.ndarray) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    heard = Heard()
    async with client.listen.v1.connect(**RAW) as connection:
        heard.attach(connection)
        reading = asyncio.create_task(connection.start_listening())
        for count, audio in enumerate((b"", beckett[: round(1.2 * RATE)].tobytes(), b""), start=1):
            if audio:
                await connection.send_media(audio)
            await connection.send_finalize(ListenV1Finalize(type="Finalize"))
            await eventually(lambda count=count: sum(bool(f.from_finalize) for f in heard.finals) == count)
        await connection.send_close_stream()
        await asyncio.wait_for(reading, 60)
    heard.assert_ended_well()
    answers = [f.channel.alternatives[0].transcript for f in heard.finals if f.from_finalize]
    assert [bool(text) for text in answers] == [False, True, False]


async def test_keepalive_over_a_long_pause(impatient_server: Server, key: str, beckett: np.ndarray) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(impatient_server))
    heard = Heard()
    async with client.listen.v1.connect(**RAW) as connection:
        heard.attach(connection)
        reading = asyncio.create_task(connection.start_listening())
        await connection.send_media(beckett.tobytes())
        began = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() - began < 3:  # three times what the server waits
            await connection.send_keep_alive()
            await asyncio.wait([reading], timeout=0.4)
        await connection.send_media(beckett.tobytes())
        await connection.send_close_stream()
        await asyncio.wait_for(reading, 60)
    heard.assert_ended_well()
    assert heard.said.split().count("matter") == 2


async def test_a_silent_client_gets_the_reason_of_the_close(impatient_server: Server, key: str) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(impatient_server))
    heard = Heard()
    async with client.listen.v1.connect(**RAW) as connection:
        heard.attach(connection)
        await asyncio.wait_for(connection.start_listening(), 60)
    assert "net0001" in str(heard.errors[0])
    assert len(heard.of(ListenV1Metadata)) == 1


async def test_a_wrong_key_and_a_wrong_parameter_are_refused(server: Server, key: str) -> None:
    for wrong, query, status in (
        ("wrong", {}, 401),
        (key, {"detect_entities": True}, 400),
        (key, {"model": "parrot"}, 400),
    ):
        client = AsyncDeepgramClient(api_key=wrong, environment=at(server))
        with pytest.raises(ApiError) as refused:
            async with client.listen.v1.connect(**{**RAW, **query}):
                pass
        assert refused.value.status_code == status
        with pytest.raises(InvalidStatus) as raw:  # the SDK's sync client lets it through
            await asyncio.to_thread(connect_sync, server, wrong, {**RAW, **query})
        assert raw.value.response.status_code == status
        assert raw.value.response.headers["dg-error"]


def connect_sync(server: Server, key: str, query: dict[str, Any]) -> None:
    with DeepgramClient(api_key=key, environment=at(server)).listen.v1.connect(**query):
        pass


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [("wav", "pcm_s16le", RATE), ("ogg", "libopus", 48_000), ("webm", "libopus", 48_000), ("mp3", "libmp3lame", RATE)],
)
async def test_containers(server: Server, key: str, beckett: np.ndarray, container: str, codec: str, rate: int) -> None:
    audio = beckett if rate == RATE else np.repeat(beckett, 3)
    heard = await listen(server, key, contained([audio], container, codec, rate=rate), model="nova-3")
    assert heard.said == BECKETT


async def test_a_whole_file_in_one_frame(server: Server, key: str, beckett: np.ndarray) -> None:
    audio = np.tile(beckett, 4)  # 1.3 MB
    heard = await listen(server, key, contained([audio], "wav", "pcm_s16le"), chunk=1 << 30, model="nova-3")
    assert heard.said.split().count("better") == 4


async def test_telephone_audio(server: Server, key: str, beckett: np.ndarray) -> None:
    coded = contained([beckett[::2]], "wav", "pcm_mulaw", rate=8_000)
    mulaw = coded[coded.index(b"data") + 8 :]
    heard = await listen(server, key, mulaw, model="nova-2-phonecall", encoding="mulaw", sample_rate=8000)
    assert "fail" in heard.said
    assert heard.of(ListenV1Metadata)[0].duration == pytest.approx(len(beckett) / RATE, abs=0.01)


async def test_two_channels(server: Server, key: str, beckett: np.ndarray) -> None:
    shifted = np.concatenate([np.zeros(2 * RATE, np.int16), beckett])
    both = np.stack([np.pad(beckett, (0, 2 * RATE)), shifted], axis=1)
    heard = await listen(server, key, both.tobytes(), **RAW, channels=2, multichannel=True)
    for channel in (0, 1):
        finals = [final for final in heard.finals if final.channel_index == [channel, 2]]
        texts = [final.channel.alternatives[0].transcript for final in finals]
        assert " ".join(filter(None, texts)) == BECKETT
        first = next(final for final in finals if final.channel.alternatives[0].words)
        assert first.channel.alternatives[0].words[0].start == pytest.approx(0.25 + 2 * channel, abs=0.3)


async def test_configure_is_answered_once_each(server: Server, key: str) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    heard = Heard()
    async with client.listen.v1.connect(**RAW) as connection:
        heard.attach(connection)
        reading = asyncio.create_task(connection.start_listening())
        await connection.send_configure(ListenV1Configure(features={"numerals": True}))
        await connection.send_configure(ListenV1Configure(keyterms=["Myna"]))
        await connection.send_configure(ListenV1Configure(keyterms=["x" * 201]))
        await connection.send_close_stream()
        await asyncio.wait_for(reading, 60)
    heard.assert_ended_well()
    answers = [ListenV1ConfigureSuccess, ListenV1ConfigureSuccess, ListenV1ConfigureFailure]
    assert [type(message) for message in heard.messages[:3]] == answers
    assert heard.messages[2].code == "CONFIGURE_KEYTERM_LIMIT_EXCEEDED"


async def test_twenty_connections_in_a_row(server: Server, key: str) -> None:
    for _ in range(20):
        await listen(server, key, bytes(3200), **RAW)
    await eventually(lambda: not server.services.streams)


async def test_models_and_granted_tokens(server: Server, key: str, beckett: np.ndarray) -> None:
    client = AsyncDeepgramClient(api_key=key, environment=at(server))
    models = await client.manage.v1.models.list()
    (model,) = [model for model in models.stt or [] if model.name == "moonshine-tiny-en"]
    assert (model.architecture, model.streaming, model.languages) == ("moonshine", True, ["en"])
    assert (await client.manage.v1.models.get(str(model.uuid_))).name == "moonshine-tiny-en"
    granted = await client.auth.v1.tokens.grant(ttl_seconds=60)
    assert granted.expires_in == 60
    bearer = AsyncDeepgramClient(access_token=granted.access_token, environment=at(server))
    heard = Heard()
    async with bearer.listen.v1.connect(**RAW) as connection:
        heard.attach(connection)
        reading = asyncio.create_task(connection.start_listening())
        await connection.send_media(beckett.tobytes())
        await connection.send_close_stream()
        await asyncio.wait_for(reading, 60)
    assert heard.said == BECKETT
