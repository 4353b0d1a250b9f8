"""Measure turns: policies swept over the pauses of recordings, or recordings streamed to Flux in real time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import ClientError, ClientSession, WSMsgType
from rich.console import Console
from rich.progress import track
from rich.table import Table

from myna.bench.accuracy import AccuracyError, Recording, read_manifest
from myna.bench.local_engine import local_engine
from myna.bench.pauses import Pause, pauses
from myna.bench.turn_sweep import Outcome, at_threshold, by_silence, operating_points, swept
from myna.clients import files
from myna.clients.local_server import local_server
from myna.streaming.events import samples, seconds
from myna.streaming.speech.segmenter import WINDOW
from myna.streaming.speech.silero import SileroVad, VadMemory

TAIL_S = 6.0
"""Silence streamed after each recording: longer than the time-out, so that every turn ends."""
LEAD_S = 0.3
LONGEST_S = 40.0
"""Longer recordings are not single utterances and are left out."""
SPEECH = 0.5
EARLY_S = 0.05
"""A turn that ends this much before the true end ends inside the utterance; it is the error of alignments."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Thresholds of one run."""

    end: float
    eager: float | None = None

    def __str__(self) -> str:
        return f"{self.end:g}" if self.eager is None else f"{self.end:g}, eager {self.eager:g}"


@dataclass(slots=True)
class EndedTurn:
    """The result of one utterance."""

    audio: str
    false_ends: int
    """Turns that ended inside the utterance."""
    false_eager: int
    delay_s: float | None
    """Time from the end of the last word to the arrival of the turn's end; None: it did not arrive."""
    trigger: str


