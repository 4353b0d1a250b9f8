"""Runs of one voice inside a window of audio, from the frames of a segmentation model. Pure.

The segmentation model hears up to three voices in a window and tells for each frame which of them speak. Its identities hold
for one window only, and not even there across pauses: two similar voices get one identity. So the unit of everything that
follows is a *run*, an unbroken stretch of one local voice, and each run has an embedding of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from myna.streaming.events import Span, samples

WINDOW = samples(10.0)
"""The longest window, in samples: that of the segmentation model's training."""
HOP = samples(7.0)
"""From one window of a file to the next; a frame is taken from the window in whose middle it lies. On composed conversations
5, 7 and 8 s gave 3.1, 3.0 and 3.3 % of words a wrong speaker. With a window each second, runs would be so short that none had
enough speech for the clustering."""
FRAME, FIELD = 270, 991
"""Samples from one frame of the model to the next, and samples that a frame covers."""
BRIDGED = samples(0.15)
"""A gap inside a run that is bridged."""
LONGEST_RUN = samples(4.0)
"""A longer run is split evenly."""
LEAST_HEARD = samples(0.3)
"""Less speech has no usable embedding."""
_ENOUGH = samples(0.4)
"""Own speech from which a run is embedded without the frames in which others speak, too."""
_BEYOND, _BEFORE, _CONTEXT, _OVERLAP = samples(0.25), samples(0.2), samples(3.0), samples(1.0)
"""Of live speech: audio behind and before it whose voices are heard, too; audio before that in its first window; and what
consecutive windows share."""
LIVE_REACH = _BEFORE + _CONTEXT
"""Audio before live speech that its windows reach back to, in samples."""


@dataclass(frozen=True, slots=True)
class Track:
    """A local voice of one window: its identity holds inside that window only."""

    window: int
    voice: int


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A run before its voice is embedded: its span in the window's samples, and which of its frames to embed."""

    span: Span
    voice: int
    own: int
    """Samples in which nobody else speaks."""
    frames: np.ndarray
    """bool [frames of the run]: whether the voice speaks alone or, if that is too little, whether it speaks."""


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of one voice. `span` counts samples from the start of the channel.

    `embedding` holds the float32 values of a vector of length 1, in native byte order; None if the run is too short to embed.
    """

    span: Span
    own: int
    """Samples in which nobody else speaks."""
    track: Track
    embedding: bytes | None
    heard: int = 0
    """Samples that the embedding was made of."""
    tilt: float = 0.0
    """Mean log energy of 4.3 to 7.6 kHz minus that of 0.5 to 3 kHz: about 0 in wideband speech, -9 on the telephone."""


@dataclass(frozen=True, slots=True)
class WindowPart:
    """What a job for voices asks: the runs of the samples `wanted` of a window that begins at sample `start` of its channel.

    `number` tells the windows of a channel apart.
    """

    number: int
    start: int
    wanted: Span


@dataclass(frozen=True, slots=True)
class Voices:
    """The answer to a job for voices: the runs of its window, in order of time."""

    runs: tuple[Run, ...]


def vectors(runs: Sequence[Run]) -> np.ndarray:
    """Return the embeddings float32 [n, D] of runs that have one."""
    return np.stack([np.frombuffer(run.embedding, np.float32) for run in runs if run.embedding is not None])


def in_order(runs: Iterable[Run]) -> list[Run]:
    """Return the runs in order of time."""
    return sorted(runs, key=lambda run: (run.span.start, run.span.end))


def local_runs(active: np.ndarray, wanted: Span) -> list[LocalRun]:
    """Return the runs of a window, in order of time.

    `active` is bool [frames, voices]; `wanted` are the window's samples whose frames count.
    """
    centres = FIELD / 2 + np.arange(len(active)) * FRAME
    inside = np.flatnonzero((centres >= wanted.start) & (centres < wanted.end))
    if not len(inside):
        return []
    first, last = int(inside[0]), int(inside[-1]) + 1
    alone = active.sum(axis=1) == 1
    found = []
    for voice in range(active.shape[1]):
        for begin, end in _stretches(active[first:last, voice]):
            parts = max(1, math.ceil((end - begin) * FRAME / LONGEST_RUN))
            cuts = np.round(np.linspace(begin, end, parts + 1)).astype(int) + first
            found += [_run(active, alone, voice, int(a), int(b)) for a, b in pairwise(cuts)]
    return sorted(found, key=lambda run: (run.span.start, run.span.end, run.voice))


def file_windows(length: int) -> list[tuple[Span, Span]]:
    """Return the windows of a whole file of `length` samples: each with the samples, from its start, whose frames count."""
    if length <= WINDOW:
        return [(Span(0, length), Span(0, length))]
    starts = range(0, length - WINDOW + HOP, HOP)
    windows = []
    for start in starts:
        end = min(start + WINDOW, length)
        low = 0 if start == 0 else (WINDOW - HOP) // 2
        high = end - start if start == starts[-1] else (WINDOW + HOP) // 2
        windows.append((Span(start, end), Span(low, max(low, high))))
    return windows


def live_windows(speech: Span, received: int, heard: int = 0) -> list[tuple[Span, Span]]:
    """Return the windows of live speech, in order, of which the voices up to sample `heard` are known.

    `received` samples of the channel have been received. The first window reaches back over the audio before the speech,
    since the model hears a voice better in context; speech longer than a window gets several that overlap by a second.
    """
    until = end = min(speech.end + _BEYOND, received)
    begins = max(0, speech.start - _BEFORE, heard)
    windows: list[tuple[Span, Span]] = []
    if begins >= min(speech.end, received):
        return windows
    while True:
        start = max(0, end - WINDOW, begins - _CONTEXT)
        low = max(begins, start + _OVERLAP) if start > begins else begins
        windows.append((Span(start, end), Span(low - start, max(low, until) - start)))
        if low <= begins:
            return windows[::-1]
        until, end = low, min(low + _OVERLAP, end)


def _stretches(speaks: np.ndarray) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(speaks.astype(np.int8), prepend=0, append=0))
    found: list[tuple[int, int]] = []
    for begin, end in edges.reshape(-1, 2).tolist():
        if found and (begin - found[-1][1]) * FRAME <= BRIDGED:
            found[-1] = (found[-1][0], end)
        else:
            found.append((begin, end))
    return found


def _run(active: np.ndarray, alone: np.ndarray, voice: int, begin: int, end: int) -> LocalRun:
    speaks = active[begin:end, voice]
    own = speaks & alone[begin:end]
    start, stop = (max(0, round(FIELD / 2 + (frame - 0.5) * FRAME)) for frame in (begin, end))
    frames = own if own.sum() * FRAME >= _ENOUGH else speaks
    return LocalRun(Span(start, stop), voice, int(own.sum()) * FRAME, frames)
