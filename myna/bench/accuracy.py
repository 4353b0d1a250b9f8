"""Word error rate, written form, word times and delays over a manifest of recordings, whole or streamed live."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import jiwer
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from myna.bench.local_engine import local_engine
from myna.bench.written_form import WrittenForm, written_form
from myna.clients import files
from myna.clients.live import LiveClient, StreamError
from myna.clients.local_server import LocalServerError, local_server
from myna.inference.engines.moonshine.kind import MODEL as MOONSHINE
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.session.jobs import InferenceJob, JobKind, Transcript
from myna.wire import messages as wire

WHOLE_FILE_S = 40.0
"""Longer files are not decoded in one piece: the default engine fails on them, and memory grows with the square."""
TAIL_S = 1.5
"""Silence streamed after each file, so that the last utterance ends at its endpoint, as with a microphone."""


class AccuracyError(Exception):
    """The measurement is not possible; the message gives the reason."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A line of the manifest."""

    audio: Path
    text: str
    group: str
    words: tuple[tuple[str, float, float], ...] = ()
    """Aligned words with start and end in seconds, if `alignments.jsonl` beside the manifest has them."""


@dataclass(slots=True)
class HeardRecording:
    """The result of a recording. Delays are in wall seconds; they are meaningless for a stream faster than real time."""

    group: str
    reference: str
    hypothesis: str
    start_errors_s: list[float] = field(default_factory=list)
    first_partial_s: list[float] = field(default_factory=list)
    partial_gap_s: list[float] = field(default_factory=list)
    final_delay_s: list[float] = field(default_factory=list)
    finals: list[str] = field(default_factory=list)
    """The texts of a stream's finals, each with the mark that was told after it."""
    written: WrittenForm = field(default_factory=WrittenForm)


