"""Opens the job store on demand and repeats its calls while the disk fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from myna.batch.job import Job
from myna.batch.job_store import JobStore
from myna.batch.storage import Doubt
from myna.runtime.supervisor import Supervisor
from myna.runtime.threads import on_thread

log = structlog.get_logger()

_STORAGE = "job storage"
"""The part that readiness reports while the store cannot be written."""


class StoreAccess:
    """The job store of one server. `on_opened` receives the store and its open jobs once it is opened."""

    def __init__(self, folder: Path, supervisor: Supervisor, on_opened: Callable[[JobStore, list[Job]], None]) -> None:
        self.folder = folder
        self._supervisor = supervisor
        self._on_opened = on_opened
        self._doubt = Doubt(_STORAGE, self._probe, supervisor)
        self._opening = asyncio.Lock()
        self._store: JobStore | None = None

    @property
    def store(self) -> JobStore:
        """The store, which has been opened."""
        assert self._store is not None
        return self._store

    async def opened(self) -> JobStore:
        """Return the store; create or open it first if needed. Raises `OSError` and `sqlite3.Error`."""
        async with self._opening:
            if self._store is None:
                store = await on_thread(partial(JobStore, self.folder), unclaimed=JobStore.close)
                try:
                    jobs = await on_thread(store.open_jobs)
                except BaseException:
                    store.close()
                    raise
                self._store = store
                self._on_opened(store, jobs)
            return self._store

    async def existing(self) -> JobStore | None:
        """Return the store like `opened`; None if it does not exist yet."""
        if self._store is None and not await on_thread(self.folder.is_dir):
            return None
        return await self.opened()

    async def keep(self, call: Callable[..., Any], *arguments: object) -> Any:
        """Repeat a call of the store until it succeeds."""
        while True:
            try:
                result = await on_thread(partial(call, *arguments))
            except (OSError, sqlite3.Error) as error:
                await asyncio.sleep(self._supervisor.failed(_STORAGE, error))
            else:
                self.works()
                return result

    def works(self) -> None:
        """Record that the store works."""
        self._supervisor.works(_STORAGE)

    def failed(self, error: OSError | sqlite3.Error) -> None:
        """Report the store as failed until a probe of it succeeds."""
        self._doubt.raise_(error)

    async def stop_probing(self) -> None:
        """Stop the probe of a store that has failed."""
        await self._doubt.close()

    async def close(self, interrupted: list[Job]) -> None:
        """Close the store. Each interrupted job, in its state before its start, is put back."""
        if self._store is not None:
            await on_thread(partial(_end, self._store, interrupted))

    async def _probe(self) -> None:
        store = await self.opened()
        await on_thread(store.probe)


def _end(store: JobStore, interrupted: list[Job]) -> None:
    try:
        for job in interrupted:
            store.put_back(job)
    except (OSError, sqlite3.Error) as error:
        log.warning("cannot put interrupted jobs back; this start counts as an attempt", reason=str(error))
    store.close()
