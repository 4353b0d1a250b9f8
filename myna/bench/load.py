"""Measure how many real-time streams a server holds: delays, words, refusals, CPU and memory at rising numbers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import sys
import time
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

import jiwer
import numpy as np
import psutil
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.table import Table

from myna.bench.accuracy import AccuracyError, normalised, read_manifest
from myna.bench.busy_core import busy_core
from myna.bench.load_report import Level, Report
from myna.bench.load_streams import DeepgramWords, HeardStream, NativeWords, Speech, Words, speak, speeches
from myna.clients.local_server import local_server

_SPREAD_S = 3.0
"""Staggered streams start within this time: three interim periods, so that their timers spread out."""
_SETTLE_S = 2.0
"""Pause between two levels, in which the server releases the streams of the last one."""
_ASKED_AGAIN, _ASK_AGAIN_S = 20, 3.0
_TOLD = (0.5, 0.95, 0.99)
"""The quantiles of delays in the report of a level."""
_ONE_BY_ONE = 2
"""Concurrent streams, faster than real time, in the measurement of the words without load."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of a measurement."""

    counts: tuple[int, ...]
    manifest: Path
    seconds: float = 60.0
    url: str | None = None
    dialect: str = "native"
    api_key: str | None = None
    model: str | None = None
    target_ms: int = 700
    staggered: bool = True
    interim_every_s: float = 1.0
    flags: tuple[str, ...] = ()
    """Flags of the server that is started if there is no `url`."""
    speakers: bool = False
    """Whether the streams ask for speakers."""
    beside: bool = False
    """Also measure the plain loop around sherpa-onnx."""
    beside_busy: bool = False
    """Also measure the server while another program keeps one core busy."""


