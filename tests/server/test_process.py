"""The server as a process: signals, its working folder, descriptors, suspension."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from aiohttp import ClientSession, TCPConnector
from peer import RAW, connected, listening
from sounds import BECKETT, recording
from speakers import START, Speaker, phrases

from myna.clients.live import LiveClient
from myna.clients.local_server import LocalServer, local_server
from myna.server.keys import Authentication, Scope, add_key, credential

OTHERS = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE]


def to_group(pid: int, number: signal.Signals) -> None:
    """Send a signal as a terminal does: to the server and the processes in its group."""
    for process in psutil.Process(pid).children(recursive=True):
        if os.getpgid(process.pid) == os.getpgid(pid):
            os.kill(process.pid, number)
    os.kill(pid, number)


async def test_other_signals_end_no_stream(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    secret = add_key(keys, "one", frozenset(Scope))
    with local_server("fake", "--keys", str(keys)) as server:
        async with LiveClient(START, server.url, api_key=secret) as client:
            for number in OTHERS:
                to_group(server.pid, number)
            await client.send(phrases([1, 2]))
            await client.close()
            assert [message.type async for message in client][-1] == "closed"


def test_keys_can_be_reloaded_when_their_file_looks_unchanged(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    add_key(keys, "one", frozenset(Scope))
    authentication, state = Authentication(keys), keys.stat()
    keys.write_text("")
    secret = add_key(keys, "two", frozenset(Scope))
    os.utime(keys, ns=(state.st_atime_ns, state.st_mtime_ns))
    authentication.reload()
    assert authentication.identify(credential({"Authorization": f"Token {secret}"})).name == "two"


async def test_a_signal_from_the_terminal_lets_streams_finish() -> None:
    speech = recording("beckett").tobytes()
    with local_server("moonshine") as server:
        async with Speaker(server.url) as speaker:
            await speaker.say(speech[: len(speech) // 4 * 2])
            to_group(server.pid, signal.SIGQUIT)
            await speaker.say(speech[len(speech) // 4 * 2 :])
            await speaker.done()
        assert " ".join(speaker.words) == BECKETT


def test_files_in_the_current_folder_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("msgpack", "random", "queue", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a stray file was imported')")
    monkeypatch.chdir(tmp_path)
    with local_server("fake") as server:
        assert psutil.Process(server.pid).children()


async def test_a_server_without_descriptors_reports_it_and_recovers() -> None:
    with local_server("fake", "--workers", "1") as server:
        process = psutil.Process(server.pid)
        async with ClientSession(connector=TCPConnector(limit=1)) as session:

            async def health() -> tuple[int, dict[str, str]]:
                async with session.get(server.url + "/health") as response:
                    return response.status, (await response.json()).get("failing", {})

            assert (await health())[0] == 200
            soft, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (process.num_fds(), hard))
            for worker in process.children():
                worker.kill()
            async with asyncio.timeout(5):
                while "Too many open files" not in (await health())[1].get("models", ""):
                    await asyncio.sleep(0.02)
            status, failing = await health()
            assert status == 503
            assert set(failing) == {"models", "descriptors", "decoders"}
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (soft, hard))
            async with asyncio.timeout(30):
                while (await health())[0] != 200:
                    await asyncio.sleep(0.02)
        async with connected(server) as peer:
            await peer.send(RAW)
            await peer.until("ready")


IMPATIENT = {
    "start-timeout-s": 1.0,
    "idle-timeout-s": 1.0,
    "deepgram-idle-timeout-s": 1.0,
    "resume-s": 1.0,
    "stuck-after-s": 1.0,
}
STILL_S = 3.0


async def stand_still(server: LocalServer) -> None:
    """Suspend all processes of a server for longer than its time limits, as a migrating VM does."""
    whole = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    for process in whole:
        process.suspend()
    await asyncio.sleep(STILL_S)
    for process in whole:
        process.resume()


async def test_a_server_that_was_suspended_reads_what_arrived_before_limits_run_out() -> None:
    flags = [word for name, value in IMPATIENT.items() for word in (f"--{name}", str(value))]
    with local_server("fake", *flags) as server:
        workers = {process.pid for process in psutil.Process(server.pid).children()}
        async with (
            listening(server) as idle,  # type: ignore[arg-type]
            connected(server) as late,
            connected(server) as lost,
        ):
            await lost.send({**RAW, "resume": True})
            ready = await lost.until("ready")
            await idle.socket.send_bytes(bytes(32_000))
            lost.drop()
            standing = asyncio.create_task(stand_still(server))
            await asyncio.sleep(0)
            await idle.socket.send_bytes(bytes(32_000))
            await late.send(RAW)
            async with connected(server, f"?resume={ready['resume']}&after=0") as back:
                await standing
                await back.until("ready")
            await late.until("ready")
            await idle.send({"type": "CloseStream"})
            await idle.rest()
        assert idle.socket.close_code == 1000, idle.messages
        assert idle.messages[-1]["duration"] == 2.0
        assert {process.pid for process in psutil.Process(server.pid).children()} == workers


def started_with_its_log_closed() -> tuple[subprocess.Popen[str], LocalServer]:
    command = [sys.executable, "-m", "myna", "serve", "--port", "0", "--model", "fake", "--log-format", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = (re.search(r'"url": "([^"]+)"', line) for line in process.stderr)
    url = next(found[1] for found in said if found)
    process.stderr.close()
    return process, LocalServer(url, process.pid)


async def test_a_closed_log_pipe_ends_neither_the_server_nor_a_stream() -> None:
    process, server = started_with_its_log_closed()
    try:
        async with connected(server) as peer:
            await peer.send(RAW)
            await peer.until("ready")
            await peer.send({"type": "close"})
            assert (await peer.rest())[-1]["type"] == "closed"
    finally:
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0
