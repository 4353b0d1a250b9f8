"""Workers that die, hang or are killed: no words are lost or repeated, and no stream ends."""

from __future__ import annotations

import asyncio
import os
import random
import signal

import pytest
from peer import eventually
from speakers import START, Speaker, names, phrases, running_fake

from myna.inference.engines.fake.engine import CRASH, HANG
from myna.server.app import Server
from myna.wire import messages as wire

APART_S = 2.5
"""Seconds between phrases: words that follow sooner are decoded together with those before."""
FAKE = {"lanes": 2, "final_target_ms": 0}


async def talk(server: Server, codes: list[int], until: asyncio.Event, *, interim: bool) -> tuple[Speaker, list[int]]:
    """Say these words repeatedly until told to end; return what was heard and what was said."""
    said: list[int] = []
    async with Speaker(server, START.model_copy(update={"interim": interim})) as speaker:
        while not until.is_set():
            await speaker.say(phrases(codes))
            said += codes
            await asyncio.sleep(0.05)
        await speaker.done()
    return speaker, said


async def test_twenty_worker_kills_under_load_lose_or_repeat_no_word() -> None:
    kills, chance = 20, random.Random(7)
    over = asyncio.Event()
    async with running_fake(**FAKE) as server:
        (pool,) = server.models.pools
        talks = [
            asyncio.create_task(talk(server, list(range(20 * n, 20 * n + 12)), over, interim=n % 2 == 0))
            for n in range(8)
        ]
        for number in range(kills):
            await eventually(lambda: pool.complete)
            await asyncio.sleep(chance.random() / 5)
            os.kill(chance.choice(pool.pids), signal.SIGKILL)
            await eventually(lambda number=number: pool.restarts > number)  # type: ignore[misc]
        over.set()
        for speaker, said in await asyncio.gather(*talks):
            assert speaker.words == names(said)
            assert isinstance(speaker.messages[-1], wire.ClosedMessage)
            assert not [message for message in speaker.messages if isinstance(message, wire.ErrorMessage)]
        assert pool.restarts == kills
        assert pool.open_jobs == 0


async def test_a_hanging_worker_is_replaced_while_others_continue() -> None:
    async with running_fake(**FAKE, stuck_after_s=1.0) as server, Speaker(server) as victim:
        (pool,) = server.models.pools
        await victim.say(phrases([1, 2, 3, 4, HANG, 6, 7, 8, 9, 10, 11, 12], pause_s=APART_S))
        async with Speaker(server) as other:
            await eventually(lambda: pool.busy_lanes > 0)
            await other.say(phrases([21, 22, 23]))
            await other.done()
            assert other.words == names([21, 22, 23])
        await eventually(lambda: pool.restarts == 3)  # twice with others, once alone; then the job fails by itself
        await victim.done()
        assert victim.words == names([1, 2, 3, 4, 9, 10, 11, 12])
        errors = [message for message in victim.messages if isinstance(message, wire.ErrorMessage)]
        assert [error.code for error in errors] == ["decode_failed"]


async def test_a_job_that_kills_its_worker_fails_alone_and_its_stream_continues() -> None:
    async with running_fake(**FAKE) as server, Speaker(server) as victim, Speaker(server) as other:
        (pool,) = server.models.pools
        await victim.say(phrases([1, 2, 3, CRASH, 5, 6, 7, 8], pause_s=APART_S))
        for start in range(100, 160, 4):
            await other.say(phrases(list(range(start, start + 4))))
            await asyncio.sleep(0.02)
        await eventually(lambda: pool.restarts == 3)
        await victim.say(phrases([31, 32]))
        await victim.done()
        await other.done()
        assert victim.words == names([5, 6, 7, 8, 31, 32])
        assert other.words == names(list(range(100, 160)))
        assert pool.restarts == 3


async def test_a_file_that_kills_workers_fails_and_the_next_does_not() -> None:
    from aiohttp import ClientSession

    async with running_fake(**FAKE) as server, ClientSession() as session:
        address = f"{server.url}/v1/listen?encoding=linear16&sample_rate=16000"
        async with session.post(address, data=phrases([CRASH])) as response:
            assert response.status == 500
        async with session.post(address, data=phrases([1, 2, 3])) as response:
            body = await response.json()
        assert body["results"]["channels"][0]["alternatives"][0]["transcript"] == "w1 w2 w3"


@pytest.mark.parametrize("workers", [1, 3])
async def test_each_worker_is_a_separate_process_that_ends_with_the_server(workers: int) -> None:
    import psutil

    async with running_fake(lanes=3, workers=workers) as server:
        (pool,) = server.models.pools
        pids = pool.pids
        assert len(set(pids)) == workers
        assert pool.lanes == 3
    assert not any(psutil.pid_exists(pid) for pid in pids)
