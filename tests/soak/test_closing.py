"""Clients that leave at any moment of a container's decode, beside honest ones on real speech in real time (`make soak`).

MYNA_CLOSINGS says how many leave, MYNA_CLOSINGS_PER_S how many in a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator

import numpy as np
import psutil
import pytest
from aiohttp import ClientError, ClientSession
from peer import connected
from prometheus_client.parser import text_string_to_metric_families
from sounds import RATE, contained, recording

from myna.clients.files import paced
from myna.clients.live import LiveClient
from myna.clients.local_server import LocalServer, local_server
from myna.wire import messages as wire

CLOSINGS = int(os.environ.get("MYNA_CLOSINGS", "10000"))
HONEST = 8
AT_ONCE = 2
PER_S = float(os.environ.get("MYNA_CLOSINGS_PER_S", "8"))
"""Clients that come and leave in a second: each has sent up to 12 s of audio, and two cores do all of this."""
MOST_LAG_S = 0.05
FINALS_WITHIN_S = 1.0
"""Of their endpoint, 95 % of the honest finals: a bucket of the metric, and beyond the 0.7 s of admission's target."""
FRAME = RATE // 10 * 2


@pytest.fixture
def server() -> Iterator[LocalServer]:
    with local_server(None, "--resume-s", "0", "--final-target-ms", "0") as started:
        yield started


def containers() -> list[bytes]:
    # No speech: what is tried is the decoding of containers, and the engine is to be free for the honest.
    pcm = np.random.default_rng(3).integers(-60, 60, 12 * RATE).astype(np.int16)
    wide = np.repeat(pcm, 3)
    kinds = [
        ("wav", "pcm_s16le", {}), ("flac", "flac", {}), ("mp3", "libmp3lame", {}), ("adts", "aac", {}), ("mp4", "aac", {}),
        ("mp4", "aac", {"movflags": "faststart"}),
        ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}),
        ("ogg", "libopus", {}), ("webm", "libopus", {}),
    ]  # fmt: skip
    return [
        contained(
            [wide if codec == "libopus" else pcm], name, codec, rate=48_000 if codec == "libopus" else RATE, options=how
        )
        for name, codec, how in kinds
    ]


async def samples(server: LocalServer) -> dict[tuple[str, str], float]:
    async with ClientSession() as session, session.get(server.url + "/metrics") as response:
        families = text_string_to_metric_families(await response.text())
        return {
            (sample.name, sample.labels.get("le", "") + sample.labels.get("kind", "")): sample.value
            for family in families
            for sample in family.samples
        }


async def test_finals_come_in_time_while_ten_thousand_clients_leave_amid_a_decode(server: LocalServer) -> None:
    files, ended = containers(), asyncio.Event()
    spoken = np.concatenate([recording(name) for name in ("beckett", "two_cities")])
    finals = 0
    closed = [0] * len(files)

    async def speak(number: int) -> None:
        nonlocal finals
        begin = number * len(spoken) // HONEST
        while not ended.is_set():
            pcm = np.roll(spoken, -begin).tobytes()
            async with LiveClient(wire.StartMessage(encoding="linear16", sample_rate=RATE), server.url) as client:

                async def send(client: LiveClient = client, pcm: bytes = pcm) -> None:
                    async for part in paced((pcm[at : at + FRAME] for at in range(0, len(pcm), FRAME)), 1.0):
                        if ended.is_set():
                            break
                        await client.send(part)
                    await client.close()

                sending = asyncio.create_task(send())
                async for message in client:
                    finals += isinstance(message, wire.FinalMessage)
                await sending

    async def leave(number: int) -> None:
        chance = random.Random(number)
        while (before := sum(closed)) < CLOSINGS:
            which = before % len(files)
            closed[which] += 1
            await asyncio.sleep(max(0.0, began + before / PER_S - time.monotonic()))
            data = files[which]
            with contextlib.suppress(ClientError, ConnectionError):
                async with connected(server, "", chance.choice(("/v1/listen", wire.PATH))) as peer:
                    if wire.PATH in str(peer.socket._response.url):
                        await peer.send({"type": "start"})
                    end, size = chance.randrange(12, len(data)), chance.choice((1_000, 16_000, len(data)))
                    for start in range(0, end, size):
                        await peer.socket.send_bytes(data[start : min(end, start + size)])
                    if chance.random() < 0.5:
                        await peer.send({"type": chance.choice(("CloseStream", "close", "Finalize"))})
                    await asyncio.sleep(chance.choice((0, 0, 0.001, 0.01, 0.05)))
                    if chance.random() < 0.8:
                        peer.drop()

    process = psutil.Process(server.pid)
    before = await samples(server)
    began = time.monotonic()
    speakers = [asyncio.create_task(speak(number)) for number in range(HONEST)]
    await asyncio.gather(*map(leave, range(AT_ONCE)))
    took_s = time.monotonic() - began
    after = await samples(server)
    ended.set()
    await asyncio.gather(*speakers)

    def count(name: str, le: str = "") -> float:
        return after[name, le] - before.get((name, le), 0.0)

    beats, late = (
        count("myna_loop_lag_seconds_count"),
        count("myna_loop_lag_seconds_count") - count("myna_loop_lag_seconds_bucket", f"{MOST_LAG_S}"),
    )
    all_finals = count("myna_result_delay_seconds_count", "final")
    in_time = count("myna_result_delay_seconds_bucket", f"{FINALS_WITHIN_S}final")
    print(
        f"\n{sum(closed)} clients left in {took_s:.0f} s; "
        f"{finals} finals, {in_time / all_finals:.1%} within {FINALS_WITHIN_S} s"
    )
    print(f"of {beats:.0f} beats of the loop {late:.0f} came more than {1000 * MOST_LAG_S:.0f} ms late")
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(40):
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            await asyncio.sleep(0.1)
    print("SIGTERM was obeyed")
    assert in_time >= 0.95 * all_finals
    assert late == 0
