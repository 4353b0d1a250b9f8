"""Several fronts as processes: signals, processes that are killed, what a start that fails says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiohttp import ClientConnectorError, ClientSession, WSMsgType, WSServerHandshakeError
from peer import RAW, Peer, connected, until_metric
from speakers import names, phrases

from myna.clients.local_server import LocalServer, local_server
from myna.server.keys import Scope, add_key

EARS = Path(__file__).parents[1] / "ears"
START = {**RAW, "resume": True, "interim": False}
CODES = list(range(16))


@pytest.fixture(autouse=True)
def ears(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EARS))


@contextlib.contextmanager
def two_fronts(*flags: str) -> Iterator[LocalServer]:
    with local_server("fake", "--fronts", "2", "--lanes", "1", "--final-target-ms", "0", *flags) as server:
        yield server


async def processes(server: LocalServer) -> dict[str, int]:
    """Return the process ids of the server's processes, once all of them answer; by name, unless one was restarted."""
    async with asyncio.timeout(60), ClientSession() as session:
        while True:
            with contextlib.suppress(OSError, ClientConnectorError):
                async with session.get(server.url + "/metrics") as response:
                    text = await response.text()
                names_of = {
                    name for name in ("engine", "files", "front 1", "front 2") if f'{{process="{name}"}}' in text
                }
                children = [
                    one for one in psutil.Process(server.pid).children() if "myna.server.child" in one.cmdline()
                ]
                if len(names_of) == len(children) == 4:
                    # The parent starts them in the order of their numbers.
                    return dict(zip(("engine", "files", "front 1", "front 2"), [c.pid for c in children], strict=True))
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def streams_on_both(server: LocalServer) -> Any:
    """Open streams until each front has one; yield them by the front's number."""
    async with contextlib.AsyncExitStack() as stack:
        found: dict[str, tuple[Peer, str]] = {}
        for _ in range(64):
            peer = await stack.enter_async_context(connected(server))
            await peer.send(START)
            token = (await peer.until("ready"))["resume"]
            found.setdefault(token[0], (peer, token))
            if len(found) == 2:
                break
        assert found.keys() == {"1", "2"}
        yield found


async def finish(peer: Peer, audio: bytes) -> list[str]:
    await peer.socket.send_bytes(audio)
    await peer.send({"type": "close"})
    await peer.rest()
    return peer.text.split()


async def test_streams_on_both_fronts_outlive_a_killed_engine_process() -> None:
    audio = phrases(CODES)
    half = len(audio) // 4 * 2
    with two_fronts() as server:
        pids = await processes(server)
        async with streams_on_both(server) as found:
            for peer, _ in found.values():
                await peer.socket.send_bytes(audio[:half])
            os.kill(pids["engine"], signal.SIGKILL)
            for peer, _ in found.values():
                assert await finish(peer, audio[half:]) == names(CODES)
        assert set(pids.values()) - set((await processes(server)).values()) == {pids["engine"]}


async def test_a_killed_front_ends_its_streams_alone_and_is_replaced() -> None:
    audio = phrases(CODES)
    half = len(audio) // 4 * 2
    with two_fronts() as server:
        pids = await processes(server)
        async with streams_on_both(server) as found:
            (lost, token), (kept, _) = found["1"], found["2"]
            for peer in (lost, kept):
                await peer.socket.send_bytes(audio[:half])
            os.kill(pids["front 1"], signal.SIGKILL)
            while (message := await lost.socket.receive(timeout=30)).type is WSMsgType.TEXT:
                pass
            assert (message.type, lost.socket.close_code) == (WSMsgType.CLOSED, 1006)
            assert await finish(kept, audio[half:]) == names(CODES)
            with pytest.raises(WSServerHandshakeError) as refused:
                async with connected(server, f"?resume={token}&after=0"):
                    pass
            assert refused.value.status == 404
        assert set(pids.values()) - set((await processes(server)).values()) == {pids["front 1"]}
        async with streams_on_both(server) as found:
            assert await finish(found["1"][0], audio) == names(CODES)


async def test_a_stop_signal_lets_the_streams_of_all_fronts_finish_and_ends_all_processes(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    add_key(keys, "one", frozenset(Scope))
    audio = phrases(CODES)
    half = len(audio) // 4 * 2
    with two_fronts("--drain-s", "60") as server:
        pids = await processes(server)
        async with streams_on_both(server) as found:
            for peer, _ in found.values():
                await peer.socket.send_bytes(audio[:half])
            for number in (signal.SIGHUP, signal.SIGUSR1):
                os.kill(server.pid, number)
            os.kill(server.pid, signal.SIGTERM)
            await until_metric(server, "myna_draining", lambda draining: draining == 1)
            with pytest.raises(WSServerHandshakeError) as refused:
                async with connected(server):
                    pass
            assert refused.value.status == 503
            others = [peer for peer, _ in found.values()]
            assert [await finish(peer, audio[half:]) for peer in others] == [names(CODES)] * 2
        assert await asyncio.to_thread(psutil.Process(server.pid).wait, 60) == 0
    assert not any(psutil.pid_exists(pid) for pid in pids.values())


async def test_a_second_stop_signal_ends_all_processes_at_once() -> None:
    with two_fronts() as server:
        pids = await processes(server)
        async with streams_on_both(server):
            os.kill(server.pid, signal.SIGTERM)
            await until_metric(server, "myna_draining", lambda draining: draining == 1)
            os.kill(server.pid, signal.SIGINT)
            _, alive = await asyncio.to_thread(psutil.wait_procs, [psutil.Process(server.pid)], 30)
        assert not alive
        assert not [pid for pid in pids.values() if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]


async def test_the_processes_end_when_their_parent_is_killed() -> None:
    with two_fronts("--drain-s", "0") as server:
        children = [psutil.Process(pid) for pid in (await processes(server)).values()]
        os.kill(server.pid, signal.SIGKILL)
        _, alive = await asyncio.to_thread(psutil.wait_procs, children, 60)
        assert not alive


@pytest.mark.parametrize(
    ("flags", "said"),
    [(("--model", "nothing"), "nothing"), (("--host", "192.0.2.1"), "192.0.2.1"), (("--fronts", "0"), "fronts")],
)
def test_a_start_that_fails_says_why_and_leaves_no_process(flags: tuple[str, ...], said: str) -> None:
    command = [sys.executable, "-P", "-m", "myna", "serve", "--fronts", "2", "--port", "0", "--model", "fake", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert any(line.startswith("myna: ") and said in line for line in ended.stderr.splitlines())
