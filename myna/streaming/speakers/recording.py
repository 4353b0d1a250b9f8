"""The speakers of one channel of a file: windows of audio go out, their runs come in, all are labelled at the end. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from myna.streaming.events import Span
from myna.streaming.speakers.known import matched, voice_of
from myna.streaming.speakers.labelling import Distances, SpeakerLimits, SpeakerTurn, label_all
from myna.streaming.speakers.runs import HOP, WINDOW, Run, WindowPart, file_windows

_BYTES = 2
"""Bytes of a sample."""


@dataclass(frozen=True, slots=True)
class SpeakerWindow:
    """Audio to hear for voices: int16 samples, and the part of them that counts."""

    pcm: bytes
    part: WindowPart


class Recording:
    """Cuts a channel's audio into windows as it arrives; keeps at most one window of audio, and the runs."""

    def __init__(self) -> None:
        self._pcm = bytearray()
        self._start = 0  # the sample at which `_pcm` begins, always that of the next window
        self._windows = 0
        self._runs: list[Run] = []

    @property
    def received(self) -> int:
        """Samples received so far."""
        return self._start + len(self._pcm) // _BYTES

    def push(self, pcm: bytes) -> list[SpeakerWindow]:
        """Take the next int16 samples; return the windows that are complete and are not the last."""
        self._pcm += pcm
        found = []
        while len(self._pcm) > _BYTES * WINDOW:
            (_, first), (_, middle) = file_windows(WINDOW + HOP + 1)[:2]
            found.append(self._window(WINDOW, middle if self._windows else first))
            del self._pcm[: _BYTES * HOP]
            self._start += HOP
        return found

    def end(self) -> list[SpeakerWindow]:
        """Return the last window, if there is audio."""
        length = len(self._pcm) // _BYTES
        low = (WINDOW - HOP) // 2 if self._windows else 0
        return [self._window(length, Span(low, length))] if length > low else []

    def hear(self, runs: Sequence[Run]) -> None:
        """Take the runs of a window, in any order of windows."""
        self._runs += runs

    def turns(self, distances: Distances, limits: SpeakerLimits) -> list[SpeakerTurn]:
        """Return who spoke when. This takes a second of CPU time for some hours of speech."""
        return label_all(self._runs, distances, limits)

    def known(self, turns: Sequence[SpeakerTurn], voices: Sequence[np.ndarray], distances: Distances) -> dict[int, int]:
        """Return speaker → index of its voice among these, for those of the speakers of `turns` that have one."""
        return matched(self._runs, turns, voices, distances)

    def main_voice(self, distances: Distances) -> np.ndarray | None:
        """Return the voice with the most speech, float32 [D]; None if less than a second is speech."""
        return voice_of(self._runs, distances)

    def _window(self, length: int, wanted: Span) -> SpeakerWindow:
        window = SpeakerWindow(bytes(self._pcm[: _BYTES * length]), WindowPart(self._windows, self._start, wanted))
        self._windows += 1
        return window