def sweep(
    manifest: Path, thresholds: Sequence[float], *, groups: Sequence[str], model: str | None, as_json: bool
) -> None:
    """Sweep policies over the pauses of recordings, and print the best within each budget beside silence alone.

    Then print the figures of the thresholds.

    Raises `AccuracyError` and `EngineUnavailableError`.
    """
    recordings = _utterances_of(manifest, groups)
    engine, vad = local_engine(model)(), SileroVad()
    found: list[Pause] = []
    for recording, pcm, end_s in track(recordings, "pauses", console=Console(file=sys.stderr)):
        found += pauses(str(recording.audio), np.frombuffer(pcm, np.int16), end_s, vad, engine)
    points = {"confidence": operating_points(swept(found)), "silence alone": operating_points(by_silence(found))}
    if as_json:
        told = {way: {budget: one and asdict(one) for budget, one in best.items()} for way, best in points.items()}
        fixed = [asdict(at_threshold(found, threshold)) for threshold in thresholds]
        everything = {"points": told, "thresholds": fixed, "pauses": [asdict(pause) for pause in found]}
        json.dump(everything, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    ends = sum(pause.ends for pause in found)
    table = Table("", title=f"{len(found) - ends} pauses inside turns, {ends} ends", title_justify="left")
    for column in ("cut-offs at 300 ms", "at 600 ms", "latency at 5 % cut-offs", "at 10 %"):
        table.add_column(column, justify="right")
    for way, best in points.items():
        table.add_row(way, *(_cell(budget, one) for budget, one in best.items()))
    Console(width=130).print(table)
    table = Table("threshold")
    for column in ("false ends, % of turns", "cut-offs, % of pauses", "delay median ms", "p90 ms"):
        table.add_column(column, justify="right")
    for one in (at_threshold(found, threshold) for threshold in thresholds):
        shares = (f"{100 * share:.1f}" for share in (one.false_ends, one.cutoffs))
        table.add_row(str(one.threshold), *shares, *(f"{1000 * s:.0f}" for s in (one.delay_median_s, one.delay_p90_s)))
    Console(width=130).print(table)


def _cell(budget: str, one: Outcome | None) -> str:
    """Return an operating point as text: its value and its policy."""
    if one is None:
        return "none"
    value = f"{100 * one.cutoffs:.1f} %" if budget.startswith("cutoffs") else f"{1000 * one.latency_s:.0f} ms"
    policy = (
        f"{one.least_s:g} s" if one.threshold is None else f"{one.threshold:g}, {one.least_s:g} s, {one.timeout_s:g} s"
    )
    return f"{value} ({policy})"


def measure(
    manifest: Path,
    settings: Sequence[Setting],
    *,
    url: str | None,
    api_key: str | None,
    groups: Sequence[str],
    model: str | None,
    streams: int,
    as_json: bool,
) -> None:
    """Stream the recordings with each setting and print the figures. Raises `AccuracyError`."""
    recordings = _utterances_of(manifest, groups)
    table = Table("thresholds")
    for column in ("utterances", "false ends %", "delay median ms", "p90 ms", "by time-out", "false eager %"):
        table.add_column(column, justify="right")
    everything: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        address = url or stack.enter_context(local_server(model, "--final-target-ms", "0")).url
        for setting in settings:
            ended = asyncio.run(_run(recordings, setting, address, api_key, streams))
            found = figures(ended)
            everything[str(setting)] = {"figures": found, "utterances": [asdict(one) for one in ended]}
            table.add_row(str(setting), *map(str, found.values()))
    if as_json:
        json.dump(everything, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        Console(width=130).print(table)


def figures(ended: Sequence[EndedTurn]) -> dict[str, float | int]:
    """Return the figures of one run."""
    delays = [one.delay_s for one in ended if one.delay_s is not None]
    return {
        "utterances": len(ended),
        "false_ends_percent": round(100 * sum(one.false_ends > 0 for one in ended) / len(ended), 1),
        "delay_median_ms": round(1000 * statistics.median(delays)) if delays else -1,
        "delay_p90_ms": round(1000 * float(np.quantile(delays, 0.9))) if delays else -1,
        "timeouts": sum(one.trigger == "timeout" for one in ended),
        "false_eager_percent": round(100 * sum(one.false_eager > 0 for one in ended) / len(ended), 1),
    }


def _utterances_of(manifest: Path, groups: Sequence[str]) -> list[tuple[Recording, bytes, float]]:
    recordings = list(utterances(read_manifest(manifest, groups)))
    if not recordings:
        raise AccuracyError(f"{manifest} contains no recording of at most {LONGEST_S:g} s")
    return recordings


def utterances(recordings: Sequence[Recording]) -> Iterator[tuple[Recording, bytes, float]]:
    """Yield each recording that is one utterance, with its audio and its true end in seconds.

    The true end is the end of the last word by its alignment, or, without one, the last speech that voice activity detects.
    """
    vad = SileroVad()
    for recording in recordings:
        pcm = b"".join(files.chunks(recording.audio))
        if len(pcm) > 2 * samples(LONGEST_S):
            continue
        yield recording, pcm, recording.words[-1][2] if recording.words else _last_speech_s(vad, pcm)


def _last_speech_s(vad: SileroVad, pcm: bytes) -> float:
    whole = pcm + bytes(-len(pcm) % (2 * WINDOW))
    (probabilities,) = vad.probabilities([(VadMemory(), whole)])
    speech = np.flatnonzero(np.array(probabilities) >= SPEECH)
    return seconds((int(speech[-1]) + 1) * WINDOW) if len(speech) else 0.0


async def _run(
    recordings: Sequence[tuple[Recording, bytes, float]], setting: Setting, url: str, api_key: str | None, streams: int
) -> list[EndedTurn]:
    waiting = list(reversed(recordings))
    ended: list[EndedTurn] = []

    async def stream_some(session: ClientSession) -> None:
        while waiting:
            ended.append(await _stream(session, waiting.pop(), setting, url, api_key))

    try:
        async with ClientSession() as session:
            await asyncio.gather(*(stream_some(session) for _ in range(streams)))
    except (ClientError, OSError) as error:
        raise AccuracyError(f"the server at {url} failed: {error}") from error
    return ended


async def _stream(
    session: ClientSession, told: tuple[Recording, bytes, float], setting: Setting, url: str, api_key: str | None
) -> EndedTurn:
    recording, pcm, end_s = told
    query = {"model": "flux-general-en", "encoding": "linear16", "sample_rate": str(files.RATE)}
    query |= {"eot_threshold": str(setting.end)}
    if setting.eager is not None:
        query |= {"eager_eot_threshold": str(setting.eager)}
    headers = {"Authorization": f"Token {api_key}"} if api_key else {}
    sound = bytes(2 * samples(LEAD_S)) + pcm + bytes(2 * samples(TAIL_S))
    size = 2 * samples(files.CHUNK_S)
    parts = iter([sound[start : start + size] for start in range(0, len(sound), size)])
    result = EndedTurn(str(recording.audio.name), 0, 0, None, "")
    end_s += LEAD_S
    async with session.ws_connect(f"{url}/v2/listen", params=query, headers=headers) as socket:
        began = time.monotonic()

        async def send() -> None:
            async for part in files.paced(parts, 1.0):
                await socket.send_bytes(part)
            await socket.send_str('{"type":"CloseStream"}')

        sending = asyncio.create_task(send())
        async for message in socket:
            now = time.monotonic() - began
            event = json.loads(message.data) if message.type is WSMsgType.TEXT else {}
            before = now < end_s - EARLY_S
            match event.get("event"):
                case "EndOfTurn" if before:
                    result.false_ends += 1
                case "EagerEndOfTurn" if before:
                    result.false_eager += 1
                case "EndOfTurn" if result.delay_s is None:
                    result.delay_s, result.trigger = now - end_s, event["trigger"]
                    break
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    return result
