"""The batches that a model's lanes are decoding."""

from __future__ import annotations

import time
from dataclasses import dataclass

from myna.inference.workers.measurement import is_measurement
from myna.runtime.deadlines import Clock
from myna.streaming.events import seconds
from myna.streaming.session.jobs import InferenceJob, JobKind


@dataclass(frozen=True, slots=True)
class Step:
    """A decoded batch, for statistics. `late_s`: for each result, how long after its job's due time it came."""

    kind: JobKind
    jobs: int
    audio_s: float
    took_s: float
    waited_s: float
    late_s: tuple[float, ...]


class RunningBatch:
    """A batch between its assignment to a lane and its last result. `open` holds the jobs without a result, by id."""

    def __init__(self, jobs: tuple[InferenceJob, ...], began: float) -> None:
        self.open = {job.id: job for job in jobs}
        self.audio_s = sum(seconds(job.work) for job in jobs)
        self.due = min(job.due for job in jobs)
        self.final = jobs[0].kind is JobKind.FINAL
        self.measures = all(map(is_measurement, jobs))
        """Whether the jobs belong to a measurement."""
        self.began = began
        """When the batch was assigned, on the front's clock."""
        self.late_s: list[float] = []
        self._count = len(jobs)
        self._waited_s = max(0.0, time.monotonic() - self.due)

    def step(self, kind: JobKind, took_s: float) -> Step:
        """Return the statistics of the batch, now that it is decoded."""
        return Step(kind, self._count, self.audio_s, took_s, self._waited_s, tuple(self.late_s))


class RunningBatches:
    """At most one batch for each lane of each worker."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._batches: dict[tuple[int, int], RunningBatch] = {}

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def finals(self) -> int:
        """Number of lanes that decode finals."""
        return sum(batch.final for batch in self._batches.values())

    def start(self, worker: int, lane: int, jobs: tuple[InferenceJob, ...]) -> None:
        """Record that a lane has been assigned a batch."""
        self._batches[worker, lane] = RunningBatch(jobs, self._clock())

    def done(self, worker: int, job_id: str) -> tuple[InferenceJob, RunningBatch] | None:
        """Record a job's result; return the job and its batch, which is finished if no job of it is left open."""
        for place, batch in self._batches.items():
            if place[0] == worker and (job := batch.open.pop(job_id, None)):
                if not batch.open:
                    del self._batches[place]
                return job, batch
        return None

    def lost(self, worker: int) -> int:
        """Drop the batches of a worker that died; return the number of jobs without a result."""
        gone = {place: batch for place, batch in self._batches.items() if place[0] == worker}
        self._batches = {place: batch for place, batch in self._batches.items() if place[0] != worker}
        return sum(len(batch.open) for batch in gone.values())

    def busy_s(self, worker: int, lane: int, reported_s: float, now: float) -> tuple[float, RunningBatch] | None:
        """Return how long a lane has been at its batch; None if it has none.

        The worker's report may still be about the lane's previous batch, so the time since the assignment bounds it.
        """
        batch = self._batches.get((worker, lane))
        return None if batch is None else (min(reported_s, now - batch.began), batch)
