"""Half an hour of real streams that come and go, in every way there is, hostile ones too; nothing may stay behind.

Part of `make soak`. MYNA_SOAK_MINUTES says how long; the limits are those of half an hour.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hostile_clients as hostile
import numpy as np
import psutil
import pytest
from aiohttp import ClientSession
from hostile import wav
from sounds import RATE, recording

from myna.clients.live import LiveClient
from myna.clients.local_server import LocalServer, local_server
from myna.wire import messages as wire

MINUTES = float(os.environ.get("MYNA_SOAK_MINUTES", "30"))
STREAMS = 8
WARM_UP = 1 / 3
"""Of the time: onnxruntime's arena meets new shapes, allocators find their size."""
MOST_MB_A_MINUTE = 0.2
FRAME_S = 0.1
WAYS = (
    ["close"] * 4
    + ["leave", "vanish", "cut", "deepgram", "deepgram", "file", "nonsense", "container"]
    + list(hostile.WAYS)
)
WAV_HEAD = wav(size=2**31 - 1, data=b"")
START = wire.StartMessage(encoding="linear16", sample_rate=RATE)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    with local_server(
        None,
        "--resume-s",
        "2",
        "--final-target-ms",
        "0",
        "--allowed-networks",
        '["127.0.0.0/8"]',
        "--data",
        str(tmp_path),
    ) as started:
        yield started


def speech() -> np.ndarray:
    pause = np.zeros(RATE // 2, np.int16)
    return np.concatenate([part for name in ("beckett", "two_cities") for part in (recording(name), pause)])


async def paced(pcm: bytes) -> AsyncIterator[bytes]:
    size, began = 2 * round(FRAME_S * RATE), time.monotonic()
    for number, start in enumerate(range(0, len(pcm), size), start=1):
        await asyncio.sleep(max(0.0, began + number * FRAME_S - time.monotonic()))
        yield pcm[start : start + size]


async def one(server: LocalServer, spoken: np.ndarray, chance: random.Random, way: str) -> None:
    """One client from its coming to its going, in this way."""
    begin, length = chance.randrange(len(spoken)), chance.randint(5, 30) * RATE
    pcm = np.roll(spoken, -begin)[:length].tobytes()
    if way in hostile.WAYS:
        await hostile.WAYS[way](server.url, chance)
        return
    async with ClientSession() as session:
        if way == "file":
            address = f"{server.url}/v1/listen?encoding=linear16&sample_rate={RATE}"
            async with session.post(address, data=pcm) as response:
                assert response.status == 200
        elif way in ("deepgram", "container"):
            address = f"{server.url}/v1/listen?interim_results=true&model=nova-3"
            address += f"&encoding=linear16&sample_rate={RATE}" if way == "deepgram" else ""
            async with session.ws_connect(address) as socket:
                if way == "container":
                    await socket.send_bytes(WAV_HEAD)
                async for frame in paced(pcm):
                    await socket.send_bytes(frame)
                await socket.send_str('{"type":"CloseStream"}')
                async for _ in socket:
                    pass
        elif way in ("vanish", "nonsense"):
            async with session.ws_connect(server.url + wire.PATH) as socket:
                await socket.send_str(START.model_copy(update={"resume": way == "vanish"}).model_dump_json())
                async for frame in paced(pcm):
                    await socket.send_bytes(frame)
                if way == "nonsense":
                    await socket.send_str("{")
                    async for _ in socket:
                        pass
                else:
                    socket._response.connection.transport.abort()  # type: ignore[union-attr]
        else:
            async with LiveClient(START, server.url) as client:
                listening = asyncio.create_task(_listen(client))
                async for frame in paced(pcm):
                    await client.send(frame)
                    if way == "cut" and chance.random() < 0.02:
                        client._socket.transport.abort()  # type: ignore[union-attr]
                if way != "leave":
                    await client.close()
                    await listening
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)


async def _listen(client: LiveClient) -> None:
    async for _ in client:
        pass


async def tasks(server: LocalServer) -> int:
    async with ClientSession() as session, session.get(server.url + "/metrics") as response:
        found = re.search(r"^myna_tasks (\S+)$", await response.text(), re.MULTILINE)
    assert found
    return int(float(found[1]))


async def working(server: LocalServer) -> bool:
    """Return whether every long-lived thread and task is alive, and none had to be started again."""
    async with ClientSession() as session:
        async with session.get(server.url + "/health/ready") as response:
            ready = response.status == 200
        async with session.get(server.url + "/metrics") as response:
            found = re.search(r"^myna_part_restarts_total (\S+)$", await response.text(), re.MULTILINE)
    return ready and found is not None and float(found[1]) == 0


def resident_mb(process: psutil.Process) -> list[float]:
    """Return the resident memory of the front and of each worker."""
    workers = sorted(process.children(), key=lambda worker: worker.pid)
    return [each.memory_info().rss / (1 << 20) for each in (process, *workers)]


async def settled(server: LocalServer, process: psutil.Process) -> tuple[int, int]:
    """Return open files and sockets, and tasks, once those of the last clients are gone."""
    least = (1 << 30, 1 << 30)
    for _ in range(100):
        least = min(least, (process.num_fds(), await tasks(server)))
        await asyncio.sleep(0.1)
    return least


async def test_memory_is_flat_and_nothing_is_left_behind(server: LocalServer) -> None:
    spoken, process, ways = speech(), psutil.Process(server.pid), dict[str, int]()
    # In every way once: the first job opens its database, for one.
    await asyncio.gather(*(one(server, spoken, random.Random(n), way) for n, way in enumerate(sorted({*WAYS}))))
    before = await settled(server, process)
    ends = time.monotonic() + 60 * MINUTES
    points: list[tuple[float, list[float]]] = []

    async def come_and_go(number: int) -> None:
        chance = random.Random(100 + number)
        while time.monotonic() < ends:
            way = chance.choice(WAYS)
            await one(server, spoken, chance, way)
            ways[way] = ways.get(way, 0) + 1

    async def watch() -> None:
        while time.monotonic() < ends:
            points.append(((time.monotonic() - ends) / 60 + MINUTES, resident_mb(process)))
            await asyncio.sleep(5)

    await asyncio.gather(watch(), *map(come_and_go, range(STREAMS)))
    minutes, memory = map(np.array, zip(*points, strict=True))
    late = minutes >= WARM_UP * MINUTES
    slopes = np.polyfit(minutes[late], memory[late], 1)[0]
    after = await settled(server, process)
    print(
        f"\n{sum(ways.values())} clients {ways}; MB, front and workers, each third, and its slope a minute after warm-up:"
    )
    for share in (0, 1 / 3, 2 / 3, 1):
        print(memory[round(share * (len(memory) - 1))].round(1))
    print(slopes.round(3), f"together {slopes.sum():+.3f}")
    print(f"files and sockets, tasks: {before} → {after}")
    assert await working(server)
    assert after[0] <= before[0]
    assert after[1] <= before[1]
    assert slopes.sum() <= MOST_MB_A_MINUTE