def measure(plan: Plan, report_folder: Path | None, *, as_json: bool) -> None:
    """Measure, print, and write `load.json` and `load.svg` into the folder. Raises `AccuracyError`."""
    console = Console(file=sys.stderr)
    recordings = [one for one in read_manifest(plan.manifest) if one.group != "long"]
    spoken = speeches(recordings, max(plan.counts), plan.seconds)
    reports = _server(plan, spoken, console)
    if plan.beside:
        reports.append(_plain_loop(plan, spoken, console))
    for report in reports:
        report.judge()
    if report_folder is not None:
        from myna.bench.load_picture import draw  # only the picture needs matplotlib

        report_folder.mkdir(parents=True, exist_ok=True)
        (report_folder / "load.json").write_text(json.dumps([asdict(report) for report in reports], indent=1) + "\n")
        draw(reports, report_folder / "load.svg")
    if as_json:
        json.dump([asdict(report) for report in reports], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    for report in reports:
        Console(width=150).print(table(report))


def table(report: Report) -> Table:
    """Return the figures as a table."""
    phase = "staggered" if report.staggered else "in phase"
    shown = Table(
        "streams", "final p50", "p95", "p99", "interim p50", "p95", "p99", "interims/min", "WER %", "alone", "speakers %",
        "refused", "broken", "cores", "MB", "lag p99",
        title=f"{report.what}, {phase}; p95 of finals ≤ {report.target_ms} ms: {report.holds}",
    )  # fmt: skip
    for one in report.levels:
        delays = (
            one.final_p50_ms, one.final_p95_ms, one.final_p99_ms,
            one.interim_p50_ms, one.interim_p95_ms, one.interim_p99_ms,
        )  # fmt: skip
        shown.add_row(
            str(one.streams), *("" if ms is None else f"{ms:.0f}" for ms in delays), f"{one.interims_a_minute:.0f}",
            _shown(one.wer, 2), _shown(one.wer_alone, 2), _shown(one.labelled_percent, 1),
            str(one.refused), str(len(one.broken)), _shown(one.cpu, 2),
            _shown(one.memory_mb, 0), _shown(one.lag_p99_ms, 0),
        )  # fmt: skip
    return shown


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _server(plan: Plan, spoken: Sequence[Speech], console: Console) -> list[Report]:
    words_of = NativeWords if plan.dialect == "native" else DeepgramWords
    with contextlib.ExitStack() as stack:
        pid: int | None = None
        url = plan.url
        if url is None:
            every = ("--interim-every-s", str(plan.interim_every_s), "--final-target-ms", str(plan.target_ms))
            server = stack.enter_context(local_server(plan.model, *every, *plan.flags))
            url, pid = server.url, server.pid
        words = words_of(url, speakers=plan.speakers)
        console.print(f"{max(plan.counts)} streams one by one, to measure their words without load …")
        alone = asyncio.run(_alone(spoken, words, plan))
        reports = []
        for beside in (contextlib.nullcontext(), busy_core()) if plan.beside_busy else (contextlib.nullcontext(),):
            reports.append(Report(plan.url or "Myna", plan.target_ms, plan.staggered, []))
            with beside as core:
                if core is not None:
                    reports[-1].what += f", core {core} busy"
                for count in plan.counts:
                    console.print(f"{reports[-1].what}, {count} streams …")
                    time.sleep(_SETTLE_S)
                    level, heard = _level(count, spoken, words, plan, pid)
                    _judge_words(level, spoken, heard, alone)
                    reports[-1].levels.append(level)
    return reports


async def _alone(spoken: Sequence[Speech], words: Words, plan: Plan) -> list[HeardStream]:
    turns = asyncio.Semaphore(_ONE_BY_ONE)

    async def one(speech: Speech) -> HeardStream:
        async with turns:
            for _ in range(_ASKED_AGAIN):
                heard = await speak(speech, words, plan.api_key, real_time=False)
                if not heard.refused:
                    break
                await asyncio.sleep(_ASK_AGAIN_S)  # the streams run one after the other, so each fits
            return heard

    heard = await asyncio.gather(*map(one, spoken))
    for each in heard:
        if each.refused or each.broken:
            raise AccuracyError(f"a single stream failed: {each.refused or each.broken}")
    return list(heard)


def _level(
    count: int, spoken: Sequence[Speech], words: Words, plan: Plan, pid: int | None
) -> tuple[Level, list[HeardStream]]:
    usage = Usage(pid) if pid is not None else None
    began = time.monotonic()
    heard = asyncio.run(_at_once(spoken[:count], words, plan))
    level = Level(count, broken=[one.broken for one in heard if one.broken])
    if usage is not None:
        level.cpu, level.memory_mb = usage.since(began)
        level.lag_p99_ms = 1000 * pulse(words.url)[1]
    fill_delays(level, heard, plan.seconds)
    if plan.speakers:
        level.labelled_percent = 100 * sum(one.labelled for one in heard) / max(1, sum(one.words for one in heard))
    return level, heard


async def _at_once(spoken: Sequence[Speech], words: Words, plan: Plan) -> list[HeardStream]:
    async def one(number: int, speech: Speech) -> HeardStream:
        if plan.staggered:
            await asyncio.sleep(_SPREAD_S * number / len(spoken))
        return await speak(speech, words, plan.api_key)

    return list(await asyncio.gather(*(one(number, speech) for number, speech in enumerate(spoken))))


def fill_delays(level: Level, heard: Sequence[HeardStream], seconds: float) -> None:
    """Add the results of the streams to the level."""
    level.refused = sum(one.refused is not None for one in heard)
    served = len(heard) - level.refused
    finals = [1000 * delay for one in heard for delay in one.finals_s]
    interims = [1000 * delay for one in heard for delay in one.interims_s]
    if finals:
        level.final_p50_ms, level.final_p95_ms, level.final_p99_ms = np.quantile(finals, _TOLD).tolist()
    if interims:
        level.interim_p50_ms, level.interim_p95_ms, level.interim_p99_ms = np.quantile(interims, _TOLD).tolist()
        level.interims_a_minute = len(interims) / served / (seconds / 60)


def _judge_words(
    level: Level, spoken: Sequence[Speech], heard: Sequence[HeardStream], alone: Sequence[HeardStream]
) -> None:
    served = [number for number, one in enumerate(heard) if not one.refused]
    if served:
        level.wer = wer([spoken[n].text for n in served], [heard[n].text for n in served])
        level.wer_alone = wer([spoken[n].text for n in served], [alone[n].text for n in served])


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Return the word error rate in percent."""
    return 100 * float(jiwer.wer([normalised(text) for text in references], [normalised(text) for text in hypotheses]))


class Usage:
    """CPU and memory of a server and its workers, measured from construction on."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._before = self._cpu_s()

    def since(self, began: float) -> tuple[float, float]:
        """Return the cores used since construction, and the resident memory in MB."""
        took_s = time.monotonic() - began
        memory = sum(process.memory_info().rss for process in self._family())
        return (self._cpu_s() - self._before) / took_s, memory / (1 << 20)

    def _family(self) -> list[psutil.Process]:
        return [self._process, *self._process.children(recursive=True)]

    def _cpu_s(self) -> float:
        times = [process.cpu_times() for process in self._family()]
        return float(sum(each.user + each.system for each in times))


def pulse(url: str) -> tuple[float, float]:
    """Return the share of a core that a server's busiest event loop takes, and the 99 % quantile of the lag in seconds."""
    parts = urlsplit(url)
    with urllib.request.urlopen(f"http://{parts.netloc}/metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(answer.read().decode())}
    lags = families["myna_loop_lag_seconds"].samples
    total = next(sample.value for sample in lags if sample.name.endswith("_count"))
    bounds = [(float(sample.labels["le"]), sample.value) for sample in lags if sample.name.endswith("_bucket")]
    busy = max(sample.value for sample in families["myna_loop_busy"].samples)
    return busy, next(bound for bound, count in bounds if count >= 0.99 * total)


def _plain_loop(plan: Plan, spoken: Sequence[Speech], console: Console) -> Report:
    from myna.bench.plain_loop import run

    levels = []
    context = multiprocessing.get_context("spawn")
    for count in plan.counts:
        console.print(f"sherpa-onnx in a plain loop, {count} streams …")
        with ProcessPoolExecutor(1, context) as process:  # a new process each time, as for the server
            work = process.submit(run, list(spoken[:count]), plan.interim_every_s, plan.staggered, _SPREAD_S)
            try:
                heard, cpu, memory_mb = work.result()
            except BrokenProcessPool as error:
                raise AccuracyError("the process of sherpa-onnx died") from error
        level = Level(count, cpu=cpu, memory_mb=memory_mb)
        fill_delays(level, heard, plan.seconds)
        level.wer = wer([speech.text for speech in spoken[:count]], [one.text for one in heard])
        levels.append(level)
    return Report("sherpa-onnx, plain loop", plan.target_ms, plan.staggered, levels)
