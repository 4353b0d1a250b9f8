"""Jobs when something goes wrong around them: dead callbacks, crashes, a full disk, a clock that is set."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import ClientSession, FormData
from hook import FLAC, SOUND, Hook
from peer import eventually
from sounds import contained
from speakers import running_fake

from myna.batch import deliveries, pace
from myna.batch import job_runner as jobrunner
from myna.batch.job import Job, State
from myna.batch.job_store import MOST_ATTEMPTS, JobStore
from myna.batch.resolver import OF_ONE_SHARE
from myna.batch.transcriber import Transcriber
from myna.clients.local_server import LocalServer, local_server
from myna.media.pool import DecoderPool
from myna.media.source import DecoderLostError
from myna.server.app import Server
from myna.server.keys import Scope, add_key

RAW = "encoding=linear16&sample_rate=16000"
QUERY = (("encoding", "linear16"), ("sample_rate", "16000"))
LOOPBACK = {"allowed_networks": ["127.0.0.0/8"]}


class DeadEnd:
    """A server that takes connections and never answers, under many addresses."""

    def __init__(self) -> None:
        self.open: dict[str, int] = {}
        self.most = 0
        self.closed = 0

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host = writer.get_extra_info("sockname")[0]
        self.open[host] = self.open.get(host, 0) + 1
        self.most = max(self.most, self.open[host])
        with contextlib.suppress(OSError):
            while await reader.read(1 << 16):
                pass
        self.open[host] -= 1
        self.closed += 1
        writer.close()

    async def __aenter__(self) -> DeadEnd:
        self._server = await asyncio.start_server(self._hold, "0.0.0.0", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def url(self, number: int) -> str:
        return f"http://127.0.1.{number}:{self.port}/"


async def send(server: Server | LocalServer, callback: str, data: bytes | None = SOUND, **how: Any) -> tuple[int, Any]:
    async with (
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen?{RAW}&callback={callback}", data=data, **how) as response,
    ):
        return response.status, {**await response.json(), "headers": dict(response.headers)}


async def accepted(server: Server | LocalServer, callback: str, **how: Any) -> str:
    status, body = await send(server, callback, **how)
    assert status == 200, body
    return str(body["request_id"])


async def asked(server: Server | LocalServer, job_id: str) -> dict[str, Any]:
    async with ClientSession() as session, session.get(f"{server.url}/v1/jobs/{job_id}") as response:
        assert response.status == 200, await response.text()
        return dict(await response.json())


async def until(server: Server | LocalServer, job_id: str, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (job := await asked(server, job_id))["status"] not in states:
            await asyncio.sleep(0.01)
    return job


async def ready(server: Server | LocalServer) -> tuple[int, dict[str, Any]]:
    async with ClientSession() as session, session.get(f"{server.url}/health/ready") as response:
        return response.status, await response.json()


def stored(folder: Path, callback: str, **values: Any) -> Job:
    """Write a job, and its audio, into the store of a server that does not run yet."""
    with contextlib.closing(JobStore(folder / "jobs")) as store:
        job = store.new_job("1", "anybody", "anybody", (*QUERY, ("callback", callback)))
        store.add(job)
        if values:
            store._set("1", **values)
        store.audio("1").write_bytes(SOUND)
        return job


async def test_dead_callbacks_hold_up_neither_transcription_nor_other_deliveries(hook: Hook, tmp_path: Path) -> None:
    async with DeadEnd() as dead, running_fake(data=tmp_path, **LOOPBACK) as server:
        for number in range(12):
            await accepted(server, dead.url(1 + number))
        await eventually(lambda: sum(dead.open.values()) >= 2)
        job_id = await accepted(server, hook.url)
        await eventually(lambda: bool(hook.taken))
        assert hook.taken[0]["metadata"]["request_id"] == job_id
        assert dead.closed == 0  # none of the dead ones has been given up


async def test_names_that_are_never_resolved_hold_up_nothing(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve, over = socket.getaddrinfo, threading.Event()
    asked_for: set[str] = set()

    def dead(host: Any, *how: Any, **more: Any) -> Any:
        if not str(host).endswith("dead.example"):
            return resolve(host, *how, **more)
        asked_for.add(host)
        over.wait(30)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", dead)
    keys = tmp_path / "keys.toml"
    theirs, ours = ({"Authorization": f"Bearer {add_key(keys, name, frozenset(Scope))}"} for name in ("they", "we"))
    async with running_fake(data=tmp_path, keys=keys, **LOOPBACK) as server:
        try:
            for number in range(40):
                await accepted(server, f"http://n{number}.dead.example/", headers=theirs)
            await eventually(lambda: len(asked_for) == OF_ONE_SHARE)
            await accepted(server, hook.url.replace("127.0.0.1", "localhost"), headers=ours)
            await eventually(lambda: bool(hook.taken))
            assert len(asked_for) == OF_ONE_SHARE
        finally:
            over.set()


async def test_one_dead_host_gets_two_connections_at_a_time(hook: Hook, tmp_path: Path) -> None:
    async with DeadEnd() as dead, running_fake(data=tmp_path, **LOOPBACK) as server:
        jobs = [await accepted(server, dead.url(1)) for _ in range(6)]
        for job_id in jobs:
            await until(server, job_id, "delivering")
        await accepted(server, hook.url)
        await eventually(lambda: bool(hook.taken))
        assert dead.most == 2


LONG_LABEL = f"http://{'a' * 64}.example.com/"


@pytest.mark.parametrize(
    "url", [LONG_LABEL, f"http://{'a.' * 130}com/", "http://a..example.com/", "http://ü" + "a" * 70]
)
async def test_a_callback_that_cannot_be_a_host_is_refused(tmp_path: Path, url: str) -> None:
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        status, body = await send(server, url)
        assert (status, body["err_code"]) == (400, "Bad Request")
        assert "callback" in body["err_msg"]
        assert server.jobs.unfinished() == 0


async def test_a_delivery_that_can_never_succeed_is_one_failed_attempt_and_waits_for_the_next(
    tmp_path: Path, hook: Hook, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path, LONG_LABEL, state=State.QUEUED)
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        job = await until(server, "1", "delivering")
        while not job["deliveries"]:
            job = await asked(server, "1")
        assert (job["status"], job["deliveries"]) == ("delivering", 1)
        await accepted(server, hook.url)
        await eventually(lambda: bool(hook.taken))
        assert (await asked(server, "1"))["deliveries"] == 1
    assert len(capsys.readouterr().out) < 20_000


async def test_every_retry_ends_and_a_result_that_nobody_takes_can_still_be_asked_for(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "PAUSES_S", (0.01, 0.02, 0.01))
    hook.fail = 1000
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        job = await until(server, await accepted(server, hook.url), "undelivered")
        assert hook.asked == 4
        assert (job["error"], job["deliveries"]) == ("HTTP 500", 4)
        assert job["result"]["metadata"]["request_id"] == job["id"]
        assert server.jobs.taken() == (0, 0)


async def test_a_job_that_ended_the_server_too_often_is_told_to_its_callback_and_its_audio_is_removed(
    tmp_path: Path, hook: Hook
) -> None:
    stored(tmp_path, hook.url, state=State.RUNNING, attempts=MOST_ATTEMPTS)
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        await eventually(lambda: bool(hook.taken))
        assert hook.taken[0]["request_id"] == "1"
        assert "stopped 3 times" in hook.taken[0]["err_msg"]
        job = await until(server, "1", "delivered")
        assert job["result"] == hook.taken[0]
        assert not list(tmp_path.glob("jobs/*.audio"))


@pytest.fixture
def never_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transcribing takes for ever."""

    async def transcribe(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Transcriber, "transcribe", transcribe)


