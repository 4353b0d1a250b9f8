"""Runs the jobs of the store: fetches their audio, transcribes it, and passes results to the deliveries."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from myna.batch.address_gate import AddressGate
from myna.batch.callback import Callback
from myna.batch.deliveries import Deliveries
from myna.batch.disk import Upload
from myna.batch.fairness import Pool
from myna.batch.job import Job, State
from myna.batch.job_store import MOST_ATTEMPTS, JobStore
from myna.batch.json_pieces import json_pieces
from myna.batch.storage import refusal_of
from myna.batch.store_access import StoreAccess
from myna.batch.transcriber import Progress
from myna.runtime.errors import Refusal
from myna.runtime.supervisor import Supervisor
from myna.runtime.tasks import cancel_and_wait
from myna.runtime.threads import on_thread

log = structlog.get_logger()

AT_ONCE, OF_ONE_OWNER = 32, 2
"""Concurrent jobs, in total and per owner. Jobs share the places for files and pause while other files wait for one."""
FETCHES_AT_ONCE, FETCHES_OF_ONE_OWNER = 16, 4
"""Concurrent fetches of audio, in total and per owner; they do not count as concurrent jobs."""
FETCHED_AHEAD = 4
"""Limit on one owner's jobs whose audio is fetched but not yet transcribed."""
_BUSY_S = (10.0, 20.0, 40.0, 80.0, 160.0, 300.0)
"""Pauses of a job whose model cannot be loaded for lack of memory; the last one repeats."""
_MOST_BUSY = 300
"""Number of such pauses, about a day in total, after which the job fails."""
_TIDY_S = 3600.0
_INTERNAL = Refusal(500, "internal_error", "internal error while running this job")

Pieces = Iterable[bytes]


class Work(Protocol):
    """The work on a job that the server provides. The first two methods raise `Refusal`."""

    async def fetch_job(self, job: Job, path: Path) -> Job:
        """Fetch the job's audio to `path`; return the job with its hash and size."""
        ...

    async def run_job(
        self, job: Job, path: Path, progress: Progress, begin: Callable[[], Awaitable[None]]
    ) -> Callable[[], Pieces]:
        """Transcribe the job's audio; return a function that generates the answer in pieces, called on a thread."""
        ...

    def callback_of(self, job: Job) -> Callback | None:
        """Return the callback for the job's result; None if it has none."""
        ...

    def refused(self, job: Job, refusal: Refusal) -> Mapping[str, object]:
        """Return the answer of a job that failed, in the dialect of its request."""
        ...


