"""Measure files: speed against the bare engine, memory, accuracy, and the finals of a concurrent live stream."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import av
import numpy as np
from rich.console import Console
from rich.table import Table

from myna.bench.accuracy import AccuracyError, HeardRecording, Recording, read_manifest, start_errors, summary
from myna.bench.local_engine import local_engine
from myna.bench.memory import children, resident_mb
from myna.clients import files
from myna.clients.live import LiveClient
from myna.clients.local_server import local_server
from myna.inference.engines.port import Engine
from myna.streaming.events import SAMPLE_RATE
from myna.streaming.session.jobs import InferenceJob, JobKind
from myna.wire import messages as wire

PIECE_S = 12.0
"""Length of the consecutive pieces for the bare engine, without a search for pauses, context or joining."""
_engine: Engine | None = None


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """One file: its minutes, the seconds it took, audio seconds a second, their share of the bare engine's, MB."""

    minutes: float
    seconds: float
    speed: float
    share: float
    idle_mb: float
    peak_mb: float
    final_p95_s: float | None
    """Delays of the finals of a concurrent live stream after their endpoint's audio."""


def measure(
    manifest: Path, minutes: Sequence[float], model: str | None, *, live: bool, accuracy: bool, as_json: bool
) -> None:
    """Measure and print. Raises `AccuracyError`."""
    recordings = read_manifest(manifest)
    speech = np.concatenate([_pcm(recording) for recording in recordings])
    bare = _bare_speed(speech[: round(min(*minutes, 10.0) * 60 * SAMPLE_RATE) or None], model)
    rows, report = [], {}
    with tempfile.TemporaryDirectory() as folder, local_server(model, "--data", folder) as server:
        for length in minutes:
            path = Path(folder) / "long.flac"
            _write(speech, length, path)
            spoken = _pcm(recordings[0]) if live else None
            rows.append(asyncio.run(_measured(server.url, server.pid, path, length, bare, spoken)))
        if accuracy:
            report = summary(asyncio.run(_heard(server.url, recordings)))
    if as_json:
        json.dump(
            {"bare_speed": bare, "files": [asdict(row) for row in rows], "accuracy": report}, sys.stdout, indent=1
        )
        sys.stdout.write("\n")
        return
    table = Table("minutes", "seconds", "× real time", "share of bare", "idle MB", "peak MB", "live finals p95 s")
    for row in rows:
        final = "" if row.final_p95_s is None else f"{row.final_p95_s:.2f}"
        table.add_row(
            f"{row.minutes:g}", f"{row.seconds:.1f}", f"{row.speed:.1f}", f"{row.share:.2f}", f"{row.idle_mb:.0f}",
            f"{row.peak_mb:.0f}", final,
        )  # fmt: skip
    Console().print(f"bare engine: {bare:.1f} × real time on {os.cpu_count()} cores")
    Console().print(table)
    for group, figures in report.items():
        Console().print(f"{group}: {figures['wer_percent']} % of {figures['words']} words wrong")


async def _measured(
    url: str, pid: int, path: Path, minutes: float, bare: float, spoken: np.ndarray | None
) -> BatchFigures:
    pids = [pid, *children(pid)]
    idle = sum(map(resident_mb, pids))
    watch = _Watch(pids)
    live = asyncio.create_task(_live(url, spoken)) if spoken is not None else None
    await asyncio.sleep(0)
    began = time.monotonic()
    with watch:
        await _post(url, path)
    seconds = time.monotonic() - began
    delays: list[float] = []
    if live is not None:
        live.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            delays = await live
    p95 = sorted(delays)[int(0.95 * len(delays))] if delays else None
    speed = minutes * 60 / seconds
    return BatchFigures(minutes, seconds, speed, speed / bare, idle, watch.peak, p95)


class _Watch(contextlib.AbstractContextManager["_Watch"]):
    """The peak memory of a set of processes, sampled twice a second."""

    def __init__(self, pids: list[int]) -> None:
        self.peak = 0.0
        self._pids = pids
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.peak = max(self.peak, sum(map(resident_mb, self._pids)))
            if self._over.wait(0.5):
                return