def measure(
    manifest: Path,
    *,
    live: bool,
    url: str | None,
    api_key: str | None,
    speed: float,
    endpointing_ms: int | None,
    groups: Sequence[str],
    model: str | None,
    marks: Literal["told", "held"],
    as_json: bool,
) -> None:
    """Measure and print. Raises `AccuracyError`."""
    recordings = read_manifest(manifest, groups)
    progress = Console(file=sys.stderr)
    heard: list[HeardRecording] = []
    try:
        if not live:
            if url is not None:
                raise AccuracyError("whole files are decoded in this process; --url needs --live")
            whole = _whole(model)
            heard = [h for r in track(recordings, "whole files", console=progress) if (h := whole(r)) is not None]
        else:
            whole = _whole(model) if model or not url else lambda _: None
            with contextlib.ExitStack() as stack:
                address = url or stack.enter_context(local_server(model)).url
                for recording in track(recordings, "live", console=progress):
                    told = asyncio.run(
                        _stream(recording, address, api_key, speed, endpointing_ms, marks, model if url else None)
                    )
                    file = whole(recording)
                    told.written = written_form(told.finals, file.hypothesis if file else None)
                    heard.append(told)
    except (StreamError, EngineUnavailableError, LocalServerError, files.UnreadableFileError) as error:
        raise AccuracyError(str(error)) from error
    report = summary(heard)
    if as_json:
        json.dump({"groups": report, "files": [asdict(h) for h in heard]}, sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        _print(report, timed=live and speed == 1.0)


def read_manifest(manifest: Path, groups: Sequence[str] = ()) -> list[Recording]:
    """Return the manifest's recordings, with word times if available. Raises `AccuracyError`."""
    aligned: dict[str, tuple[tuple[str, float, float], ...]] = {}
    alignments = manifest.parent / "alignments.jsonl"
    try:
        if alignments.is_file():
            for line in alignments.read_text().splitlines():
                entry = json.loads(line)
                aligned[entry["audio"]] = tuple((w["word"], w["start"], w["end"]) for w in entry["words"])
        entries = [json.loads(line) for line in manifest.read_text().splitlines() if line.strip()]
        found = [
            Recording(manifest.parent / e["audio"], e["text"], e.get("group", "all"), aligned.get(e["audio"], ()))
            for e in entries
        ]
    except (OSError, ValueError, KeyError) as error:
        raise AccuracyError(f"{manifest} is not a manifest of JSON lines with audio and text: {error!r}") from error
    found = [recording for recording in found if not groups or recording.group in groups]
    if not found:
        raise AccuracyError(f"{manifest} contains no recording" + (f" of {', '.join(groups)}" if groups else ""))
    return found


def normalised(text: str) -> str:
    """Return the text for comparison: in lower case, with spaces for hyphens, without other punctuation."""
    kept = (
        c if c.isalnum() or c == "'" else " " if c.isspace() or c in "-–—" else ""
        for c in text.lower().replace("’", "'")
    )
    return " ".join("".join(kept).split())


def summary(heard: Sequence[HeardRecording]) -> dict[str, dict[str, float | int]]:
    """Return the figures of each group and of all recordings."""
    groups: dict[str, list[HeardRecording]] = {}
    for one in heard:
        groups.setdefault(one.group, []).append(one)
    if len(groups) > 1:
        groups["all"] = list(heard)
    return {name: _figures(members) for name, members in groups.items()}


def _figures(members: Sequence[HeardRecording]) -> dict[str, float | int]:
    measures = jiwer.process_words(
        [normalised(h.reference) for h in members], [normalised(h.hypothesis) for h in members]
    )
    figures: dict[str, float | int] = {
        "files": len(members),
        "words": measures.hits + measures.substitutions + measures.deletions,
        "wer_percent": round(100 * measures.wer, 2),
        "deletions": measures.deletions,
        "insertions": measures.insertions,
    }
    figures |= sum((h.written for h in members), WrittenForm()).figures()
    starts = [abs(error) for h in members for error in h.start_errors_s]
    if starts:
        figures["start_error_median_ms"] = round(1000 * statistics.median(starts))
        figures["start_error_p90_ms"] = round(1000 * float(np.quantile(starts, 0.9)))
    for name in ("first_partial_s", "partial_gap_s", "final_delay_s"):
        if values := [value for h in members for value in getattr(h, name)]:
            figures[f"{name[:-2]}_median_s"] = round(statistics.median(values), 3)
            figures[f"{name[:-2]}_p95_s"] = round(float(np.quantile(values, 0.95)), 3)
            figures[f"{name[:-2]}_max_s"] = round(max(values), 3)
    return figures


def start_errors(aligned: Sequence[tuple[str, float, float]], words: Sequence[tuple[str, float]]) -> list[float]:
    """Return recognised minus aligned start, in seconds, of every word that both have."""
    known = [normalised(word) for word, _, _ in aligned]
    said = [normalised(word) for word, _ in words]
    blocks = difflib.SequenceMatcher(None, known, said, autojunk=False).get_matching_blocks()
    return [words[b.b + i][1] - aligned[b.a + i][1] for b in blocks for i in range(b.size)]


def _whole(model: str | None) -> Callable[[Recording], HeardRecording | None]:
    """Return a function that decodes a recording in one piece; it returns None for one longer than `WHOLE_FILE_S`."""
    build = local_engine(model)
    own_model = model in (None, MOONSHINE.name, MOONSHINE.engine)
    loaded = build(longest_segment_s=WHOLE_FILE_S) if own_model else build()

    def decode(recording: Recording) -> HeardRecording | None:
        pcm = b"".join(files.chunks(recording.audio))
        if len(pcm) / 2 / files.RATE > WHOLE_FILE_S:
            return None
        (outcome,) = loaded.transcribe([InferenceJob("1", "1", JobKind.FILE, pcm, 0.0)])
        if not isinstance(outcome, Transcript):
            raise AccuracyError(f"{recording.audio}: {outcome}")
        words = [(word.text, word.start) for word in outcome.words]
        return _heard(recording, words)

    return decode


def _heard(recording: Recording, words: Sequence[tuple[str, float]]) -> HeardRecording:
    text = " ".join(word for word, _ in words)
    return HeardRecording(recording.group, recording.text, text, start_errors(recording.words, words))


async def _stream(
    recording: Recording,
    url: str,
    api_key: str | None,
    speed: float,
    endpointing_ms: int | None,
    marks: Literal["told", "held"],
    model: str | None,
) -> HeardRecording:
    start = wire.StartMessage(encoding="linear16", sample_rate=files.RATE, endpointing_ms=endpointing_ms, marks=marks)
    finals: list[wire.FinalMessage] = []
    texts: list[str] = []
    first_partial, gaps, delays = list[float](), list[float](), list[float]()
    async with LiveClient(start, url, model=model, api_key=api_key) as client:
        began = time.monotonic()
        sending = asyncio.create_task(_send(recording.audio, client, speed))
        onset: float | None = None
        last_partial: float | None = None
        async for message in client:
            # The wall time at which a microphone would have recorded this point of the audio.
            now = time.monotonic() - began
            match message:
                case wire.SpeechStartedMessage(time=at):
                    onset, last_partial = at, None
                case wire.PartialMessage():
                    if onset is not None:
                        first_partial.append(now - onset)
                        onset = None
                    if last_partial is not None:
                        gaps.append(now - last_partial)
                    last_partial = now
                case wire.FinalMessage(cause=cause, words=words):
                    finals.append(message)
                    if words:
                        texts.append(message.text)
                    if cause == "endpoint" and words:
                        delays.append(now - message.end)
                    if cause == "endpoint":
                        last_partial = None
                    elif last_partial is not None:
                        last_partial = now  # a final replaces a partial
                case wire.MarkMessage(mark=mark):
                    texts[-1] += mark
        await sending
    heard = _heard(recording, [(word.punctuated_word, word.start) for final in finals for word in final.words])
    heard.finals = texts
    heard.first_partial_s, heard.partial_gap_s, heard.final_delay_s = first_partial, gaps, delays
    return heard


async def _send(audio: Path, client: LiveClient, speed: float) -> None:
    silence = bytes(2 * round(files.RATE * files.CHUNK_S))
    parts = [*files.chunks(audio), *[silence] * round(TAIL_S / files.CHUNK_S)]
    async for chunk in files.paced(iter(parts), speed):
        await client.send(chunk)
    await client.close()


def _print(report: dict[str, dict[str, float | int]], *, timed: bool) -> None:
    table = Table("group")
    columns = list(dict.fromkeys(name for figures in report.values() for name in figures))
    columns = [name for name in columns if timed or not name.endswith("_s")]
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for group, figures in report.items():
        table.add_row(group, *(str(figures.get(name, "")) for name in columns))
    Console(width=220 if timed else 130).print(table)
