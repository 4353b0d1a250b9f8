"""Measures a model's cost again: a cost learned while other programs used the cores must not hold for ever."""

from __future__ import annotations

import asyncio

from myna.inference.scheduling.capacity import MEASURED_S
from myna.streaming.events import samples
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobError, JobKind, Outcome

_SOURCE = "measurement"


class Measurement:
    """Decodes silence on all lanes at once, as at load time: busy lanes slow each other down."""

    def __init__(self, engine: EngineInfo, lanes: int, due: float) -> None:
        length_s = min(MEASURED_S, engine.longest_segment_s)
        pcm = bytes(2 * samples(length_s))
        self.jobs = [InferenceJob(f"{_SOURCE}/{lane}", _SOURCE, JobKind.FILE, pcm, due) for lane in range(lanes)]
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = lanes
        self._cost = 0.0
        self._failed = False

    @property
    def cost(self) -> float:
        """Cost of a second of silence on the slowest lane, in seconds; 0 if a job failed: a failure is quick."""
        return 0.0 if self._failed else self._cost

    def on_result(self, job_id: str, outcome: Outcome) -> None:
        """Record the result of one of the jobs."""
        del job_id
        self._failed = self._failed or isinstance(outcome, JobError)
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def step_done(self, audio_s: float, took_s: float) -> None:
        """Record the time that a batch of the jobs took."""
        self._cost = max(self._cost, took_s / audio_s)


def is_measurement(job: InferenceJob) -> bool:
    """Return whether a job belongs to a measurement rather than a client."""
    return job.source == _SOURCE
