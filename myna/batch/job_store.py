"""Requests that are answered later: in SQLite, with their audio and results beside it, so that no crash loses one."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from myna.batch.disk import private_file, private_folder, sync_folder
from myna.batch.job import Job, State

MOST_ATTEMPTS = 3
"""Times a job is begun: one that takes the server down with it each time must end somewhere."""
KEPT_S = 7 * 24 * 3600.0
"""Results can be asked for so long, then they are forgotten."""
STRAY_S = 3600.0
"""Files of no job are removed when they are so old: they were left by a crash."""
_STRAY_FOLDER_S = 24 * 3600.0
"""The same for folders of uploads, which may last longer."""
_BUSY_S = 5.0
"""Another process may hold the database for so long, to copy it, before an attempt fails."""
_PROBE_BYTES = 65_536
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL, due REAL NOT NULL,
    query TEXT NOT NULL, url TEXT, sha256 TEXT, attempts INTEGER NOT NULL DEFAULT 0, deliveries INTEGER NOT NULL DEFAULT 0,
    heard REAL NOT NULL DEFAULT 0, finished REAL, error TEXT, result TEXT
);
CREATE INDEX IF NOT EXISTS due ON jobs (state, due);
CREATE TABLE IF NOT EXISTS probe (bytes BLOB);
"""
_VERSION = 1
"""Of the schema: since 1, results are files, and jobs name whose share they count to."""


