"""Requests that are answered later: in SQLite, with their audio beside it, so that neither restart nor crash loses one."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

MOST_ATTEMPTS = 3
"""Times a job is begun: one that takes the server down with it each time must end somewhere."""
DELIVERIES_S = (5.0, 15.0, 45.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 1800.0)
"""Pauses between attempts to deliver a result: ten attempts over some two hours."""
KEPT_S = 7 * 24 * 3600.0
"""Results can be asked for so long, then they are forgotten."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, due REAL NOT NULL,
    query TEXT NOT NULL, url TEXT, sha256 TEXT, attempts INTEGER NOT NULL DEFAULT 0, deliveries INTEGER NOT NULL DEFAULT 0,
    heard REAL NOT NULL DEFAULT 0, finished REAL, error TEXT, result TEXT
);
CREATE INDEX IF NOT EXISTS due ON jobs (state, due);
"""


class State(StrEnum):
    """Where a job is: it goes down this list, and may end in `failed` from anywhere before `delivered`."""

    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"
    DELIVERED = "delivered"
    UNDELIVERED = "undelivered"
    """Done, but nobody took the result; it can be asked for."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Job:
    """A request that was accepted. `url` is where its audio is to be had; None: it lies in the store."""

    id: str
    owner: str
    state: State
    created: float
    due: float
    query: tuple[tuple[str, str], ...]
    url: str | None
    sha256: str | None
    attempts: int
    deliveries: int
    heard_s: float
    finished: float | None
    error: str | None
    result: str | None


class JobStore:
    """The jobs of one server, in a folder. May be used from any thread."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._database = sqlite3.connect(folder / "jobs.sqlite3", check_same_thread=False, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + _SCHEMA)
        self._recover()

    def close(self) -> None:
        """Let go of the database, once nobody is at it: a call that was cancelled goes on in its thread."""
        with self._lock:
            self._database.close()

    def audio(self, job_id: str) -> Path:
        """Return where a job's audio lies, or is to lie."""
        return self._folder / f"{job_id}.audio"

    def add(
        self,
        job_id: str,
        owner: str,
        query: tuple[tuple[str, str], ...],
        *,
        url: str | None = None,
        upload: Path | None = None,
        sha256: str | None = None,
    ) -> None:
        """Keep a job; its audio, if it was uploaded, is moved here. When this returns, the job survives everything."""
        if upload is not None:
            shutil.move(upload, self.audio(job_id))
        now = self._clock()
        with self._transaction():
            self._database.execute(
                "INSERT INTO jobs (id, owner, state, created, due, query, url, sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (job_id, owner, State.QUEUED, now, now, json.dumps(query), url, sha256),
            )

    def get(self, job_id: str) -> Job | None:
        """Return the job of this id."""
        with self._transaction():
            row = self._database.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _job(row)

    def unfinished(self, owner: str | None = None) -> int:
        """Return how many jobs, all or one owner's, wait to be transcribed or are under way."""
        whose, names = ("", ()) if owner is None else (" AND owner = ?", (owner,))
        with self._transaction():
            (count,) = self._database.execute(
                f"SELECT COUNT(*) FROM jobs WHERE state IN (?, ?){whose}",
                (State.QUEUED, State.RUNNING, *names),
            ).fetchone()
        return int(count)

    def next_due(self) -> tuple[Job | None, float | None]:
        """Take the next job to be run, or delivered, and mark it; without one, return when there will be one."""
        now = self._clock()
        with self._transaction():
            row = self._database.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE state IN (?, ?) ORDER BY due LIMIT 1",
                (State.QUEUED, State.DELIVERING),
            ).fetchone()
            if row is None:
                return None, None
            job = _job(row)
            if job.due > now:
                return None, job.due - now
            if job.state is State.QUEUED:
                self._set(job.id, state=State.RUNNING, attempts=job.attempts + 1)
            else:
                self._set(job.id, due=now + DELIVERIES_S[-1])  # somebody is at it; should he die, it comes again
            return job, None

    def heard(self, job_id: str, seconds: float) -> None:
        """Note how much of a running job's audio has been transcribed."""
        with self._transaction():
            self._set(job_id, heard=seconds)

    def done(self, job_id: str, result: str) -> None:
        """Keep a result, to be delivered at once; its audio is forgotten."""
        with self._transaction():
            self._set(job_id, state=State.DELIVERING, due=self._clock(), result=result, finished=self._clock())
        self.audio(job_id).unlink(missing_ok=True)

    def delivered(self, job_id: str) -> None:
        """Note that somebody took the result."""
        with self._transaction():
            self._set(job_id, state=State.DELIVERED)

    def not_delivered(self, job: Job, reason: str) -> None:
        """Note that nobody took the result; it is tried again later, or given up."""
        if job.deliveries >= len(DELIVERIES_S):
            with self._transaction():
                self._set(job.id, state=State.UNDELIVERED, error=reason)
            return
        due = self._clock() + DELIVERIES_S[job.deliveries]
        with self._transaction():
            self._set(job.id, state=State.DELIVERING, due=due, deliveries=job.deliveries + 1, error=reason)

    def failed(self, job_id: str, reason: str, result: str) -> None:
        """Give a job up; the client is told by its callback."""
        with self._transaction():
            now = self._clock()
            self._set(job_id, state=State.DELIVERING, due=now, finished=now, error=reason, result=result)
        self.audio(job_id).unlink(missing_ok=True)

    def postpone(self, job_id: str, pause_s: float) -> None:
        """Put a job back into the queue: it could not be begun now."""
        with self._transaction():
            self._set(job_id, state=State.QUEUED, due=self._clock() + pause_s, attempts=0)

    def forget_old(self) -> None:
        """Delete what nobody can ask for any more, and audio that belongs to no job."""
        with self._transaction():
            self._database.execute("DELETE FROM jobs WHERE finished < ?", (self._clock() - KEPT_S,))
            known = {row[0] for row in self._database.execute("SELECT id FROM jobs")}
        for path in self._folder.glob("*.audio"):
            if path.stem not in known and self._clock() - path.stat().st_mtime > 3600:
                path.unlink(missing_ok=True)

    def _recover(self) -> None:
        """Begin again what was under way when the server ended, unless it has been begun too often."""
        with self._transaction():
            reason = f"the server ended {MOST_ATTEMPTS} times while it ran"
            self._database.execute(
                "UPDATE jobs SET state = ?, finished = ?, error = ? WHERE state = ? AND attempts >= ?",
                (State.FAILED, self._clock(), reason, State.RUNNING, MOST_ATTEMPTS),
            )
            self._database.execute("UPDATE jobs SET state = ? WHERE state = ?", (State.QUEUED, State.RUNNING))
            self._database.execute(
                "UPDATE jobs SET due = min(due, ?) WHERE state = ?", (self._clock(), State.DELIVERING)
            )

    def _set(self, job_id: str, **values: object) -> None:
        columns = ", ".join(f"{name} = ?" for name in values)
        self._database.execute(f"UPDATE jobs SET {columns} WHERE id = ?", (*values.values(), job_id))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


_COLUMNS = "id, owner, state, created, due, query, url, sha256, attempts, deliveries, heard, finished, error, result"


def _job(row: tuple[object, ...]) -> Job:
    values = list(row)
    values[2] = State(str(values[2]))
    values[5] = tuple(tuple(pair) for pair in json.loads(str(values[5])))
    return Job(*values)  # type: ignore[arg-type]
