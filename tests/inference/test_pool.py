from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from myna.inference.workers.cores import Cores
from myna.inference.workers.ipc import Batch, Hello, Message, Unpacker, result
from myna.inference.workers.pool import EnginePool
from myna.runtime.supervisor import Supervisor
from myna.streaming.errors import EngineUnavailableError
from myna.streaming.session.jobs import EngineInfo, InferenceJob, JobKind, Outcome, Transcript

ENGINE = EngineInfo("e", ("en",), 15.0, 100)
WORDS = Transcript((), -0.5)


class ScriptedWorker:
    """A worker without a process: the test sees its batches and says what it sends."""

    pid = None
    busy_s = (0.0,)

    def __init__(self, fails: str = "") -> None:
        self.batches: asyncio.Queue[Batch] = asyncio.Queue()
        self.alive = True
        self._fails = fails
        self._unpacker = Unpacker()
        self._received: asyncio.Queue[bytes | Message | None] = asyncio.Queue()

    @property
    def heard_at(self) -> float:
        return time.monotonic()

    async def launch(self) -> Hello:
        if self._fails:
            self.alive = False
            raise EngineUnavailableError(self._fails)
        return Hello(ENGINE, 1)

    def send(self, message: Message) -> None:
        if isinstance(message, Batch):
            self.batches.put_nowait(message)

    async def messages(self) -> AsyncGenerator[Message]:
        while (received := await self._received.get()) is not None:
            if isinstance(received, bytes):
                for message in self._unpacker.feed(received):
                    yield message
            else:
                yield received

    def says(self, what: bytes | Message) -> None:
        self._received.put_nowait(what)

    def kill(self) -> None:
        self._received.put_nowait(None)

    async def end(self) -> bool:
        self.alive = False
        return False


def pool_of(workers: list[ScriptedWorker], count: int, supervisor: Supervisor) -> EnginePool:
    ready = iter(workers)
    return EnginePool("m", lambda number: next(ready), count, 1, 8.0, supervisor, time.monotonic)


@contextlib.asynccontextmanager
async def running(workers: list[ScriptedWorker], count: int) -> AsyncIterator[EnginePool]:
    supervisor = Supervisor()
    pool = pool_of(workers, count, supervisor)
    await pool.start()
    try:
        yield pool
    finally:
        await pool.close()
        await supervisor.close()


def submitted(pool: EnginePool, name: str) -> asyncio.Future[Outcome]:
    answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    pool.submit(
        InferenceJob(name, name, JobKind.FINAL, bytes(320), 0.0), lambda job_id, outcome: answer.set_result(outcome)
    )
    return answer


@pytest.mark.parametrize("what", [b"\x01\x00\x00\x00\x07", Hello(ENGINE, 1)], ids=["malformed", "unexpected"])
async def test_a_bad_message_ends_its_worker_only_and_another_decodes_its_job(what: bytes | Message) -> None:
    bad, good, successor = workers = [ScriptedWorker() for _ in range(3)]
    async with running(workers, 2) as pool:
        answer = submitted(pool, "a")
        await bad.batches.get()
        bad.says(what)
        again = await good.batches.get()
        assert (bad.alive, good.alive) == (False, True)
        good.says(result(again.jobs[0].id, WORDS, 0.1))
        assert await answer == WORDS
        answer = submitted(pool, "b")
        other = submitted(pool, "c")
        for worker in (good, successor):
            batch = await worker.batches.get()
            worker.says(result(batch.jobs[0].id, WORDS, 0.1))
        assert [await answer, await other] == [WORDS, WORDS]
        assert pool.restarts == 1
        assert pool.open_jobs == pool.busy_lanes == 0


async def test_a_pool_whose_workers_cannot_all_start_leaves_none_behind() -> None:
    workers = [ScriptedWorker(), ScriptedWorker(fails="no weights")]
    supervisor = Supervisor()
    with pytest.raises(EngineUnavailableError, match="no weights"):
        await pool_of(workers, 2, supervisor).start()
    assert not any(worker.alive for worker in workers)
    assert not supervisor.failing


def alone(kind: JobKind, name: str) -> InferenceJob:
    return InferenceJob(name, name, kind, bytes(320), 0.0)


@contextlib.asynccontextmanager
async def sharing(cores: int) -> AsyncIterator[tuple[EnginePool, ScriptedWorker, EnginePool, ScriptedWorker]]:
    """Run two models, each with one lane, on so many cores."""
    supervisor, shared = Supervisor(), Cores(cores)
    workers = [ScriptedWorker(), ScriptedWorker()]
    pools = [
        EnginePool("m", lambda _, w=worker: w, 1, 1, 8.0, supervisor, time.monotonic, shared) for worker in workers
    ]
    for pool in pools:
        await pool.start()
    try:
        yield pools[0], workers[0], pools[1], workers[1]
    finally:
        for pool in pools:
            await pool.close()
        await supervisor.close()


@pytest.mark.parametrize("kind", [JobKind.INTERIM, JobKind.FILE])
async def test_work_that_can_wait_starts_when_a_final_of_another_model_leaves_a_core(kind: JobKind) -> None:
    async with sharing(1) as (one, ones, other, others):
        answer = submitted(one, "final")
        final = await ones.batches.get()
        other.submit(alone(kind, "later"), lambda *_: None)
        assert others.batches.empty()
        ones.says(result(final.jobs[0].id, WORDS, 0.1))
        assert await answer == WORDS
        assert (await others.batches.get()).jobs[0].id == "later"


async def test_finals_of_two_models_do_not_wait_for_each_other() -> None:
    async with sharing(1) as (one, ones, other, others):
        submitted(one, "a")
        submitted(other, "b")
        assert (await ones.batches.get()).jobs[0].id == "a"
        assert (await others.batches.get()).jobs[0].id == "b"


async def test_work_that_can_wait_uses_the_cores_that_finals_leave() -> None:
    async with sharing(2) as (one, ones, other, others):
        submitted(one, "a")
        await ones.batches.get()
        other.submit(alone(JobKind.INTERIM, "interim"), lambda *_: None)
        assert (await others.batches.get()).jobs[0].id == "interim"


async def test_a_final_that_does_not_end_does_not_stop_another_model() -> None:
    async with sharing(1) as (one, ones, other, others):
        submitted(one, "stuck")
        await ones.batches.get()
        other.submit(alone(JobKind.FILE, "file"), lambda *_: None)
        assert (await asyncio.wait_for(others.batches.get(), 30)).jobs[0].id == "file"
