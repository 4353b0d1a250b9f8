"""An error of the server's own in any part of one stream: its client is told, with no normal close, and the others go on."""

from __future__ import annotations

import asyncio

import pytest
from faults import failing_once
from peer import RAW, connected, eventually, listening
from speakers import Speaker, names, phrases, running_fake

from myna.server.websocket import connection
from myna.server.websocket import live_stream as live
from myna.media.source import RawSource
from myna.server.dialects.native.dialect import NativeDialect
from myna.streaming.session.stream import Stream

PARTS = {
    "receiver": (connection.Connection, "_act"),
    "writer": (connection, "_send"),
    "writer's queue": (live.Outbox, "get"),
    "spool": (Stream, "push"),
    "decoder": (RawSource, "read"),
    "session": (Stream, "on_vad"),
    "listener": (connection.Connection, "_listen"),
    "last finals": (live.LiveStream, "end"),
    "farewell": (connection.Connection, "_say_farewell"),
}


@pytest.mark.parametrize("part", PARTS)
async def test_a_native_client_is_told_of_an_error_in_its_stream_and_others_go_on(part: str) -> None:
    async with running_fake() as server, Speaker(server) as other, connected(server) as victim:
        await victim.send(RAW)
        await victim.until("ready")
        with failing_once(*PARTS[part]):
            await victim.socket.send_bytes(phrases([1, 2, 3, 4, 5, 6]))
            await victim.send({"type": "close"})
            said = await victim.rest()
        assert victim.socket.close_code == 1011
        if part != "farewell":  # the code is all that is left
            assert [message["code"] for message in said if message["type"] == "error"] == ["internal_error"]
        await eventually(lambda: len(server.services.streams) == 1)
        await other.say(phrases([7, 8]))
        await other.done()
        assert other.words == names([7, 8])


@pytest.mark.parametrize("part", PARTS)
async def test_a_client_of_deepgrams_is_not_told_that_all_is_well_when_its_stream_fails(part: str) -> None:
    async with running_fake() as server, listening(server) as victim:
        with failing_once(*PARTS[part]):
            await victim.socket.send_bytes(phrases([1, 2, 3, 4, 5, 6]))
            await victim.send({"type": "CloseStream"})
            await victim.rest()
        assert victim.socket.close_code == 1011
        await eventually(lambda: not server.services.streams)


@pytest.mark.parametrize(("dialect", "method"), [(NativeDialect, "receive"), (NativeDialect, "emit")])
async def test_an_error_in_a_dialect_ends_its_stream_alone(dialect: type, method: str) -> None:
    async with running_fake() as server, connected(server) as victim:
        await victim.send(RAW)
        await victim.until("ready")
        with failing_once(dialect, method):
            await victim.socket.send_bytes(phrases([1, 2]))
            said = await victim.rest()
        assert victim.socket.close_code == 1011
        assert said[-2]["code"] == "internal_error"


async def test_what_fails_when_a_client_comes_back_is_told_over_its_new_connection() -> None:
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


async def test_a_stream_whose_serving_is_broken_off_is_not_closed_as_if_its_client_had_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def cancelled(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(connection.Connection, "_until_over", cancelled)
    async with running_fake() as server:
        for path, query in (
            ("/v1/stream", ""),
            ("/v1/listen", "?encoding=linear16&sample_rate=16000"),
            ("/v1/realtime", ""),
        ):
            async with connected(server, query, path) as victim:
                await victim.rest()
            assert victim.socket.close_code == 1011
