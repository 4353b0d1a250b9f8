"""Which jobs a lane decodes next. Pure: no clock, thread or model.

Finals before interims before files, the earliest due first. What else is due and of like length joins the most urgent job
in one batch. The newest interim of a channel takes the place of an older one that still waits: under load interims thin out
first, those that are decoded are of fresh audio, and each channel has its turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from myna.streaming.events import samples
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobKind

_CONSIDERED = 16
"""A batch is put together from so many times its size of the most urgent jobs; looking further costs more than it gains."""

_Entry = tuple[JobKind, float, int, str]


class Scheduler:
    """Holds the jobs that wait. Every job added is scheduled once, replaced by a newer interim, or cancelled."""

    def __init__(self, engine: EngineInfo) -> None:
        self._largest_batch = engine.largest_batch
        self._most_padding = engine.most_padding
        self._interim_window = samples(engine.interim_window_s)
        self._waiting: dict[str, InferenceJob] = {}
        self._interims: dict[str, str] = {}  # by source
        self._ranks: dict[str, float] = {}  # of interims that took another's place: when that was due
        self._order: list[_Entry] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: InferenceJob) -> InferenceJob | None:
        """Take a job; return the older interim it replaces, if any, whose place in the queue it takes."""
        replaced, rank = None, job.due
        if job.kind is JobKind.INTERIM:
            if older := self._interims.get(job.source):
                replaced = self._waiting.pop(older, None)
                rank = min(rank, self._ranks.pop(older, replaced.due if replaced else rank))
            self._interims[job.source] = job.id
            self._ranks[job.id] = rank
        self._waiting[job.id] = job
        self._count += 1  # keeps jobs of equal due time in the order they came
        heapq.heappush(self._order, (job.kind, rank, self._count, job.id))
        self._tidy()
        return replaced

    def cancel(self, job_id: str) -> bool:
        """Forget a job; return whether it still waited."""
        job = self._waiting.pop(job_id, None)
        if job is None:
            return False
        self._forget_interim(job)
        self._tidy()
        return True

    def interim_of(self, source: str) -> InferenceJob | None:
        """Return the interim of this channel that waits, if any."""
        return self._waiting.get(self._interims.get(source, ""))

    def head(self) -> tuple[JobKind, float] | None:
        """Return kind and due time of the most urgent job; None if nothing waits."""
        while self._order and self._order[0][3] not in self._waiting:
            heapq.heappop(self._order)
        return self._order[0][:2] if self._order else None

    def oldest(self, kind: JobKind) -> float | None:
        """Return when the job of this kind that waits longest was due; None if none waits."""
        return min((job.due for job in self._waiting.values() if job.kind is kind), default=None)

    def drain(self) -> list[InferenceJob]:
        """Give up every job that waits, in the order they came."""
        jobs = list(self._waiting.values())
        self._waiting.clear()
        self._interims.clear()
        self._ranks.clear()
        self._order.clear()
        return jobs

    def schedule(self) -> list[InferenceJob]:
        """Return the jobs of the next batch, all of one kind; empty if nothing waits."""
        entries = self._most_urgent(1 if self._largest_batch == 1 else _CONSIDERED * self._largest_batch)
        chosen = self._alike([self._waiting[job_id] for *_, job_id in entries])
        for job in chosen:
            del self._waiting[job.id]
            self._forget_interim(job)
        for entry in entries:
            if entry[3] in self._waiting:
                heapq.heappush(self._order, entry)
        return chosen

    def _most_urgent(self, count: int) -> list[_Entry]:
        """Take the entries of the most urgent jobs, all of one kind, out of the order."""
        entries: list[_Entry] = []
        while self._order and len(entries) < count:
            if entries and self._order[0][0] is not entries[0][0]:
                break
            entry = heapq.heappop(self._order)
            if entry[3] in self._waiting:
                entries.append(entry)
        return entries

    def _alike(self, jobs: Sequence[InferenceJob]) -> list[InferenceJob]:
        """Return the first job and those of the others that go into a batch with it.

        The jobs are parted by length, from the longest down, into as few batches as padding allows; the batch that holds
        the first is taken. To gather around the first job instead would leave the lengths between two such batches over.
        """
        batch: list[int] = []
        total = 0
        for index in sorted(range(len(jobs)), key=lambda i: -self._length(jobs[i])):  # stable: the earlier due first
            length = self._length(jobs[index])
            padded = (len(batch) + 1) * self._length(jobs[batch[0]]) if batch else length
            if len(batch) == self._largest_batch or padded - (total + length) > self._most_padding * padded:
                if 0 in batch:
                    break
                batch, total = [], 0
            batch.append(index)
            total += length
        return [jobs[index] for index in sorted(batch)]

    def _length(self, job: InferenceJob) -> int:
        return min(job.length, self._interim_window) if job.kind is JobKind.INTERIM else job.length

    def _tidy(self) -> None:
        """Let go of the entries of jobs that do not wait any more, when there are many."""
        if len(self._order) > 2 * len(self._waiting) + 64:
            self._order = [entry for entry in self._order if entry[3] in self._waiting]
            heapq.heapify(self._order)

    def _forget_interim(self, job: InferenceJob) -> None:
        self._ranks.pop(job.id, None)
        if self._interims.get(job.source) == job.id:
            del self._interims[job.source]
