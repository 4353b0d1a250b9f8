"""Limits on what connections may cost before and after authentication: raw sockets against a running server."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import os
import re
import resource
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientConnectionError, ClientSession, WSMsgType, web
from peer import connected, eventually, listening, settings
from sockets import ASKS, frame, raw, upgraded

from myna.batch import pace
from myna.server.app import Server, running
from myna.server.dialects.base import Farewell
from myna.server.http import connection_limits, connections
from myna.server.http.connection_limits import ConnectionLimits, Connections
from myna.server.http.connections import WatchedConnection
from myna.server.keys import Scope, add_key
from myna.server.websocket import client_socket


@pytest.fixture(scope="module")
async def hasty() -> AsyncIterator[Server]:
    """A server with short time limits and little room."""
    changes = {"request_timeout_s": 0.5, "keepalive_s": 0.5, "max_unauthenticated": 16, "max_unfinished_mb": 1}
    async with running(settings(model="fake", **changes)) as started:
        yield started


@pytest.fixture(scope="module")
async def fake() -> AsyncIterator[Server]:
    async with running(settings(model="fake")) as started:
        yield started


async def test_headers_that_never_end_are_refused_after_128_kib(fake: Server) -> None:
    async with raw(fake.url) as client:
        sent = 0
        await client.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 2_000_000 and not client.reader.at_eof():
                await client.send(b"X-%d: %s\r\n" % (sent, b"a" * 8000))
                sent += 8000
                await asyncio.sleep(0)
        assert (await client.rest()).startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


async def test_unfinished_headers_of_all_connections_together_are_bounded(
    hasty: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_limits, "MOST_HEADS_BYTES", 150_000)
    async with raw(hasty.url) as small, raw(hasty.url) as large:
        await small.send(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nX-A: " + b"a" * 30_000)
        for number in range(4):
            await large.send(b"GET / HTTP/1.1\r\n" * (not number) + b"X-%d: %s\r\n" % (number, b"a" * 31_000))
        assert (await large.rest()).startswith(b"HTTP/1.1 431 ")
        await small.send(b"\r\n\r\n")
        assert (await small.reader.readline()).startswith(b"HTTP/1.1 200 ")


async def test_a_silent_connection_is_closed_after_the_time_limit(hasty: Server) -> None:
    async with raw(hasty.url) as client:
        assert await client.rest() == b""


async def test_headers_sent_byte_by_byte_must_be_complete_within_the_time_limit(hasty: Server) -> None:
    async with raw(hasty.url) as client:

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                for byte in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                    await client.send(bytes([byte]))
                    await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        trickling.cancel()


async def test_an_idle_connection_is_closed_after_the_keepalive_time(hasty: Server) -> None:
    async with raw(hasty.url) as client:
        await client.send(ASKS)
        assert (await client.rest()).startswith(b"HTTP/1.1 200 ")


async def test_the_oldest_silent_connections_of_an_address_are_dropped_for_new_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_limits, "GRACE_S", 0.0)
    async with running(settings(model="fake", max_unauthenticated=16)) as small, contextlib.AsyncExitStack() as stack:
        known = await stack.enter_async_context(raw(small.url))
        await known.send(
            b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
        )  # a request that requires a key, where there are keys
        await known.reader.readuntil(b"\r\n\r\n")
        silent = [await stack.enter_async_context(raw(small.url)) for _ in range(12)]
        await eventually(lambda: silent[0].reader.at_eof() and silent[7].reader.at_eof())
        assert not silent[-1].reader.at_eof()
        assert not known.reader.at_eof()
        async with ClientSession() as session, session.get(f"{small.url}/health/live") as answer:
            assert answer.status == 200


@contextlib.contextmanager
def of_few_descriptors(limit: int, *flags: str) -> Iterator[str]:
    """A server in a process with this descriptor limit."""
    command = [sys.executable, "-m", "myna", "serve", "--port", "0", "--model", "fake", "--log-format", "json", *flags]
    few = ["prlimit", f"--nofile={limit // 2}:{limit}"]
    with subprocess.Popen([*few, *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r'"url": "([^"]+)"', line):
                    yield found[1]
                    return
            raise AssertionError(said)
        finally:
            process.terminate()
            process.stderr.read()


async def test_silent_connections_are_dropped_when_descriptors_run_short(tmp_path: Path) -> None:
    with of_few_descriptors(256, "--lanes", "1", "--data", str(tmp_path)) as url:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(400):
                await stack.enter_async_context(raw(url))
            served = 0
            async with asyncio.timeout(20):
                while served < 3:  # a burst may be refused, but not for long
                    with contextlib.suppress(ClientConnectionError):
                        async with ClientSession() as session, session.get(f"{url}/health/live") as answer:
                            served += answer.status == 200


async def test_the_server_raises_its_descriptor_limit_at_start(tmp_path: Path) -> None:
    with of_few_descriptors(512, "--lanes", "1", "--data", str(tmp_path)) as url:
        async with ClientSession() as session, session.get(f"{url}/metrics") as answer:
            assert "process_max_fds 512.0" in await answer.text()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 512


async def test_the_body_of_a_refused_request_is_not_decompressed(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.toml", "kitchen", frozenset(Scope))
    async with running(settings(model="fake", keys=tmp_path / "keys.toml")) as locked, ClientSession() as session:

        async def cost(body: bytes, **headers: str) -> float:
            began = time.thread_time()
            async with session.post(f"{locked.url}/v1/listen", data=io.BytesIO(body), headers=headers) as answer:
                assert answer.status == 401
            await asyncio.sleep(0.2)
            return time.thread_time() - began

        zipped = zlib.compressobj(wbits=31)
        pieces = [zipped.compress(bytes(1 << 24)) + zipped.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
        bomb = pieces[0] + 120 * pieces[1]  # 2 GB
        plain = await cost(os.urandom(len(bomb)))
        assert await cost(bomb, **{"Content-Encoding": "gzip"}) < 5 * plain + 0.2


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
async def test_compressed_uploads_are_refused(hasty: Server, coding: str) -> None:
    async with ClientSession() as session:
        headers = {"Content-Encoding": coding, "Content-Type": "audio/wav"}
        async with session.post(f"{hasty.url}/v1/listen", data=gzip.compress(b"audio"), headers=headers) as answer:
            assert answer.status == 415
            assert coding in (await answer.json())["err_msg"]


async def test_pipelined_requests_get_one_answer(fake: Server) -> None:
    async with raw(fake.url) as client:
        await client.send(ASKS * 5000)
        assert (await client.rest()).count(b"HTTP/1.1 200 ") == 1


async def test_bodies_and_following_requests_do_not_count_as_headers(tmp_path: Path) -> None:
    add_key(tmp_path / "keys.toml", "kitchen", frozenset(Scope))
    async with running(settings(model="fake", keys=tmp_path / "keys.toml")) as locked, raw(locked.url) as client:
        for _ in range(3):
            await client.send(
                b"POST /v1/listen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000)
            )
            async with asyncio.timeout(10):
                assert b" 401 " in await client.reader.readuntil(b"request_id")
        await client.send(ASKS)
        async with asyncio.timeout(10):
            await client.reader.readuntil(b"HTTP/1.1 200 ")


async def test_a_body_that_arrives_too_slowly_is_refused(hasty: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW_S", 0.4)
    async with raw(hasty.url) as client:
        await client.send(b"POST /v1/listen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n")

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    await client.send(b"a")
                    await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        assert b" 408 " in await client.rest()
        trickling.cancel()


async def test_unfinished_messages_of_all_clients_together_are_bounded(hasty: Server) -> None:
    async with raw(hasty.url) as small, raw(hasty.url) as large:
        await upgraded(small)
        await upgraded(large)
        await small.send(frame(2, bytes(400_000), length=500_000))
        await large.send(frame(2, bytes(350_000), final=False) + frame(0, bytes(350_000), length=20_000_000))
        async with asyncio.timeout(10):
            await large.reader.readuntil(b"Metadata")
            await large.reader.readuntil(struct.pack("!H", 1009))
        await small.send(bytes(100_000) + frame(1, json.dumps({"type": "CloseStream"}).encode()))
        async with asyncio.timeout(10):
            await small.reader.readuntil(b'"duration":15.6')


async def test_a_message_of_too_many_frames_is_refused(hasty: Server) -> None:
    async with raw(hasty.url) as client:
        await upgraded(client)
        await client.send(frame(2, b"", final=False) + frame(0, b"", final=False) * (connections.MOST_PIECES + 1))
        assert struct.pack("!H", 1009) in await client.rest()


async def test_a_message_that_arrives_too_slowly_is_refused(hasty: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW_S", 0.4)
    async with raw(hasty.url) as client:
        await upgraded(client, "/v1/realtime")
        await client.send(frame(1, b"{", length=1_000_000))

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                for _ in range(200):
                    await client.send(b" ")
                    await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        assert struct.pack("!H", 1009) in await client.rest()
        trickling.cancel()


@pytest.mark.parametrize("every_s", [0.05, 0.002])
async def test_pings_are_answered_and_do_not_keep_a_stream_alive(strict_server: Server, every_s: float) -> None:
    async with asyncio.timeout(20), listening(strict_server, autoping=False) as peer:
        answers = 0
        while True:
            await peer.socket.ping(b"there?")
            message = await peer.socket.receive(timeout=10)
            if message.type is not WSMsgType.PONG:
                break
            answers += 1
            await asyncio.sleep(every_s)
        assert answers > 3
        assert message.type is WSMsgType.TEXT
        assert (await peer.rest())[-1:] == []
        assert peer.socket.close_code == 1011


@contextlib.asynccontextmanager
async def answering(
    size: int, limits: ConnectionLimits, *, pieces: bool = False
) -> AsyncIterator[tuple[str, list[str]]]:
    """A server whose answers have this size; yield its address and the reasons why connections were dropped."""
    dropped: list[str] = []

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if not pieces:
            return web.Response(body=bytes(size))
        response = web.StreamResponse()
        response.content_length = size
        await response.prepare(request)
        for _ in range(size >> 16):
            await response.write(bytes(1 << 16))
        return response

    watch = Connections(limits, dropped.append, asyncio.get_running_loop().time)
    server = web.Server(handler)
    listener = await asyncio.get_running_loop().create_server(lambda: WatchedConnection(watch, server), "127.0.0.1", 0)
    watch.start()
    try:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}", dropped
    finally:
        watch.close()
        listener.close()
        await server.shutdown(1)


async def test_a_client_that_reads_an_answer_too_slowly_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW_S", 0.4)
    async with (
        answering(32 << 20, ConnectionLimits(0.4, 5, 10, 1 << 20, 1000)) as (url, dropped),
        raw(url, 65_536) as client,
    ):
        await client.send(ASKS)
        await eventually(lambda: "slow_reader" in dropped)


async def test_a_client_that_reads_gets_a_large_answer_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW_S", 0.4)
    async with (
        answering(32 << 20, ConnectionLimits(0.4, 5, 10, 1 << 20, 1000)) as (url, dropped),
        ClientSession() as session,
    ):
        for _ in range(3):
            async with session.get(url) as answer:
                assert len(await answer.read()) == 32 << 20
        assert dropped == []


async def test_a_client_that_reads_slowly_but_steadily_gets_a_chunked_answer_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server refills its buffer as the client reads, so the size of the buffer says nothing about the pace."""
    monkeypatch.setattr(pace, "WINDOW_S", 0.5)
    limits = ConnectionLimits(0.2, 5, 10, 1 << 20, 1000)
    async with (
        answering(8 << 20, limits, pieces=True) as (url, dropped),
        raw(url, 65_536, receive_buffer=65_536) as client,
    ):
        await client.send(ASKS)
        await client.reader.readuntil(b"\r\n\r\n")
        for _ in range(128):
            await client.reader.readexactly(1 << 16)
            await asyncio.sleep(0.02)
        assert dropped == []


