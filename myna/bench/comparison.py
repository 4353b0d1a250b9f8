"""Compare models on the same recordings: word error rate, CPU time, memory, and how many live streams a machine holds."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import aiohttp
import numpy as np
from rich.console import Console
from rich.table import Table

from myna.bench.accuracy import AccuracyError, HeardRecording, Recording, read_manifest, summary
from myna.bench.processes import ProcessTree
from myna.clients import files
from myna.clients.live import LiveClient, StreamError
from myna.clients.local_server import LocalServerError, local_server
from myna.wire import messages as wire

BUSY = 0.8
"""Share of a machine's cores that live streams may use on average: speakers arrive in bursts."""
STREAMS = 2
"""Live streams that run at once while their cost is measured."""
FLAGS = ("--final-target-ms", "0")
"""No stream is refused because finals would be late: the cost is measured, not the delay."""
PAUSE_S = 0.6
"""Silence between two recordings of a live stream."""


@dataclass(frozen=True, slots=True)
class ModelFigures:
    """One model. The costs are CPU seconds of all server processes for a second of audio; `streams` is reckoned."""

    model: str
    wer_percent: float
    words: int
    file_cost: float
    live_cost: float
    """Of a live stream of speech with short pauses, with interims."""
    finals_cost: float
    """Of the same stream without interims."""
    memory_mb: float
    ready_s: float
    streams: float
    """`BUSY` of the cores, divided by `finals_cost`: finals are served first, and interims get what is left."""


def compare(models: Sequence[str], manifest: Path, groups: Sequence[str], live_s: float, *, as_json: bool) -> None:
    """Measure each model and print the figures. Raises `AccuracyError`."""
    recordings = read_manifest(manifest, groups)
    try:
        rows = [_measured(model, recordings, live_s) for model in models]
    except (LocalServerError, StreamError) as error:
        raise AccuracyError(str(error)) from error
    if as_json:
        json.dump([asdict(row) for row in rows], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    table = Table("model", "WER %", "CPU s: files", "live", "finals", "MB", "ready s", "live streams")
    for row in rows:
        costs = (f"{cost:.3f}" for cost in (row.file_cost, row.live_cost, row.finals_cost))
        rest = f"{row.memory_mb:.0f}", f"{row.ready_s:.1f}", f"{row.streams:.0f}"
        table.add_row(row.model, f"{row.wer_percent:.2f}", *costs, *rest)
    Console().print(table)
    measured = (
        f"{len(recordings)} recordings, {rows[0].words} words, {os.cpu_count()} cores; CPU s for a second of audio"
    )
    Console().print(measured, highlight=False)


def _measured(model: str, recordings: Sequence[Recording], live_s: float) -> ModelFigures:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, local_server(model, "--data", folder, *FLAGS) as server:
        ready_s = time.monotonic() - began
        tree = ProcessTree(server.pid)
        cpu_s = tree.cpu_s()
        heard, audio_s = asyncio.run(_files(server.url, recordings))
        file_cost = (tree.cpu_s() - cpu_s) / audio_s
        live_cost, finals_cost = (
            _live_cost(server.url, tree, recordings, live_s, interims=interims) for interims in (True, False)
        )
        memory = tree.memory_mb()
    report = summary(heard)
    figures = report.get("all") or next(iter(report.values()))
    streams = BUSY * (os.cpu_count() or 1) / finals_cost
    costs = file_cost, live_cost, finals_cost
    return ModelFigures(model, figures["wer_percent"], int(figures["words"]), *costs, memory, ready_s, streams)


def _live_cost(url: str, tree: ProcessTree, recordings: Sequence[Recording], live_s: float, *, interims: bool) -> float:
    if not live_s:
        return float("nan")
    cpu_s = tree.cpu_s()
    streamed_s = asyncio.run(_live(url, recordings, live_s, interims=interims))
    return (tree.cpu_s() - cpu_s) / streamed_s


async def _files(url: str, recordings: Sequence[Recording]) -> tuple[list[HeardRecording], float]:
    """Upload each recording; return what was heard, and the seconds of audio."""
    heard, audio_s = [], 0.0
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for recording in recordings:
            query = "punctuate=true&filler_words=true"
            async with session.post(f"{url}/v1/listen?{query}", data=recording.audio.read_bytes()) as response:
                body = await response.json()
            if response.status != 200:
                raise AccuracyError(f"{recording.audio}: {body.get('err_msg')}")
            best = body["results"]["channels"][0]["alternatives"][0]
            audio_s += body["metadata"]["duration"]
            heard.append(HeardRecording(recording.group, recording.text, best["transcript"], []))
    return heard, audio_s


async def _live(url: str, recordings: Sequence[Recording], live_s: float, *, interims: bool) -> float:
    """Stream speech of this length in real time, `STREAMS` times at once; return the seconds of audio of all streams."""
    pause = np.zeros(round(PAUSE_S * files.RATE), np.int16).tobytes()
    speech = b""
    while len(speech) / 2 / files.RATE < live_s:
        for recording in recordings:
            speech += b"".join(files.chunks(recording.audio)) + pause
            if len(speech) / 2 / files.RATE >= live_s:
                break
    speech = speech[: 2 * round(live_s * files.RATE)]
    await asyncio.gather(*(_stream(url, speech, interims=interims) for _ in range(STREAMS)))
    return STREAMS * len(speech) / 2 / files.RATE


async def _stream(url: str, speech: bytes, *, interims: bool) -> None:
    size = 2 * round(files.RATE * files.CHUNK_S)
    start = wire.StartMessage(encoding="linear16", sample_rate=files.RATE, interim=interims)
    async with LiveClient(start, url) as client:

        async def speak() -> None:
            async for chunk in files.paced((speech[at : at + size] for at in range(0, len(speech), size)), 1.0):
                await client.send(chunk)
            await client.close()

        speaking = asyncio.create_task(speak())
        async for _ in client:
            pass
        await speaking
