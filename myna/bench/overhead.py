"""Measure the overhead of scheduler and engine over the bare model: audio seconds per second, step times, padding."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from myna.bench.accuracy import AccuracyError, read_manifest
from myna.bench.local_engine import local_engine
from myna.clients import files
from myna.inference.engines.port import Engine
from myna.inference.scheduling.scheduler import Scheduler
from myna.inference.workers.ipc import encode
from myna.inference.workers.worker import run_batch
from myna.streaming.events import SAMPLE_RATE
from myna.streaming.session.jobs import InferenceJob, JobKind, Transcript

ROUNDS = 5
"""Rounds in which everything is decoded both ways; the result is the median of their ratios."""
_SHORTEST_S, _LONGEST_S = 2.0, 10.0
_WHEEL_SPEECH = ("two_cities.wav", "beckett.wav", "endgame_nagg_nell.wav")
"""Speech in the `moonshine-voice` wheel, used without a manifest."""


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """One batch size. Speeds are audio seconds decoded in a second.

    The costs are CPU seconds for a second of audio of single decodes: without a draft, and with the tokens of a decode of
    all but the last second as draft, as in a live stream.
    """

    batch: int
    bare: float
    engine: float
    ratio: float
    step_p50_ms: float
    step_p95_ms: float
    padding: float
    cost: float
    drafted_cost: float


def measure(
    model: str | None, batches: Sequence[int], manifest: Path | None, utterances: int, *, as_json: bool
) -> None:
    """Measure and print. Raises `EngineUnavailableError`, `AccuracyError`."""
    speech = _utterances(manifest, utterances)
    engine = local_engine(model, largest_batch=max(batches))()
    bare = _bare(engine)
    engine.warm_up()
    costs = _costs(engine, speech)
    rows = [_measured(engine, bare, speech, batch, costs) for batch in batches]
    if as_json:
        json.dump([asdict(row) for row in rows], sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    table = Table("batch", "bare loop", "engine", "ratio", "step p50 ms", "p95 ms", "padding %", "CPU s", "drafted")
    table.title = engine.info.name
    for row in rows:
        table.add_row(
            str(row.batch), f"{row.bare:.1f}", f"{row.engine:.1f}", f"{row.ratio:.3f}",
            f"{row.step_p50_ms:.0f}", f"{row.step_p95_ms:.0f}", f"{100 * row.padding:.1f}",
            f"{row.cost:.4f}", f"{row.drafted_cost:.4f}",
        )  # fmt: skip
    Console().print(table)


def _measured(
    engine: Engine,
    bare: Callable[[Sequence[bytes]], Any],
    speech: Sequence[bytes],
    batch: int,
    costs: tuple[float, float],
) -> EngineFigures:
    audio_s = sum(len(pcm) for pcm in speech) / 2 / SAMPLE_RATE
    alike = sorted(speech, key=len)  # the least padding a bare loop can have
    parts = [alike[i : i + batch] for i in range(0, len(alike), batch)]
    bare(parts[0])
    bare_s, engine_s, steps = list[float](), list[float](), list[float]()
    padding = 0.0
    for _ in range(ROUNDS):
        bare_steps, engine_steps, padding = _round(engine, bare, speech, parts, batch)
        bare_s.append(sum(bare_steps))
        engine_s.append(sum(engine_steps))
        steps += engine_steps
    return EngineFigures(
        batch=batch,
        bare=audio_s / statistics.median(bare_s),
        engine=audio_s / statistics.median(engine_s),
        ratio=statistics.median(theirs / ours for ours, theirs in zip(engine_s, bare_s, strict=True)),
        step_p50_ms=1000 * statistics.median(steps),
        step_p95_ms=1000 * float(np.quantile(steps, 0.95)),
        padding=padding,
        cost=costs[0],
        drafted_cost=costs[1],
    )


def _costs(engine: Engine, speech: Sequence[bytes]) -> tuple[float, float]:
    """Return `EngineFigures.cost` and `drafted_cost`; the two decodes of an utterance follow each other."""
    spent = [0.0, 0.0]
    for pcm in speech:
        whole = InferenceJob("1", "1", JobKind.FINAL, pcm, 0.0)
        (before,) = engine.transcribe([replace(whole, pcm=pcm[: -2 * SAMPLE_RATE])])
        draft = before.tokens if isinstance(before, Transcript) else ()
        for number, job in enumerate((whole, replace(whole, draft=draft))):
            began = time.process_time()
            engine.transcribe([job])
            spent[number] += time.process_time() - began
    audio_s = sum(map(len, speech)) / 2 / SAMPLE_RATE
    return spent[0] / audio_s, spent[1] / audio_s


def _round(
    engine: Engine,
    bare: Callable[[Sequence[bytes]], Any],
    speech: Sequence[bytes],
    parts: Sequence[Sequence[bytes]],
    batch: int,
) -> tuple[list[float], list[float], float]:
    """Decode everything both ways, alternating batch by batch, so that both have the same noise.

    Returns the seconds of each bare batch and of each of a worker's steps, from the scheduler's choice to the encoded
    results, and the share of padding in the latter.
    """
    scheduler = Scheduler(replace(engine.info, largest_batch=batch))
    for number, pcm in enumerate(speech):
        scheduler.add(InferenceJob(f"{number}", f"{number}", JobKind.FINAL, pcm, float(number)))
    left = list(parts)
    bare_steps, engine_steps, heard, padded = list[float](), list[float](), 0, 0
    while left or len(scheduler):
        if left:
            part, began = left.pop(), time.perf_counter()
            bare(part)
            bare_steps.append(time.perf_counter() - began)
        if len(scheduler):
            began = time.perf_counter()
            jobs = scheduler.schedule()
            for result in run_batch(engine, jobs):
                encode(result)
            engine_steps.append(time.perf_counter() - began)
            heard += sum(job.length for job in jobs)
            padded += len(jobs) * max(job.length for job in jobs)
    return bare_steps, engine_steps, 1 - heard / padded


def _bare(engine: Engine) -> Callable[[Sequence[bytes]], Any]:
    """Return the loop without anything around the model: NeMo's own calls for Parakeet, else the engine's."""
    if type(engine).__module__.startswith("myna.inference.engines.parakeet."):  # other engines need no NeMo
        from myna.bench.bare_nemo import nemo_loop
        from myna.inference.engines.parakeet.engine import ParakeetEngine

        assert isinstance(engine, ParakeetEngine)
        return nemo_loop(engine.path, engine.device, engine.dtype)
    return lambda part: engine.transcribe(
        [InferenceJob(f"{n}", f"{n}", JobKind.FINAL, pcm, 0.0) for n, pcm in enumerate(part)]
    )


def _utterances(manifest: Path | None, count: int) -> list[bytes]:
    """Return int16 utterances of 2 to 10 s, cut from the concatenated recordings of the manifest or of the wheel."""
    if manifest is not None:
        sources = [recording.audio for recording in read_manifest(manifest)]
    else:
        spec = find_spec("moonshine_voice")
        if spec is None or spec.origin is None:
            raise AccuracyError("no speech to measure with: install moonshine-voice==0.1.0 or give --manifest")
        sources = [Path(spec.origin).parent / "assets" / name for name in _WHEEL_SPEECH]
    speech = b"".join(b"".join(files.chunks(source)) for source in sources)
    lengths = np.random.default_rng(1).uniform(_SHORTEST_S, _LONGEST_S, count)
    ends = 2 * np.cumsum((lengths * SAMPLE_RATE).astype(int))
    looped = speech * (int(ends[-1]) // len(speech) + 1)
    return [looped[start:end] for start, end in zip([0, *ends], ends, strict=False)]
