"""A file's transcript as server-sent events: the headers are sent at once, and comments during silence."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import selectors
import signal
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, FormData
from faults import failing_once
from peer import eventually
from sounds import contained
from speakers import phrases, running_fake

from myna.server.app import Server
from myna.server.dialects.openai import event_stream as eventstream
from myna.streaming.events import Cause, Final, Span
from myna.streaming.session.stream import Stream

SOUND = "/v1/audio/transcriptions"


def wav(audio: bytes) -> bytes:
    import numpy as np

    return contained([np.frombuffer(audio, np.int16)], "wav", "pcm_s16le")


@contextlib.asynccontextmanager
async def streamed(server: Server, data: bytes, **fields: str) -> AsyncIterator[ClientResponse]:
    form = FormData({"model": "whisper-1", "stream": "true", **fields})
    form.add_field("file", BytesIO(data), filename="a.wav")
    async with ClientSession() as session, session.post(server.url + SOUND, data=form) as response:
        yield response


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part.startswith("data: ")]


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """Stop the workers while the context lasts."""
    workers = [pid for pool in server.models.pools for pid in pool.pids]
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            os.kill(worker, signal.SIGCONT)


async def test_headers_are_sent_while_the_engine_is_busy_and_comments_until_the_first_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eventstream, "KEEP_ALIVE_S", 0.02)
    async with running_fake(stuck_after_s=600, workers=1, lanes=1) as server:
        with stopped(server):
            async with contextlib.AsyncExitStack() as stack:
                response = await stack.enter_async_context(streamed(server, wav(phrases([1, 2]))))
                assert response.status == 200
                assert response.headers["Content-Type"] == "text/event-stream"
                for _ in range(3):
                    assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
                unread = stack.pop_all()
        async with unread:
            told = events(await response.text())
    assert [event["type"] for event in told] == ["transcript.text.delta", "transcript.text.done"]
    assert told[-1]["text"] == "w1 w2"


class VirtualLoop(asyncio.SelectorEventLoop):
    """Let virtual time pass whenever the event loop is idle."""

    def __init__(self) -> None:
        super().__init__(Patience(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class Patience(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found and timeout:
            self._loop.now += timeout
        return found


def test_a_comment_is_sent_after_every_fifteen_seconds_of_silence() -> None:
    async def listen() -> list[tuple[float, bool]]:
        heard, loop = eventstream.Heard(), asyncio.get_running_loop()
        final = Final(span=Span(0, 16_000), words=(), cause=Cause.ENDPOINT)
        for at in (40.0, 50.0):
            loop.call_at(at, heard.put_nowait, final)
        loop.call_at(90.0, heard.put_nowait, None)
        return [(loop.time(), each is not None) async for each in eventstream.with_pauses(heard)]

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        told = runner.run(listen())
    assert [(pytest.approx(at), is_final) for at, is_final in told] == [
        (15, False), (30, False), (40, True), (50, True), (65, False), (80, False),
    ]  # fmt: skip


async def test_a_request_that_cannot_be_served_is_refused_with_a_status() -> None:
    async with running_fake() as server:
        sound = wav(phrases([1]))
        for fields, data, status in (
            ({"language": "fr"}, sound, 400),
            ({"model": "parrot"}, sound, 404),
            ({}, b"no sound", 400),
        ):
            async with streamed(server, data, **fields) as response:
                assert response.status == status
                assert (await response.json())["error"]["message"]


async def test_a_file_that_fails_after_the_headers_ends_with_an_error_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eventstream, "REFUSABLE_S", 0.0)
    async with running_fake() as server, streamed(server, b"fLaC" + bytes(60_000)) as response:
        assert response.status == 200
        (error,) = events(await response.text())
        assert (error["type"], error["error"]["code"]) == ("error", "bad_audio")


async def test_a_server_error_ends_the_stream_with_an_error_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventstream, "REFUSABLE_S", 0.0)
    async with running_fake() as server:
        with failing_once(Stream, "on_vad"):
            async with streamed(server, wav(phrases([1]))) as response:
                (error,) = events(await response.text())
        assert (error["type"], error["error"]["type"]) == ("error", "server_error")
        async with streamed(server, wav(phrases([1]))) as response:
            assert events(await response.text())[-1]["text"] == "w1"


async def test_a_client_that_disconnects_during_silence_cancels_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eventstream, "_LOOK_S", 0.02)
    async with running_fake(stuck_after_s=600, workers=1, lanes=1) as server:
        with stopped(server):
            async with streamed(server, wav(phrases([1, 2]))) as response:
                assert response.status == 200
                assert server.transcriber.active == 1
            await eventually(lambda: server.transcriber.active == 0)
