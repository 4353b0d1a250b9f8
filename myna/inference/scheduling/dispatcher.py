"""Assigns jobs to workers, and reassigns the jobs of workers that die. Pure: no clock, process or socket.

Jobs wait here and not at the workers. The first free lane takes the most urgent job, cancelled audio is never sent, and the
jobs of a worker that dies are known exactly; another worker decodes them again. A job that is running when several workers
die is then run alone, so that it takes no other job down with it, and finally fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from myna.inference.scheduling.scheduler import Scheduler
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobKind

ALONE_FROM = 2.0
"""From this much blame on, a job runs alone."""
FAILS_FROM = 3.0
"""At this much blame, a job fails; it ran alone at the last death."""
BLAME = 1.0
"""Blame that each job running at a worker's death receives: any of them may be the cause."""
KILLED_BLAME = 0.2
"""The same for a worker killed from outside. The job is seldom the reason, but the system also kills processes that take too
much memory: at this rate, a job that is present each time runs alone from the 10th kill on and fails at the 15th."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A batch of jobs for one lane of one worker."""

    worker: int
    lane: int
    jobs: tuple[InferenceJob, ...]


class Death(NamedTuple):
    """The jobs of a worker that died which are not decoded again.

    `failed` have too much blame; `superseded` are interims for which a newer one of their channel waits.
    """

    failed: list[InferenceJob]
    superseded: list[InferenceJob]


