"""Orders the waiting jobs and forms the next batch. Pure: no clock, thread or model.

Finals precede interims, interims precede files; within a kind, the earliest due time goes first. Urgent jobs of similar
length join the most urgent job in its batch. A newer interim of a channel replaces the one that waits and keeps its place in
the queue: under load, interims are skipped first, those that are decoded are recent, and each channel gets its turn.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from myna.streaming.events import samples
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobKind

_CONSIDERED = 16
"""Number of most urgent jobs considered for a batch, as a multiple of its size; more cost time and gain nothing."""

_Entry = tuple[JobKind, float, int, str]


class Scheduler:
    """The waiting jobs. Each is scheduled once, replaced by a newer interim, or cancelled."""

    def __init__(self, engine: EngineInfo) -> None:
        self._largest_batch = engine.largest_batch
        self._most_padding = engine.most_padding
        self._interim_window = samples(engine.interim_window_s)
        self._waiting: dict[str, InferenceJob] = {}
        self._interims: dict[str, str] = {}  # by source
        self._ranks: dict[str, float] = {}  # by interim: due time of the first one whose place it took
        self._order: list[_Entry] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: InferenceJob) -> InferenceJob | None:
        """Add a job; return the older interim that it replaces, if any. The job takes over its place in the queue."""
        replaced, rank = None, job.due
        if job.kind is JobKind.INTERIM:
            if older := self._interims.get(job.source):
                replaced = self._waiting.pop(older, None)
                rank = min(rank, self._ranks.pop(older, replaced.due if replaced else rank))
            self._interims[job.source] = job.id
            self._ranks[job.id] = rank
        self._waiting[job.id] = job
        self._count += 1  # keeps jobs of equal due time in order of submission
        heapq.heappush(self._order, (job.kind, rank, self._count, job.id))
        self._tidy()
        return replaced

    def cancel(self, job_id: str) -> bool:
        """Remove a job; return whether it was waiting."""
        job = self._waiting.pop(job_id, None)
        if job is None:
            return False
        self._forget_interim(job)
        self._tidy()
        return True

    def interim_of(self, source: str) -> InferenceJob | None:
        """Return the waiting interim of this channel, if any."""
        return self._waiting.get(self._interims.get(source, ""))

    def head(self) -> tuple[JobKind, float] | None:
        """Return the kind and the due time of the most urgent job; None if no job waits."""
        while self._order and self._order[0][3] not in self._waiting:
            heapq.heappop(self._order)
        return self._order[0][:2] if self._order else None

    def oldest(self, kind: JobKind) -> float | None:
        """Return the earliest due time of the waiting jobs of this kind; None if none waits."""
        return min((job.due for job in self._waiting.values() if job.kind is kind), default=None)

    def drain(self) -> list[InferenceJob]:
        """Remove and return all waiting jobs, in order of submission."""
        jobs = list(self._waiting.values())
        self._waiting.clear()
        self._interims.clear()
        self._ranks.clear()
        self._order.clear()
        return jobs

    def schedule(self) -> list[InferenceJob]:
        """Remove and return the jobs of the next batch, all of one kind; empty if no job waits."""
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
        """Remove the most urgent entries, all of one kind, from the queue and return them."""
        entries: list[_Entry] = []
        while self._order and len(entries) < count:
            if entries and self._order[0][0] is not entries[0][0]:
                break
            entry = heapq.heappop(self._order)
            if entry[3] in self._waiting:
                entries.append(entry)
        return entries

    def _alike(self, jobs: Sequence[InferenceJob]) -> list[InferenceJob]:
        """Return the batch that holds the first job.

        The jobs are divided by length, from the longest down, into as few batches as the padding limit allows. Gathering
        jobs around the length of the first one instead would leave over the lengths between two batches.
        """
        batch: list[int] = []
        total = 0
        for index in sorted(range(len(jobs)), key=lambda i: -self._length(jobs[i])):  # stable: earlier due times first
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
        is_step = job.kind is JobKind.INTERIM or job.utterance
        return min(job.length, self._interim_window) if is_step else job.length

    def _tidy(self) -> None:
        """Remove entries of jobs that no longer wait, once there are many."""
        if len(self._order) > 2 * len(self._waiting) + 64:
            self._order = [entry for entry in self._order if entry[3] in self._waiting]
            heapq.heapify(self._order)

    def _forget_interim(self, job: InferenceJob) -> None:
        self._ranks.pop(job.id, None)
        if self._interims.get(job.source) == job.id:
            del self._interims[job.source]
