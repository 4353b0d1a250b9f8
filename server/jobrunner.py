"""Runs the jobs of the store, a few at a time, and delivers their results; what cannot be delivered now is tried again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import structlog

from myna.batch.gate import Gate
from myna.batch.jobs import Job, JobStore, State
from myna.server.auth import name_of
from myna.server.callback import CallbackSender
from myna.server.dialects import deepgram_rest
from myna.server.dialects.base import Refusal
from myna.server.dialects.deepgram import DeepgramEntry
from myna.server.transcriber import Listener
from myna.server.uploads import Upload
from myna.streaming import strictjson
from myna.streaming.events import Final, seconds

log = structlog.get_logger()

AT_ONCE = 2
"""Jobs under way at a time: nobody waits for them."""
_BUSY_S = 10.0
"""A job whose model is being loaded comes again after this."""
_TIDY_S = 3600.0
_PROGRESS_S = 5.0
"""Audio after which a job's progress is written down."""

Work = Callable[[str, tuple[tuple[str, str], ...], str | None, Path, str | None, Listener], Awaitable[dict[str, Any]]]


class JobRunner:
    """One server's; `work` makes an answer of a request. The store is made when there is something to keep."""

    def __init__(self, folder: Path, gate: Gate) -> None:
        self._folder = folder
        self._store: JobStore | None = None
        self.work: Work | None = None
        self._gate = gate
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to run what there is, and what will come."""
        if self._folder.is_dir():
            self._store = JobStore(self._folder)
        self._tasks = [asyncio.create_task(self._run(), name=f"jobs {n}") for n in range(AT_ONCE)]
        self._tasks.append(asyncio.create_task(self._tidy(), name="old jobs"))

    async def close(self) -> None:
        """Stop; what was under way is begun again at the next start."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._store is not None:
            self._store.close()

    @property
    def store(self) -> JobStore:
        """The jobs."""
        if self._store is None:
            self._store = JobStore(self._folder)
        return self._store

    async def get(self, job_id: str) -> Job | None:
        """Return the job of this id."""
        return None if self._store is None else await asyncio.to_thread(self._store.get, job_id)

    async def unfinished(self, owner: str | None = None) -> int:
        """Return how many jobs, all or one client's, are waiting or under way."""
        return 0 if self._store is None else await asyncio.to_thread(self._store.unfinished, owner)

    async def accept(
        self, job_id: str, owner: str, query: tuple[tuple[str, str], ...], url: str | None, upload: Upload | None
    ) -> None:
        """Keep a request; when this returns it will be answered."""
        await asyncio.to_thread(
            self.store.add,
            job_id,
            owner,
            query,
            url=url,
            upload=upload.path if upload else None,
            sha256=upload.sha256 if upload else None,
        )
        self._news.set()

    async def _run(self) -> None:
        while True:
            self._news.clear()
            job, pause_s = (None, None) if self._store is None else await asyncio.to_thread(self._store.next_due)
            if job is None:
                # `wait_for` would swallow a cancellation that meets the news (Python 3.11).
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._news.wait()
                continue
            self._news.set()  # there may be more for the others
            try:
                await (self._transcribe(job) if job.state is State.QUEUED else self._deliver(job))
            except Exception:
                log.exception("a job failed", job=job.id)
                await self._fail(job, Refusal(500, "internal_error", "the server failed on this job"))

    async def _transcribe(self, job: Job) -> None:
        assert self.work is not None
        noted = 0.0

        def note(final: Final) -> None:
            nonlocal noted
            if seconds(final.span.end) - noted >= _PROGRESS_S:
                noted = seconds(final.span.end)
                self.store.heard(job.id, noted)

        try:
            answer = await self.work(job.id, job.query, job.url, self.store.audio(job.id), job.sha256, note)
        except Refusal as refusal:
            if refusal.retry_after_s is not None:
                await asyncio.to_thread(self.store.postpone, job.id, _BUSY_S)
            else:
                await self._fail(job, refusal)
            return
        await asyncio.to_thread(self.store.done, job.id, strictjson.dumps(answer))
        log.info("job done", job=job.id, heard_s=answer["metadata"]["duration"])
        self._news.set()

    async def _fail(self, job: Job, refusal: Refusal) -> None:
        body = dict(DeepgramEntry.shape(refusal, job.id).body)
        await asyncio.to_thread(self.store.failed, job.id, refusal.message, strictjson.dumps(body))
        log.warning("job failed", job=job.id, reason=refusal.message)
        self._news.set()

    async def _deliver(self, job: Job) -> None:
        callback = deepgram_rest.parse(job.query).callback
        assert callback is not None
        assert job.result is not None
        async with CallbackSender(callback, self._gate, name_of(job.owner)) as sender:
            reason = await sender.attempt(job.result)
        if reason is None:
            await asyncio.to_thread(self.store.delivered, job.id)
            log.info("job delivered", job=job.id)
        else:
            await asyncio.to_thread(self.store.not_delivered, job, reason)
            log.warning("job not delivered", job=job.id, reason=reason, attempts=job.deliveries + 1)
        self._news.set()

    async def _tidy(self) -> None:
        while True:
            if self._store is not None:
                await asyncio.to_thread(self._store.forget_old)
            await asyncio.sleep(_TIDY_S)