class Dispatcher:
    """The queue of one model and the assignment of its jobs to lanes.

    Steps of a followed utterance go to the worker that holds its state; all other jobs go to any free lane.
    """

    def __init__(self, engine: EngineInfo) -> None:
        self._engine = engine
        self._shared = Scheduler(engine)
        self._own: dict[int, Scheduler] = {}  # by worker: steps of the utterances it follows
        self._homes: dict[str, int] = {}  # source → the worker that follows its utterance
        self._lanes: dict[int, list[dict[str, InferenceJob]]] = {}  # by worker: each lane's running jobs, by id
        self._blame: dict[str, float] = {}
        self._came: dict[str, int] = {}  # by waiting or running job: its number in order of submission
        self._count = 0
        self._unwanted: set[str] = set()  # running, but cancelled
        self._suspects: deque[InferenceJob] = deque()
        self.withheld = False
        """Whether the last assignment left a lane free and a batch waiting."""
        self._reserved: int | None = None
        """The worker that runs a suspect alone, or finishes its batches before it does so."""

    @property
    def waiting(self) -> int:
        """Number of jobs not yet assigned."""
        return len(self._shared) + sum(map(len, self._own.values())) + len(self._suspects)

    @property
    def under_way(self) -> int:
        """Number of busy lanes."""
        return sum(map(self._busy, self._lanes))

    def oldest(self, kind: JobKind) -> float | None:
        """Return the earliest due time of the waiting jobs of this kind; None if none waits."""
        dues = [due for scheduler in self._schedulers() if (due := scheduler.oldest(kind)) is not None]
        dues += [job.due for job in self._suspects if job.kind is kind]
        return min(dues, default=None)

    def up(self, worker: int, lanes: int) -> None:
        """Add a worker with this many lanes."""
        self._lanes[worker] = [{} for _ in range(lanes)]
        self._own.setdefault(worker, Scheduler(self._engine))
        for gone in [home for home in self._own if home not in self._lanes]:
            self._rehome(gone)

    def down(self, worker: int, blame: float) -> Death:
        """Remove a worker that died; each of its running jobs receives this much blame."""
        death = Death([], [])
        lanes = self._lanes.pop(worker, [])
        if blame < BLAME:
            self._exonerate({job_id for lane in lanes for job_id in lane}, blame)
        for lane in lanes:
            for job in lane.values():
                if job.id in self._unwanted:
                    self._unwanted.remove(job.id)
                    continue
                self._blame[job.id] = self._blame.get(job.id, 0.0) + blame
                if self._blame[job.id] >= FAILS_FROM - 1e-9:
                    self._forget(job.id)
                    death.failed.append(job)
                elif older := self._enqueue(job):
                    death.superseded.append(older)
        if worker == self._reserved:
            self._reserved = None
        self._rehome(worker)
        return death

    def submit(self, job: InferenceJob) -> InferenceJob | None:
        """Add a job; return the older interim of its channel that it replaces, if any."""
        self._count += 1
        self._came[job.id] = self._count
        return self._enqueue(job)

    def cancel(self, job_id: str) -> None:
        """Remove a waiting job, or mark a running one as unwanted."""
        self._forget(job_id)
        if any(scheduler.cancel(job_id) for scheduler in self._schedulers()):
            return
        if any(job_id in lane for lanes in self._lanes.values() for lane in lanes):
            self._unwanted.add(job_id)
        self._suspects = deque(job for job in self._suspects if job.id != job_id)

    def release(self, source: str) -> int | None:
        """End this channel's utterance; return the worker that holds its state, if any, so that it can be told."""
        home = self._homes.pop(source, None)
        return home if home in self._lanes else None

    def done(self, worker: int, job_id: str) -> None:
        """Record that a worker has returned a job's result."""
        self._forget(job_id)
        self._unwanted.discard(job_id)
        for lane in self._lanes.get(worker, ()):
            if lane.pop(job_id, None) and worker == self._reserved and not self._busy(worker):
                self._reserved = None

    def assign(self, spare: int | None = None) -> list[Assignment]:
        """Assign batches to the free lanes; the jobs count as running from now on.

        `spare` is how many batches other than finals may start (None: any number); `withheld` tells whether more wait.
        """
        assignments = self._assign_suspect()
        self.withheld = False
        for worker in sorted(self._lanes):
            for number, lane in enumerate(self._lanes[worker]):
                if worker == self._reserved or lane:
                    continue
                scheduler = self._most_urgent(worker)
                head = scheduler.head()
                if spare is not None and head is not None and head[0] is not JobKind.FINAL:
                    if spare <= 0:
                        self.withheld = True
                        continue
                    spare -= 1
                if batch := scheduler.schedule():
                    lane.update((job.id, job) for job in batch)
                    assignments.append(Assignment(worker, number, tuple(batch)))
        return assignments

    def _scheduler_of(self, job: InferenceJob) -> Scheduler:
        if not job.utterance:
            return self._shared
        home = self._homes.get(job.source)
        if home is None:
            home = self._homes[job.source] = self._least_followed()
        return self._own.setdefault(home, Scheduler(self._engine))

    def _enqueue(self, job: InferenceJob) -> InferenceJob | None:
        """Queue a job, new or from a worker that died; return the interim that is replaced by a newer one, if any.

        The newer interim covers the same speech and inherits the blame.
        """
        other = self._waiting_interim(job)
        older, newer = other, job
        if other is not None and self._came[other.id] > self._came[job.id]:
            older, newer = job, other
        if older is not None:
            if blame := self._blame.get(older.id):
                self._blame[newer.id] = max(blame, self._blame.get(newer.id, 0.0))
            self._forget(older.id)
        if self._blame.get(newer.id, 0.0) >= ALONE_FROM - 1e-9:
            self._isolate(newer, other)
        elif newer is job:
            self._scheduler_of(job).add(job)
        return older

    def _waiting_interim(self, job: InferenceJob) -> InferenceJob | None:
        """Return the waiting interim of this interim's channel, if any."""
        if job.kind is not JobKind.INTERIM:
            return None
        suspect = (other for other in self._suspects if other.kind is JobKind.INTERIM and other.source == job.source)
        return next(suspect, None) or self._scheduler_of(job).interim_of(job.source)

    def _isolate(self, job: InferenceJob, other: InferenceJob | None) -> None:
        """Queue a job to run alone, in place of the waiting interim of its channel, if any."""
        if other is not None and other in self._suspects:
            self._suspects[self._suspects.index(other)] = job
            return
        if other is not None:
            self._scheduler_of(other).cancel(other.id)
        self._suspects.append(job)

    def _forget(self, job_id: str) -> None:
        self._blame.pop(job_id, None)
        self._came.pop(job_id, None)

    def _assign_suspect(self) -> list[Assignment]:
        if not self._suspects or not self._lanes:
            return []
        if self._reserved is None:
            self._reserved = min(self._lanes, key=self._busy)
        if self._busy(self._reserved):
            return []
        job = self._suspects.popleft()
        self._lanes[self._reserved][0][job.id] = job
        return [Assignment(self._reserved, 0, (job,))]

    def _busy(self, worker: int) -> int:
        """Return the number of the worker's busy lanes."""
        return sum(map(bool, self._lanes[worker]))

    def _most_urgent(self, worker: int) -> Scheduler:
        shared, own = self._shared.head(), self._own[worker].head()
        return self._own[worker] if own is not None and (shared is None or own < shared) else self._shared

    def _least_followed(self) -> int:
        """Return the worker that follows the fewest utterances; one that is up, if any is."""
        followed = list(self._homes.values())
        return min(self._lanes or (0,), key=followed.count)

    def _exonerate(self, present: set[str], blame: float) -> None:
        """Reduce the blame of jobs that were not running when a worker was killed: earlier deaths may be kills, too."""
        for job_id in self._blame.keys() - present:
            self._blame[job_id] = max(0.0, self._blame[job_id] - blame)

    def _rehome(self, gone: int) -> None:
        """Move the utterances of a worker that died to others, which ask for the missing audio."""
        self._homes = {source: home for source, home in self._homes.items() if home != gone}
        orphans = self._own.pop(gone, None)
        for job in orphans.drain() if orphans else ():
            self._enqueue(job)

    def _schedulers(self) -> Iterator[Scheduler]:
        yield self._shared
        yield from self._own.values()
