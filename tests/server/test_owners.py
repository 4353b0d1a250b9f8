"""An error in any long-lived part: the service continues, or readiness fails with the reason.

`PARTS` has every long-lived task, thread and process of a server, each with a way to make it fail once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import psutil
import pytest
from aiohttp import ClientSession
from faults import failing_once
from peer import RAW, connected, eventually, listening
from speakers import AmplitudeVad, Speaker, names, phrases, running_fake

from myna.batch import job_runner as jobrunner
from myna.inference import folder_watch
from myna.inference.engines.fake.engine import EXIT
from myna.inference.workers import vad_worker as voice
from myna.runtime import memory
from myna.server.app import Server
from myna.streaming.speech.silero import VadMemory


class Vad(AmplitudeVad):
    """Voice activity detection that fails on demand."""

    made: ClassVar[Vad]
    """The instance of the server started last."""

    def __init__(self) -> None:
        Vad.made = self
        self.error: Exception | None = None
        self.failures = 0
        self.poison: bytes | None = None
        self.go_on = threading.Event()
        self.go_on.set()
        self.asked = 0

    def probabilities(self, parts: Sequence[tuple[VadMemory, bytes]]) -> list[list[float]]:
        self.asked += 1
        self.go_on.wait(30)
        if self.error is not None or any(self.poison is not None and self.poison in pcm for _, pcm in parts):
            self.failures += 1
            raise self.error or ValueError("a window that the model cannot take")
        return super().probabilities(parts)


async def health(server: Server, path: str = "/health/ready") -> tuple[int, dict[str, Any]]:
    async with ClientSession() as session, session.get(server.url + path) as response:
        return response.status, await response.json()


@contextlib.asynccontextmanager
async def failing_loop_monitor(server: Server) -> AsyncIterator[None]:
    with failing_once(server.loop_monitor, "_on_lag") as failed:
        yield
        await eventually(failed)


@contextlib.asynccontextmanager
async def failing_memory(server: Server) -> AsyncIterator[None]:
    with failing_once(memory, "give_back") as failed:
        await eventually(failed)
        yield
    await eventually(lambda: server.supervisor.restarts > 0)


@contextlib.asynccontextmanager
async def failing_model_files(server: Server) -> AsyncIterator[None]:
    with failing_once(server.models, "follow") as failed:
        await eventually(failed)
        yield
    await eventually(lambda: server.supervisor.restarts > 0)


@contextlib.asynccontextmanager
async def failing_jobs(server: Server) -> AsyncIterator[None]:
    store = await server.jobs._access.opened()
    with failing_once(store, "forget_old") as failed:
        await eventually(failed)
        yield
    await eventually(lambda: server.supervisor.restarts > 0)


@contextlib.asynccontextmanager
async def failing_decoders(server: Server) -> AsyncIterator[None]:
    assert server.services.decoders.pid is not None
    os.kill(server.services.decoders.pid, signal.SIGKILL)
    await eventually(lambda: "decoders" in server.supervisor.failing)
    yield


@contextlib.asynccontextmanager
async def failing_results(server: Server) -> AsyncIterator[None]:
    (pool,) = server.models.pools
    with failing_once(pool, "_note_done") as failed:
        yield
        await eventually(failed)
    await eventually(lambda: pool.restarts == 1)


@contextlib.asynccontextmanager
async def failing_deaths(server: Server) -> AsyncIterator[None]:
    (pool,) = server.models.pools
    with failing_once(pool._workers, "_launch") as failed:
        os.kill(pool.pids[0], signal.SIGKILL)
        yield
        await eventually(failed)
    await eventually(lambda: pool.complete)


@contextlib.asynccontextmanager
async def failing_watch(server: Server) -> AsyncIterator[None]:
    (pool,) = server.models.pools
    with failing_once(pool, "stuck_s") as failed:
        yield
        await eventually(failed)


@contextlib.asynccontextmanager
async def failing_voice(server: Server) -> AsyncIterator[None]:
    vad = Vad.made
    vad.error = MemoryError("no memory")
    yield
    await eventually(lambda: vad.failures > 2)
    assert server.supervisor.failing == {"voice-activity": "MemoryError: no memory"}
    vad.error = None


@contextlib.asynccontextmanager
async def failing_lane(server: Server) -> AsyncIterator[None]:
    (pool,) = server.models.pools
    async with Speaker(server) as victim:
        await victim.say(phrases([EXIT]))
        yield
        await eventually(lambda: pool.restarts == 3)  # twice with others, once alone; then the job fails by itself
        await victim.done()
        assert victim.words == []


@contextlib.asynccontextmanager
async def killed(server: Server) -> AsyncIterator[None]:
    (pool,) = server.models.pools
    os.kill(pool.pids[0], signal.SIGKILL)
    yield
    await eventually(lambda: pool.restarts == 1 and pool.complete)


@contextlib.asynccontextmanager
async def unharmed(_: Server) -> AsyncIterator[None]:
    yield  # runs what it is given; the caller waits for the result and handles the error


PARTS = {
    "task loop-monitor": failing_loop_monitor,
    "task memory": failing_memory,
    "task jobs": failing_jobs,
    "task model files": failing_model_files,
    "task decoders": failing_decoders,  # its processes: test_decoders.py
    "task worker N of fake": failing_results,
    "task worker N of fake, at a death": failing_deaths,
    "task watch of fake": failing_watch,
    "thread voice-activity": failing_voice,
    "thread asyncio_N": unharmed,
    "thread asyncio-waitpid-N": unharmed,
    "process python": killed,
    "process python, its lane's thread": failing_lane,  # its other threads: tests/inference/test_worker.py
}


@pytest.mark.parametrize("part", PARTS)
async def test_a_stream_gets_its_words_when_a_part_fails_and_the_server_becomes_ready_again(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "TRIM_EVERY_S", 0.05)
    monkeypatch.setattr(jobrunner, "_TIDY_S", 0.05)
    monkeypatch.setattr(folder_watch, "EVERY_S", 0.05)
    async with running_fake(vad=Vad) as server, Speaker(server) as speaker:
        await speaker.say(phrases([1, 2], pause_s=2.5))
        await eventually(lambda: speaker.words == names([1, 2]))
        async with PARTS[part](server):
            await speaker.say(phrases([3, 4], pause_s=2.5))
        await eventually(lambda: speaker.words == names([1, 2, 3, 4]))
        await eventually(lambda: not server.supervisor.failing)
        await speaker.say(phrases([5, 6]))
        await speaker.done()
        assert speaker.words == names([1, 2, 3, 4, 5, 6])
        assert (await health(server))[0] == 200


async def test_every_long_lived_task_thread_and_process_of_an_idle_server_is_in_the_table() -> None:
    tasks, threads = asyncio.all_tasks(), set(threading.enumerate())
    processes = set(psutil.Process().children(recursive=True))
    async with running_fake(vad=Vad) as server:
        await asyncio.to_thread(lambda: None)
        found = {f"task {task.get_name()}" for task in asyncio.all_tasks() - tasks}
        found |= {f"thread {thread.name}" for thread in set(threading.enumerate()) - threads}
        for process in set(psutil.Process().children(recursive=True)) - processes:
            found.add(f"process {re.sub('[0-9.]+$', '', process.name())}")
            decodes = server.services.decoders.pid in (process.pid, process.ppid())
            assert decodes or process.pid in server.models.pools[0].pids
    known = {part.partition(",")[0] for part in PARTS}
    assert {re.sub(r"\d+", "N", name) for name in found} - known == set()
    assert {re.sub(r"\d+", "N", name) for name in found} >= {name for name in known if "thread asyncio" not in name}


async def test_readiness_and_health_name_each_part_that_fails_until_it_works_again() -> None:
    async with running_fake() as server:
        for path in ("/health/ready", "/health"):
            assert (await health(server, path))[0] == 200
        server.supervisor.failed("voice-activity", OSError("no memory"))
        status, body = await health(server)
        assert (status, body["failing"]) == (503, {"voice-activity": "OSError: no memory"})
        assert body["reason"] == "voice-activity: OSError: no memory"
        status, body = await health(server, "/health")
        assert (status, body["status"]) == (503, "degraded")
        server.supervisor.works("voice-activity")
        for path in ("/health/ready", "/health"):
            assert (await health(server, path))[0] == 200


async def test_audio_that_fails_voice_activity_detection_ends_only_its_stream() -> None:
    async with running_fake(vad=Vad) as server, Speaker(server) as other, listening(server) as peer:
        Vad.made.poison = (1000 + 10 * 77).to_bytes(2, "little") * 50
        await other.say(phrases([1, 2]))
        async with connected(server) as victim:
            await victim.send(RAW)
            await victim.until("ready")
            await victim.socket.send_bytes(phrases([77]))
            rest = await victim.rest()
            assert rest[-2]["code"] == "internal_error", rest
            assert victim.socket.close_code == 1011
        await peer.socket.send_bytes(phrases([77]))
        await peer.rest()
        assert peer.socket.close_code == 1011
        await other.say(phrases([3, 4]))
        await other.done()
        assert other.words == names([1, 2, 3, 4])
        assert not server.supervisor.failing


async def test_a_file_that_fails_voice_activity_detection_gets_an_error_and_the_next_is_transcribed() -> None:
    async with running_fake(vad=Vad) as server, ClientSession() as session:
        Vad.made.poison = (1000 + 10 * 77).to_bytes(2, "little") * 50
        address = f"{server.url}/v1/listen?encoding=linear16&sample_rate=16000"
        async with session.post(address, data=phrases([77])) as response:
            assert response.status == 500
        async with session.post(address, data=phrases([1, 2, 3])) as response:
            body = await response.json()
        assert body["results"]["channels"][0]["alternatives"][0]["transcript"] == "w1 w2 w3"


async def test_a_stream_ends_when_voice_activity_detection_fails_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice, "GIVEN_UP_AFTER_S", 0.3)
    async with running_fake(vad=Vad) as server, connected(server) as peer:
        Vad.made.error = MemoryError("no memory")
        await peer.send(RAW)
        await peer.until("ready")
        await peer.socket.send_bytes(phrases([1]))
        await peer.rest()
        assert peer.socket.close_code == 1011


async def test_a_hanging_voice_activity_thread_is_detected_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert voice.HANGS_AFTER_S < 4
    monkeypatch.setattr(voice, "HANGS_AFTER_S", 0.3)
    async with running_fake(vad=Vad) as server, Speaker(server) as speaker:
        Vad.made.go_on.clear()
        await speaker.say(phrases([1, 2]))
        await eventually(lambda: "voice-activity" in server.supervisor.failing)
        status, body = await health(server)
        assert status == 503
        assert "its thread has answered nothing" in body["reason"]
        Vad.made.go_on.set()
        await speaker.done()
        assert speaker.words == names([1, 2])
        assert (await health(server))[0] == 200
