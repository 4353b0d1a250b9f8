"""Measure the cost of live streams in containers against raw ones: CPU and memory of all the server's processes."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table
from websockets.asyncio.client import connect

from myna.clients import files
from myna.clients.live import websocket_url
from myna.clients.local_server import LocalServer, local_server
from myna.streaming.events import SAMPLE_RATE

_FRAME_S = 0.1
_KINDS: dict[str, tuple[str, str, int] | None] = {
    "linear16": None,
    "WebM, Opus": ("webm", "libopus", 48_000),
    "FLAC": ("flac", "flac", SAMPLE_RATE),
    "MP3": ("mp3", "libmp3lame", SAMPLE_RATE),
}


@dataclass(frozen=True, slots=True)
class ContainerFigures:
    """One kind of audio. CPU is in milliseconds for a second of one stream; memory in MB for one stream, above idle."""

    kind: str
    streams: int
    cpu_ms: float
    memory_mb: float


def measure(file: Path, streams: int, seconds: float, model: str | None, *, as_json: bool) -> None:
    """Measure and print. Raises `UnreadableFileError`, `LocalServerError`."""
    pcm = np.frombuffer(b"".join(files.chunks(file)), np.int16)
    pcm = np.resize(pcm, round(seconds * SAMPLE_RATE))
    with local_server(model, "--final-target-ms", "0", "--resume-s", "0") as server:
        asyncio.run(_speak(server, "linear16", pcm[: 2 * SAMPLE_RATE].tobytes(), 2.0, 1, []))  # warm up
        rows = [asyncio.run(_measured(server, kind, pcm, seconds, streams)) for kind in _KINDS]
    if as_json:
        json.dump([asdict(row) for row in rows], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    table = Table("audio", "streams", "CPU ms a second of a stream", "MB a stream")
    for row in rows:
        table.add_row(row.kind, str(row.streams), f"{row.cpu_ms:.2f}", f"{row.memory_mb:.1f}")
    Console(width=100).print(table)


async def _measured(server: LocalServer, kind: str, pcm: np.ndarray, seconds: float, streams: int) -> ContainerFigures:
    how = _KINDS[kind]
    data = pcm.tobytes() if how is None else _contained(pcm, *how)
    before, idle, most = _cpu_s(server), memory(server), list[int]()
    await _speak(server, kind, data, seconds, streams, most)
    cpu_s = _cpu_s(server) - before
    return ContainerFigures(kind, streams, 1000 * cpu_s / (streams * seconds), (max(most) - idle) / (1 << 20) / streams)


async def _speak(server: LocalServer, kind: str, data: bytes, seconds: float, streams: int, taken: list[int]) -> None:
    query = {"model": "nova-3", "interim_results": "true"}
    if kind == "linear16":
        query |= {"encoding": "linear16", "sample_rate": str(SAMPLE_RATE)}
    address = websocket_url(server.url, "/v1/listen", query)
    frames = round(seconds / _FRAME_S)

    async def one() -> None:
        async with connect(address, max_size=None) as socket:
            reading = asyncio.create_task(_read(socket))
            loop = asyncio.get_running_loop()
            began = loop.time()
            for number in range(frames):
                await asyncio.sleep(began + number * _FRAME_S - loop.time())
                begin, end = (len(data) * (number + step) // frames // 2 * 2 for step in (0, 1))
                await socket.send(data[begin:end])
            taken.append(await asyncio.to_thread(memory, server))
            await socket.send('{"type":"CloseStream"}')
            await reading

    await asyncio.gather(*(one() for _ in range(streams)))


async def _read(socket: object) -> None:
    async for _ in socket:  # type: ignore[attr-defined]
        pass


def _processes(server: LocalServer) -> list[psutil.Process]:
    front = psutil.Process(server.pid)
    return [front, *front.children(recursive=True)]


def _cpu_s(server: LocalServer) -> float:
    """Return the CPU time of all processes, including ended ones."""
    total = 0.0
    for process in _processes(server):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def memory(server: LocalServer) -> int:
    """Return the unshared memory of the processes in bytes."""
    total = 0
    for process in _processes(server):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().uss
    return total


def _contained(pcm: np.ndarray, name: str, codec: str, rate: int) -> bytes:
    """Return int16 mono audio at 16 kHz, encoded into a container."""
    file = io.BytesIO()
    with av.open(file, "w", format=name) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        resampler = av.AudioResampler(
            format=stream.codec_context.format,
            layout="mono",
            rate=rate,
            frame_size=stream.codec_context.frame_size or 1024,
        )
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(pcm.reshape(1, -1)), format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()