def attempts(folder: Path) -> list[int]:
    """How often each job that is not at its end was begun, as it lies on the disk."""
    with contextlib.closing(JobStore(folder / "jobs")) as store:
        return [job.attempts for job in store.open_jobs()]


async def test_a_server_that_is_stopped_properly_does_not_count_against_its_jobs(
    tmp_path: Path, hook: Hook, never_done: None
) -> None:
    for _ in range(MOST_ATTEMPTS + 1):
        async with running_fake(data=tmp_path, **LOOPBACK) as server:
            if not (tmp_path / "jobs").exists():
                await accepted(server, hook.url)
            await eventually(lambda: attempts(tmp_path) == [1])
        assert attempts(tmp_path) == [0]


async def test_only_jobs_whose_turn_has_come_count_as_begun(tmp_path: Path, hook: Hook, never_done: None) -> None:
    """A server that is killed is killed by what it does, not by what waits."""
    async with running_fake(data=tmp_path, files_at_once=1, **LOOPBACK) as server:
        for _ in range(4):
            await accepted(server, hook.url)
        await eventually(lambda: sum(attempts(tmp_path)) > 0)
        assert attempts(tmp_path) == [1, 0, 0, 0]


async def test_a_job_whose_decoder_is_lost_is_tried_again_and_its_audio_not_fetched_again(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobrunner, "_BUSY_S", (0.01,))
    take, lost = DecoderPool.take, 3

    async def lose(pool: DecoderPool) -> Any:
        nonlocal lost
        if lost:
            lost -= 1
            raise DecoderLostError("no decoder process can be started")
        return await take(pool)

    monkeypatch.setattr(DecoderPool, "take", lose)
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        body = json.dumps({"url": hook.url.replace("hook", "flac")}).encode()
        async with (
            ClientSession() as session,
            session.post(
                f"{server.url}/v1/listen?callback={hook.url}", data=body, headers={"Content-Type": "application/json"}
            ) as response,
        ):
            assert response.status == 200
        await eventually(lambda: bool(hook.taken))
        assert hook.taken[0]["results"]["channels"][0]["alternatives"][0]["transcript"] == "w1 w2"
        assert (lost, hook.fetched) == (0, 1)
        await eventually(lambda: attempts(tmp_path) == [])


