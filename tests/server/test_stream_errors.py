"""Internal errors in any part of one stream: its client is told, the close is not normal, and other streams continue."""

from __future__ import annotations

import asyncio

import pytest
from faults import failing_once
from peer import RAW, connected, eventually, listening
from speakers import Speaker, names, phrases, running_fake

from myna.media.source import RawSource
from myna.server.dialects.native.dialect import NativeDialect
from myna.server.websocket.client_socket import ClientSocket
from myna.server.websocket.connection import Connection
from myna.server.websocket.live_stream import LiveStream
from myna.server.websocket.outbox import Outbox
from myna.server.websocket.receiver import Receiver
from myna.streaming.session.stream import Stream

PARTS = {
    "receiver": (Receiver, "_act"),
    "writer": (ClientSocket, "send"),
    "writer's queue": (Outbox, "get"),
    "spool": (Stream, "push"),
    "decoder": (RawSource, "read"),
    "session": (Stream, "on_vad"),
    "listener": (Receiver, "answer_pings"),
    "last finals": (LiveStream, "end"),
    "farewell": (Connection, "_say_farewell"),
}


@pytest.mark.parametrize("part", PARTS)
async def test_an_internal_error_is_reported_to_a_native_client_and_other_streams_continue(part: str) -> None:
    async with running_fake() as server, Speaker(server) as other, connected(server) as victim:
        await victim.send(RAW)
        await victim.until("ready")
        with failing_once(*PARTS[part]):
            await victim.socket.send_bytes(phrases([1, 2, 3, 4, 5, 6]))
            await victim.send({"type": "close"})
            said = await victim.rest()
        assert victim.socket.close_code == 1011
        if part != "farewell":  # only the close code can tell
            assert [message["code"] for message in said if message["type"] == "error"] == ["internal_error"]
        await eventually(lambda: len(server.services.streams) == 1)
        await other.say(phrases([7, 8]))
        await other.done()
        assert other.words == names([7, 8])


@pytest.mark.parametrize("part", PARTS)
async def test_an_internal_error_is_never_a_normal_close_for_a_deepgram_client(part: str) -> None:
    async with running_fake() as server, listening(server) as victim:
        with failing_once(*PARTS[part]):
            await victim.socket.send_bytes(phrases([1, 2, 3, 4, 5, 6]))
            await victim.send({"type": "CloseStream"})
            await victim.rest()
        assert victim.socket.close_code == 1011
        await eventually(lambda: not server.services.streams)


@pytest.mark.parametrize(("dialect", "method"), [(NativeDialect, "receive"), (NativeDialect, "emit")])
async def test_an_error_in_a_dialect_ends_only_its_stream(dialect: type, method: str) -> None:
    async with running_fake() as server, connected(server) as victim:
        await victim.send(RAW)
        await victim.until("ready")
        with failing_once(dialect, method):
            await victim.socket.send_bytes(phrases([1, 2]))
            said = await victim.rest()
        assert victim.socket.close_code == 1011
        assert said[-2]["code"] == "internal_error"


async def test_an_error_while_a_client_comes_back_is_reported_over_its_new_connection() -> None:
    async with running_fake() as server:
        async with connected(server) as peer:
            await peer.send({**RAW, "resume": True})
            ready = await peer.until("ready")
            peer.drop()
        with failing_once(NativeDialect, "resumed"):
            async with connected(server, f"?resume={ready['resume']}&after=0") as peer:
                await peer.rest()
        assert peer.socket.close_code == 1011
        await eventually(lambda: not server.services.streams)


async def test_a_cancelled_stream_is_not_closed_as_if_its_client_had_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(Connection, "_receive_all", cancelled)
    async with running_fake() as server:
        for path, query in (
            ("/v1/stream", ""),
            ("/v1/listen", "?encoding=linear16&sample_rate=16000"),
            ("/v1/realtime", ""),
        ):
            async with connected(server, query, path) as victim:
                await victim.rest()
            assert victim.socket.close_code == 1011
