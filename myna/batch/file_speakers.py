"""Hears the speakers of a file while its words are decoded, and labels them at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import structlog

from myna.inference.port import ModelPool
from myna.runtime.threads import on_thread
from myna.streaming.session.jobs import InferenceJob, JobError, JobKind, Outcome
from myna.streaming.speakers.labelling import Distances, SpeakerLimits, SpeakerTurn
from myna.streaming.speakers.recording import Recording, SpeakerWindow
from myna.streaming.speakers.runs import Voices

log = structlog.get_logger()

WINDOWS_AHEAD = 4
"""Windows for each lane of the diarizer that may wait to be heard."""


class FileSpeakers:
    """The speakers of one file, each channel by itself. `changed` is called when a window has been heard."""

    def __init__(self, name: str, diarizer: ModelPool, limits: SpeakerLimits, changed: Callable[[], None]) -> None:
        self._name = name
        self._diarizer = diarizer
        self._limits = limits
        self._changed = changed
        self._channels: list[Recording] = []
        self._requested: list[int] = []  # by channel: the sample up to which windows have been requested
        self._open: dict[str, int] = {}  # by job: the first sample that its window decides
        self._failed = 0
        self._distances = Distances(*diarizer.info.voice_distances)

    @property
    def model_uuid(self) -> str:
        """The uuid of the model that hears the speakers."""
        return self._diarizer.info.uuid

    @property
    def waiting(self) -> int:
        """Windows that have not been heard yet."""
        return len(self._open)

    @property
    def heard(self) -> int:
        """The samples from the start of the file that have been heard for speakers, on every channel."""
        return min([*self._requested, *self._open.values()], default=0)

    def push(self, channels: Sequence[bytes]) -> None:
        """Take the next int16 samples of each channel."""
        while len(self._channels) < len(channels):
            self._channels.append(Recording())
            self._requested.append(0)
        for number, pcm in enumerate(channels):
            self._hear(number, self._channels[number].push(pcm))

    def end(self) -> None:
        """Take note that no audio follows."""
        for number, recording in enumerate(self._channels):
            self._hear(number, recording.end())

    async def turns(self) -> list[list[SpeakerTurn]]:
        """Return who spoke when, for each channel, once every window has been heard."""
        if self._failed:
            log.error("windows of a file could not be heard for speakers", failed=self._failed)
        return [await on_thread(partial(channel.turns, self._distances, self._limits)) for channel in self._channels]

    async def known(self, turns: Sequence[Sequence[SpeakerTurn]], voices: Sequence[np.ndarray]) -> list[dict[int, int]]:
        """Return for each channel, with these turns, speaker → index of its voice among these."""
        return [
            await on_thread(partial(channel.known, spoken, voices, self._distances))
            for channel, spoken in zip(self._channels, turns, strict=True)
        ]

    async def main_voice(self) -> np.ndarray | None:
        """Return the voice with the most speech in the first channel, float32 [D]; None if less than a second is speech."""
        return await on_thread(partial(self._channels[0].main_voice, self._distances))

    def close(self) -> None:
        """Cancel what has not been heard."""
        for job_id in self._open:
            self._diarizer.cancel(job_id)
        self._open.clear()

    def _hear(self, channel: int, windows: Sequence[SpeakerWindow]) -> None:
        for window in windows:
            job_id = f"{self._name}/voices/{channel}/{window.part.number}"
            start, wanted = window.part.start, window.part.wanted
            self._open[job_id] = start + wanted.start
            self._requested[channel] = start + wanted.end
            job = InferenceJob(job_id, job_id, JobKind.FILE, window.pcm, time.monotonic(), window=window.part)
            self._diarizer.submit(job, partial(self._heard, channel))

    def _heard(self, channel: int, job_id: str, outcome: Outcome) -> None:
        self._open.pop(job_id, None)
        if isinstance(outcome, Voices):
            self._channels[channel].hear(outcome.runs)
        else:
            self._failed += 1
            reason = outcome.reason if isinstance(outcome, JobError) else type(outcome).__name__
            log.warning("a window could not be heard for speakers", job=job_id, reason=reason)
        self._changed()
