"""Measure fronts alone: real-time streams to a server with a free engine, with and without voice activity."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from myna.bench.accuracy import read_manifest
from myna.bench.load import pulse
from myna.bench.load_streams import HeardStream, NativeWords, Speech, speak, speeches
from myna.clients.local_server import local_server

_SPREAD_S = 5.0
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class FrontFigures:
    """One number of streams. CPU is in cores, of all fronts and of the engine process; delays are in ms, seen by the client.

    `fronts` is 0 for a server of one process; its CPU is all that it has.
    """

    fronts: int
    streams: int
    voice: bool
    cpu: float
    engine_cpu: float
    streams_a_core: float
    loop_busy: float
    lag_p99_ms: float
    final_p95_ms: float
    broken: int


@dataclass(frozen=True, slots=True)
class _Processes:
    """A server's address and the ids of its processes."""

    url: str
    fronts: list[int]
    engine: list[int]


def measure(manifest: Path, counts: list[int], fronts: int, *, as_json: bool) -> None:
    """Measure and print. With `fronts`, voice activity is on: their processes are those of the installed server."""
    recordings = [one for one in read_manifest(manifest) if one.group != "long"]
    spoken = speeches(recordings, 16, _SECONDS)
    rows = []
    for voice in (True,) if fronts else (True, False):
        with _several(fronts) if fronts else _server(voice=voice) as server:
            rows += [_measured(server, fronts, count, spoken, voice=voice) for count in counts]
    if as_json:
        json.dump([asdict(row) for row in rows], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    table = Table(
        "streams",
        "voice activity",
        "cores",
        "engine process",
        "streams a core",
        "loop busy",
        "lag p99 ms",
        "final p95 ms",
        "broken",
    )
    for row in rows:
        table.add_row(
            str(row.streams), "on" if row.voice else "off", f"{row.cpu:.2f}", f"{row.engine_cpu:.2f}",
            f"{row.streams_a_core:.0f}", f"{row.loop_busy:.2f}", f"{row.lag_p99_ms:.1f}",
            f"{row.final_p95_ms:.0f}", str(row.broken),
        )  # fmt: skip
    Console(width=120).print(table)


def _measured(server: _Processes, fronts: int, count: int, spoken: list[Speech], *, voice: bool) -> FrontFigures:
    before = _cpu_s(server.fronts), _cpu_s(server.engine)
    with multiprocessing.get_context("spawn").Pool(1) as clients:
        heard, busy, lag_s = clients.apply(_speak_all, (server.url, count, spoken))
    cores = (_cpu_s(server.fronts) - before[0]) / _SECONDS
    engine_cores = (_cpu_s(server.engine) - before[1]) / _SECONDS
    finals = [1000 * delay for one in heard for delay in one.finals_s]
    broken = sum(1 for one in heard if one.broken or one.refused)
    p95 = float(np.quantile(finals, 0.95)) if finals else 0.0
    return FrontFigures(fronts, count, voice, cores, engine_cores, count / cores, busy, 1000 * lag_s, p95, broken)


def _cpu_s(pids: list[int]) -> float:
    """Return the CPU time of these processes, without their workers."""
    times = [psutil.Process(pid).cpu_times() for pid in pids]
    return float(sum(each.user + each.system for each in times))


@contextmanager
def _several(fronts: int) -> Iterator[_Processes]:
    flags = ("--fronts", str(fronts), "--lanes", "1", "--final-target-ms", "0")
    with local_server("fake", *flags) as server:
        started = sorted(psutil.Process(server.pid).children(), key=lambda process: process.create_time())
        engine, _files, *others = [process.pid for process in started if "myna.server.child" in process.cmdline()]
        yield _Processes(server.url, others, [engine])


def _speak_all(url: str, count: int, spoken: list[Speech]) -> tuple[list[HeardStream], float, float]:
    import uvloop

    return uvloop.run(_all(url, count, spoken))


async def _all(url: str, count: int, spoken: list[Speech]) -> tuple[list[HeardStream], float, float]:
    async def one(number: int) -> HeardStream:
        await asyncio.sleep(_SPREAD_S * number / count)
        return await speak(spoken[number % len(spoken)], NativeWords(url), None)

    speaking = asyncio.gather(*map(one, range(count)))
    await asyncio.sleep(_SPREAD_S + (_SECONDS - _SPREAD_S) * 0.8)
    busy, lag_s = await asyncio.to_thread(pulse, url)
    return list(await speaking), busy, lag_s


@contextmanager
def _server(*, voice: bool) -> Iterator[_Processes]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, voice))
    process.start()
    try:
        assert process.pid is not None
        yield _Processes(ours.recv(), [process.pid], [])
    finally:
        ours.send(None)
        process.join(30)


def _serve(pipe: Connection, voice: bool) -> None:
    import uvloop

    from myna.server import log as logs
    from myna.server.app import running
    from myna.server.settings import Settings
    from myna.streaming.speech.silero import SileroVad

    if not voice:
        SileroVad.probabilities = lambda _, parts: [[0.0] * (len(pcm) // 1024) for _, pcm in parts]  # type: ignore[method-assign, assignment]

    async def run() -> None:
        logs.configure("error", "console")
        changes: dict[str, Any] = {"port": 0, "model": "fake", "lanes": 1, "final_target_ms": 0, "log_level": "error"}
        async with running(Settings(**changes)) as server:
            pipe.send(server.url)
            await asyncio.to_thread(pipe.recv)

    uvloop.run(run())
