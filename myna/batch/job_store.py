"""Stores jobs in SQLite, with their audio and results in files beside it, so that a crash loses none."""

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
"""Limit on the starts of a job: a job that crashes the server each time must fail in the end."""
KEPT_S = 7 * 24 * 3600.0
"""Time for which a job and its result are kept after the job has finished."""
STRAY_S = 3600.0
"""Age at which files without a job are removed: a crash left them behind."""
_STRAY_FOLDER_S = 24 * 3600.0
"""The same age for folders of uploads, which may take longer."""
_BUSY_S = 5.0
"""Longest wait for the database while another process locks it, for instance to copy it."""
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
"""Version of the schema. Since version 1, results are files and jobs have a share."""


class JobStore:
    """The jobs of one server, in a folder. Safe to use from any thread; reads do not wait for writes."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = private_folder(folder)
        self._clock = clock
        folder.chmod(0o700)  # an older server may have created it with a wider mode
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
        """Close the database after running calls have ended: a cancelled call goes on in its thread."""
        with self._writing, self._reading:
            self._writer.close()
            self._reader.close()

    def audio(self, job_id: str) -> Path:
        """Return the path of a job's audio."""
        return self._folder / f"{job_id}.audio"

    def result(self, job_id: str) -> Path:
        """Return the path of a job's result, a JSON file that exists once the job has finished."""
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
        """Return a new job for `add`."""
        now = self._clock()
        return Job(job_id, owner, share, State.QUEUED, now, now, query, url, sha256, size)

    def add(self, job: Job, upload: Path | None = None) -> None:
        """Store a job and move its audio, a synced file on the same disk, into the store.

        When this returns, the job survives a power failure. Raises `OSError` and `sqlite3.Error`; nothing is stored then.
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
        """Return the job with this id; None if there is none."""
        with self._reading:
            row = self._reader.execute(f"SELECT {_COLUMNS} FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return None if row is None else _job(row)

    def open_jobs(self) -> list[Job]:
        """Return the jobs that are waiting, running or being delivered, oldest first."""
        with self._reading:
            rows = self._reader.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE state IN (?, ?, ?) ORDER BY created",
                (State.QUEUED, State.RUNNING, State.DELIVERING),
            ).fetchall()
        return [_job(row) for row in rows]

    def started(self, job: Job) -> None:
        """Record another start of a job."""
        self._set(job.id, state=State.RUNNING, attempts=job.attempts + 1)

    def put_back(self, job: Job) -> None:
        """Undo the last start of a job that the server interrupted. `job` is its state before that start."""
        self._set(job.id, State.RUNNING, state=State.QUEUED, attempts=job.attempts)

    def finish(self, job_id: str, result: Iterable[bytes], *, heard_s: float = 0.0, error: str | None = None) -> Job:
        """Store a job's result, JSON in pieces, for delivery and delete its audio; return the updated job.

        Raises `OSError` and `sqlite3.Error`.
        """
        self._write_result(job_id, result)
        now = self._clock()
        self._set(job_id, state=State.DELIVERING, due=now, finished=now, heard=heard_s, error=error)
        self.audio(job_id).unlink(missing_ok=True)
        job = self.get(job_id)
        if job is None:
            raise KeyError(f"no job has the id {job_id}")
        return job

    def delivered(self, job_id: str) -> None:
        """Record that the result was delivered."""
        self._set(job_id, state=State.DELIVERED)

    def not_delivered(self, job_id: str, deliveries: int, pause_s: float, reason: str) -> None:
        """Record a failed delivery: the number of attempts so far, and the pause before the next one."""
        self._set(job_id, deliveries=deliveries, due=self._clock() + pause_s, error=reason)

    def undelivered(self, job_id: str, deliveries: int, reason: str) -> None:
        """Record that all deliveries failed and no further attempt is made."""
        self._set(job_id, state=State.UNDELIVERED, deliveries=deliveries, error=reason)

    def now(self) -> float:
        """Return the wall time, for comparison with `due`."""
        return self._clock()

    def probe(self) -> None:
        """Write and delete a test file and a test row. Raises `OSError` and `sqlite3.Error` if that fails."""
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
        """Delete expired jobs, and files that belong to no job."""
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
        """Migrate a database of an older server to this version."""
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
                if self._writer.in_transaction:  # on a full disk, SQLite may have rolled back already
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
