"""Which jobs a lane decodes next. Pure: no clock, thread or model.

Finals before interims before files, the earliest due first. The newest interim of a channel replaces an older one that
still waits, so that under load interims thin out first.
"""

from __future__ import annotations

import heapq

from myna.streaming.engines.base import Job, Kind


class Scheduler:
    """Holds the jobs that wait. Every job added is scheduled once, replaced by a newer interim, or cancelled."""

    def __init__(self, largest_batch: int = 1) -> None:
        self._largest_batch = largest_batch
        self._waiting: dict[str, Job] = {}
        self._interims: dict[str, str] = {}  # by source
        self._order: list[tuple[Kind, float, int, str]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, job: Job) -> Job | None:
        """Take a job; return the older interim it replaces, if any."""
        replaced = None
        if job.kind is Kind.INTERIM:
            if older := self._interims.get(job.source):
                replaced = self._waiting.pop(older, None)
            self._interims[job.source] = job.id
        self._waiting[job.id] = job
        self._count += 1  # keeps jobs of equal due time in the order they came
        heapq.heappush(self._order, (job.kind, job.due, self._count, job.id))
        return replaced

    def cancel(self, job_id: str) -> bool:
        """Forget a job; return whether it still waited."""
        job = self._waiting.pop(job_id, None)
        if job is None:
            return False
        self._forget_interim(job)
        if len(self._order) > 2 * len(self._waiting) + 64:  # cancelled entries must not pile up
            self._order = [entry for entry in self._order if entry[3] in self._waiting]
            heapq.heapify(self._order)
        return True

    def schedule(self) -> list[Job]:
        """Return the jobs of the next batch, all of one kind; empty if nothing waits."""
        batch: list[Job] = []
        while self._order and len(batch) < self._largest_batch:
            kind, _, _, job_id = self._order[0]
            if batch and kind is not batch[0].kind:
                break
            heapq.heappop(self._order)
            if job := self._waiting.pop(job_id, None):
                self._forget_interim(job)
                batch.append(job)
        return batch

    def _forget_interim(self, job: Job) -> None:
        if self._interims.get(job.source) == job.id:
            del self._interims[job.source]
