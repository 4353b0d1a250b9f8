"""The default engine under load, its workers killed a hundred times: the same finals as without (`make soak`)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import numpy as np
from peer import eventually, settings
from sounds import RATE, recording

from myna.clients.live import LiveClient
from myna.server.app import Server, running
from myna.wire import messages as wire

KILLS = int(os.environ.get("MYNA_KILLS", "100"))
STREAMS = 8
START = wire.StartMessage(encoding="linear16", sample_rate=RATE)
FRAME_S = 0.1


async def heard(server: Server, pcm: bytes, speed: float) -> list[wire.FinalMessage]:
    async with LiveClient(START, server.url) as client:

        async def speak() -> None:
            size, began = 2 * round(FRAME_S * RATE), time.monotonic()
            for number, start in enumerate(range(0, len(pcm), size), start=1):
                if speed:
                    await asyncio.sleep(max(0.0, began + number * FRAME_S / speed - time.monotonic()))
                await client.send(pcm[start : start + size])
            await client.close()

        speaking = asyncio.create_task(speak())
        messages = [message async for message in client]
        await speaking
    assert isinstance(messages[-1], wire.ClosedMessage)
    assert not [message for message in messages if isinstance(message, wire.ErrorMessage)]
    return [message for message in messages if isinstance(message, wire.FinalMessage)]


async def test_a_hundred_kills_under_real_load_change_no_final() -> None:
    chance = random.Random(3)
    speech = np.concatenate([recording("two_cities"), np.zeros(RATE, np.int16), recording("beckett")])
    spoken = [np.roll(speech, -n * len(speech) // STREAMS).tobytes() for n in range(STREAMS)]
    async with running(settings(final_target_ms=0)) as server:
        (pool,) = server.models.pools
        undisturbed = [await heard(server, pcm, 0) for pcm in spoken]
        rounds: list[list[wire.FinalMessage]] = []
        over = asyncio.Event()

        async def talk(number: int) -> None:
            while not over.is_set():
                finals = await heard(server, spoken[number], 1.0)
                assert finals == undisturbed[number]
                rounds.append(finals)

        talks = [asyncio.create_task(talk(number)) for number in range(STREAMS)]
        before, began = pool.restarts, time.monotonic()
        for number in range(KILLS):
            await eventually(lambda: pool.complete)
            await asyncio.sleep(chance.random() / 2)
            os.kill(chance.choice(pool.pids), signal.SIGKILL)
            await eventually(lambda number=number: pool.restarts > before + number)  # type: ignore[misc]
            assert not [talk for talk in talks if talk.done()]
        over.set()
        await asyncio.gather(*talks)
        took_s = time.monotonic() - began
    print(
        f"\n{KILLS} kills in {took_s:.0f} s; {len(rounds)} streams, {sum(map(len, rounds))} finals, all as without kills"
    )