async def test_a_file_whose_decoder_cannot_be_started_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(_pool: DecoderPool) -> Any:
        raise DecoderLostError("no decoder process can be started")

    monkeypatch.setattr(DecoderPool, "take", lose)
    async with (
        running_fake(data=tmp_path) as server,
        ClientSession() as session,
        session.post(f"{server.url}/v1/listen", data=FLAC) as response,
    ):
        assert (response.status, (await response.json())["err_code"]) == (503, "SERVICE_UNAVAILABLE")
        assert int(response.headers["Retry-After"]) > 0


async def test_deliveries_do_not_wait_by_the_wall_clock(
    tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is set back by a day after the first attempt; and the store of another server has one due in ten years."""
    monkeypatch.setattr(deliveries, "PAUSES_S", (0.05, 0.05))
    now = [2_000_000_000.0]
    monkeypatch.setattr(JobStore.__init__, "__defaults__", (lambda: now[0],))
    stored(tmp_path, hook.url, state=State.QUEUED)
    with contextlib.closing(JobStore(tmp_path / "jobs")) as store:
        store.finish("1", [b'{"request_id": "old"}'])
        store._set("1", due=now[0] + 10 * 365 * 86_400)
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        await eventually(lambda: hook.taken == [{"request_id": "old"}])
        hook.fail = 1
        job_id = await accepted(server, hook.url)
        await eventually(lambda: hook.asked == 2)
        now[0] -= 86_400
        await eventually(lambda: len(hook.taken) == 2)
        assert hook.taken[1]["metadata"]["request_id"] == job_id


async def test_addresses_that_drip_hold_up_no_job_whose_audio_is_there(tmp_path: Path, hook: Hook) -> None:
    drip = json.dumps({"url": hook.url.replace("hook", "drip")}).encode()
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        for _ in range(6):
            await accepted(server, hook.url, data=drip, headers={"Content-Type": "application/json"})
        await eventually(lambda: hook.dripping >= 2)
        job_id = await accepted(server, hook.url)
        await eventually(lambda: bool(hook.taken))
        assert hook.taken[0]["metadata"]["request_id"] == job_id
        assert hook.dripping == 4  # of one client at a time


async def test_an_address_that_drips_is_given_up(tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "WINDOW_S", 0.3)
    drip = json.dumps({"url": hook.url.replace("hook", "drip")}).encode()
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        await accepted(server, hook.url, data=drip, headers={"Content-Type": "application/json"})
        await eventually(lambda: bool(hook.taken))
    assert "too slow" in hook.taken[0]["err_msg"]
    assert not list(tmp_path.glob("jobs/*.audio"))


async def test_an_address_is_fetched_for_a_job_and_its_hash_is_told(tmp_path: Path, hook: Hook) -> None:
    body = json.dumps({"url": hook.url.replace("hook", "sound")}).encode()
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        job_id = await accepted(server, hook.url, data=body, headers={"Content-Type": "application/json"})
        await eventually(lambda: bool(hook.taken))
        assert hook.taken[0]["metadata"]["duration"] == pytest.approx(len(SOUND) / 32_000, abs=0.01)
        assert len(hook.taken[0]["metadata"]["sha256"]) == 64
        await until(server, job_id, "delivered")


def full(server: LocalServer, *, yes: bool) -> None:
    """Let a server write nothing more to any file, as on a full disk, or anything again."""
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0 if yes else hard, hard))


async def transcription(server: LocalServer) -> tuple[int, str | None]:
    """Ask for one as OpenAI's clients do; return the status, and the code of the error."""
    form = FormData()
    form.add_field("file", contained([np.zeros(16_000, np.int16)], "wav", "pcm_s16le"), filename="a.wav")
    address = f"{server.url}/v1/audio/transcriptions"
    async with ClientSession() as session, session.post(address, data=form) as response:
        return response.status, (await response.json()).get("error", {}).get("code")


async def test_a_full_disk_is_told_by_readiness_and_in_each_dialect_and_jobs_run_again_when_there_is_room(
    tmp_path: Path, hook: Hook
) -> None:
    flags = ("--data", str(tmp_path / "data"), "--allowed-networks", "127.0.0.0/8")
    with local_server("fake", *flags) as server:
        hook.fail = 1
        waits = await accepted(server, hook.url)
        await until(server, waits, "delivering")
        assert await transcription(server) == (200, None)
        full(server, yes=True)
        status, body = await send(server, hook.url)
        assert (status, body["err_code"]) == (507, "INSUFFICIENT_STORAGE"), body
        assert int(body["headers"]["Retry-After"]) > 0
        status, body = await send(
            server, hook.url, data=b'{"url": "http://127.0.0.1/"}', headers={"Content-Type": "application/json"}
        )
        assert status in (503, 507), body
        assert await transcription(server) == (507, "insufficient_storage")
        status, body = await ready(server)
        assert status == 503
        assert {"job storage", "disk"} <= set(body["failing"])
        full(server, yes=False)
        async with asyncio.timeout(30):
            while (await ready(server))[0] != 200:
                await asyncio.sleep(0.05)
        job_id = await accepted(server, hook.url)
        await until(server, job_id, "delivered")
        await until(server, waits, "delivered", "delivering")


async def test_what_is_delivered_while_the_disk_is_full_is_noted_when_there_is_room_and_sent_once(
    tmp_path: Path, hook: Hook
) -> None:
    flags = ("--data", str(tmp_path / "data"), "--allowed-networks", "127.0.0.0/8")
    with local_server("fake", *flags) as server:
        hook.held.clear()
        job_id = await accepted(server, hook.url)
        await eventually(lambda: hook.asked == 1)
        full(server, yes=True)
        hook.held.set()
        async with asyncio.timeout(30):
            while "job storage" not in (await ready(server))[1].get("failing", {}):
                await asyncio.sleep(0.02)
        assert (await asked(server, job_id))["status"] == "delivering"
        full(server, yes=False)
        await until(server, job_id, "delivered")
    assert [result["metadata"]["request_id"] for result in hook.taken] == [job_id]


async def test_a_store_that_cannot_be_opened_is_named_and_opened_when_it_can(tmp_path: Path, hook: Hook) -> None:
    """The service goes on without its jobs, and takes them up later."""
    stored(tmp_path, hook.url)
    database = tmp_path / "jobs" / "jobs.sqlite3"
    whole = database.read_bytes()
    database.write_bytes(b"no database, not at all" * 1000)
    async with running_fake(data=tmp_path, **LOOPBACK) as server:
        await eventually(lambda: "jobs" in server.supervisor.failing)
        status, body = await ready(server)
        assert (status, "not a database" in body["failing"]["jobs"]) == (503, True)
        status, body = await send(server, hook.url)
        assert (status, body["err_code"]) == (503, "SERVICE_UNAVAILABLE")
        (tmp_path / "whole").write_bytes(whole)
        (tmp_path / "whole").replace(database)  # at once: the server may open what is there at any moment
        await eventually(lambda: bool(hook.taken))
        await eventually(lambda: not server.supervisor.failing)


async def test_what_the_server_writes_is_for_its_user_alone(tmp_path: Path, hook: Hook) -> None:
    flags = ("--data", str(tmp_path / "a" / "data"), "--allowed-networks", "127.0.0.0/8")
    with local_server("fake", *flags) as server:
        await until(server, await accepted(server, hook.url), "delivered")
        made = list((tmp_path / "a").rglob("*"))
        assert {path.suffix for path in made} >= {".sqlite3", ".sqlite3-wal"}
        for path in [tmp_path / "a", *made]:
            mode = stat.S_IMODE(path.stat().st_mode)
            assert mode == (0o700 if path.is_dir() else 0o600), (path, oct(mode))