class JobStore:
    """The jobs of one server, in a folder. May be used from any thread; reading never waits for a write."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = private_folder(folder)
        self._clock = clock
        folder.chmod(0o700)  # one that an older server made may be open to others
        database = folder / "jobs.sqlite3"
        os.close(os.open(database, os.O_CREAT | os.O_CLOEXEC, 0o600))
        database.chmod(0o600)  # SQLite gives its other files the same mode
        self._writing, self._reading = threading.Lock(), threading.Lock()
        self._writer = _connected(database)
        try:
            self._reader = _connected(database)
        except BaseException:
            self._writer.close()
            raise
        try:
            self._writer.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;" + _SCHEMA)
            self._upgrade()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the database, once nobody is at it: a call that was cancelled goes on in its thread."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def audio(self, job_id: str) -> Path:
        """Return where a job's audio lies, or is to lie."""
        return self._folder / f"{job_id}.audio"

    def result(self, job_id: str) -> Path:
        """Return where a job's result lies once it is finished: JSON."""
        return self._folder / f"{job_id}.result"

    def new_job(
        self,
        job_id: str,
        owner: str,
        share: str,
        query: tuple[tuple[str, str], ...],
        *,
        url: str | None = None,
        sha256: str | None = None,
        size: int = 0,
    ) -> Job:
        """Return a job that `add` can keep."""
        now = self._clock()
        return Job(job_id, owner, share, State.QUEUED, now, now, query, url, sha256, size)

    def add(self, job: Job, upload: Path | None = None) -> None:
        """Keep a job; its audio, a file on the same disk that has been synced, is moved here.

        When this returns, the job survives everything. Raises `OSError` and `sqlite3.Error`; nothing is kept then.
        """
        if upload is not None:
            upload.replace(self.audio(job.id))
        try:
            sync_folder(self._folder)
            with self._transaction() as database:
                database.execute(
                    "INSERT INTO jobs (id, owner, share, state, created, due, query, url, sha256, size)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        job.id,
                        job.owner,
                        job.share,
                        job.state,
                        job.created,
                        job.due,
                        json.dumps(job.query),
                        job.url,
                        job.sha256,
                        job.size,
                    ),
                )
        except BaseException:
            self.audio(job.id).unlink(missing_ok=True)
            raise

    def get(self, job_id: str) -> Job | None:
        """Return the job of this id."""
        with self._reading:
            row = self._reader.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _job(row)

    def open_jobs(self) -> list[Job]:
        """Return the jobs that are not at their end, oldest first."""
        with self._reading:
            rows = self._reader.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE state IN (?, ?, ?) ORDER BY created",
                (State.QUEUED, State.RUNNING, State.DELIVERING),
            ).fetchall()
        return [_job(row) for row in rows]

    def started(self, job: Job) -> None:
        """Note that a job is begun once more."""
        self._set(job.id, state=State.RUNNING, attempts=job.attempts + 1)

    def put_back(self, job: Job) -> None:
        """Note that a job was not the reason why it was broken off; `job` is as it was before it was begun."""
        self._set(job.id, State.RUNNING, state=State.QUEUED, attempts=job.attempts)

    def finish(self, job_id: str, result: Iterable[bytes], *, heard_s: float = 0.0, error: str | None = None) -> Job:
        """Keep a result, JSON in pieces, to be delivered; its audio is forgotten. Returns the job as it is now.

        Raises `OSError` and `sqlite3.Error`.
        """
        self._write_result(job_id, result)
        now = self._clock()
        self._set(job_id, state=State.DELIVERING, due=now, finished=now, heard=heard_s, error=error)
        self.audio(job_id).unlink(missing_ok=True)
        job = self.get(job_id)
        if job is None:
            raise KeyError(f"there is no job {job_id}")
        return job

    def delivered(self, job_id: str) -> None:
        """Note that somebody took the result."""
        self._set(job_id, state=State.DELIVERED)

    def not_delivered(self, job_id: str, deliveries: int, pause_s: float, reason: str) -> None:
        """Note that nobody took the result in so many attempts; the next is after a pause."""
        self._set(job_id, deliveries=deliveries, due=self._clock() + pause_s, error=reason)

    def undelivered(self, job_id: str, deliveries: int, reason: str) -> None:
        """Note that nobody took the result, and that nobody will be asked again."""
        self._set(job_id, state=State.UNDELIVERED, deliveries=deliveries, error=reason)

    def now(self) -> float:
        """Return the wall time that `due` is to be compared with."""
        return self._clock()

    def probe(self) -> None:
        """Write something and delete it again. Raises `OSError` and `sqlite3.Error` if the store cannot be written."""
        path = self._folder / "probe"
        try:
            with private_file(path) as file:
                file.write(bytes(_PROBE_BYTES))
                file.flush()
                os.fsync(file.fileno())
        finally:
            path.unlink(missing_ok=True)
        with self._transaction() as database:
            database.execute("INSERT INTO probe VALUES (zeroblob(?))", (_PROBE_BYTES,))
        with self._transaction() as database:
            database.execute("DELETE FROM probe")

    def forget_old(self) -> None:
        """Delete what nobody can ask for any more, and files that belong to no job."""
        with self._transaction() as database:
            database.execute("DELETE FROM jobs WHERE finished < ?", (self._clock() - KEPT_S,))
        with self._reading:
            rows = self._reader.execute("SELECT id, finished IS NULL FROM jobs").fetchall()
        unfinished = {job_id for job_id, open_ in rows if open_}
        known = {job_id for job_id, _ in rows}
        for path in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                age_s = self._clock() - path.stat().st_mtime
                if path.is_dir() and age_s > _STRAY_FOLDER_S:
                    shutil.rmtree(path)
                elif path.suffix == ".audio" and path.stem not in unfinished:
                    if age_s > STRAY_S or path.stem in known:
                        path.unlink()
                elif age_s > STRAY_S and (
                    path.suffix == ".part" or (path.suffix == ".result" and path.stem not in known)
                ):
                    path.unlink()

    def _write_result(self, job_id: str, result: Iterable[bytes]) -> None:
        part = self.result(job_id).with_suffix(".part")
        try:
            with private_file(part) as file:
                for piece in result:
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        part.replace(self.result(job_id))
        sync_folder(self._folder)

    def _upgrade(self) -> None:
        """Bring a database that an older server made to this version."""
        (version,) = self._writer.execute("PRAGMA user_version").fetchone()
        if version >= _VERSION:
            return
        columns = {row[1] for row in self._writer.execute("PRAGMA table_info(jobs)")}
        for name, kind in (("share", "TEXT NOT NULL DEFAULT ''"), ("size", "INTEGER NOT NULL DEFAULT 0")):
            if name not in columns:
                self._writer.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
        self._writer.execute("UPDATE jobs SET share = owner WHERE share = ''")
        for (job_id,) in self._writer.execute("SELECT id FROM jobs WHERE result IS NOT NULL").fetchall():
            (text,) = self._writer.execute("SELECT result FROM jobs WHERE id = ?", (job_id,)).fetchone()
            self._write_result(job_id, [text.encode()])
            self._writer.execute("UPDATE jobs SET result = NULL WHERE id = ?", (job_id,))
        self._writer.execute(f"PRAGMA user_version = {_VERSION}")

    def _set(self, job_id: str, only_if: State | None = None, **values: object) -> None:
        columns = ", ".join(f"{name} = ?" for name in values)
        where, more = ("", ()) if only_if is None else (" AND state = ?", (only_if,))
        with self._transaction() as database:
            database.execute(f"UPDATE jobs SET {columns} WHERE id = ?{where}", (*values.values(), job_id, *more))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:  # SQLite may have rolled back by itself, on a full disk
                    self._writer.execute("ROLLBACK")
                raise


_COLUMNS = (
    "id, owner, share, state, created, due, query, url, sha256, size, attempts, deliveries, heard, finished, error"
)


def _connected(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(database, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)


def _job(row: tuple[object, ...]) -> Job:
    values = list(row)
    values[3] = State(str(values[3]))
    values[6] = tuple(tuple(pair) for pair in json.loads(str(values[6])))
    return Job(*values)  # type: ignore[arg-type]
