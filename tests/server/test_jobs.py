from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from peer import eventually, settings
from sounds import BECKETT, contained, recording

from myna.batch.jobs import DELIVERIES_S, KEPT_S, MOST_ATTEMPTS, JobStore, State
from myna.bench.local import local_server
from myna.server.app import Server, running
from myna.server.auth import Scope, add_key


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


def added(store: JobStore, job_id: str, audio: Path | None = None) -> None:
    store.add(job_id, "me", (("callback", "https://example.com"),), upload=audio, sha256="x")


def taken(store: JobStore) -> Any:
    job, _ = store.next_due()
    assert job is not None
    return job


def test_a_job_goes_from_queue_to_delivery(store: JobStore, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"sound")
    added(store, "1", upload)
    assert not upload.exists()
    assert store.audio("1").read_bytes() == b"sound"
    assert taken(store).state is State.QUEUED
    assert store.next_due() == (None, None)
    store.heard("1", 12.5)
    running_job = store.get("1")
    assert running_job is not None
    assert (running_job.state, running_job.heard_s) == (State.RUNNING, 12.5)
    store.done("1", '{"text": "x"}')
    assert not store.audio("1").exists()
    assert taken(store).result == '{"text": "x"}'
    store.delivered("1")
    finished = store.get("1")
    assert finished is not None
    assert finished.state is State.DELIVERED
    assert store.get("2") is None


def test_what_ran_when_the_server_died_is_begun_again_but_not_for_ever(tmp_path: Path, clock: Clock) -> None:
    for attempt in range(MOST_ATTEMPTS):
        store = JobStore(tmp_path / "jobs", clock)  # without `close`, as after a crash
        if attempt == 0:
            added(store, "1")
        assert taken(store).attempts == attempt
    job = JobStore(tmp_path / "jobs", clock).get("1")
    assert job is not None
    assert job.state is State.FAILED
    assert "ended" in (job.error or "")


def test_a_delivery_that_fails_is_tried_again_later_and_later_then_given_up(store: JobStore, clock: Clock) -> None:
    added(store, "1")
    taken(store)
    store.done("1", "{}")
    for pause_s in DELIVERIES_S:
        store.not_delivered(taken(store), "HTTP 500")
        _, wait_s = store.next_due()
        assert wait_s == pytest.approx(pause_s)
        clock.now += pause_s
    store.not_delivered(taken(store), "HTTP 500")
    job = store.get("1")
    assert job is not None
    assert (job.state, job.error, job.result) == (State.UNDELIVERED, "HTTP 500", "{}")
    assert store.next_due() == (None, None)


def test_a_delivery_cut_off_by_a_crash_is_made_again(tmp_path: Path, clock: Clock) -> None:
    store = JobStore(tmp_path / "jobs", clock)
    added(store, "1")
    taken(store)
    store.done("1", "{}")
    assert taken(store).state is State.DELIVERING
    assert taken(JobStore(tmp_path / "jobs", clock)).state is State.DELIVERING


def test_old_results_and_stray_audio_are_forgotten(store: JobStore, clock: Clock) -> None:
    added(store, "1")
    taken(store)
    store.done("1", "{}")
    stray = store.audio("stray")
    stray.write_bytes(b"")
    os.utime(stray, (0, 0))
    store.forget_old()
    assert store.get("1") is not None
    assert not stray.exists()
    clock.now += KEPT_S + 1
    store.forget_old()
    assert store.get("1") is None


def test_a_job_that_cannot_begin_now_comes_again(store: JobStore, clock: Clock) -> None:
    added(store, "1")
    store.postpone(taken(store).id, 10)
    assert store.next_due() == (None, pytest.approx(10))
    clock.now += 10
    assert taken(store).id == "1"


class Hook:
    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.fail = 0
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        if self.fail:
            self.fail -= 1
            return web.Response(status=500)
        self.taken.append(await request.json())
        return web.Response()


@pytest.fixture
async def hook() -> AsyncIterator[Hook]:
    made = Hook()
    app = web.Application()
    app.router.add_post("/hook", made.take)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    made.url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
    yield made
    await runner.cleanup()


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


async def test_a_file_that_is_none_is_told_to_the_callback(hook: Hook, tmp_path: Path) -> None:
    async with running(settings(model="fake", data=tmp_path, allowed_networks=["127.0.0.0/8"])) as server:
        job_id = await accepted(server, hook, b"no sound at all, not at all")
        await eventually(lambda: bool(hook.taken))
    assert hook.taken[0]["request_id"] == job_id
    assert "corrupt or unsupported" in hook.taken[0]["err_msg"]


async def test_a_callback_that_is_forbidden_is_refused_before_anything_is_kept(tmp_path: Path, hook: Hook) -> None:
    async with (
        running(settings(model="fake", data=tmp_path)) as server,
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen?callback={hook.url}", data=b"x") as response,
    ):
        assert response.status == 400
        assert "not a public address" in (await response.json())["err_msg"]
    assert not list(tmp_path.glob("jobs/*"))


async def test_a_job_is_its_owners_alone(hook: Hook, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    mine, yours = (add_key(file, name, frozenset(Scope)) for name in ("mine", "yours"))
    changes = {"model": "fake", "data": tmp_path, "keys": file, "allowed_networks": ["127.0.0.0/8"]}
    async with running(settings(**changes)) as server:
        job_id = await accepted(server, hook, b"x" * 50, headers={"Authorization": f"Token {mine}"})
        assert (await asked(server, job_id, headers={"Authorization": f"Token {mine}"}))[0] == 200
        assert (await asked(server, job_id, headers={"Authorization": f"Token {yours}"}))[0] == 404
        assert (await asked(server, job_id))[0] == 401


async def test_a_job_survives_the_death_of_its_server(hook: Hook, tmp_path: Path) -> None:
    """The server is killed as soon as it has said yes; the next one answers."""
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
