"""Hostile media costs its sender an answer and nobody else anything: the real decoder processes, a server in a process."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import psutil
import pytest
from aiohttp import ClientSession, FormData
from hostile import constant_frame, flac, wav, with_count, zoo
from peer import connected, transcript
from sounds import BECKETT, RATE, bare, contained, recording

from myna.bench.containers import memory
from myna.clients.local_server import LocalServer, local_server

ZOO = zoo()
MOST_MEMORY = 300 << 20
"""Bytes above idle that front and decoder processes may take together."""
LONGEST_S = 30.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    data = tmp_path_factory.mktemp("data")
    with local_server("fake", "--final-target-ms", "0", "--data", str(data)) as started:
        yield started


@contextlib.asynccontextmanager
async def watched(server: LocalServer) -> AsyncIterator[list[int]]:
    """Note the most memory while the context lasts."""
    idle, most = memory(server), [0]

    async def watch() -> None:
        while True:
            most[0] = max(most[0], await asyncio.to_thread(memory, server) - idle)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(watch())
    try:
        yield most
    finally:
        task.cancel()
        await asyncio.wait([task])


async def upload(server: LocalServer, data: bytes) -> int:
    form = FormData()
    form.add_field("file", data, filename="sound")
    async with ClientSession() as session, session.post(f"{server.url}/v1/audio/transcriptions", data=form) as response:
        await response.read()
        return response.status


async def live(server: LocalServer, data: bytes) -> int:
    """Send as a live stream without an announced encoding; return how it was closed."""
    async with connected(server, "", "/v1/listen") as peer:
        with contextlib.suppress(ConnectionError):  # it may be closed before everything is sent
            for start in range(0, len(data), 65_536):
                await peer.socket.send_bytes(data[start : start + 65_536])
            await peer.send({"type": "CloseStream"})
        await peer.rest()
        assert peer.socket.close_code is not None
        return peer.socket.close_code


@pytest.mark.parametrize("way", [upload, live])
async def test_a_zoo_of_hostile_files_is_answered_file_by_file(server: LocalServer, way: object) -> None:
    answers: dict[str, object] = {}
    turns = asyncio.Semaphore(4)

    async def one(name: str, data: bytes) -> None:
        async with turns:
            began = time.monotonic()
            answers[name] = await way(server, data)  # type: ignore[operator]
            assert time.monotonic() - began < LONGEST_S, name

    async with watched(server) as most:
        await asyncio.gather(*(one(name, data) for name, data in ZOO.items()))
    assert most[0] < MOST_MEMORY
    wrong = {name: answer for name, answer in answers.items() if answer not in (200, 400, 1000, 1008)}
    assert not wrong
    assert psutil.Process(server.pid).status() != psutil.STATUS_ZOMBIE
    pcm = recording("beckett")[: 2 * RATE]
    assert await upload(server, contained([pcm], "flac", "flac")) == 200


@pytest.mark.parametrize("name", ["8 channels", "a second of 1 Hz", "a giant sample table"])
async def test_one_file_that_killed_the_server_is_refused_or_heard(server: LocalServer, name: str) -> None:
    pcm = recording("beckett")[:RATE]
    data, expected = {
        "8 channels": (wav(channels=8, data=bytes(16_000)), (200, 1000)),
        "a second of 1 Hz": (flac(1, 1, 65_535, frame=constant_frame(65_535)), (400, 1008)),
        "a giant sample table": (
            with_count(contained([pcm], "mp4", "aac", options={"movflags": "faststart"}), "stsz", 2**27, fixed=1),
            (400, 1008),
        ),
    }[name]
    assert (await upload(server, data), await live(server, data)) == expected


async def test_honest_streams_go_on_beside_hostile_ones() -> None:
    data = contained([recording("beckett")], "flac", "flac")
    with local_server(None, "--final-target-ms", "0") as server:
        hostile = asyncio.gather(*(live(server, data) for name, data in ZOO.items() if "rubbish" in name))
        beside = await transcript(server, "", data)  # type: ignore[arg-type]
        await hostile
    assert bare(beside.said) == BECKETT