async def test_closing_does_not_wait_for_a_client_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_socket, "_CLOSING_S", 0.1)
    closed: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        farewell = Farewell((), 1000, "over")
        socket = client_socket.ClientSocket(1 << 20, lambda: farewell, None)
        await socket.prepare(request)
        request.protocol.pause_writing()  # as the transport does while the client reads nothing
        await socket.close_as(farewell)
        closed.set_result(socket.close_code)
        return socket

    server = web.Server(handler)
    listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with asyncio.timeout(10), raw(url) as client:
        await upgraded(client, "/")
        assert await closed == 1006
    listener.close()
    await server.shutdown(1)


async def test_bytes_that_are_not_http_are_answered(hasty: Server) -> None:
    async with raw(hasty.url) as client:
        await client.send(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\r\n\r\n")
        assert (await client.rest()).startswith(b"HTTP/1.0 400 ")


async def test_a_stream_is_not_bound_by_the_time_limit_of_requests(hasty: Server) -> None:
    async with connected(hasty) as peer:
        await peer.send({"type": "start", "encoding": "linear16", "sample_rate": 16_000})
        await peer.until("ready")
        await asyncio.sleep(0.7)
        await peer.socket.send_bytes(bytes(32_000))
        await peer.send({"type": "close"})
        assert (await peer.rest())[-1]["seconds"] == 1.0