async def _post(url: str, path: Path, query: str = "punctuate=true&filler_words=true") -> dict[str, object]:
    timeout = aiohttp.ClientTimeout(total=None)
    address = f"{url}/v1/listen?{query}"
    with path.open("rb") as file:
        async with aiohttp.ClientSession(timeout=timeout) as session, session.post(address, data=file) as response:
            body: dict[str, object] = await response.json()
            if response.status != 200:
                raise AccuracyError(f"{path}: {body.get('err_msg')}")
            return body


async def _live(url: str, spoken: np.ndarray) -> list[float]:
    """Stream in real time until cancelled; return the delay of each final after its endpoint's audio was sent."""
    delays: list[float] = []
    data = np.concatenate([spoken, np.zeros(SAMPLE_RATE, np.int16)]).tobytes()
    size = SAMPLE_RATE // 10 * 2
    async with LiveClient(wire.StartMessage(encoding="linear16", sample_rate=SAMPLE_RATE, interim=True), url) as client:
        began = time.monotonic()

        async def speak() -> None:
            for number in itertools.count(1):
                start = (number - 1) * size % (len(data) - size)
                await client.send(data[start : start + size])
                await asyncio.sleep(max(0.0, began + number / 10 - time.monotonic()))

        speaking = asyncio.create_task(speak())
        try:
            async for message in client:
                if isinstance(message, wire.FinalMessage) and message.cause == "endpoint":
                    late_s = time.monotonic() - began - message.end
                    delays.append(late_s)
        except asyncio.CancelledError:
            pass
        finally:
            speaking.cancel()
    return delays


async def _heard(url: str, recordings: Sequence[Recording]) -> list[HeardRecording]:
    found = []
    for recording in recordings:
        body = await _post(url, recording.audio)
        best = body["results"]["channels"][0]["alternatives"][0]  # type: ignore[index]
        words = [(word["punctuated_word"], word["start"]) for word in best["words"]]
        errors = start_errors(recording.words, words)
        found.append(HeardRecording(recording.group, recording.text, best["transcript"], errors))
    return found


def _bare_speed(speech: np.ndarray, model: str | None) -> float:
    """Return the audio seconds decoded in a second by bare engines, one for each core."""
    size = round(PIECE_S * SAMPLE_RATE)
    pieces = [speech[start : start + size].tobytes() for start in range(0, len(speech), size)]
    lanes = os.cpu_count() or 1
    with multiprocessing.get_context("spawn").Pool(lanes, _load, (model,)) as pool:
        pool.map(_decode, pieces[: 2 * lanes], chunksize=1)  # load and warm up the engines
        began = time.monotonic()
        pool.map(_decode, pieces, chunksize=1)
        seconds = time.monotonic() - began
    return len(speech) / SAMPLE_RATE / seconds


def _load(model: str | None) -> None:
    global _engine
    _engine = local_engine(model)()


def _decode(pcm: bytes) -> None:
    assert _engine is not None
    _engine.transcribe([InferenceJob("1", "1", JobKind.FILE, pcm, 0.0)])


def _pcm(recording: Recording) -> np.ndarray:
    return np.frombuffer(b"".join(files.chunks(recording.audio)), np.int16)


def _write(speech: np.ndarray, minutes: float, path: Path) -> None:
    """Write this many minutes of the speech, repeated, as FLAC."""
    left = round(minutes * 60 * SAMPLE_RATE)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        for piece in _pieces(speech, left):
            frame = av.AudioFrame.from_ndarray(piece[None], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))


def _pieces(speech: np.ndarray, left: int) -> Iterator[np.ndarray]:
    while left > 0:
        for start in range(0, len(speech), 4096):
            piece = speech[start : min(start + 4096, start + left, len(speech))]
            if not len(piece):
                return
            left -= len(piece)
            yield np.ascontiguousarray(piece)
