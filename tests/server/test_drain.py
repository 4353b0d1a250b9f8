"""Draining: new work is refused, running streams finish, and no final is lost."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys

import pytest
from aiohttp import ClientSession, WSServerHandshakeError
from peer import RAW, connected, eventually, listening, until_metric
from sounds import BECKETT, RATE, recording
from speakers import Speaker, names, phrases, running_fake

from myna.clients.live import StreamError
from myna.clients.local_server import LocalServer


async def test_a_draining_server_is_not_ready_and_refuses_new_streams_while_others_continue() -> None:
    async with running_fake(drain_s=30) as server, ClientSession() as session:
        async with session.get(server.url + "/health/ready") as response:
            assert response.status == 200
        async with Speaker(server) as speaker:
            await speaker.say(phrases([1, 2]))
            draining = asyncio.create_task(server.drain())
            await eventually(lambda: server.admission.draining)
            async with session.get(server.url + "/health/ready") as response:
                assert response.status == 503
                assert (await response.json())["reason"] == "draining"
            async with session.get(server.url + "/health/live") as response:
                assert response.status == 200
            with pytest.raises(WSServerHandshakeError) as refused:
                async with connected(server):
                    pass
            assert refused.value.status == 503
            async with session.post(f"{server.url}/v1/listen", data=b"x") as response:
                assert response.status == 503
                assert response.headers["Retry-After"]
            await speaker.say(phrases([3, 4]))
            await speaker.done()
            assert speaker.words == names([1, 2, 3, 4])
        await draining


async def test_streams_that_do_not_end_in_time_get_their_last_finals_first() -> None:
    async with running_fake(drain_s=0.2) as server:
        speakers = [Speaker(server) for _ in range(6)]
        codes = [list(range(20 * n, 20 * n + 6)) for n in range(6)]
        for speaker, said in zip(speakers, codes, strict=True):
            await speaker.__aenter__()
            await speaker.say(phrases(said, pause_s=0.0))  # in the middle of an utterance
        sent_s = sum(len(phrases(said, pause_s=0.0)) for said in codes) / 2 / RATE
        await until_metric(server, "myna_audio_seconds_total", lambda heard_s: heard_s >= sent_s - 0.001)
        await server.drain()
        for speaker, said in zip(speakers, codes, strict=True):
            with pytest.raises(StreamError) as ended:
                await speaker.over()
            assert ended.value.code == "shutting_down"
            assert speaker.words == names(said)
            await speaker.__aexit__()
        assert not server.services.streams


async def test_deepgrams_clients_are_told_of_the_shutdown_in_deepgrams_format() -> None:
    async with running_fake(drain_s=0.1) as server, listening(server) as peer:
        await peer.socket.send_bytes(phrases([1, 2], pause_s=0.0))
        await until_metric(server, "myna_audio_seconds_total", lambda heard_s: heard_s > 0.5)
        await asyncio.gather(server.drain(), peer.rest())
        assert peer.said == "w1 w2"
        assert peer.messages[-1]["type"] == "Metadata"
        assert peer.socket.close_code == 1001


def start(model: str, *flags: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "myna", "serve", "--port", "0", "--model", model, "--log-format", "json", *flags],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r'"url": "([^"]+)"', line):
            return process, found[1]
    raise AssertionError("the server did not start")


async def until_draining(url: str) -> None:
    """Wait until the server reports that it is not ready."""
    async with ClientSession() as session, asyncio.timeout(20):
        while True:
            async with session.get(url + "/health/ready") as response:
                if response.status == 503:
                    return


async def test_sigterm_lets_a_stream_finish_and_ends_the_process() -> None:
    process, url = await asyncio.to_thread(start, "moonshine")
    speech = recording("beckett").tobytes()
    with process:
        async with Speaker(url) as speaker:
            await speaker.say(speech[: len(speech) // 4 * 2])
            process.send_signal(signal.SIGTERM)
            await until_draining(url)
            await speaker.say(speech[len(speech) // 4 * 2 :])
            await speaker.done()
        assert " ".join(speaker.words) == BECKETT
        assert await asyncio.to_thread(process.wait, 30) == 0


async def test_a_second_signal_ends_at_once_and_leaves_no_worker() -> None:
    import psutil

    process, url = await asyncio.to_thread(start, "fake", "--drain-s", "3000")
    with process:
        workers = psutil.Process(process.pid).children()
        assert workers
        async with connected(LocalServer(url, process.pid)) as peer:
            await peer.send(RAW)
            await peer.until("ready")
            process.send_signal(signal.SIGTERM)
            await until_draining(url)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 10) == 130
        await asyncio.to_thread(psutil.wait_procs, workers, 10)
        assert not any(worker.is_running() for worker in workers)
