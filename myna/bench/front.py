"""Measure the front alone: real-time streams to a server with a free engine, with and without voice activity."""

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

_SPREAD_S = 5.0
_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class FrontFigures:
    """One number of streams. CPU is that of the front's process, in cores; delays are in ms, measured by the client."""

    streams: int
    voice: bool
    cpu: float
    streams_a_core: float
    loop_busy: float
    lag_p99_ms: float
    final_p95_ms: float
    broken: int


def measure(manifest: Path, counts: list[int], *, as_json: bool) -> None:
    """Measure and print."""
    recordings = [one for one in read_manifest(manifest) if one.group != "long"]
    spoken = speeches(recordings, 16, _SECONDS)
    rows = []
    for voice in (True, False):
        with _server(voice=voice) as (url, pid):
            rows += [_measured(url, pid, count, spoken, voice=voice) for count in counts]
    if as_json:
        json.dump([asdict(row) for row in rows], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    table = Table(
        "streams", "voice activity", "cores", "streams a core", "loop busy", "lag p99 ms", "final p95 ms", "broken"
    )
    for row in rows:
        table.add_row(
            str(row.streams), "on" if row.voice else "off", f"{row.cpu:.2f}", f"{row.streams_a_core:.0f}",
            f"{row.loop_busy:.2f}", f"{row.lag_p99_ms:.1f}", f"{row.final_p95_ms:.0f}", str(row.broken),
        )  # fmt: skip
    Console(width=120).print(table)


def _measured(url: str, pid: int, count: int, spoken: list[Speech], *, voice: bool) -> FrontFigures:
    process = psutil.Process(pid)  # without the worker
    before = process.cpu_times()
    with multiprocessing.get_context("spawn").Pool(1) as clients:
        heard, busy, lag_s = clients.apply(_speak_all, (url, count, spoken))
    after = process.cpu_times()
    cores = (after.user + after.system - before.user - before.system) / _SECONDS
    finals = [1000 * delay for one in heard for delay in one.finals_s]
    broken = sum(1 for one in heard if one.broken or one.refused)
    p95 = float(np.quantile(finals, 0.95)) if finals else 0.0
    return FrontFigures(count, voice, cores, count / cores, busy, 1000 * lag_s, p95, broken)


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
def _server(*, voice: bool) -> Iterator[tuple[str, int]]:
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(theirs, voice))
    process.start()
    try:
        assert process.pid is not None
        yield ours.recv(), process.pid
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
