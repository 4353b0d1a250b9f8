"""Which worker decodes what, and what becomes of it when a worker dies. Pure: no clock, process or socket.

Jobs wait here and not at the workers: whichever lane is free first takes what is most urgent, audio that is no longer
wanted never travels, and when a worker dies it is known exactly which jobs it was at. Those are decoded again by another.
A job that was under way at one death after another runs alone, so that it can take no other with it, and then fails by
itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from myna.inference.scheduling.scheduler import Scheduler
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobKind

ALONE_FROM = 2.0
"""A job under way at so many deaths runs alone from then on."""
FAILS_FROM = 3.0
"""A job under way at so many deaths, the last one alone, has failed."""
BLAME = 1.0
"""How much of a death a job under way is blamed for: it may well be the cause."""
KILLED_BLAME = 0.2
"""The same where the worker was killed from outside. Whoever did it, the job seldom is the reason, yet the system also kills
what takes too much memory; at this rate a job that is always there when that happens runs alone from the tenth time on and
fails at the fifteenth."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """These jobs, one batch, are for this lane of this worker."""

    worker: int
    lane: int
    jobs: tuple[InferenceJob, ...]


class Death(NamedTuple):
    """What becomes of the jobs under way at a worker's death, where they are not decoded again.

    `superseded` are interims for which a newer one of their channel waits.
    """

    failed: list[InferenceJob]
    superseded: list[InferenceJob]


class Dispatcher:
    """The jobs of one model and the workers that share them.

    Where the engine follows utterances, the steps of one stay with the worker that holds it; everything else goes wherever
    a lane is free.
    """

    def __init__(self, engine: EngineInfo) -> None:
        self._engine = engine
        self._shared = Scheduler(engine)
        self._own: dict[int, Scheduler] = {}  # by worker: steps of the utterances it follows
        self._homes: dict[str, int] = {}  # source → the worker that follows its utterance
        self._lanes: dict[int, list[dict[str, InferenceJob]]] = {}  # by worker: what each lane is at, by id
        self._blame: dict[str, float] = {}
        self._came: dict[str, int] = {}  # by job that waits or is under way: its number in the order they came
        self._count = 0
        self._unwanted: set[str] = set()  # under way, but cancelled
        self._suspects: deque[InferenceJob] = deque()
        self._reserved: int | None = None
        """The worker that is being emptied for a suspect, or is at one."""

    @property
    def waiting(self) -> int:
        """How many jobs no lane has taken yet."""
        return len(self._shared) + sum(map(len, self._own.values())) + len(self._suspects)

    @property
    def under_way(self) -> int:
        """How many lanes are busy."""
        return sum(map(self._busy, self._lanes))

    def oldest(self, kind: JobKind) -> float | None:
        """Return when the job of this kind that waits longest was due; None if none waits."""
        dues = [due for scheduler in self._schedulers() if (due := scheduler.oldest(kind)) is not None]
        dues += [job.due for job in self._suspects if job.kind is kind]
        return min(dues, default=None)

    def up(self, worker: int, lanes: int) -> None:
        """Count on a worker with so many lanes."""
        self._lanes[worker] = [{} for _ in range(lanes)]
        self._own.setdefault(worker, Scheduler(self._engine))
        for gone in [home for home in self._own if home not in self._lanes]:
            self._rehome(gone)

    def down(self, worker: int, blame: float) -> Death:
        """Count on a worker no longer; each job it was at gets so much of the blame."""
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
        """Take a job; return the older interim of its channel that it replaces, if any."""
        self._count += 1
        self._came[job.id] = self._count
        return self._enqueue(job)

    def cancel(self, job_id: str) -> None:
        """Forget a job that waits; the result of one under way will not be wanted."""
        self._forget(job_id)
        if any(scheduler.cancel(job_id) for scheduler in self._schedulers()):
            return
        if any(job_id in lane for lanes in self._lanes.values() for lane in lanes):
            self._unwanted.add(job_id)
        self._suspects = deque(job for job in self._suspects if job.id != job_id)

    def release(self, source: str) -> int | None:
        """Follow this channel's utterance no further; return the worker that did and is to be told, if any."""
        home = self._homes.pop(source, None)
        return home if home in self._lanes else None

    def done(self, worker: int, job_id: str) -> None:
        """Take note that a worker has answered a job."""
        self._forget(job_id)
        self._unwanted.discard(job_id)
        for lane in self._lanes.get(worker, ()):
            if lane.pop(job_id, None) and worker == self._reserved and not self._busy(worker):
                self._reserved = None

    def assign(self) -> list[Assignment]:
        """Return what the free lanes are to do now; each assignment counts as under way."""
        assignments = self._assign_suspect()
        for worker in sorted(self._lanes):
            for number, lane in enumerate(self._lanes[worker]):
                if worker == self._reserved or lane:
                    continue
                if batch := self._most_urgent(worker).schedule():
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
        """Have a job wait for a lane, one that a dead worker was at too; return the interim that the newer one replaces.

        The newer one is of the same speech and is blamed for what the older one is blamed for.
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
        """Return the interim of this interim's channel that waits, if any."""
        if job.kind is not JobKind.INTERIM:
            return None
        suspect = (other for other in self._suspects if other.kind is JobKind.INTERIM and other.source == job.source)
        return next(suspect, None) or self._scheduler_of(job).interim_of(job.source)

    def _isolate(self, job: InferenceJob, other: InferenceJob | None) -> None:
        """Have a job run alone, in place of the interim of its channel that waits, if there is one."""
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
        """Return how many of the worker's lanes are at something."""
        return sum(map(bool, self._lanes[worker]))

    def _most_urgent(self, worker: int) -> Scheduler:
        shared, own = self._shared.head(), self._own[worker].head()
        return self._own[worker] if own is not None and (shared is None or own < shared) else self._shared

    def _least_followed(self) -> int:
        """Return the worker to follow another utterance: a living one, if there is any."""
        followed = list(self._homes.values())
        return min(self._lanes or (0,), key=followed.count)

    def _exonerate(self, present: set[str], blame: float) -> None:
        """Take back some of the blame of those that were not there when somebody killed a worker: he may have before, too."""
        for job_id in self._blame.keys() - present:
            self._blame[job_id] = max(0.0, self._blame[job_id] - blame)

    def _rehome(self, gone: int) -> None:
        """Have other workers follow what this one did; they will ask for the audio it held."""
        self._homes = {source: home for source, home in self._homes.items() if home != gone}
        orphans = self._own.pop(gone, None)
        for job in orphans.drain() if orphans else ():
            self._enqueue(job)

    def _schedulers(self) -> Iterator[Scheduler]:
        yield self._shared
        yield from self._own.values()
