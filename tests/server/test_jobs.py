from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from hook import Hook
from peer import eventually, settings
from sounds import BECKETT, contained, recording

from myna.batch.disk import FileWriter
from myna.batch.job import Job, State
from myna.batch.job_store import KEPT_S, JobStore
from myna.clients.local_server import local_server
from myna.server.app import Server, running
from myna.server.keys import Scope, add_key


class Clock:
    """A wall clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> JobStore:
    return JobStore(tmp_path / "jobs", clock)


def added(store: JobStore, job_id: str, audio: Path | None = None) -> Job:
    job = store.new_job(job_id, "me", "me", (("callback", "https://example.com"),), sha256="x")
    store.add(job, audio)
    return job


def found(store: JobStore, job_id: str) -> Job:
    job = store.get(job_id)
    assert job is not None
    return job


def test_a_job_goes_from_queue_to_delivery(store: JobStore, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"sound")
    job = added(store, "1", upload)
    assert not upload.exists()
    assert store.audio("1").read_bytes() == b"sound"
    assert store.open_jobs() == [job]
    store.started(job)
    assert (found(store, "1").state, found(store, "1").attempts) == (State.RUNNING, 1)
    finished = store.finish("1", [b'{"text": ', b'"x"}'], heard_s=12.5)
    assert (finished.state, finished.heard_s) == (State.DELIVERING, 12.5)
    assert not store.audio("1").exists()
    assert store.result("1").read_bytes() == b'{"text": "x"}'
    store.not_delivered("1", 1, 5.0, "HTTP 500")
    assert (found(store, "1").due, found(store, "1").error) == (store.now() + 5, "HTTP 500")
    store.delivered("1")
    assert found(store, "1").state is State.DELIVERED
    assert store.open_jobs() == []
    assert store.get("2") is None


def test_an_interrupted_job_counts_as_not_begun_and_a_finished_one_stays_finished(store: JobStore) -> None:
    job = added(store, "1")
    store.started(job)
    store.put_back(job)
    assert found(store, "1") == job
    store.started(job)
    store.finish("1", [b"{}"])
    store.put_back(job)
    assert found(store, "1").state is State.DELIVERING


def test_old_results_and_stray_files_are_deleted(store: JobStore, clock: Clock) -> None:
    added(store, "1")
    store.finish("1", [b"{}"])
    strays = [store.audio("stray"), store.result("stray"), store.result("1").with_suffix(".part")]
    for stray in strays:
        stray.write_bytes(b"")
    store.forget_old()
    assert all(stray.exists() for stray in strays)  # they may belong to a job that is being accepted
    for stray in strays:
        os.utime(stray, (0, 0))
    store.forget_old()
    assert store.result("1").exists()
    assert not any(stray.exists() for stray in strays)
    clock.now = max(clock.now, store.result("1").stat().st_mtime) + KEPT_S + 1
    store.forget_old()
    assert store.get("1") is None
    assert not store.result("1").exists()


def test_the_store_of_an_older_server_is_opened_with_its_results(tmp_path: Path) -> None:
    folder = tmp_path / "jobs"
    folder.mkdir(mode=0o755)
    with contextlib.closing(sqlite3.connect(folder / "jobs.sqlite3")) as database:
        database.executescript(
            "CREATE TABLE jobs (id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL, created REAL NOT NULL,"
            " due REAL NOT NULL, query TEXT NOT NULL, url TEXT, sha256 TEXT, attempts INTEGER NOT NULL DEFAULT 0,"
            " deliveries INTEGER NOT NULL DEFAULT 0, heard REAL NOT NULL DEFAULT 0, finished REAL, error TEXT, result TEXT);"
            "INSERT INTO jobs VALUES ('1', 'me', 'delivering', 1, 2, '[]', NULL, 'x', 1, 3, 4.5, 6, NULL, '{\"a\": 1}')"
        )
    for _ in range(2):
        with contextlib.closing(JobStore(folder)) as store:
            (job,) = store.open_jobs()
            assert (job.share, job.deliveries, job.heard_s, job.finished) == ("me", 3, 4.5, 6.0)
            assert store.result("1").read_text() == '{"a": 1}'


def test_reading_a_job_does_not_wait_for_a_write(store: JobStore, tmp_path: Path) -> None:
    job = added(store, "1")
    with contextlib.closing(sqlite3.connect(tmp_path / "jobs" / "jobs.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("UPDATE jobs SET error = 'x'")
        assert store.get("1") == job


def test_a_job_that_cannot_be_stored_leaves_no_file(store: JobStore, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"sound")
    added(store, "1")
    with pytest.raises(sqlite3.IntegrityError):
        added(store, "1", upload)
    assert not list((tmp_path / "jobs").glob("*.audio"))


def test_audio_and_its_directory_entry_are_synced_before_the_job_is_stored(
    store: JobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        assert store.get("1") is None

    monkeypatch.setattr("os.fsync", sync)

    async def upload() -> Path:
        async with FileWriter(tmp_path / "upload") as file:
            await file.write(b"sound")
            await file.finish(sync=True)
        return tmp_path / "upload"

    added(store, "1", asyncio.run(upload()))
    assert synced == [store.audio("1").stat().st_ino, (tmp_path / "jobs").stat().st_ino]


async def accepted(server: Server, hook: Hook, data: bytes, query: str = "", **how: Any) -> str:
    async with ClientSession() as session:
        address = f"{server.url}/v1/listen?callback={hook.url}{query}"
        async with session.post(address, data=data, **how) as response:
            body = await response.json()
            assert (response.status, list(body)) == (200, ["request_id"]), body
            return str(body["request_id"])


async def asked(server: Server, job_id: str, **how: Any) -> tuple[int, dict[str, Any]]:
    async with ClientSession() as session, session.get(f"{server.url}/v1/jobs/{job_id}", **how) as response:
        return response.status, await response.json()


async def test_a_callback_is_answered_at_once_and_gets_the_whole_result(hook: Hook, tmp_path: Path) -> None:
    flac = contained([recording("beckett")], "flac", "flac")
    async with running(settings(data=tmp_path, allowed_networks=["127.0.0.0/8"])) as server:
        job_id = await accepted(server, hook, flac, "&punctuate=true")
        await eventually(lambda: bool(hook.taken))
        (result,) = hook.taken
        assert result["metadata"]["request_id"] == job_id
        best = result["results"]["channels"][0]["alternatives"][0]
        assert [word["word"] for word in best["words"]] == BECKETT.split()
        status, job = await asked(server, job_id)
        while job["status"] == "delivering":
            status, job = await asked(server, job_id)
        assert (status, job["status"], job["result"]) == (200, "delivered", result)
        assert not list(tmp_path.glob("jobs/*.audio"))
        assert (await asked(server, "nothing"))[0] == 404


async def test_the_callback_gets_the_error_of_an_undecodable_file(hook: Hook, tmp_path: Path) -> None:
    async with running(settings(model="fake", data=tmp_path, allowed_networks=["127.0.0.0/8"])) as server:
        job_id = await accepted(server, hook, b"no sound at all, not at all")
        await eventually(lambda: bool(hook.taken))
    assert hook.taken[0]["request_id"] == job_id
    assert "corrupt or unsupported" in hook.taken[0]["err_msg"]


async def test_a_forbidden_callback_is_refused_before_anything_is_stored(tmp_path: Path, hook: Hook) -> None:
    async with (
        running(settings(model="fake", data=tmp_path)) as server,
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen?callback={hook.url}", data=b"x") as response,
    ):
        assert response.status == 400
        assert "not a public address" in (await response.json())["err_msg"]
    assert not list(tmp_path.glob("jobs/*"))


async def test_only_its_owner_can_read_a_job(hook: Hook, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    mine, yours = (add_key(file, name, frozenset(Scope)) for name in ("mine", "yours"))
    changes = {"model": "fake", "data": tmp_path, "keys": file, "allowed_networks": ["127.0.0.0/8"]}
    async with running(settings(**changes)) as server:
        job_id = await accepted(server, hook, b"x" * 50, headers={"Authorization": f"Token {mine}"})
        assert (await asked(server, job_id, headers={"Authorization": f"Token {mine}"}))[0] == 200
        assert (await asked(server, job_id, headers={"Authorization": f"Token {yours}"}))[0] == 404
        assert (await asked(server, job_id))[0] == 401


async def test_a_job_survives_the_death_of_its_server(hook: Hook, tmp_path: Path) -> None:
    """Kill the server as soon as it has accepted the job; the next server delivers the result."""
    flac = contained([recording("beckett")], "flac", "flac")
    flags = ("--data", str(tmp_path), "--allowed-networks", "127.0.0.0/8", "--lanes", "1")
    with local_server(None, *flags) as first:
        address = f"{first.url}/v1/listen?callback={hook.url}"
        async with ClientSession() as session, session.post(address, data=flac) as response:
            job_id = (await response.json())["request_id"]
        os.kill(first.pid, signal.SIGKILL)
    if not hook.taken:
        async with running(settings(data=tmp_path, allowed_networks=["127.0.0.0/8"])) as server:
            await eventually(lambda: bool(hook.taken))
            assert (await asked(server, job_id))[0] == 200
    assert [result["metadata"]["request_id"] for result in hook.taken] == [job_id]
