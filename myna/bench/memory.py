"""Measure the server's memory while one stream sends hours of audio as fast as the server accepts it."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from myna.clients import files
from myna.clients.live import LiveClient
from myna.clients.local_server import local_server
from myna.wire import messages as wire


def measure(file: Path, minutes: float, model: str | None) -> None:
    """Print the resident memory of front and worker at twelve points. Raises `UnreadableFileError`."""
    table = Table("minutes heard", "wall s", "front MB", "worker MB")
    with local_server(model) as server:
        for heard_min, wall_s, front, worker in asyncio.run(_send(server.url, server.pid, file, minutes)):
            table.add_row(f"{heard_min:.1f}", f"{wall_s:.0f}", f"{front:.1f}", f"{worker:.1f}")
    Console().print(table)


async def _send(url: str, pid: int, file: Path, minutes: float) -> list[tuple[float, float, float, float]]:
    points: list[tuple[float, float, float, float]] = []
    began = time.monotonic()
    async with LiveClient(wire.StartMessage(encoding="linear16", sample_rate=files.RATE), url) as client:
        sending = asyncio.create_task(_feed(client, _repeated(file, minutes)))
        marks = iter([1.0, *(minutes * (step + 1) / 12 for step in range(12))])
        mark = next(marks)
        async for message in client:
            if isinstance(message, wire.FinalMessage) and message.end / 60 >= min(mark, minutes - 0.1):
                worker = sum(resident_mb(child) for child in children(pid))
                points.append((message.end / 60, time.monotonic() - began, resident_mb(pid), worker))
                while mark <= message.end / 60:
                    mark = next(marks, float("inf"))
        await sending
    return points


async def _feed(client: LiveClient, audio: Iterator[bytes]) -> None:
    for chunk in audio:
        await client.send(chunk)
    await client.close()


def _repeated(file: Path, minutes: float) -> Iterator[bytes]:
    recording = list(files.chunks(file))
    return itertools.islice(itertools.cycle(recording), round(minutes * 60 / files.CHUNK_S))


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(line) for line in _run("pgrep", "-P", str(pid)).split()]


def resident_mb(pid: int) -> float:
    """Return a process's resident memory in MB."""
    return int(_run("ps", "-o", "rss=", "-p", str(pid))) / 1024


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
