"""Decoder processes: one each for what is compressed, whatever happens to them costs one stream."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator

import numpy as np
import psutil
import pytest
from aiohttp import ClientSession
from peer import Peer, connected, eventually
from sounds import RATE, contained
from speakers import running_fake

from myna.inference.engines.fake.engine import silence, spoken
from myna.media import pool
from myna.server.app import Server

WORDS = np.concatenate([silence(0.5), *[np.concatenate([spoken(n), silence(1)]) for n in range(8)]])
KINDS = {
    "wav": ("wav", "pcm_s16le", {}, RATE),
    "flac": ("flac", "flac", {}, RATE),
    "mp3": ("mp3", "libmp3lame", {}, RATE),
    "ogg": ("ogg", "libopus", {}, 48_000),
    "webm": ("webm", "libopus", {}, 48_000),
    "m4a, index first": ("mp4", "aac", {"movflags": "faststart"}, RATE),
    "m4a, index last": ("mp4", "aac", {}, RATE),
    "aac": ("adts", "aac", {}, RATE),
}
WORDS_SAID = [f"w{n}" for n in range(8)]
WAV = contained([WORDS], "wav", "pcm_s16le")


@pytest.fixture(scope="module")
async def server() -> AsyncIterator[Server]:
    async with running_fake(resume_s=0) as started:
        yield started


def decoders(server: Server) -> list[psutil.Process]:
    """The processes that the fork server has forked, those that are kept ready included."""
    return fork_server_of(server).children()


def fork_server_of(server: Server) -> psutil.Process:
    assert server.services.decoders.pid is not None
    return psutil.Process(server.services.decoders.pid)


async def send(peer: Peer, data: bytes, chunk: int = 4096) -> None:
    for start in range(0, len(data), chunk):
        await peer.socket.send_bytes(data[start : start + chunk])


def words(peer: Peer) -> list[str]:
    return [word["word"] for message in peer.of("final") for word in message["words"]]


async def heard(server: Server, data: bytes) -> list[str]:
    async with connected(server) as peer:
        await peer.send({"type": "start"})
        await send(peer, data)
        await peer.send({"type": "close"})
        await peer.rest()
        return words(peer)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, "internal_error"),  # the system was short of memory, say: no fault of the audio's
        (signal.SIGSEGV, "undecodable_audio"),
        (signal.SIGXCPU, "undecodable_audio"),
    ],
)
async def test_a_decoder_that_dies_ends_its_stream_after_what_it_heard_and_no_other(
    server: Server, number: signal.Signals, code: str
) -> None:
    async with connected(server) as peer, connected(server) as other:
        await peer.send({"type": "start"})
        await send(peer, WAV[: len(WAV) // 2])
        await peer.until("final")
        victim = oldest(decoders(server))
        await other.send({"type": "start"})
        await send(other, WAV[: len(WAV) // 2])
        await other.until("final")
        victim.send_signal(number)
        await send(peer, WAV[len(WAV) // 2 :])
        messages = await peer.rest()
        assert next(m["code"] for m in messages if m["type"] == "error") == code
        assert words(peer)[:2] == ["w0", "w1"]
        await send(other, WAV[len(WAV) // 2 :])
        await other.send({"type": "close"})
        await other.rest()
        assert words(other) == WORDS_SAID
    assert await heard(server, WAV) == WORDS_SAID


async def test_a_decoder_that_died_before_it_was_needed_costs_nobody_anything(server: Server) -> None:
    for process in decoders(server):
        process.kill()
        process.wait()
    assert await heard(server, WAV) == WORDS_SAID


async def test_the_fork_server_is_replaced_when_it_dies_and_streams_go_on(server: Server) -> None:
    async with connected(server) as peer:
        await peer.send({"type": "start"})
        await send(peer, WAV[: len(WAV) // 2])
        await peer.until("final")
        fork_server = fork_server_of(server)
        fork_server.kill()
        await send(peer, WAV[len(WAV) // 2 :])
        await peer.send({"type": "close"})
        await peer.rest()
        assert words(peer) == WORDS_SAID
    assert await heard(server, WAV) == WORDS_SAID
    assert fork_server != fork_server_of(server)


async def test_a_fork_server_that_hangs_is_found_when_a_process_is_wanted_and_replaced(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_FORK_S", 0.3)
    fork_server = fork_server_of(server)
    fork_server.suspend()
    for _ in range(pool.AHEAD):  # those that were ready
        assert await heard(server, WAV) == WORDS_SAID
    await eventually(lambda: server.services.decoders.pid not in (None, fork_server.pid))
    assert await heard(server, WAV) == WORDS_SAID


async def test_a_decoder_that_does_not_answer_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "ANSWER_S", 0.4)
    async with connected(server) as peer:
        await peer.send({"type": "start"})
        await send(peer, WAV[: len(WAV) // 2])
        await peer.until("final")
        oldest(decoders(server)).suspend()
        await send(peer, WAV[len(WAV) // 2 :])
        messages = await peer.rest()
    assert next(m["code"] for m in messages if m["type"] == "error") == "undecodable_audio"
    await eventually(lambda: server.services.decoders.active == 0)


async def test_raw_audio_and_silent_clients_take_no_decoder(server: Server) -> None:
    async with connected(server) as raw, connected(server) as silent:
        await raw.send({"type": "start", "encoding": "linear16", "sample_rate": RATE})
        await send(raw, WORDS.tobytes())
        await raw.until("final")
        await silent.send({"type": "start"})
        await silent.until("ready")
        assert server.services.decoders.active == 0


@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_that_leaves_at_any_moment_of_a_decode_leaves_nothing_behind(server: Server, kind: str) -> None:
    container, codec, options, rate = KINDS[kind]
    data = contained([np.repeat(WORDS, rate // RATE)], container, codec, rate=rate, options=options)
    chance = random.Random(kind)

    async def leave() -> None:
        async with connected(server) as peer:
            await peer.send({"type": "start"})
            await send(peer, data[: chance.randrange(12, len(data))], chance.choice((1000, 65_536)))
            if chance.random() < 0.5:
                await peer.send({"type": "close"})
            for _ in range(chance.randrange(20)):
                await asyncio.sleep(0)
            peer.drop()

    async with connected(server) as honest:
        await honest.send({"type": "start"})
        await send(honest, WAV[: len(WAV) // 2])
        for _ in range(4):
            await asyncio.gather(*(leave() for _ in range(5)))
        await send(honest, WAV[len(WAV) // 2 :])
        await honest.send({"type": "close"})
        await honest.rest()
        assert words(honest) == WORDS_SAID
    await eventually(lambda: not server.services.streams and not server.services.decoders.active)
    await eventually(lambda: len(decoders(server)) <= pool.AHEAD)


async def test_readiness_says_that_decoders_cannot_be_started(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    fork_server = fork_server_of(server)
    fork_server.kill()
    await eventually(lambda: "decoders" in server.supervisor.failing)
    async with ClientSession() as session, session.get(f"{server.url}/health/ready") as response:
        assert response.status == 503
        assert "decoders" in await response.text()
    monkeypatch.undo()
    assert await heard(server, WAV) == WORDS_SAID
    await eventually(lambda: not server.supervisor.failing)


def oldest(processes: list[psutil.Process]) -> psutil.Process:
    """Processes are taken in the order in which they were forked."""
    return min(processes, key=lambda process: (process.create_time(), process.pid))