class JobRunner:
    """The jobs of one server. The store is created with the first job; an existing store is opened at start."""

    def __init__(self, folder: Path, gate: AddressGate, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._access = StoreAccess(folder, supervisor, self._on_opened)
        self.work: Work | None = None
        self._fetching = Pool("job fetch", FETCHES_AT_ONCE, FETCHES_OF_ONE_OWNER, self._fetch, self._may_fetch)
        self._running = Pool("job", AT_ONCE, OF_ONE_OWNER, self._run)
        self._deliveries = Deliveries(gate, self._access.keep, self._callback_of, self._ended)
        self._open: dict[str, Job] = {}  # waiting, running or being delivered
        self._begun: dict[str, Job] = {}  # by running job: its state before it was started
        self._heard_s: dict[str, float] = {}
        self._busy: Counter[str] = Counter()  # by job: how often its model had no room
        self._fetched: Counter[str] = Counter()  # by share: jobs fetched but not yet transcribed
        self._finishing = asyncio.Semaphore()  # writing a result uses the CPU in bursts
        self._timers: set[asyncio.TimerHandle] = set()
        self._serving: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to run the stored jobs and new ones."""
        self._serving = self._supervisor.run("jobs", self._serve)

    async def close(self) -> None:
        """Stop. Running jobs are started again at the next start of the server."""
        for timer in self._timers:
            timer.cancel()
        await self._access.stop_probing()
        if self._serving is not None:
            await cancel_and_wait(self._serving)
        await self._fetching.close()
        await self._running.close()
        await self._deliveries.close()
        await self._access.close(list(self._begun.values()))

    @property
    def folder(self) -> Path:
        """The folder of the job store. Uploads written to it need not be copied."""
        return self._access.folder

    def taken(self, share: str | None = None) -> tuple[int, int]:
        """Return the number of undelivered jobs, all or of one share, and the bytes of their stored audio."""
        jobs = [job for job in self._open.values() if share in (None, job.share)]
        return len(jobs), sum(job.size for job in jobs if job.finished is None)

    async def get(self, job_id: str) -> tuple[Job, float, Path] | None:
        """Return the job with this id, the seconds heard so far, and the path of its result. Raises `sqlite3.Error`."""
        store = await self._access.existing()
        if store is None:
            return None
        job = await on_thread(partial(store.get, job_id))
        return None if job is None else (job, self._heard_s.get(job_id, job.heard_s), store.result(job_id))

    def unfinished(self, owner: str | None = None) -> int:
        """Return the number of jobs, all or of one owner, that are waiting or running."""
        return sum(job.finished is None and owner in (None, job.owner) for job in self._open.values())

    async def accept(
        self,
        job_id: str,
        owner: str,
        share: str,
        query: tuple[tuple[str, str], ...],
        url: str | None,
        upload: Upload | None,
    ) -> None:
        """Store a request as a job. When this returns, it will be answered. Raises `OSError` and `sqlite3.Error`."""
        try:
            store = await self._access.opened()
            size, sha256 = (upload.size, upload.sha256) if upload else (0, None)
            job = store.new_job(job_id, owner, share, query, url=url, sha256=sha256, size=size)
            path = upload.path if upload else None
            await on_thread(partial(store.add, job, path), unclaimed=lambda _: self._take(job))
        except (OSError, sqlite3.Error) as error:
            self._access.failed(error)
            raise
        self._access.works()
        self._take(job)

    async def _serve(self) -> None:
        while True:
            if (store := await self._access.existing()) is not None:
                await on_thread(store.forget_old)
            await asyncio.sleep(_TIDY_S)

    def _on_opened(self, store: JobStore, jobs: list[Job]) -> None:
        self._deliveries.start(store)
        for job in jobs:
            self._take(job)

    # The course of a job

    def _take(self, job: Job) -> None:
        self._open[job.id] = job
        if job.state is State.DELIVERING:
            self._deliveries.add(job, job.due - self._access.store.now())
        elif job.url is not None and job.sha256 is None:
            self._fetching.add(job.share, job)
        else:
            self._running.add(job.share, job)

    async def _fetch(self, job: Job) -> None:
        await self._guarded(job, self._fetch_audio)

    async def _run(self, job: Job) -> None:
        await self._guarded(job, self._transcribe)

    def _may_fetch(self, share: str) -> bool:
        return self._fetched[share] < FETCHED_AHEAD

    async def _guarded(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        """Do a step of the work on a job, and handle all its errors."""
        try:
            if job.attempts >= MOST_ATTEMPTS:
                raise Refusal(500, "internal_error", f"the server stopped {MOST_ATTEMPTS} times while this job ran")
            await work(job)
        except Refusal as refusal:
            await self._refused(job, refusal)
        except OSError as error:
            disk = None if isinstance(error, FileNotFoundError) else refusal_of(error)
            if disk is None:
                log.exception("internal error in a job", job=job.id)
            await self._refused(job, disk or _INTERNAL)
        except Exception:
            log.exception("internal error in a job", job=job.id)
            await self._fail(job, _INTERNAL)

    async def _fetch_audio(self, job: Job) -> None:
        assert self.work is not None
        self._open[job.id] = fetched = await self.work.fetch_job(job, self._access.store.audio(job.id))
        self._fetched[job.share] += 1
        self._running.add(job.share, fetched)

    async def _transcribe(self, job: Job) -> None:
        assert self.work is not None

        def note(heard_s: float) -> None:
            self._heard_s[job.id] = heard_s

        answer = await self.work.run_job(job, self._access.store.audio(job.id), note, lambda: self._begin(job))
        await self._finish(job, answer)
        log.info("job done", job=job.id)

    async def _begin(self, job: Job) -> None:
        """Record a start: from now on, the job may be the cause if the server crashes."""
        await self._access.keep(self._access.store.started, job)
        self._begun[job.id] = job

    async def _refused(self, job: Job, refusal: Refusal) -> None:
        """Postpone a job that may succeed later; fail any other."""
        if refusal.retry_after_s is None or self._busy[job.id] >= _MOST_BUSY:
            await self._fail(job, refusal)
        else:
            await self._postpone(job)

    async def _fail(self, job: Job, refusal: Refusal) -> None:
        assert self.work is not None
        body = dict(self.work.refused(job, refusal))
        await self._finish(job, lambda: json_pieces(body), refusal.message)
        log.warning("job failed", job=job.id, reason=refusal.message)

    async def _finish(self, job: Job, answer: Callable[[], Pieces], error: str | None = None) -> None:
        store, heard_s = self._access.store, self._heard_s.get(job.id, 0.0)
        async with self._finishing:
            finished = await self._access.keep(lambda: store.finish(job.id, answer(), heard_s=heard_s, error=error))
        self._let_go(job)
        self._take(finished)

    def _let_go(self, job: Job) -> None:
        """Drop the state of a running job."""
        self._begun.pop(job.id, None)
        self._heard_s.pop(job.id, None)
        self._busy.pop(job.id, None)
        if job.url is not None and job.sha256 is not None:
            self._fetched[job.share] -= 1
            self._fetching.fill()

    async def _postpone(self, job: Job) -> None:
        """Put a job back into the queue after a pause: it cannot run now."""
        if self._begun.pop(job.id, None) is not None:
            await self._access.keep(self._access.store.put_back, job)
        self._heard_s.pop(job.id, None)
        pause_s = _BUSY_S[min(self._busy[job.id], len(_BUSY_S) - 1)]
        self._busy[job.id] += 1

        def again() -> None:
            self._timers.discard(timer)
            self._take(job)

        timer = asyncio.get_running_loop().call_later(pause_s, again)
        self._timers.add(timer)

    def _callback_of(self, job: Job) -> Callback | None:
        assert self.work is not None
        return self.work.callback_of(job)

    def _ended(self, job: Job) -> None:
        self._open.pop(job.id, None)
